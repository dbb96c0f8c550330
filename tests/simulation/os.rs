//! The seam, simulated: what `src/os` promises, answered from a recorded history.
//!
//! See [`replay`].

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kernel::{ALL_BYTES, Answer, Byte, Call, Fd, Name, Stat};
use crate::replay::{self, call, canonical, note_change};
use crate::texts::{bytes_of, text_of};

#[allow(dead_code, reason = "not all of it is simulated")]
#[path = "../../src/os/errno.rs"]
mod errno;
pub use errno::Errno;

#[allow(dead_code, reason = "the same")]
#[path = "../../src/os/unix/errno.rs"]
pub mod numbers;

mod system {
    pub use super::numbers as errno;
}

fn done(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Refused(errno) => Err(errno),
        other => panic!("answered by {other:?}"),
    }
}

// --- Types of the seam --------------------------------------------------------------------------

pub type Result<T> = std::result::Result<T, Errno>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Trust {
    Nothing,
    Flocks,
    #[default]
    Everything,
}

/// An open file. Clones share it; the kernel counts them.
pub struct File(Fd);

impl Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fd {}", canonical(|run| &mut run.fds, self.0))
    }
}

impl Clone for File {
    fn clone(&self) -> Self {
        note_change(Call::Share(self.0));
        Self(self.0)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        note_change(Call::Close(self.0));
    }
}

/// The monotonic clock. A machine's time is where its last alarm has put it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(Duration);

impl Instant {
    pub const START: Self = Self(Duration::ZERO);

    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }

    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// As seen from now.
impl Debug for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = replay::now();
        write!(
            f,
            "+{:?} -{:?}",
            self.saturating_duration_since(now),
            now.saturating_duration_since(*self)
        )
    }
}

impl File {
    fn fd(&self) -> Fd {
        self.0
    }
}

