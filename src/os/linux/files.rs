//! Files, their names and their locks.
//!
//! Sources: open(2), flock(2), fcntl(2), link(2), rename(2), statx(2), statfs(2), inode(7).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT,
};

use crate::os::{Entry, Errno, FileId, FileKind, Lease, Result, Status};

/// An open file. Clones share it, and its locks; it is closed with the last of them.
#[derive(Debug, Clone)]
pub struct File(Arc<std::fs::File>);

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<std::os::fd::OwnedFd> for File {
    fn from(descriptor: std::os::fd::OwnedFd) -> Self {
        Self(Arc::new(descriptor.into()))
    }
}

impl File {
    /// The path in `/proc` that leads to this open file's inode, whatever its name is.
    pub(super) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Only the owner may open a lock file: a process that opens it can flock it, and looks like its holder.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

// --- Opening and creating -----------------------------------------------------------------------

/// Opens `path` for reading, without blocking (`O_NONBLOCK`) and without an atime update (`O_NOATIME`, see
/// [`forget_reads`]). If the file is another user's, `O_NOATIME` fails, and a second `open` does without.
pub fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        answer => answer,
    };
    Ok(opened?.into())
}

/// Opens the same inode again, for reading and writing.
pub fn reopen_for_writing(file: &File) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(file.proc_path(), flags, Mode::empty())?.into())
}

/// Opens `path` for reading; creates an empty file if there is none.
pub fn create_or_open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, MODE)?.into())
}

/// Creates a file without a name in `folder`. Unless it gets one, it vanishes when it is closed.
pub fn create_unnamed(folder: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, MODE)?.into())
}

/// Creates a file at `path`. Fails if `path` exists.
pub fn create_new(path: &Path) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, MODE)?.into())
}

// --- Contents -----------------------------------------------------------------------------------

/// Writes `bytes` at `offset`, all of them.
pub fn write(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    Ok(file.0.write_all_at(bytes, offset)?)
}

/// The start of the file, at most `most` bytes.
pub fn read(file: &File, most: usize) -> Result<Vec<u8>> {
    /// Ample for a record of ours.
    const USUAL: usize = 1024;

    let mut bytes = vec![0; USUAL.min(most)];
    let mut length = 0;
    while length < most {
        if length == bytes.len() {
            bytes.resize(most, 0);
        }
        match rustix::io::pread(file, &mut bytes[length..], length as u64) {
            // Less than asked for: that was the end of the file.
            Ok(count) if count < bytes.len() - length => {
                length += count;
                break;
            }
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Sets atime to the epoch. From then on [`Status::was_read`] says whether a process has read the file; reads
/// through [`open`] don't count. A file system mounted with `noatime` never reports a read.
pub fn forget_reads(file: &File) -> Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: never, last_modification: omit };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Sets both times to now. That raises `IN_ATTRIB`, see [`on_touch`](crate::os::on_touch).
pub fn touch(file: &File) -> Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

// --- Names --------------------------------------------------------------------------------------

/// `lstat`.
pub fn status_at(path: &Path) -> Result<Status> {
    Ok(status(&rustix::fs::lstat(path)?))
}

/// `fstat`.
pub fn status_of(file: &File) -> Result<Status> {
    Ok(status(&rustix::fs::fstat(file)?))
}

#[allow(
    clippy::unnecessary_cast,
    clippy::cast_possible_wrap,
    clippy::useless_conversion,
    reason = "the fields' types differ by target"
)]
fn status(stat: &rustix::fs::Stat) -> Status {
    let ms = |seconds: i64, nanoseconds: i64| seconds * 1000 + nanoseconds / 1_000_000;
    Status {
        id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
        modified_ms: ms(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed_ms: ms(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        was_read: stat.st_atime != 0 || stat.st_atime_nsec != 0,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        names: u64::from(stat.st_nlink),
        owner: stat.st_uid,
        odd_kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            _ => Some(FileKind::Device),
        },
    }
}

/// Gives an unnamed file its name. Fails if `path` exists.
pub fn link_unnamed(file: &File, path: &Path) -> Result<()> {
    Ok(rustix::fs::linkat(CWD, file.proc_path(), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Gives a file a second name. Fails if `to` exists.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    Ok(rustix::fs::link(from, to)?)
}

/// Renames `from` to `to`, replacing `to`.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    Ok(rustix::fs::rename(from, to)?)
}

/// Swaps two names in one step. Not on every file system.
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Removes a name.
pub fn unlink(path: &Path) -> Result<()> {
    Ok(rustix::fs::unlink(path)?)
}

/// The path without symbolic links.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn real_path(path: &Path) -> Result<PathBuf> {
    Ok(std::fs::canonicalize(path)?)
}

/// Creates a folder and those above it that are missing.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn create_folders(path: &Path) -> Result<()> {
    Ok(std::fs::create_dir_all(path)?)
}

