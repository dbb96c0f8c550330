//! Linux.

pub mod events;
pub mod files;
pub mod process;
#[path = "../unix/signal.rs"]
pub mod signal;
pub mod trust;
pub mod users;

use super::Result;

/// Open files have locks on bytes: `F_OFD_SETLK` of fcntl(2).
pub const HAS_BYTE_LOCKS: bool = true;

/// A signal that neither the C library nor Node uses.
fn wake_signal() -> libc::c_int {
    libc::SIGRTMAX() - 3
}

pub fn random(bytes: &mut [u8]) -> Result<()> {
    // Up to 256 bytes come whole (getrandom(2)).
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}
