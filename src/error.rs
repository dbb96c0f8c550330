//! What can go wrong, without a word of Node.
//!
//! Every error names its path and keeps the kernel's errno, so that JavaScript can give it a stable `code`. A
//! lost race is never an error; an error is something that a person has to act on.

use std::path::{Path, PathBuf};

use crate::os::{Errno, FileKind};
use crate::verdict::Report;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure that ends an acquire or a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{errno}, {syscall} '{}'{}", path.display(), advice(*errno, syscall))]
    System {
        /// Why.
        errno: Errno,
        /// Which system call.
        syscall: &'static str,
        /// On what.
        path: PathBuf,
    },

    /// Something at the lock file's path is not a regular file. It is not followed, opened or removed.
    #[error(
        "'{}' is {kind}, not a lock file: it was left alone; move it away to use this session",
        path.display()
    )]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What is there instead.
        kind: FileKind,
    },

    /// A file at the lock file's path is not a lock file. It is not removed.
    #[error(
        "'{}' is not a lock file, and was left alone: lock a file of another name, or move it away",
        path.display()
    )]
    Foreign {
        /// Where.
        path: PathBuf,
    },

    /// An older process is removing the lock file: its guard folder exists.
    #[error(
        "a process with the older module is removing this lock, and '{}' says so: if no such process \
         runs, remove that folder",
        path.display()
    )]
    Guarded {
        /// The folder.
        path: PathBuf,
    },

    /// The deadline came while the lock was held.
    #[error("session file locked (timeout {timeout_ms}ms): {} {}", report.owner(), lock_path.display())]
    Timeout {
        /// The caller's timeout, in milliseconds.
        timeout_ms: u64,
        /// The lock file.
        lock_path: PathBuf,
        /// Whether this very process held it.
        is_held_here: bool,
        /// The holder, as of an inspection at the deadline; empty if that could not be made in time.
        report: Box<Report>,
        /// Why the lock file could not be judged, or why the wait went by timers.
        cause: Option<Box<Error>>,
    },

    /// A bug in this package: a step of the lock panicked. The lock was given up.
    #[error(
        "a bug in session-write-lock: a step of the lock '{}' panicked, and the lock was given up; \
         please report what was printed",
        path.display()
    )]
    Bug {
        /// The lock file.
        path: PathBuf,
    },
}

/// Adds the system call and the path to an errno.
pub(crate) trait Context<T> {
    fn during(self, syscall: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for crate::os::Result<T> {
    fn during(self, syscall: &'static str, path: &Path) -> Result<T> {
        self.map_err(|errno| Error::System { errno, syscall, path: path.to_owned() })
    }
}

/// What a person can do about the error, if we know.
fn advice(errno: Errno, syscall: &str) -> &'static str {
    match (errno, syscall) {
        (Errno::ACCESS, _) => {
            ": this user must be allowed to search and write the folder, and to read the lock file"
        }
        (Errno::PERM, "rename" | "unlink") => {
            ": in a sticky folder only its owner may remove a dead lock file"
        }
        (Errno::ROFS, _) => {
            ": the lock file is made beside the session file, which can't be written here"
        }
        (Errno::NOSPC | Errno::DQUOT, _) => ": free some space; no lock was left behind",
        (Errno::MFILE | Errno::NFILE, _) => {
            ": too many files are open; close some or raise the limit (ulimit -n)"
        }
        (Errno::NAMETOOLONG, _) => {
            ": the lock file's name is the session file's with \".lock\" behind it"
        }
        (Errno::AGAIN, "pthread_create") => {
            ": the limit of threads is reached (ulimit -u, or the container's pids limit)"
        }
        (Errno::AGAIN, "open") => ": another process has a lease on it (fcntl(2), F_SETLEASE)",
        _ => "",
    }
}
