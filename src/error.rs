//! What can go wrong, without a word of Node.
//!
//! Every error names the path it is about and keeps the kernel's errno, so that the Node surface
//! can give it a stable `code`. Losing a race is never an error: only what a person has to act on.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::protocol::Report;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure that ends an acquire or a release.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{}, {syscall} '{}'{}", reason(*errno), path.display(), advice(*errno))]
    System {
        /// Why.
        errno: Errno,
        /// Which system call.
        syscall: &'static str,
        /// On what.
        path: PathBuf,
    },

    /// Something that is no regular file stands where the lock file belongs. It is neither
    /// followed nor opened nor removed.
    #[error(
        "'{}' is {kind}, not a lock file: it was left alone; move it away to use this session",
        path.display()
    )]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What stands there.
        kind: FileKind,
    },

    /// The deadline came while the lock was held.
    #[error("session file locked (timeout {timeout_ms}ms): {} {}", report.owner(), lock_path.display())]
    Timeout {
        /// How long the caller was ready to wait, in milliseconds.
        timeout_ms: u64,
        /// The lock file.
        lock_path: PathBuf,
        /// Who held it, as seen by the last attempt.
        report: Box<Report>,
    },
}

/// What stands at a path instead of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A symbolic link, dangling or not.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character or block device.
    Device,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory => "a folder",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

/// Turns an errno into an [`Error`] that says what was tried, and on what.
pub(crate) trait Context<T> {
    fn during(self, syscall: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn during(self, syscall: &'static str, path: &Path) -> Result<T> {
        self.map_err(|errno| Error::System { errno, syscall, path: path.to_owned() })
    }
}

/// The C library's words for an errno, as Node prints them: in small letters, without the number.
fn reason(errno: Errno) -> String {
    let mut text = std::io::Error::from(errno).to_string();
    if let Some(end) = text.rfind(" (os error") {
        text.truncate(end);
    }
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

/// What a person can do about it, where that is known.
fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => {
            ": lock files are private to the user who makes them, and made in the session's folder"
        }
        Errno::PERM => ": in a sticky folder only its owner may replace a dead lock file",
        Errno::ROFS => {
            ": the lock file is made beside the session file, which can't be written here"
        }
        Errno::NOSPC | Errno::DQUOT => ": free some space; no lock was left behind",
        Errno::MFILE | Errno::NFILE => {
            ": too many files are open; close some or raise the limit (ulimit -n)"
        }
        Errno::NAMETOOLONG => {
            ": the lock file's name is the session file's with \".lock\" behind it"
        }
        Errno::AGAIN => {
            ": the limit of threads is reached (ulimit -u, or the container's pids limit)"
        }
        _ => "",
    }
}
