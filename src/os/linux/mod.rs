//! Linux.

#[path = "../unix/errno.rs"]
pub mod errno;
pub mod events;
pub mod files;
mod mountinfo;
pub mod process;
mod random;
#[path = "../unix/signal.rs"]
pub mod signal;
pub mod trust;
pub mod users;

pub use random::random;

/// Names that differ in case are names of two files, on most disks or on some.
pub const IGNORES_CASE: bool = false;

/// Open files have locks on bytes: `F_OFD_SETLK` of fcntl(2).
pub const HAS_BYTE_LOCKS: bool = true;

/// A thread that has waited for a flock has it.
pub const WAIT_GIVES_FLOCK: bool = true;

/// A signal that neither the C library nor Node uses.
fn wake_signal() -> libc::c_int {
    libc::SIGRTMAX() - 3
}