fn file(answer: Answer) -> Result<File> {
    match answer {
        Answer::Fd(fd) => Ok(File(fd)),
        other => Err(done(other).expect_err("a file")),
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Status {
    pub id: FileId,
    pub modified_ms: i64,
    pub changed_ms: i64,
    pub was_read: bool,
    pub odd_kind: Option<FileKind>,
    pub length: u64,
    pub names: u64,
    pub owner: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl Debug for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = u8::try_from(self.inode).unwrap_or(u8::MAX);
        write!(f, "inode {}", canonical(|run| &mut run.ids, id))
    }
}

#[allow(dead_code, reason = "only regular files are simulated")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

#[allow(dead_code, reason = "for the real one, see conformance.rs")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: std::ffi::OsString,
    pub is_folder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lease {
    Refused,
    Granted,
    Unanswered,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Process {
    pub start_time: Option<u64>,
    pub executable: Executable,
    pub task_name: Option<String>,
    pub in_other_time_namespace: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Executable {
    Named(String),
    Absent,
    #[default]
    Unknown,
}

/// Threads that block. Here the script's own thread does.
pub mod blocked {
    use super::{Errno, Result};

    #[derive(Debug, Clone)]
    pub struct Stop;

    impl Stop {
        /// `INTR` is the answer that says that it is to end.
        #[expect(clippy::unused_self, reason = "as in the seam")]
        pub fn wait(&self, mut call: impl FnMut() -> Result<()>) -> Result<()> {
            let answer = call();
            debug_assert_ne!(answer, Err(Errno::AGAIN));
            answer
        }
    }
}

// --- Files --------------------------------------------------------------------------------------

/// The session is `/f/s`.
fn name(path: &Path) -> Name {
    match path.to_str() {
        Some("/f/s.lock") => Name::Lock,
        Some("/f/s.lock.queue") => Name::Queue,
        Some("/f/s.lock.new") => Name::Temporary,
        Some("/f/s.lock.reclaim") => Name::Guard,
        other => panic!("an unknown path: {other:?}"),
    }
}

pub fn open(path: &Path) -> Result<File> {
    file(call(Call::Open(name(path))))
}

/// The older module reads a record, see [`Call::OpenIfDead`].
pub fn open_if_dead(path: &Path) -> Result<File> {
    file(call(Call::OpenIfDead(name(path))))
}

pub fn reopen_for_writing(of: &File) -> Result<File> {
    file(call(Call::Reopen(of.fd())))
}

pub fn create_or_open(path: &Path) -> Result<File> {
    file(call(Call::CreateOrOpen(name(path))))
}

pub fn create_unnamed(_folder: &Path) -> Result<File> {
    file(call(Call::CreateUnnamed))
}

pub fn create_new(path: &Path) -> Result<File> {
    file(call(Call::CreateNew(name(path))))
}

pub fn write(file: &File, bytes: &[u8], _offset: u64) -> Result<()> {
    done(call(Call::Write(file.fd(), text_of(bytes))))
}

pub fn read(file: &File, _most: usize) -> Result<Vec<u8>> {
    match call(Call::Read(file.fd())) {
        Answer::Text(text) => Ok(bytes_of(text)),
        other => Err(done(other).expect_err("a text")),
    }
}

pub fn forget_contents(_file: &File) -> Result<()> {
    Ok(())
}

pub fn forget_names(_folder: &Path) -> Result<()> {
    Ok(())
}

pub fn forget_reads(file: &File) -> Result<()> {
    done(call(Call::ForgetReads(file.fd())))
}

pub fn status_at(path: &Path) -> Result<Status> {
    if !path.starts_with("/f") {
        return Err(Errno::NOENT); // the shipped files' own tests ask
    }
    status(call(Call::StatusAt(name(path))))
}

pub fn status_of(file: &File) -> Result<Status> {
    status(call(Call::StatusOf(file.fd())))
}

fn status(answer: Answer) -> Result<Status> {
    const HOUR_MS: i64 = 3_600_000;

    let Stat { id, names, is_empty, is_old, was_read } = match answer {
        Answer::Status(stat) => stat,
        other => return Err(done(other).expect_err("a status")),
    };
    let changed_ms = if is_old { NOW_MS - HOUR_MS } else { NOW_MS };
    Ok(Status {
        id: FileId { device: 1, inode: u64::from(id) },
        modified_ms: changed_ms,
        changed_ms,
        was_read,
        odd_kind: None,
        length: if is_empty { 0 } else { 100 },
        names: u64::from(names),
        owner: own_user(),
    })
}

pub fn link_unnamed(file: &File, path: &Path) -> Result<()> {
    done(call(Call::LinkUnnamed(file.fd(), name(path))))
}

pub fn link(from: &Path, to: &Path) -> Result<()> {
    done(call(Call::Link(name(from), name(to))))
}

/// One call; or Windows's two, where the first is refused as unknown; or those of NFS for a file that is open.
pub fn replace(from: &Path, to: &Path, old: &File) -> Result<()> {
    if replay::trust() == Trust::Flocks {
        unlink(to).map_err(|_| Errno::TXTBSY)?;
    }
    match done(call(Call::Rename(name(from), name(to)))) {
        Err(Errno::NOSYS) => {}
        answer => return answer,
    }
    done(call(Call::UnlinkOpen(old.fd())))?;
    link(from, to)
}

pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    done(call(Call::Exchange(name(one), name(other))))
}

pub fn unlink(path: &Path) -> Result<()> {
    done(call(Call::Unlink(name(path))))
}

/// Outside of a simulation: the shipped files' own tests ask.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    Ok(std::fs::canonicalize(path)?)
}

pub fn create_folders(_path: &Path) -> Result<()> {
    Ok(())
}

pub const HAS_BYTE_LOCKS: bool = true;
pub const WAIT_GIVES_FLOCK: bool = true;
pub const IGNORES_CASE: bool = false;

pub fn long_name(_path: &Path) -> Option<std::ffi::OsString> {
    None
}

// --- Locks --------------------------------------------------------------------------------------

pub fn flock(file: &File) -> Result<()> {
    done(call(Call::Flock(file.fd())))
}

pub fn flock_shared(file: &File) -> Result<()> {
    done(call(Call::FlockShared(file.fd())))
}

pub fn flock_wait(file: &File) -> Result<()> {
    done(call(Call::FlockWait(file.fd())))
}

pub fn unlock(file: &File) -> Result<()> {
    done(call(Call::Unlock(file.fd())))
}

pub fn lock_byte(file: &File, byte: u64) -> Result<()> {
    done(call(Call::ByteLock(file.fd(), small(byte))))
}

pub fn lock_all_bytes(file: &File) -> Result<()> {
    done(call(Call::ByteLockAll(file.fd())))
}

pub fn byte_wait(file: &File, byte: u64) -> Result<()> {
    done(call(Call::ByteWait(file.fd(), small(byte))))
}

/// Changes only the file's times, which no rule of the protocol asks for here.
#[expect(clippy::unnecessary_wraps, reason = "as the real one")]
pub fn touch(_: &File) -> Result<()> {
    Ok(())
}

pub fn unlock_bytes(file: &File) -> Result<()> {
    done(call(Call::ByteUnlock(file.fd())))
}

pub fn locked_byte(file: &File, from: u64, end: u64) -> Result<Option<u64>> {
    if from >= end {
        return Ok(None);
    }
    let end = if end == u64::MAX { Byte::MAX } else { small(end) };
    match call(Call::ByteAsk(file.fd(), small(from), end)) {
        Answer::Byte(byte) => Ok(byte.map(u64::from)),
        other => Err(done(other).expect_err("a byte")),
    }
}

fn small(byte: u64) -> Byte {
    let byte = Byte::try_from(byte).expect("fewer bytes than that");
    assert!(byte < ALL_BYTES || replay::follows(), "more bytes than the simulation has");
    byte
}

pub fn lease(file: &File) -> Lease {
    ask_by_lease(file, false)
}

pub fn is_open_elsewhere(file: &File) -> Lease {
    ask_by_lease(file, true)
}

/// `F_SETSIG` changes nothing that anybody else sees.
fn ask_by_lease(file: &File, exclusive: bool) -> Lease {
    match done(call(Call::SetLease(file.fd(), exclusive))) {
        Ok(()) => match done(call(Call::EndLease(file.fd()))) {
            Ok(()) => Lease::Granted,
            Err(_) => Lease::Unanswered,
        },
        Err(Errno::AGAIN) => Lease::Refused,
        Err(_) => Lease::Unanswered,
    }
}

pub fn trust(_file: &File, _id: FileId) -> Trust {
    replay::trust()
}

pub fn is_trusted(file: &File, id: FileId) -> bool {
    trust(file, id) == Trust::Everything
}

// --- Processes, clocks, chance ------------------------------------------------------------------

/// The clock stands still: see `explore.rs`.
pub const NOW_MS: i64 = 1_783_000_000_000;

/// A process sees itself under this number, and others under the following ones.
pub const OWN_PID: i32 = 100;

pub fn wall_ms() -> i64 {
    NOW_MS
}

pub fn own_user() -> u32 {
    1000
}

pub fn own_pid() -> i32 {
    OWN_PID
}

pub fn own_process() -> Process {
    process(OWN_PID)
}

pub fn find_process(pid: i32) -> Option<Process> {
    let peer = u8::try_from(pid - OWN_PID).expect("a number of the simulation's");
    if peer == 0 {
        return Some(process(pid));
    }
    (call(Call::FindProcess(peer)) == Answer::Is(true)).then(|| process(pid))
}

fn process(pid: i32) -> Process {
    Process {
        start_time: u64::try_from(pid).ok(),
        executable: Executable::Named("node".into()),
        task_name: Some("node".into()),
        in_other_time_namespace: false,
    }
}

pub fn boot_id() -> Option<String> {
    Some("this boot".into())
}

/// Not to be known, so that `process::own` asks again each time: it runs in many processes here.
pub fn pid_namespace() -> Option<u64> {
    None
}

pub fn random(bytes: &mut [u8]) -> Result<()> {
    done(call(Call::Random))?;
    bytes.fill(replay::next_token());
    Ok(())
}

pub fn yield_now() {}
