//! Windows 10 (1809) and newer.
//!
//! A lock's witness is an exclusive `LockFileEx` on a byte far beyond the record: it belongs to the open file, as a
//! flock does, and the kernel frees it with the process. There is no queue, and nothing is watched: who waits looks
//! again by time.

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

/// A lock on a range can't be asked for, and a blocked call for one can't be ended everywhere (not in Wine).
pub const HAS_BYTE_LOCKS: bool = false;

/// Fills `bytes` with random ones.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|_| Errno::IO)
}

/// A text as the system's calls take it: UTF-16 with a NUL at its end.
fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt;

    text.encode_wide().chain([0]).collect()
}