/// The entries of a folder, in no order.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn list(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.push(Entry { name: entry.file_name(), is_folder });
    }
    Ok(entries)
}

// --- Locks --------------------------------------------------------------------------------------

/// Takes the exclusive flock. `WOULDBLOCK`: another open file has it.
pub fn flock(file: &File) -> Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// Takes a shared flock. `WOULDBLOCK`: another open file has the exclusive one.
pub fn flock_shared(file: &File) -> Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)?)
}

/// Blocks until the exclusive flock is ours. The kernel grants it to blocked threads in the order of their
/// calls (fs/locks.c, `__locks_insert_block`). `INTR`: a signal arrived.
pub fn flock_wait(file: &File) -> Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::LockExclusive)?)
}

/// Gives the flock back, even if a child between `fork` and `exec` shares the open file.
pub fn unlock(file: &File) -> Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::Unlock)?)
}

/// Takes an exclusive lock on one byte. `WOULDBLOCK`: another open file has a lock on it. The lock belongs to
/// the open file and is independent of its flock (fcntl(2), *Open file description locks*). The file must be
/// open for writing, and may be empty.
pub fn lock_byte(file: &File, byte: u64) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte, 1).map(drop)
}

/// The same for all bytes.
pub fn lock_all_bytes(file: &File) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0).map(drop)
}

/// Blocks until no other open file has an exclusive lock on this byte, and takes a shared lock on it. `INTR`: a
/// signal arrived.
pub fn byte_wait(file: &File, byte: u64) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLKW, libc::F_RDLCK, byte, 1).map(drop)
}

/// Gives all byte locks back.
pub fn unlock_bytes(file: &File) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0).map(drop)
}

/// Finds an exclusive lock of another open file on a byte in `from..end`, and returns its first byte, which may
/// be below `from`. If there are several such locks, any one.
pub fn locked_byte(file: &File, from: u64, end: u64) -> Result<Option<u64>> {
    if from >= end {
        return Ok(None);
    }
    let length = if end == u64::MAX { 0 } else { end - from };
    let found = byte_lock(file, libc::F_OFD_GETLK, libc::F_RDLCK, from, length)?;
    let is_locked = libc::c_int::from(found.l_type) != libc::F_UNLCK;
    Ok(is_locked.then(|| u64::try_from(found.l_start).unwrap_or(0)))
}

/// One `F_OFD_…` command; returns the kernel's answer. `length` 0: to the end of the file.
#[expect(unsafe_code, reason = "no safe crate offers locks of open files")]
#[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation, reason = "differs by target")]
fn byte_lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    start: u64,
    length: u64,
) -> Result<libc::flock> {
    let number = |number: u64| libc::off_t::try_from(number).map_err(|_| Errno::INVAL);
    // SAFETY: all-zero bytes are a valid `flock`: no pid, as these commands want it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = number(start)?;
    lock.l_len = number(length)?;
    // SAFETY: `file` is open for the length of the call, and the commands that come here read and
    // write one `flock`, which is ours.
    let result = unsafe { libc::fcntl(file.0.as_raw_fd(), command, &raw mut lock) };
    if result == -1 {
        let errno = Errno::from(std::io::Error::last_os_error());
        // Both names mean the same here (fcntl(2)).
        return Err(if errno == Errno::ACCESS { Errno::WOULDBLOCK } else { errno });
    }
    Ok(lock)
}

