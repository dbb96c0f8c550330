//! The seam: everything that the lock asks of the machine, and nothing else.
//!
//! Files, their names and their locks; processes; threads, timers and events; two clocks; random numbers. One
//! folder per system exports the same functions. They decide nothing: [`protocol`](crate::protocol) interprets
//! each errno. A port to another system adds one such folder. The simulation replaces this module
//! (`tests/simulation`).
//!
//! # What is promised of every function
//!
//! * It makes the system calls that its name says, in the order that its comment gives. Between two
//!   of them anything may happen: a crash, another process's whole acquire.
//! * It does not block, except `…_wait`, which a thread of [`blocked`] calls and can end, and [`sleep`].
//! * It does not follow a symbolic link in the last component of a path.
//! * Every descriptor is close-on-exec.

mod errno;
mod timers;
mod workers;

#[cfg(all(target_os = "linux", not(restricted_os)))]
mod linux;
#[cfg(all(target_os = "linux", not(restricted_os)))]
use linux as system;

// `restricted_os`: Linux, by what is there on macOS (docs/testing.md).
#[cfg(any(target_os = "macos", restricted_os))]
mod macos;
#[cfg(any(target_os = "macos", restricted_os))]
use macos as system;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
compile_error!("session-write-lock: this system is not supported: src/os has a folder per system");

pub mod blocked;

pub use std::time::Instant;

pub use errno::Errno;
pub use system::files::{
    File, byte_wait, create_folders, create_new, create_or_open, create_unnamed, exchange, flock,
    flock_shared, flock_wait, forget_contents, forget_names, forget_reads, is_open_elsewhere,
    lease, link, link_unnamed, list, lock_all_bytes, lock_byte, locked_byte, long_name, open, read,
    real_path, reopen_for_writing, replace, status_at, status_of, touch, unlink, unlock,
    unlock_bytes, write,
};
pub use system::process::{boot_id, find_process, own_pid, own_process, own_user, pid_namespace};
pub use system::trust::trust;
pub use system::users::{flock_waiters, open_files, process_details};
pub use system::{HAS_BYTE_LOCKS, IGNORES_CASE, WAIT_GIVES_FLOCK};
pub use timers::{
    Keeper, Timer, WakeUps, Watch, at, count_event, count_timer, keep_timers, on_change, on_exit,
    on_touch, wake_ups,
};
pub use workers::{Job, RunsOn, is_idle, run};

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

/// What `stat` says of a file, as far as the protocol cares.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Device and inode.
    pub id: FileId,
    /// When it was last written, in milliseconds since the epoch. Anybody may set this.
    pub modified_ms: i64,
    /// `ctime`: the kernel's time of the last change. A process can't set it.
    pub changed_ms: i64,
    /// Whether it was read since [`forget_reads`], as far as the file system notes that.
    pub was_read: bool,
    /// `None` for a regular file.
    pub odd_kind: Option<FileKind>,
    /// How long it is, in bytes.
    pub length: u64,
    /// Its link count.
    pub names: u64,
    /// The user id of its owner.
    pub owner: u32,
}

/// Device and inode. A file system reuses the number of a deleted file, ext4 for the very next file. So
/// comparing two of these means something only while one of the two files is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file on it.
    pub inode: u64,
}

/// What the locks on a file system prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// A taken flock proves that somebody has it. A free one proves nothing: somebody may have one that we
    /// don't see.
    Nothing,
    /// A file server keeps the flocks of all its clients, and frees those of a client that is gone. A client
    /// that has lost its flock so gets `EIO` from reading the file. An exclusive flock needs a descriptor that
    /// is open for writing.
    Flocks,
    /// The file system belongs to this kernel: flocks, leases, byte locks, events and inode numbers mean what
    /// they mean on a local disk.
    Everything,
}

/// Whether locks on this file (`id`) mean what they mean on a local disk.
pub fn is_trusted(file: &File, id: FileId) -> bool {
    trust(file, id) == Trust::Everything
}

/// What is at a path instead of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A symbolic link, dangling or not.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character or block device.
    Device,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory => "a folder",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

/// The answer to a request for a lease on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lease {
    /// A process has the file open.
    Refused,
    /// No process has the file open.
    Granted,
    /// We may not ask: the file is another user's, or the file system has no leases.
    Unanswered,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The entry's name.
    pub name: std::ffi::OsString,
    /// Whether it is a folder; `false` for a symbolic link to a folder.
    pub is_folder: bool,
}

/// What the kernel says about a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Process {
    /// Clock ticks since boot.
    pub start_time: Option<u64>,
    /// The executable's name.
    pub executable: Executable,
    /// The main thread's name, which the program may have changed.
    pub task_name: Option<String>,
    /// Whether its boot clock may differ from ours, so that start times can't be compared.
    pub in_other_time_namespace: bool,
}

/// The name of a process's executable, as far as it can be known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Executable {
    /// Its file name.
    Named(String),
    /// There is none: a kernel thread.
    Absent,
    /// We may not read it (another user's process, no `/proc`).
    #[default]
    Unknown,
}

/// An open file of a process, and its locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The process, in our numbers.
    pub pid: i32,
    /// The file.
    pub id: FileId,
    /// Whether it is open for writing.
    pub is_writable: bool,
    /// Whether this open file has the flock.
    pub has_flock: bool,
    /// The byte on which it has an exclusive lock, if that is a single one.
    pub byte: Option<u64>,
}

/// A process, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// What decides who it is.
    pub process: Process,
    /// Its number in its own pid namespace.
    pub own_pid: Option<i32>,
    /// The inode that names that namespace.
    pub pid_namespace: Option<u64>,
    /// How long ago it started, in milliseconds.
    pub running_for_ms: Option<u64>,
    /// Its command line, the words joined by spaces.
    pub command: Option<String>,
    /// Whether it is stopped: by a signal such as SIGSTOP, or by a debugger.
    pub is_stopped: bool,
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, in milliseconds since the epoch. It may jump.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn wall_ms() -> i64 {
    let since = |since: std::time::Duration| i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => since(after),
        Err(before) => -since(before.duration()),
    }
}

/// Fills `bytes` with random ones.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    system::random(bytes)
}

/// Blocks this thread. For the one caller who asked for it: `tryAcquireSessionWriteLock`.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn sleep(duration: std::time::Duration) {
    std::thread::sleep(duration);
}

/// Lets other threads run.
pub fn yield_now() {
    std::thread::yield_now();
}

/// Whether waits may use events. Not if the environment variable `SESSION_WRITE_LOCK_WAIT` is `timers`: then
/// every wait goes by timers, as on a system without events.
pub fn has_events() -> bool {
    static HAS_EVENTS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HAS_EVENTS.get_or_init(|| {
        std::env::var_os("SESSION_WRITE_LOCK_WAIT").is_none_or(|mode| mode != "timers")
    })
}
