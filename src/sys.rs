//! The system calls of the lock protocol, one function each, and nothing else.
//!
//! Between two of these calls anything may happen: a crash, another process's whole turn. They
//! stand together so that a test can stop the real code before every one of them. They decide
//! nothing: what an errno means is the protocol's business.
//!
//! Every descriptor is close-on-exec, and no call waits or follows a symbolic link in the last
//! component of a path.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::error::FileKind;
use crate::record;

/// Only the owner may open a lock file: whoever can open it could flock it and look like its
/// holder.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What `stat` says of a file, as far as the protocol cares.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Which file it is, among those that exist at the same time.
    pub id: FileId,
    /// When it was last written, in milliseconds since the epoch.
    pub modified_ms: i64,
    /// `None` for a regular file.
    pub odd_kind: Option<FileKind>,
}

/// Device and inode. The number of a file that is gone is used again, on ext4 for the very next
/// one: comparing means something only while one of the two files is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// What the attempt to take a read lease told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Some process has the file open for writing.
    Refused,
    /// No process has it open for writing.
    Granted,
    /// We may not ask: not our file, or the file system knows no leases.
    Unanswered,
}

pub fn status_at(path: &Path) -> Result<Status> {
    rustix::fs::lstat(path).map(|stat| status(&stat))
}

pub fn status_of(file: &File) -> Result<Status> {
    rustix::fs::fstat(file).map(|stat| status(&stat))
}

/// Opens what stands at `path` for reading: readers don't disturb the lease question.
pub fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// The same for reading and writing. Where leases are asked for, this makes us look like a holder.
pub fn open_for_writing(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// Opens the very file that is open already once more, for reading and writing. Only Linux can.
pub fn reopen_for_writing(file: &File) -> Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty()).map(File::from)
}

/// A file in `folder` that has no name yet, and is gone if it never gets one.
#[cfg(target_os = "linux")]
pub fn create_unnamed(folder: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, MODE).map(File::from)
}

/// Only Linux has files without a name.
#[cfg(not(target_os = "linux"))]
pub fn create_unnamed(_folder: &Path) -> Result<File> {
    Err(Errno::OPNOTSUPP)
}

/// A new file at `path`, where nothing may stand.
pub fn create_new(path: &Path) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, MODE).map(File::from)
}

pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

pub fn truncate(file: &File, length: u64) -> Result<()> {
    rustix::fs::ftruncate(file, length)
}

/// The start of the file: one byte more than a record may have.
pub fn read(file: &File) -> Result<Vec<u8>> {
    /// Ample for a record of ours.
    const USUAL: usize = 1024;

    let mut bytes = vec![0; USUAL];
    let mut length = 0;
    loop {
        match rustix::io::pread(file, &mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if length == bytes.len() {
            if length > record::MAX_BYTES {
                break;
            }
            bytes.resize(record::MAX_BYTES + 1, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Takes the exclusive flock, or says `WOULDBLOCK`: somebody has it.
pub fn flock(file: &File) -> Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Gives the flock back at once, also where a child between `fork` and `exec` shares the file.
pub fn unlock(file: &File) -> Result<()> {
    rustix::fs::flock(file, FlockOperation::Unlock)
}

/// Gives an unnamed file its name. Fails where one stands there already.
pub fn link_unnamed(file: &File, path: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, source.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)
}

/// A second name for a file. Fails where one stands there already.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::link(from, to)
}

/// Moves `from` over whatever stands at `to`.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to)
}

/// Swaps two files in one step. Not on every file system.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, one, CWD, other, rustix::fs::RenameFlags::EXCHANGE)
}

/// No such call here.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub fn exchange(_one: &Path, _other: &Path) -> Result<()> {
    Err(Errno::NOSYS)
}

pub fn unlink(path: &Path) -> Result<()> {
    rustix::fs::unlink(path)
}

/// Puts a mark on a file that others can ask for, for as long as it is open or until
/// [`take_marks_away`]: a shared lock on a byte that need not exist, which nobody waits for and which
/// belongs to the open file, as the flock does (fcntl(2), *Open file description locks*).
#[cfg(target_os = "linux")]
pub fn mark(file: &File, offset: i64) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLK, libc::F_RDLCK, offset, 1).map(drop)
}

