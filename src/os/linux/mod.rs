//! Linux.

pub mod events;
pub mod files;
pub mod process;
pub mod signal;
pub mod users;

use super::{Errno, Result};

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_raw(errno.raw_os_error())
    }
}

pub fn random(bytes: &mut [u8]) -> Result<()> {
    // Up to 256 bytes come whole (getrandom(2)).
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}