/// Asks whether any process has the file open for writing, by taking a read lease on it and giving it
/// back at once: the kernel refuses one while there is a writer (fcntl(2), *Leases*).
pub fn lease(file: &File) -> Lease {
    ask_by_lease(file, libc::F_RDLCK)
}

/// Asks in the same way whether another process has the file open at all: the kernel refuses a write lease
/// while there is another open file (fs/locks.c, `check_conflicting_open`).
pub fn is_open_elsewhere(file: &File) -> Lease {
    ask_by_lease(file, libc::F_WRLCK)
}

/// Three calls. An `open` between the last two that conflicts with the lease is made to wait for us,
/// or to fail with `WOULDBLOCK`.
fn ask_by_lease(file: &File, kind: libc::c_int) -> Lease {
    // While the lease is ours, a process that opens the file makes the kernel signal us. By default
    // that is SIGIO, which kills a process that doesn't expect it; SIGURG is ignored unless somebody
    // asked for it.
    if fcntl(file, F_SETSIG, libc::SIGURG).is_err() {
        return Lease::Unanswered;
    }
    match fcntl(file, libc::F_SETLEASE, kind) {
        Ok(()) => match fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) {
            Ok(()) => Lease::Granted,
            Err(_) => Lease::Unanswered, // not known to happen; closing the file ends the lease
        },
        Err(Errno::AGAIN) => Lease::Refused,
        Err(_) => Lease::Unanswered,
    }
}

/// Not in the libc crate; 10 on every architecture that Node runs on (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

#[expect(unsafe_code, reason = "no safe crate offers leases")]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<()> {
    // SAFETY: `file` is open for the length of the call, and both commands that come here,
    // F_SETSIG and F_SETLEASE, take an integer and touch no memory of ours.
    let result = unsafe { libc::fcntl(file.0.as_raw_fd(), command, argument) };
    if result == -1 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

// --- Which file systems to trust ----------------------------------------------------------------

/// Whether flocks, leases and inode numbers on this file (`id`) mean what they mean on a local disk.
///
/// On a network or FUSE mount, locks of another machine, or of another mount of the same folder, are invisible.
/// So a file system is trusted only if it is known to belong to one kernel.
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "`f_type` differs by target")]
pub fn is_trusted(file: &File, id: FileId) -> bool {
    let Ok(file_system) = rustix::fs::fstatfs(file) else {
        return false;
    };
    let magic = file_system.f_type as u64 & 0xffff_ffff;
    let has_device = rustix::fs::major(id.device) != 0;
    TRUSTED.contains(&magic) && (has_device || !is_9p(file))
}

/// `f_type` of the file systems that belong to one kernel (statfs(2), linux/magic.h).
const TRUSTED: [u64; 14] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
    0x2011_bab0, // exfat
    0x4d44,      // vfat
    0x2405_1905, // ubifs
    0x7366_746e, // ntfs3
];

/// 9p repeats the host's `f_type`; `/proc/self/mountinfo` has the real one. An error counts as 9p.
///
/// `mountinfo` is long on some machines, so the answer is cached by mount and device. A wrong hit would need
/// both numbers to be reused together.
fn is_9p(file: &File) -> bool {
    static KNOWN: Mutex<Vec<((u64, u64), bool)>> = Mutex::new(Vec::new());
    let Ok(mount) = mount(file) else {
        return true;
    };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, is_9p)) = known.iter().find(|(key, _)| *key == mount) {
        return *is_9p;
    }
    let Some(kind) = mount_type(mount.0) else {
        return true;
    };
    known.push((mount, kind == "9p"));
    kind == "9p"
}

/// The ids of the mount and of the device.
fn mount(file: &File) -> Result<(u64, u64)> {
    use rustix::fs::{StatxFlags, statx};

    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS); // before Linux 5.8
    }
    Ok((stat.stx_mnt_id, rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}

fn mount_type(id: u64) -> Option<String> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    let is_it = |mount: &procfs::process::MountInfo| u64::try_from(mount.mnt_id) == Ok(id);
    mounts.into_iter().find(is_it).map(|mount| mount.fs_type)
}
