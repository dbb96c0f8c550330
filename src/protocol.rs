//! The lock on disk: how it is taken, taken over and given back.
//!
//! # The story of the races
//!
//! **Publishing.** A lock file must never be seen empty, half written or without its flock, or a
//! contender would judge it by nothing. So it is made without a name, flocked, written, and only
//! then linked to its path; a crash before that leaves nothing behind. Where the file system has
//! no unnamed files, a temporary does the same; where it has no hard links either, the file is
//! created in place, and the open descriptor is its witness until the flock is taken.
//!
//! **Two contenders, one dead lock.** A and B both find the dead file. A removes it and creates
//! its own; B, still thinking of the dead one, removes A's. Comparing inodes just before the
//! removal only narrows the gap. What closes it: the flock that proved the file dead is *kept*.
//! Whoever has the flock of the dead inode, and has seen *after* taking it that the path still
//! names that inode, is the only one who may replace it. Everybody else finds it flocked and
//! waits. Replacing is one rename of a finished, flocked file over the dead one: the path is never
//! vacant, and a crash on either side of it leaves a lock that the next contender can judge.
//!
//! **Older processes** remove a lock that they think dead by its path, blindly. One of them may
//! have put its own new lock there between our look and our rename, so a file that no flock holder
//! wrote is *exchanged* for ours, and what comes out is looked at: if it isn't the dead inode, it
//! goes back. And such a process may be just about to remove what it finds at the path, so such a
//! takeover counts only after the path was still ours some moments later ([`SETTLE`]).
//!
//! **Temporaries** have one fixed name per session. So at most one can be left behind by a crash,
//! who takes over next meets it, and on file systems whose flock can't be trusted its exclusive
//! creation keeps a second contender out.
//!
//! **Release.** Still our inode at the path: unlink, then unlock, then close, in this order,
//! so that whoever gets the flock finds the name gone.
//!
//! Nothing here sleeps, and no loop is unbounded: who loses too many rounds is told that the lock
//! is contended and comes again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::process;
use crate::record::{DeclaredWitness, Record};
use crate::sys::{self, FileId, Status};
use crate::verdict::{Patience, Sighting, Verdict};
use crate::witness::{self, Testimony};

/// How long after the takeover of an older process's lock the path must still be ours: longer
/// than any such process takes between reading a dead record and removing the path.
pub const SETTLE: Duration = Duration::from_millis(50);

/// Rounds of one attempt. Each lost round means that another process moved on.
const ROUNDS: usize = 16;

/// How old a temporary or a guard folder must be before its maker is taken for dead where the
/// kernel can't say, in milliseconds.
const ABANDONED_AFTER_MS: i64 = 30_000;

/// The longest file name that every file system here takes, in bytes.
const NAME_MAX: usize = 255;

/// Where a session's lock is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockPaths {
    folder: PathBuf,
    lock: PathBuf,
    temporary: PathBuf,
    guard: PathBuf,
}

impl LockPaths {
    /// Finds the lock of `session_file`: `<realpath of its folder>/<its name>.lock`. The folder is
    /// created if it is missing. The session file itself need not exist and isn't followed.
    pub fn resolve(session_file: &Path) -> Result<Self> {
        let (Some(folder), Some(name)) = (session_file.parent(), session_file.file_name()) else {
            return Err(Error::System {
                errno: Errno::INVAL,
                syscall: "open",
                path: session_file.to_owned(),
            });
        };
        let folder = match folder.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder).map_err(errno_of).during("mkdir", folder)?;
                folder.canonicalize()
            }
            found => found,
        };
        let folder = folder.map_err(errno_of).during("realpath", session_file)?;
        let mut lock_name = name.to_owned();
        lock_name.push(".lock");
        let beside = |suffix: &str| {
            let mut name = lock_name.clone();
            name.push(suffix);
            folder.join(name)
        };
        Ok(Self {
            lock: beside(""),
            temporary: if lock_name.len() + TEMPORARY_SUFFIX.len() <= NAME_MAX {
                beside(TEMPORARY_SUFFIX)
            } else {
                folder.join(short_temporary_name(lock_name.as_encoded_bytes()))
            },
            guard: beside(".reclaim"),
            folder,
        })
    }

    /// The lock file.
    pub fn lock(&self) -> &Path {
        &self.lock
    }
}

