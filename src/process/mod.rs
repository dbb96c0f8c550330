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

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod system;

use std::borrow::Cow;
use std::sync::OnceLock;

use rustix::process::{Pid, getpid};

/// The longest name in bytes: the kernel's `TASK_COMM_LEN` without its final NUL.
const MAX_NAME_BYTES: usize = 15;

/// What the kernel says about a pid that is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Clock ticks since boot.
    pub start_time: Option<u64>,
    /// The executable's name.
    pub executable: Executable,
    /// The main thread's name, which the program may have changed.
    pub task_name: Option<String>,
    /// Whether its clock since boot is shifted against ours, so that start times don't compare.
    pub in_other_time_namespace: bool,
}

/// The name of a process's executable, as far as it can be known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Executable {
    /// Its file name, cut to 15 bytes.
    Named(String),
    /// A kernel thread: there is none.
    Absent,
    /// The kernel doesn't tell us (another user's process, no `/proc`).
    #[default]
    Unknown,
}

impl Process {
    /// Looks a pid up. `None` is a proof: no process has this number now. A zombie, a thread's
    /// number and a number that no pid can have are such proofs too.
    pub fn find(pid: i32) -> Option<Self> {
        let pid = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 0)?;
        system::find(pid)
    }

    /// The name to show for it: its executable's, else its task name.
    pub fn name(self) -> Option<String> {
        match self.executable {
            Executable::Named(name) => Some(name),
            Executable::Absent | Executable::Unknown => self.task_name.map(|name| cut(&name)),
        }
    }

    /// Whether a process that once answered to `comm` may be this one.
    ///
    /// True if `comm` is the executable's name or the current task name, and where the
    /// executable's name can't be read: a title that differs proves nothing then.
    pub fn may_be_called(&self, comm: &str) -> bool {
        let comm = comparable(comm);
        if comm.is_empty() {
            return true;
        }
        let is_task_name = self.task_name.as_deref().is_some_and(|name| comparable(name) == comm);
        match &self.executable {
            Executable::Named(name) => is_task_name || comparable(name) == comm,
            Executable::Absent => is_task_name || self.task_name.is_none(),
            Executable::Unknown => true,
        }
    }
}

/// Does a process with this number exist, and may it be the one that was called `comm`?
///
/// Takes any JavaScript number. Doubt counts as alive.
pub fn is_alive(pid: f64, comm: Option<&str>) -> bool {
    pid_from_number(pid)
        .and_then(Process::find)
        .is_some_and(|process| comm.is_none_or(|comm| process.may_be_called(comm)))
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
    /// The executable's name; never empty.
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
    let process = system::own_process();
    Own {
        pid: getpid().as_raw_nonzero().get(),
        start_time: process.start_time,
        comm: process.name().filter(|name| !name.is_empty()).unwrap_or_else(fallback_name),
        boot_id: system::boot_id(),
        pid_namespace: system::pid_namespace(),
    }
}

/// Without `/proc`: the name by which the program was found on disk.
fn fallback_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.file_name().map(|name| cut(&name.to_string_lossy())))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
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
            assert!(node(title).may_be_called("node"), "{title}");
        }
    }

    #[test]
    fn a_name_matches_the_current_title_too() {
        assert!(node("MainThread").may_be_called("MainThread"));
        assert!(node(" padded \n").may_be_called("padded"));
        assert!(node("a-very-long-tit").may_be_called("a-very-long-title-indeed"));
        assert!(!node("MainThread").may_be_called("openclaw"));
    }

    #[test]
    fn a_name_that_cannot_be_read_or_is_empty_proves_nothing() {
        assert!(node("x").may_be_called(""));
        assert!(node("x").may_be_called("  "));
        let foreign = Process { task_name: Some("sshd".into()), ..Process::default() };
        assert!(foreign.may_be_called("node"));
        let kernel_thread = Process { executable: Executable::Absent, ..foreign };
        assert!(!kernel_thread.may_be_called("node"));
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
