//! Windows 10 (1809) and newer.
//!
//! A lock's witness is an exclusive `LockFileEx` on a byte far beyond the record: it belongs to the open file, as a
//! flock does, and the kernel frees it with the process. There is no queue, and nothing is watched. Who waits blocks for
//! the byte behind it, the *bell*, and then looks again; and by time where the holder has locked nothing.

pub mod errno;
#[path = "../shared/timer.rs"]
pub mod events;
pub mod files;
pub mod process;
pub mod signal;
pub mod trust;
#[path = "../shared/users.rs"]
pub mod users;

pub use process::process_details;

use crate::os::{Errno, Result};

/// Names that differ in case are names of one file, but in folders that were set up otherwise.
pub const IGNORES_CASE: bool = true;

/// Nobody can ask who has locked a range. So there is no queue.
pub const HAS_BYTE_LOCKS: bool = false;

/// Windows gives a lock to a thread that waits for it, also if that thread is suspended. With the witness of a dead holder
/// it would block everybody. So nobody waits for the witness itself.
pub const WAIT_GIVES_FLOCK: bool = false;

/// Fills `bytes` with random ones.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|_| Errno::IO)
}

/// A text as the system's calls take it: UTF-16 with a NUL at its end.
fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt;

    text.encode_wide().chain([0]).collect()
}