/// What a temporary's name ends in: `chat.jsonl.lock.new`.
const TEMPORARY_SUFFIX: &str = ".new";

/// A temporary's name where the lock's own leaves no room for a suffix. FNV-1a: any process must
/// come to the same name, in any version.
fn short_temporary_name(lock_name: &[u8]) -> String {
    let hash = lock_name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}.lock{TEMPORARY_SUFFIX}")
}

/// What a contender brings to an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// When its watchdog would release, in milliseconds; goes into the record.
    pub max_hold_ms: u64,
    /// How long it believes in what nothing proves.
    pub patience: Patience,
    /// Whether this process holds the very lock, as far as it knows.
    pub is_held_here: bool,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The lock is ours.
    Acquired(HeldLock),
    /// The lock is ours if [`HeldLock::is_at_its_path`] still holds after [`SETTLE`].
    Settling(HeldLock),
    /// Somebody else's.
    Contended(Box<Contended>),
}

/// Who was in the way.
#[derive(Debug, Clone)]
pub struct Contended {
    /// What the lock file said.
    pub record: Option<Record>,
    /// What that amounts to; `None` if the file could not be judged (no permission to open it) or
    /// changed hands too often to be looked at.
    pub verdict: Option<Verdict>,
    /// Why the file could not be opened.
    pub cause: Option<Error>,
}

impl Contended {
    /// The holder in the words of the older lock module: `pid=7 alive=true ageMs=1200`.
    pub fn owner(&self) -> String {
        let verdict = self.verdict.as_ref();
        let mut owner = match self.record.as_ref().and_then(|record| record.pid) {
            Some(pid) => format!("pid={pid} alive={}", verdict.is_none_or(|v| v.is_alive)),
            None => "owner=unknown".to_owned(),
        };
        if let Some(age_ms) = verdict.and_then(|verdict| verdict.age_ms) {
            owner.push_str(" ageMs=");
            owner.push_str(&age_ms.to_string());
        }
        owner
    }

    /// In the way, and nothing else is known.
    fn unknown(cause: Option<Error>) -> Box<Self> {
        Box::new(Self { record: None, verdict: None, cause })
    }
}

/// A lock that this process holds. Dropping it lets the kernel free the flock and leaves a dead
/// file behind; [`HeldLock::release`] removes the file first.
#[derive(Debug)]
pub struct HeldLock {
    paths: LockPaths,
    file: File,
    token: String,
}

impl HeldLock {
    /// Where it is.
    pub fn paths(&self) -> &LockPaths {
        &self.paths
    }

    /// Asks the file system whether the lock file is still ours.
    pub fn is_at_its_path(&self) -> Result<bool> {
        names(&self.paths.lock, &self.file, Some(&self.token))
    }

    /// Gives the lock back: removes the file if it is still ours, and only then.
    ///
    /// On an error the lock is free all the same, but a dead file stays; the next contender
    /// replaces it. Afterwards this value protects nothing.
    pub fn release(&self) -> Result<()> {
        let removed = self
            .is_at_its_path()
            .and_then(|ours| if ours { remove(&self.paths.lock) } else { Ok(()) });
        // Closing would free it too, but a child between fork and exec may share the file.
        let unlocked = sys::unlock(&self.file);
        removed.and(match unlocked {
            // Where flock isn't supported there was none to give back.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::BADF) | Ok(()) => Ok(()),
            Err(errno) => Err(errno).during("flock", &self.paths.lock),
        })
    }
}