/// Takes all of this open file's marks away.
#[cfg(target_os = "linux")]
pub fn take_marks_away(file: &File) -> Result<()> {
    byte_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0).map(drop)
}

/// Whether another open file has put that mark there.
#[cfg(target_os = "linux")]
pub fn is_marked(file: &File, offset: i64) -> Result<bool> {
    Ok(byte_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, offset, 1)? != libc::F_UNLCK)
}

/// Only Linux has locks of that kind.
#[cfg(not(target_os = "linux"))]
pub fn mark(_file: &File, _offset: i64) -> Result<()> {
    Err(Errno::NOSYS)
}

/// Nothing to take away.
#[cfg(not(target_os = "linux"))]
pub fn take_marks_away(_file: &File) -> Result<()> {
    Ok(())
}

/// Nobody can.
#[cfg(not(target_os = "linux"))]
pub fn is_marked(_file: &File, _offset: i64) -> Result<bool> {
    Ok(false)
}

/// One of the commands for locks of open files, and what the kernel answers. No `length`: to the end.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe crate offers locks of open files")]
#[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation, reason = "differs by target")]
fn byte_lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    offset: i64,
    length: i64,
) -> Result<libc::c_int> {
    // SAFETY: all-zero bytes are a valid `flock`: no pid, as these commands want it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = offset as libc::off_t;
    lock.l_len = length as libc::off_t;
    // SAFETY: `file` is open for the length of the call, and the commands that come here read and
    // write one `flock`, which is ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(libc::c_int::from(lock.l_type))
}

/// Asks whether any process has the file open for writing, by taking a read lease on it and
/// giving it back at once: the kernel refuses one while there is a writer (fcntl(2), *Leases*).
#[cfg(target_os = "linux")]
pub fn lease(file: &File) -> Lease {
    // While the lease is ours, a process that opens the file for writing makes the kernel signal
    // us. By default that is SIGIO, which kills a process that doesn't expect it; SIGURG is
    // ignored unless somebody asked for it.
    if fcntl(file, F_SETSIG, libc::SIGURG).is_err() {
        return Lease::Unanswered;
    }
    match fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => match fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) {
            Ok(()) => Lease::Granted,
            Err(_) => Lease::Unanswered, // not seen; closing the file ends the lease
        },
        Err(Errno::AGAIN) => Lease::Refused,
        Err(_) => Lease::Unanswered,
    }
}

/// Only Linux has leases.
#[cfg(not(target_os = "linux"))]
pub fn lease(_file: &File) -> Lease {
    Lease::Unanswered
}

/// Not in the libc crate; 10 on every architecture that Node runs on (asm-generic/fcntl.h).
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe crate offers leases")]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<()> {
    // SAFETY: `file` is open for the length of the call, and both commands that come here,
    // F_SETSIG and F_SETLEASE, take an integer and touch no memory of ours.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    if result == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(())
}

/// The number of the mount and that of the device.
#[cfg(target_os = "linux")]
pub fn mount(file: &File) -> Result<(u64, u64)> {
    use rustix::fs::{StatxFlags, statx};

    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS); // before Linux 5.8
    }
    Ok((stat.stx_mnt_id, rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}

/// The magic number of the file system, and whether it sits on a block device of its own.
#[cfg(target_os = "linux")]
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "`f_type` differs by target")]
pub fn file_system(file: &File) -> Result<(u64, bool)> {
    let magic = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    let device = rustix::fs::fstat(file)?.st_dev;
    Ok((magic, rustix::fs::major(device) != 0))
}

#[allow(
    clippy::unnecessary_cast,
    clippy::cast_possible_wrap,
    reason = "the fields' types differ by target"
)]
fn status(stat: &rustix::fs::Stat) -> Status {
    Status {
        id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
        modified_ms: stat.st_mtime as i64 * 1000 + stat.st_mtime_nsec as i64 / 1_000_000,
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
