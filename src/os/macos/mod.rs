//! macOS.
//!
//! What is in `calls` can run only there. The rest is tested on Linux, by a build with `--cfg restricted_os`
//! (`npm run test:restricted`), in which `stand_in` takes the place of `calls`.

#[path = "../unix/errno.rs"]
pub mod errno;
pub mod files;
#[path = "../unix/signal.rs"]
pub mod signal;
#[path = "../shared/users.rs"]
pub mod users;

#[cfg(not(restricted_os))]
mod calls;
#[cfg(not(restricted_os))]
pub use calls::process::process_details;
#[cfg(not(restricted_os))]
pub use calls::{events, process, random, trust};

#[cfg(restricted_os)]
mod stand_in;
#[cfg(restricted_os)]
pub use stand_in::{events, process, process_details, random, trust};

/// Names that differ in case are names of two files, on most disks or on some.
pub const IGNORES_CASE: bool = false;

/// An open file has no locks on bytes that could be relied on. So there is no queue: who waits blocks for the flock of
/// the lock file.
pub const HAS_BYTE_LOCKS: bool = false;

/// A thread that has waited for a flock has it.
pub const WAIT_GIVES_FLOCK: bool = true;

/// By default it is ignored, and nobody here uses out-of-band data. macOS has no real-time signals.
fn wake_signal() -> libc::c_int {
    libc::SIGURG
}