/// Tries to take the lock, once, without waiting.
pub fn attempt(paths: &LockPaths, claim: &Claim) -> Result<Attempt> {
    for _ in 0..ROUNDS {
        match look(paths, claim)? {
            Look::Alive(contended) => return Ok(Attempt::Contended(contended)),
            Look::Moved => {}
            _ if is_guarded(paths) => break,
            Look::Vacant => {
                if let Some(held) = publish(paths, claim)? {
                    return Ok(Attempt::Acquired(held));
                }
            }
            Look::Dead(dead) => match take_over(paths, claim, &dead)? {
                Takeover::Done { held, settles: true } => return Ok(Attempt::Settling(held)),
                Takeover::Done { held, settles: false } => return Ok(Attempt::Acquired(held)),
                Takeover::Occupied => break,
                Takeover::Lost => {}
            },
        }
    }
    Ok(Attempt::Contended(Contended::unknown(None)))
}

// --- Looking ----------------------------------------------------------------------------------

enum Look {
    /// Nothing stands at the path.
    Vacant,
    /// A lock that has to be respected.
    Alive(Box<Contended>),
    /// A dead lock, whose flock is ours now where the file system has one.
    Dead(DeadLock),
    /// It changed while we looked.
    Moved,
}

struct DeadLock {
    file: File,
    id: FileId,
    /// An older process wrote it, and may be about to remove the path.
    is_foreign: bool,
}

/// Looks at the lock file and judges it, keeping the flock of a dead one.
fn look(paths: &LockPaths, claim: &Claim) -> Result<Look> {
    let path = &paths.lock;
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Look::Vacant),
        // Not ours to read: another user's. Can't know counts as alive.
        Err(cause @ Error::System { errno: Errno::ACCESS | Errno::PERM, syscall: "open", .. }) => {
            return Ok(Look::Alive(Contended::unknown(Some(cause))));
        }
        Err(error) => return Err(error),
    };
    let flocked = sys::flock(&file) == Err(Errno::WOULDBLOCK);
    // Between opening it and getting its flock, the path may have gone to another file. Judging
    // this one is no harm; replacing it would be.
    if !flocked && !names(path, &file, None)? {
        return Ok(Look::Moved);
    }
    let status = sys::status_of(&file).during("fstat", path)?;
    let bytes = match sys::read(&file) {
        Ok(bytes) => bytes,
        Err(Errno::STALE) => return Ok(Look::Moved),
        Err(errno) => return Err(errno).during("read", path),
    };
    let is_local = witness::is_local(&file);
    let sighting = Sighting {
        record: Record::decode(&bytes),
        modified_ms: status.modified_ms,
        flocked,
        testimony: if flocked { Testimony::None } else { witness::writer(&file, is_local) },
        is_local,
        is_held_here: claim.is_held_here,
    };
    let verdict = sighting.judge(claim.patience);
    if verdict.is_alive {
        let record = sighting.record;
        return Ok(Look::Alive(Box::new(Contended {
            record,
            verdict: Some(verdict),
            cause: None,
        })));
    }
    let is_foreign = !sighting.is_by_flock_holder();
    Ok(Look::Dead(DeadLock { file, id: status.id, is_foreign }))
}

/// Opens the regular file at `path`; `None` if nothing is there.
fn open_regular(path: &Path) -> Result<Option<File>> {
    // Looked at before it is opened: opening a device can do things.
    let Some(status) = status_at(path)? else {
        return Ok(None);
    };
    refuse_odd(&status, path)?;
    let file = match sys::open(path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        Err(errno) => return Err(errno).during("open", path),
    };
    refuse_odd(&sys::status_of(&file).during("fstat", path)?, path)?;
    Ok(Some(file))
}

fn refuse_odd(status: &Status, path: &Path) -> Result<()> {
    match status.odd_kind {
        None => Ok(()),
        Some(kind) => Err(Error::NotAFile { path: path.to_owned(), kind }),
    }
}

fn status_at(path: &Path) -> Result<Option<Status>> {
    match sys::status_at(path) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno).during("lstat", path),
    }
}

