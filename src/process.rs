//! Who a process is: does it exist, since when, under which name.
//!
//! A pid is not an identity: the kernel hands it out again. The number together with the start
//! time is one, to 10 ms; a name is a weak hint that older records carry. Everything here gives
//! three answers, never two: *gone* is said only when the kernel proves it, what can't be read is
//! `None`, and the caller counts doubt as life.
//!
//! What is **not** an identity is the task name (`/proc/<pid>/comm`): Node 24 starts as
//! `MainThread`, and `process.title = "x"` overwrites it on every version. The name this crate
//! captures is the executable's.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::os::{self, Executable, Process};

/// The longest name in bytes: the kernel's `TASK_COMM_LEN` without its final NUL.
const MAX_NAME_BYTES: usize = 15;

/// The name of a process that can't read its own.
pub const UNKNOWN: &str = "unknown";

/// The name to show for a process: its executable's, else its task name. At most 15 bytes.
pub fn name_of(process: Process) -> Option<String> {
    match process.executable {
        Executable::Named(name) => Some(cut(&name)),
        Executable::Absent | Executable::Unknown => process.task_name.map(|name| cut(&name)),
    }
}

/// Whether a process that once answered to `comm` may be this one.
///
/// True if `comm` is the executable's name or the current task name, and where the executable's name
/// can't be read: a title that differs proves nothing then. A process that could not read its own name has left
/// [`UNKNOWN`], which proves nothing either.
pub fn may_be_called(process: &Process, comm: &str) -> bool {
    let comm = comparable(comm);
    if comm.is_empty() || comm == UNKNOWN {
        return true;
    }
    let is_task_name = process.task_name.as_deref().is_some_and(|name| comparable(name) == comm);
    match &process.executable {
        Executable::Named(name) => is_task_name || comparable(name) == comm,
        Executable::Absent => is_task_name || process.task_name.is_none(),
        Executable::Unknown => true,
    }
}

/// Does a process with this number exist, and may it be the one that was called `comm`?
///
/// Takes any JavaScript number. Doubt counts as alive.
pub fn is_alive(pid: f64, comm: Option<&str>) -> bool {
    pid_from_number(pid)
        .and_then(os::find_process)
        .is_some_and(|process| comm.is_none_or(|comm| may_be_called(&process, comm)))
}

/// The pid in a JavaScript number, if one can be in it.
pub fn pid_from_number(number: f64) -> Option<i32> {
    let fits = number.fract() == 0.0 && (1.0..=f64::from(i32::MAX)).contains(&number);
    #[expect(clippy::cast_possible_truncation)] // checked just above
    fits.then_some(number as i32)
}

/// What a record says about this very process, and compares other records with.
#[derive(Debug, Clone)]
pub struct Own {
    /// Our number in our own pid namespace.
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: Option<u64>,
    /// The executable's name; never empty, at worst [`UNKNOWN`].
    pub comm: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Option<String>,
    /// The inode of `/proc/self/ns/pid`.
    pub pid_namespace: Option<u64>,
}

/// This process. Once all of it could be read it is kept: none of it changes while the process
/// lives, but for the name of a binary that is moved on disk, where the first answer is the better
/// one. What could not be read (for lack of descriptors, say) is tried again the next time.
pub fn own() -> Cow<'static, Own> {
    static OWN: OnceLock<Own> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Cow::Borrowed(own);
    }
    let own = read_own();
    if own.start_time.is_some() && own.boot_id.is_some() && own.pid_namespace.is_some() {
        return Cow::Borrowed(OWN.get_or_init(|| own));
    }
    Cow::Owned(own)
}

fn read_own() -> Own {
    let process = os::own_process();
    Own {
        pid: os::own_pid(),
        start_time: process.start_time,
        comm: name_of(process).filter(|name| !name.is_empty()).unwrap_or_else(fallback_name),
        boot_id: os::boot_id(),
        pid_namespace: os::pid_namespace(),
    }
}

/// Without `/proc`: the name by which the program was found on disk.
fn fallback_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.file_name().map(|name| cut(&name.to_string_lossy())))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| UNKNOWN.to_owned())
}

/// At most 15 bytes, cut between characters.
fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}

/// Writers trimmed and cut names differently; what is left after both must be equal.
fn comparable(name: &str) -> String {
    cut(name.trim()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(title: &str) -> Process {
        Process {
            executable: Executable::Named("node".into()),
            task_name: Some(title.into()),
            ..Process::default()
        }
    }

    #[test]
    fn a_name_matches_the_executable_whatever_the_title_says() {
        for title in ["node", "MainThread", "node-MainThread", "my gateway", ""] {
            assert!(may_be_called(&node(title), "node"), "{title}");
        }
    }

    #[test]
    fn a_name_matches_the_current_title_too() {
        assert!(may_be_called(&node("MainThread"), "MainThread"));
        assert!(may_be_called(&node(" padded \n"), "padded"));
        assert!(may_be_called(&node("a-very-long-tit"), "a-very-long-title-indeed"));
        assert!(!may_be_called(&node("MainThread"), "openclaw"));
    }

    #[test]
    fn a_name_that_cannot_be_read_or_is_empty_proves_nothing() {
        assert!(may_be_called(&node("x"), ""));
        assert!(may_be_called(&node("x"), "  "));
        // As a process without `/proc` names itself.
        assert!(may_be_called(&node("x"), UNKNOWN));
        let foreign = Process { task_name: Some("sshd".into()), ..Process::default() };
        assert!(may_be_called(&foreign, "node"));
        let kernel_thread = Process { executable: Executable::Absent, ..foreign };
        assert!(!may_be_called(&kernel_thread, "node"));
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(cut("exactly-fifteen"), "exactly-fifteen");
        assert_eq!(cut("fourteen-bytesé"), "fourteen-bytes");
        assert_eq!(comparable("fourteen-bytes "), "fourteen-bytes");
    }

    #[test]
    fn only_a_positive_whole_number_can_be_a_pid() {
        for number in [f64::NAN, f64::INFINITY, -1.0, 0.0, -0.0, 1.5, 2_147_483_648.0, 1e300] {
            assert_eq!(pid_from_number(number), None, "{number}");
            assert!(!is_alive(number, None), "{number}");
        }
        assert_eq!(pid_from_number(2_147_483_647.0), Some(i32::MAX));
    }

    #[test]
    fn this_process_is_alive_under_its_own_name() {
        let own = own();
        assert!(is_alive(own.pid.into(), Some(&own.comm)));
        assert!(!is_alive(own.pid.into(), Some("no such name")));
    }
}
