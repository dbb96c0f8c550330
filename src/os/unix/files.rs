//! Files, their names and their flocks, as far as the Unix systems agree.
//!
//! Sources: open(2), flock(2), link(2), rename(2), stat(2).

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
};

use crate::os::{Entry, FileId, FileKind, Result, Status};

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

/// Only the owner may open a lock file: a process that opens it can flock it, and looks like its holder.
pub(super) const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

// --- Opening and creating -----------------------------------------------------------------------

/// Opens `path` for reading, without blocking (`O_NONBLOCK`); `more`: flags beside the usual ones.
pub(super) fn open_with(path: &Path, more: OFlags) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags | more, Mode::empty())?.into())
}

/// Opens `path` for reading; creates an empty file if there is none.
pub fn create_or_open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, MODE)?.into())
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
    clippy::cast_sign_loss,
    clippy::useless_conversion,
    reason = "the fields' types differ by target"
)]
fn status(stat: &rustix::fs::Stat) -> Status {
    // Some file systems take any time: a file's owner may have set one that is no number of milliseconds.
    let ms = |seconds: i64, nanoseconds: i64| {
        seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
    };
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

/// Gives a file another name. Fails if `to` exists. It keeps the old one, unlike on Windows.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    Ok(rustix::fs::link(from, to)?)
}

/// Renames `from` to `to`, replacing what is there: `old`, as far as the caller knows.
pub fn replace(from: &Path, to: &Path, _old: &File) -> Result<()> {
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

/// A file has no second name that the system made up.
pub fn long_name(_path: &Path) -> Option<OsString> {
    None
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