/// Whether `path` still names the open `file`.
///
/// By inode; on file systems where the same file may show two inode numbers (`VirtioFS`), by what
/// is in it: a `token` if there is one to look for, the whole text otherwise.
fn names(path: &Path, file: &File, token: Option<&str>) -> Result<bool> {
    let Some(there) = status_at(path)? else {
        return Ok(false);
    };
    let ours = sys::status_of(file).during("fstat", path)?;
    if there.id == ours.id {
        return Ok(true);
    }
    if there.odd_kind.is_some() || witness::is_local(file) {
        return Ok(false);
    }
    let Ok(text_at_path) = sys::open(path).and_then(|file| sys::read(&file)) else {
        return Ok(false); // gone, or not to be read: it isn't ours
    };
    Ok(match token {
        Some(token) => {
            Record::decode(&text_at_path).is_some_and(|r| r.token.as_deref() == Some(token))
        }
        None => sys::read(file).is_ok_and(|text| !text.is_empty() && text == text_at_path),
    })
}

/// Whether a late release of the older module is at work: it guards its removals with a folder.
/// One that is left over from a crash is old, and ignored.
fn is_guarded(paths: &LockPaths) -> bool {
    sys::status_at(&paths.guard).is_ok_and(|guard| !is_abandoned(&guard))
}

fn is_abandoned(status: &Status) -> bool {
    Timestamp::now().as_millisecond().saturating_sub(status.modified_ms) > ABANDONED_AFTER_MS
}

// --- Publishing -------------------------------------------------------------------------------

/// Puts a new lock file at a vacant path. `None` if another was faster.
fn publish(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    let file = match sys::create_unnamed(&paths.folder) {
        Ok(file) => file,
        // Old kernels know no unnamed files and take the flag for O_DIRECTORY.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            return publish_from_temporary(paths, claim);
        }
        Err(errno) => return Err(errno).during("open", &paths.lock),
    };
    let held = fill(paths, claim, file)?;
    match sys::link_unnamed(&held.file, &paths.lock) {
        Ok(()) => Ok(Some(held)),
        Err(Errno::EXIST) => Ok(None),
        // No /proc to link through, or no links.
        Err(Errno::NOENT | Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            publish_from_temporary(paths, claim)
        }
        Err(errno) => Err(errno).during("link", &paths.lock),
    }
}

fn publish_from_temporary(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    let Some(held) = create_temporary(paths, claim, None)? else {
        return Ok(None);
    };
    let linked = sys::link(&paths.temporary, &paths.lock);
    discard_temporary(paths, &held.file);
    match linked {
        Ok(()) => Ok(held.is_at_its_path()?.then_some(held)),
        Err(Errno::EXIST | Errno::NOENT) => Ok(None),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::ACCESS | Errno::MLINK) => {
            publish_in_place(paths, claim)
        }
        Err(errno) => Err(errno).during("link", &paths.lock),
    }
}

/// The last resort, without hard links: the file is there before its record is.
fn publish_in_place(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    let file = match sys::create_new(&paths.lock) {
        Ok(file) => file,
        Err(Errno::EXIST) => return Ok(None),
        Err(errno) => return Err(errno).during("open", &paths.lock),
    };
    let id = sys::status_of(&file).during("fstat", &paths.lock)?.id;
    match fill(paths, claim, file) {
        Ok(held) => Ok(held.is_at_its_path()?.then_some(held)),
        Err(error) => {
            // Nothing is left behind; what another put there is left alone.
            if status_at(&paths.lock)?.is_some_and(|there| there.id == id) {
                remove(&paths.lock)?;
            }
            Err(error)
        }
    }
}

