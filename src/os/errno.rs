//! Why the system refused: the number that Node uses for it, under names of our own.
//!
//! A type of its own, so that nothing above [`os`](super) depends on the crate that makes the
//! system calls.

use super::system::errno::{number_of, numbers, text_of};

/// An error number, never 0: the C library's, and on Windows that of libuv, which has one for each code of Win32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! names {
    ($(#[doc = $doc:literal] $(#[cfg($cfg:meta)])? $name:ident = $constant:ident,)*) => {
        impl Errno {
            $(#[doc = $doc] $(#[cfg($cfg)])? pub const $name: Self = Self(numbers::$constant);)*

            /// The constant's name (`"ENOSPC"`), as Node gives it in `error.code`.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $($(#[cfg($cfg)])? Self::$name => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    #[doc = "Permission denied."] ACCESS = EACCES,
    #[doc = "Busy, or no more threads: the call says which."] AGAIN = EAGAIN,
    #[doc = "The descriptor is not open for this."] BADF = EBADF,
    #[doc = "In use."] BUSY = EBUSY,
    #[doc = "Over the quota."] DQUOT = EDQUOT,
    #[doc = "The name exists."] EXIST = EEXIST,
    #[doc = "A signal came."] INTR = EINTR,
    #[doc = "An argument makes no sense, or the file system lacks the call."] INVAL = EINVAL,
    #[doc = "The disk failed."] IO = EIO,
    #[doc = "A folder."] ISDIR = EISDIR,
    #[doc = "A symbolic link, or too many of them."] LOOP = ELOOP,
    #[doc = "This process has too many open files."] MFILE = EMFILE,
    #[doc = "The file has too many names."] MLINK = EMLINK,
    #[doc = "The name is too long."] NAMETOOLONG = ENAMETOOLONG,
    #[doc = "The system has too many open files."] NFILE = ENFILE,
    #[doc = "No such device."] NODEV = ENODEV,
    #[doc = "No such name."] NOENT = ENOENT,
    #[doc = "No more locks, or the lock server can't be reached."] NOLCK = ENOLCK,
    #[doc = "Out of memory."] NOMEM = ENOMEM,
    #[doc = "The disk is full."] NOSPC = ENOSPC,
    #[doc = "No such call."] NOSYS = ENOSYS,
    #[doc = "A part of the path is no folder."] NOTDIR = ENOTDIR,
    #[doc = "Nobody answers."] NXIO = ENXIO,
    #[doc = "The file system lacks the call."] OPNOTSUPP = EOPNOTSUPP,
    #[doc = "Not permitted."] PERM = EPERM,
    #[doc = "The file system is read-only."] ROFS = EROFS,
    #[doc = "No such process."] SRCH = ESRCH,
    #[doc = "A file of a network file system that is gone."] STALE = ESTALE,
    #[doc = "A program that runs."] TXTBSY = ETXTBSY,
    #[doc = "The file system is damaged."] #[cfg(target_os = "linux")] UCLEAN = EUCLEAN,
    #[doc = "Two file systems."] XDEV = EXDEV,
}

impl Errno {
    /// `flock` and `fcntl`: another process has the lock.
    pub const WOULDBLOCK: Self = Self::AGAIN;

    /// One of these numbers.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The number, positive.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

/// The system's text as Node prints it: first letter in lower case, without the number.
impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = text_of(self.0);
        let mut chars = text.chars();
        let first = chars.next().map(|first| first.to_ascii_lowercase());
        write!(f, "{}{}", String::from_iter(first), chars.as_str())
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl From<std::io::Error> for Errno {
    /// An error that has no number counts as `EIO`.
    fn from(error: std::io::Error) -> Self {
        number_of(&error).map_or(Self::IO, Self)
    }
}
