//! What every Unix system says of processes in the same way.
//!
//! Sources: kill(2), getpid(2), geteuid(2).

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// This process's number, in its own pid namespace.
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The user that new files of this process belong to.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether a process, a zombie or a thread answers to this number. Another user's process does (`EPERM`).
pub(super) fn answers(pid: i32) -> bool {
    Pid::from_raw(pid)
        .filter(|pid| pid.as_raw_nonzero().get() > 0)
        .is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}