/// Flocks a new file and writes its record.
fn fill(paths: &LockPaths, claim: &Claim, file: File) -> Result<HeldLock> {
    // A file system without flock, or a contender that looks at the file just now: the record
    // then doesn't claim that witness, and the open descriptor stays as one.
    let witness = sys::flock(&file).is_ok().then_some(DeclaredWitness::Flock);
    let token = token().during("getrandom", &paths.lock)?;
    let own = process::own();
    let record = Record {
        pid: Some(own.pid),
        created_at: Some(format!("{:.3}", Timestamp::now())),
        starttime: own.start_time,
        comm: Some(own.comm.clone()),
        max_hold_ms: Some(claim.max_hold_ms),
        boot_id: own.boot_id.clone(),
        pid_namespace: own.pid_namespace,
        witness,
        token: Some(token.clone()),
    };
    sys::write(&file, &record.encode()).during("write", &paths.lock)?;
    Ok(HeldLock { paths: paths.clone(), file, token })
}

/// 128 random bits in hexadecimal.
fn token() -> rustix::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

// --- Takeover ---------------------------------------------------------------------------------

enum Takeover {
    Done {
        held: HeldLock,
        settles: bool,
    },
    /// Another contender is about it.
    Occupied,
    /// The path went to another file.
    Lost,
}

/// Replaces a dead lock whose flock we have.
///
/// `dead` stays open to the end: once it is closed its inode number may be given to another file.
fn take_over(paths: &LockPaths, claim: &Claim, dead: &DeadLock) -> Result<Takeover> {
    let Some(held) = create_temporary(paths, claim, Some(dead.id))? else {
        return Ok(Takeover::Occupied);
    };
    let replaced = match names(&paths.lock, &dead.file, None) {
        Ok(true) if dead.is_foreign => exchange(paths, dead.id),
        Ok(true) => rename(paths),
        Ok(false) => Ok(false),
        Err(error) => Err(error),
    };
    if !matches!(replaced, Ok(true)) {
        discard_temporary(paths, &held.file);
        replaced?;
        return Ok(Takeover::Lost);
    }
    // On a file system with a flock that isn't shared by all, another may have used our name.
    Ok(if held.is_at_its_path()? {
        Takeover::Done { held, settles: dead.is_foreign }
    } else {
        Takeover::Lost
    })
}

/// Moves the temporary over the lock file. `false` if the temporary is gone.
fn rename(paths: &LockPaths) -> Result<bool> {
    match sys::rename(&paths.temporary, &paths.lock) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).during("rename", &paths.lock),
    }
}

/// Swaps the temporary with the lock file, and back again if what came out isn't `dead`.
fn exchange(paths: &LockPaths, dead: FileId) -> Result<bool> {
    match sys::exchange(&paths.temporary, &paths.lock) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false), // an older process has removed the dead lock
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return rename(paths),
        Err(errno) => return Err(errno).during("rename", &paths.lock),
    }
    match status_at(&paths.temporary)? {
        Some(displaced) if displaced.id == dead => {
            remove(&paths.temporary)?;
            Ok(true)
        }
        None => Ok(true),
        Some(_) => {
            // An older process's new lock: back to its place. If ours was removed from the path
            // meanwhile there is nothing to swap with, and the path is vacant.
            match sys::exchange(&paths.temporary, &paths.lock) {
                Err(Errno::NOENT) => sys::link(&paths.temporary, &paths.lock)
                    .and_then(|()| sys::unlink(&paths.temporary))
                    .or_else(|errno| if errno == Errno::EXIST { Ok(()) } else { Err(errno) }),
                other => other,
            }
            .during("rename", &paths.lock)?;
            Ok(false)
        }
    }
}

