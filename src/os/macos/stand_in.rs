//! In the place of `calls`, where macOS is tried on Linux: Linux's answers about processes and file systems, and no
//! events at all. What `kqueue` would tell is found out by time.

#![allow(dead_code, reason = "the same functions as in `calls`")]

#[path = "../shared/timer.rs"]
pub mod events;
#[path = "../linux/mountinfo.rs"]
mod mountinfo;
#[path = "../linux/process.rs"]
pub mod process;
#[path = "../linux/random.rs"]
mod random;
#[path = "../linux/trust.rs"]
pub mod trust;

use crate::os::Details;

pub use super::files;
pub use random::random;

/// Its name.
pub fn process_details(pid: i32) -> Option<Details> {
    Some(Details {
        process: process::find_process(pid)?,
        own_pid: Some(pid),
        pid_namespace: None,
        running_for_ms: None,
        command: None,
        is_stopped: false,
    })
}
