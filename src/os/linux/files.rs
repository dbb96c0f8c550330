//! Files, their names and their locks: what Linux has beside `unix/files.rs`.
//!
//! Sources: open(2), fcntl(2), link(2), utimensat(2), fs/locks.c.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::os::{Errno, Lease, Result};

#[path = "../unix/files.rs"]
mod unix;
pub use unix::*;

/// The path in `/proc` that leads to this open file's inode, whatever its name is.
pub(super) fn proc_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

// --- Opening and creating -----------------------------------------------------------------------

/// Opens `path` for reading, without blocking (`O_NONBLOCK`) and without an atime update (`O_NOATIME`, see
/// [`forget_reads`]). If the file is another user's, `O_NOATIME` fails, and a second `open` does without.
pub fn open(path: &Path) -> Result<File> {
    match unix::open_with(path, OFlags::NOATIME) {
        Err(rustix::io::Errno::PERM) => Ok(unix::open_with(path, OFlags::empty())?),
        answer => Ok(answer?),
    }
}

/// Opens the same inode again, for reading and writing.
pub fn reopen_for_writing(file: &File) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(proc_path(file), flags, Mode::empty())?.into())
}

/// Creates a file without a name in `folder`. Unless it gets one, it vanishes when it is closed.
pub fn create_unnamed(folder: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, unix::MODE)?.into())
}

/// The next read asks the file system for what is in the file, not the kernel's cache: FUSE can have an inode, and a
/// cache, for each spelling of one name.
pub fn forget_contents(file: &File) -> Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Sets atime to the epoch. From then on [`Status::was_read`](crate::os::Status::was_read) says whether a process has read the file; reads
/// through [`open`] don't count. A file system mounted with `noatime` never reports a read.
pub fn forget_reads(file: &File) -> Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: never, last_modification: omit };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Gives an unnamed file its name. Fails if `path` exists.
pub fn link_unnamed(file: &File, path: &Path) -> Result<()> {
    Ok(rustix::fs::linkat(CWD, proc_path(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// The next look at a name in `folder` asks the file server. NFS answers from this machine's memory for up to a
/// minute unless it knows that the folder has changed (nfs(5), *Directory entry caching*); asking for the folder's own
/// attributes makes it know (statx(2), `AT_STATX_FORCE_SYNC`).
pub fn forget_names(folder: &Path) -> Result<()> {
    use rustix::fs::{StatxFlags, statx};

    statx(CWD, folder, AtFlags::STATX_FORCE_SYNC, StatxFlags::CTIME)?;
    Ok(())
}

// --- Locks of bytes, and leases -----------------------------------------------------------------

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
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) };
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
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    if result == -1 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}