/// A finished lock file under the session's temporary name. `None` while another contender's is
/// there. `dead`: the inode whose flock is ours.
fn create_temporary(
    paths: &LockPaths,
    claim: &Claim,
    dead: Option<FileId>,
) -> Result<Option<HeldLock>> {
    let path = &paths.temporary;
    for _ in 0..ROUNDS {
        let file = match sys::create_new(path) {
            Ok(file) => file,
            Err(Errno::EXIST) if sweep_temporary(paths, dead)? => continue,
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(errno).during("open", path),
        };
        let id = sys::status_of(&file).during("fstat", path)?.id;
        let held = match fill(paths, claim, file) {
            Ok(held) => held,
            Err(error) => {
                if status_at(path)?.is_some_and(|there| there.id == id) {
                    remove(path)?;
                }
                return Err(error);
            }
        };
        // Between its creation and its flock somebody may have taken it for abandoned.
        if names(path, &held.file, None)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Removes a temporary that a crash left behind. `false` if it may be in use.
fn sweep_temporary(paths: &LockPaths, dead: Option<FileId>) -> Result<bool> {
    let path = &paths.temporary;
    let Some(file) = open_regular(path)? else {
        return Ok(true);
    };
    let status = sys::status_of(&file).during("fstat", path)?;
    // A crash between link and unlink leaves two names for one inode; its flock is ours already.
    let is_abandoned = dead == Some(status.id)
        || sys::flock(&file) != Err(Errno::WOULDBLOCK)
            && match witness::writer(&file, witness::is_local(&file)) {
                Testimony::Writer => false,
                Testimony::NoWriter => true,
                Testimony::None => is_abandoned(&status),
            };
    if is_abandoned && names(path, &file, None)? {
        remove(path)?;
    }
    Ok(is_abandoned)
}

fn discard_temporary(paths: &LockPaths, file: &File) {
    // What can't be removed is swept by the next takeover.
    if names(&paths.temporary, file, None).unwrap_or(false) {
        let _ = sys::unlink(&paths.temporary);
    }
}

fn remove(path: &Path) -> Result<()> {
    match sys::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).during("unlink", path),
    }
}

#[expect(clippy::needless_pass_by_value)] // shaped for `map_err`
fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim = Claim {
        max_hold_ms: 1_000,
        patience: Patience { stale_ms: 1_000, grace_ms: 1_000 },
        is_held_here: false,
    };

    fn acquire(paths: &LockPaths) -> HeldLock {
        match attempt(paths, &CLAIM).unwrap() {
            Attempt::Acquired(held) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_release_frees_the_flock_even_where_a_child_shares_the_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let paths = LockPaths::resolve(&folder.path().join("chat.jsonl")).unwrap();
        let aside = folder.path().join("aside");
        let held = acquire(&paths);
        sys::link(paths.lock(), &aside).unwrap();
        let shared_with_child = held.file.try_clone().unwrap();
        held.release().unwrap();
        drop(held);
        assert_eq!(sys::flock(&sys::open(&aside).unwrap()), Ok(()));
        drop(shared_with_child);
    }

    #[test]
    fn without_unnamed_files_or_hard_links_publishing_still_excludes() {
        type Publish = fn(&LockPaths, &Claim) -> Result<Option<HeldLock>>;
        for publish in [publish_from_temporary as Publish, publish_in_place as Publish] {
            let folder = tempfile::tempdir().unwrap();
            let paths = LockPaths::resolve(&folder.path().join("chat.jsonl")).unwrap();
            let held = publish(&paths, &CLAIM).unwrap().unwrap();
            assert!(publish(&paths, &CLAIM).unwrap().is_none());
            assert!(matches!(attempt(&paths, &CLAIM).unwrap(), Attempt::Contended(_)));
            held.release().unwrap();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_exchange_that_brings_out_another_file_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = LockPaths::resolve(&folder.path().join("chat.jsonl")).unwrap();
        std::fs::write(&paths.lock, "dead").unwrap();
        let dead = sys::open(&paths.lock).unwrap();
        let dead_id = sys::status_of(&dead).unwrap().id;
        // After the look, an older process removes the dead lock and publishes its own.
        sys::unlink(&paths.lock).unwrap();
        std::fs::write(&paths.lock, "alive").unwrap();
        let ours = create_temporary(&paths, &CLAIM, None).unwrap().unwrap();
        assert!(!exchange(&paths, dead_id).unwrap());
        assert_eq!(std::fs::read_to_string(&paths.lock).unwrap(), "alive");
        assert!(names(&paths.temporary, &ours.file, None).unwrap());
    }
}
