//! Numbers of errors: the C library's.

pub use libc as numbers;

use crate::os::Errno;

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_raw(errno.raw_os_error())
    }
}

/// The number of an error that the standard library reports, if it has one.
pub fn number_of(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// The C library's text.
pub fn text_of(number: i32) -> String {
    let text = std::io::Error::from_raw_os_error(number).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
