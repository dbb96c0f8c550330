//! Processes as Linux shows them: signal 0 for existence, `/proc` for the rest.
//!
//! `kill(pid, 0)` asks in our own pid namespace whatever is mounted on `/proc`, and answers `EPERM`
//! for another user's process, which exists. It also answers for the number of a *thread*, and
//! for a zombie; `/proc` tells those apart. `/proc` itself may belong to another pid namespace
//! (`unshare --pid` without a mount) or hide processes (`hidepid`): then it says nothing.
//!
//! Sources: kill(2), `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_exe(5)`, `pid_namespaces(7)`.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::os::{Executable, Process};
use procfs::process::{Process as ProcEntry, Stat};
use procfs::{ProcError, ProcResult};

#[path = "../unix/process.rs"]
mod unix;
pub use unix::{own_pid, own_user};

/// Looks a pid up. `None` proves that no live process has this number: it is unused, a zombie's, a thread's, or
/// out of range.
pub fn find_process(pid: i32) -> Option<Process> {
    if !unix::answers(pid) {
        return None;
    }
    // The entry is opened once and read through its descriptor: if the process ends meanwhile
    // and the number is reused, the reads fail instead of describing its successor.
    let entry = proc_is_ours().then(|| ProcEntry::new(pid).ok()).flatten();
    let Some(entry) = entry else {
        return Some(Process::default());
    };
    if is_thread(&entry) {
        return None;
    }
    let stat = entry.stat().ok();
    if stat.as_ref().is_some_and(has_ended) {
        return None;
    }
    Some(describe(&entry, stat))
}

/// This process: `/proc/self` is right even where the rest of `/proc` is another namespace's.
pub fn own_process() -> Process {
    ProcEntry::myself().map_or_else(
        |_| Process::default(),
        |entry| {
            let stat = entry.stat().ok();
            describe(&entry, stat)
        },
    )
}

/// One value for as long as the machine runs; containers share it.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The inode that names our pid namespace.
pub fn pid_namespace() -> Option<u64> {
    namespace("self", "pid")
}

fn describe(entry: &ProcEntry, stat: Option<Stat>) -> Process {
    // A main thread that has exited has no executable any more, although its process lives.
    let main_thread_lives = stat.as_ref().is_some_and(|stat| stat.state != 'Z');
    Process {
        start_time: stat.as_ref().map(|stat| stat.starttime),
        executable: if main_thread_lives { executable(entry.exe()) } else { Executable::Unknown },
        task_name: stat.map(|stat| stat.comm),
        in_other_time_namespace: in_other_time_namespace(entry),
    }
}

/// The file name behind `/proc/<pid>/exe`; a replaced binary's reads `node (deleted)`.
fn executable(link: ProcResult<std::path::PathBuf>) -> Executable {
    match link {
        Ok(path) => path.file_name().map_or(Executable::Unknown, |name| {
            let name = name.as_bytes();
            let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
            Executable::Named(String::from_utf8_lossy(name).into_owned())
        }),
        Err(ProcError::NotFound(_)) => Executable::Absent,
        Err(_) => Executable::Unknown,
    }
}

/// Dead, or a zombie with no thread left. A main thread that has exited while others go on reads
/// `Z` as well: that process lives.
fn has_ended(stat: &Stat) -> bool {
    match stat.state {
        'Z' => stat.num_threads <= 1,
        'X' | 'x' => true,
        _ => false,
    }
}

/// Whether the number is a thread's: `/proc/<tid>` can be opened although no listing shows it.
fn is_thread(entry: &ProcEntry) -> bool {
    status_line(entry, b"Tgid:")
        .and_then(|tgid| tgid.trim().parse::<i32>().ok())
        .is_some_and(|tgid| tgid != entry.pid())
}

/// One value of `/proc/<pid>/status`. Read as bytes: the name on its first line may hold any.
pub(super) fn status_line(entry: &ProcEntry, key: &[u8]) -> Option<String> {
    let mut status = Vec::new();
    entry.open_relative("status").ok()?.read_to_end(&mut status).ok()?;
    let line = status.split(|&byte| byte == b'\n').find(|line| line.starts_with(key))?;
    Some(String::from_utf8_lossy(&line[key.len()..]).into_owned())
}

/// Whether `/proc` numbers processes as we do: `NSpid` counts from the namespace of the mount
/// inward, so in our own there is one number.
pub(super) fn proc_is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    if let Some(&is_ours) = OURS.get() {
        return is_ours;
    }
    // If it can't be read now (no descriptors, say), it is asked again the next time.
    let Ok(entry) = ProcEntry::myself() else {
        return false;
    };
    let Some(numbers) = status_line(&entry, b"NSpid:") else {
        return false;
    };
    let is_ours = entry.pid() == own_pid() && numbers.split_whitespace().count() == 1;
    *OURS.get_or_init(|| is_ours)
}

/// Whether the clock since boot of that process may be shifted against ours (`time_namespaces(7)`).
fn in_other_time_namespace(entry: &ProcEntry) -> bool {
    let theirs = namespace(&entry.pid().to_string(), "time");
    theirs.is_some() && theirs != namespace("self", "time")
}

/// The inode that names one of a process's namespaces.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(super) fn namespace(process: &str, kind: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{process}/ns/{kind}")).ok().map(|metadata| metadata.ino())
}
