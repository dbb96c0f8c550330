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
//! **Older processes** know nothing of flocks, and remove a lock that they think dead by its path,
//! blindly. One of them may have put its own new lock there between our look and our rename, so
//! the dead file is *exchanged* for ours, and what comes out is looked at: if it isn't the dead
//! inode, it goes back. (A dead file of our own kind is not replaced but written over, under the same
//! flock: see [`succession`].) And one that has read the dead record may be just about to remove what is
//! at the path by now. So a takeover counts only if the path is still ours some moments
//! ([`SETTLE`]) after the last moment in which the dead record can have been read. Who came upon
//! the dead file waits that long; who has watched the file knows whether anybody read it, and
//! mostly need not wait at all ([`crate::wait::Watch::unread_since`]).
//!
//! **Temporaries** have one fixed name per session. So at most one can be left behind by a crash,
//! who takes over next meets it, and on file systems whose flock can't be trusted its exclusive
//! creation keeps a second contender out.
//!
//! **Release.** Still our inode at the path: unlink, then unlock, then close, in this order,
//! so that whoever gets the flock finds the name gone. If somebody stands in line for it, it is
//! [handed on](succession) instead.
//!
//! Nothing here sleeps, and no loop is unbounded: who loses too many rounds is told that the lock
//! is contended and comes again.

pub mod inspection;
mod succession;

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::{Context, Error, FileKind, Result};
use crate::process;
use crate::record::{DeclaredWitness, Record};
use crate::sys::{self, FileId, Lease, Status};
use crate::time;
use crate::verdict::{Patience, Sighting, Verdict};
use crate::witness::{self, Testimony, Witness};

pub use succession::{Cleared, HandedOn};

/// How long after the last read of a dead record the path must still be ours: longer than an older
/// process takes between reading it and removing the path.
pub const SETTLE: Duration = Duration::from_millis(50);

/// Rounds of one attempt. Each lost round means that another process moved on.
const ROUNDS: usize = 16;

/// How old a temporary or a guard folder must be before its maker is taken for dead where the
/// kernel can't say, in milliseconds.
const ABANDONED_AFTER_MS: i64 = 30_000;

/// The longest file name that every file system here takes, in bytes.
const NAME_MAX: usize = 255;

/// Where a session's lock is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LockPaths(Arc<Paths>);

/// The lock file says it all; the other paths follow from it.
impl PartialEq for LockPaths {
    fn eq(&self, other: &Self) -> bool {
        self.lock == other.lock
    }
}

impl Eq for LockPaths {}

impl Hash for LockPaths {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lock.as_os_str().hash(state);
    }
}

/// The paths behind a [`LockPaths`].
#[derive(Debug)]
pub struct Paths {
    lock: PathBuf,
    folder: PathBuf,
}

impl std::ops::Deref for LockPaths {
    type Target = Paths;

    fn deref(&self) -> &Paths {
        &self.0
    }
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
        Ok(Self::in_folder(folder, &lock_name))
    }

    /// The lock of this name in a folder that is named by its real path.
    pub(crate) fn in_folder(folder: PathBuf, lock_name: &OsStr) -> Self {
        Self(Arc::new(Paths { lock: folder.join(lock_name), folder }))
    }

    /// The one temporary of this session.
    fn temporary(&self) -> PathBuf {
        let name = self.lock_name();
        if name.len() + TEMPORARY_SUFFIX.len() <= NAME_MAX {
            self.beside(TEMPORARY_SUFFIX)
        } else {
            self.folder.join(short_temporary_name(name.as_encoded_bytes()))
        }
    }

    /// The folder by which late releases of the older module guard their removals.
    fn guard(&self) -> PathBuf {
        self.beside(".reclaim")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.lock.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    fn lock_name(&self) -> &OsStr {
        self.lock.file_name().unwrap_or_default()
    }

    /// The folder it stands in.
    pub fn folder(&self) -> &Path {
        &self.0.folder
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
    /// A dead lock was replaced: ours if [`HeldLock::is_at_its_path`] still holds [`SETTLE`] after
    /// the last moment in which an older process can have read the dead one.
    TakenOver(HeldLock),
    /// Somebody else's.
    Contended(Contended),
}

/// What was in the way. It keeps the lock file open, so that it can be watched and its inode
/// number stays its own.
#[derive(Debug, Default)]
pub struct Contended {
    /// `None` if there is none, or none that we may open.
    file: Option<LockFile>,
    /// `None` for a flocked file: nothing else needed to be asked.
    sighting: Option<Box<Sighting>>,
    witness: Option<Witness>,
    /// In how many milliseconds the lock's age alone would decide otherwise.
    matures_in_ms: Option<u64>,
    cause: Option<Error>,
}

impl Contended {
    /// Behind a file that somebody has the flock of.
    pub fn by_flock(file: LockFile) -> Self {
        Self { file: Some(file), witness: Some(Witness::Flock), ..Self::default() }
    }

    /// The file in the way.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref().map(|file| &file.file)
    }

    /// Makes it a file that one can stand in line for: writable, if it may be written over, and then
    /// tells its holder that somebody is in line who can inherit it.
    pub fn prepare_for_line(&mut self) {
        if let Some(file) = &mut self.file {
            file.prepare_for_line();
            if file.is_heritable() {
                // Who can't tell the holder stands in line all the same: the holder then removes the file.
                let _ = sys::mark(&file.file, succession::LINE);
            }
        }
    }

    /// What proved that it has to be respected.
    pub fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// In how many milliseconds it is worth looking again because of its age alone.
    pub fn matures_in_ms(&self) -> Option<u64> {
        self.matures_in_ms
    }

    /// The process whose end would change the verdict, where no flock tells of it.
    pub fn pid_to_outlive(&self) -> Option<i32> {
        let record = self.sighting.as_ref()?.record.as_ref()?;
        let is_our_number = record.pid_namespace.is_none_or(|namespace| {
            process::own().pid_namespace.is_none_or(|ours| ours == namespace)
        });
        record.pid.filter(|_| is_our_number)
    }

    /// To tell its holder that we don't wait any more, or to decline what comes all the same.
    pub fn waited_for(&self) -> Option<WaitedFor> {
        self.file.clone().map(WaitedFor)
    }

    /// Whether nothing has changed: the proof, if there was one, and the file at the path. Then a
    /// watch that was set up before will tell of any change.
    ///
    /// The path has to be asked in any case: a file that has been released already may be flocked
    /// for a moment by another contender, whose closing it nobody would tell.
    pub fn is_still_there(&self, paths: &LockPaths) -> bool {
        (self.witness.is_none() || self.is_proved()) && self.is_at_path(paths)
    }

    /// Whether the path still names it.
    pub fn is_at_path(&self, paths: &LockPaths) -> bool {
        let names = |file| names(&paths.lock, file, None).unwrap_or(false);
        self.file.as_ref().is_some_and(names)
    }

    fn is_proved(&self) -> bool {
        match (&self.file, self.witness) {
            (Some(file), Some(Witness::Flock)) => sys::flock(&file.file) == Err(Errno::WOULDBLOCK),
            (Some(file), Some(Witness::OpenForWriting)) => sys::lease(&file.file) == Lease::Refused,
            _ => false,
        }
    }

    /// What was seen of the file; `None` if it can't be read.
    fn sighting(&self) -> Option<Sighting> {
        let seen_now = || {
            // A file without a sighting was flocked.
            let seen = sight(Path::new(""), self.file()?, false, false).ok()??;
            Some(Sighting { flocked: true, ..seen })
        };
        self.sighting.as_deref().cloned().or_else(seen_now)
    }

    /// Says what was in the way, as a contender with this patience sees it.
    pub fn report(&self, patience: Patience) -> Report {
        let sighting = self.sighting();
        Report {
            verdict: sighting.as_ref().map(|sighting| sighting.judge(patience)),
            record: sighting.and_then(|sighting| sighting.record),
            cause: self.cause.clone(),
        }
    }
}

/// A file that somebody stands in line for, or stood.
#[derive(Debug)]
pub struct WaitedFor(LockFile);

impl WaitedFor {
    /// Takes back what [`Contended::prepare_for_line`] has said.
    pub fn leave(&self) {
        let _ = sys::take_marks_away(&self.0.file); // at the latest when it is closed
    }

    /// Gives up its flock, which came too late. The file is not ours to remove: if its holder has died,
    /// an older process may be about to remove the path. Who has handed it on looks back.
    pub fn decline(&self) {
        let _ = sys::unlock(&self.0.file); // closing it would do as well
    }
}

/// What became of something that was in the way.
#[derive(Debug)]
pub enum Recheck {
    /// It is still there.
    Still(Contended),
    /// It is ours now, or will be.
    Ended(Attempt),
    /// It is time for another attempt.
    Gone,
}

/// Looks again at what was in the way.
///
/// While we stand in line for its flock, that must not be asked for: it would come to us out of turn.
pub fn recheck(
    paths: &LockPaths,
    claim: &Claim,
    contended: Contended,
    line: Line,
) -> Result<Recheck> {
    let is_proved = match line {
        Line::Waiting => true,
        Line::HasCome => false,
        Line::None => contended.is_proved(),
    };
    let is_ours = !is_proved && contended.witness == Some(Witness::Flock);
    let Some(file) = &contended.file else {
        return Ok(Recheck::Gone);
    };
    if is_ours && file.is_heritable() {
        let inherited = succession::inherit(paths, claim, file.clone(), None)?;
        return Ok(inherited.map_or(Recheck::Gone, Recheck::Ended));
    }
    let is_in_place = names(&paths.lock, file, None)?;
    if is_proved && is_in_place {
        return Ok(Recheck::Still(contended));
    }
    let is_dead = || is_dead(paths, claim, &file.file);
    if is_ours
        && is_in_place
        && !is_guarded(paths)
        && is_dead()?
        && let Takeover::Done(held) = take_over(paths, claim, file)?
    {
        return Ok(Recheck::Ended(Attempt::TakenOver(held)));
    }
    if is_ours {
        // Others may share this open file, and our own flock would make it look alive, to ourselves
        // as well.
        sys::unlock(&file.file).or_else(without_flock).during("flock", &paths.lock)?;
    }
    Ok(Recheck::Gone)
}

/// How we stand in the kernel's line for a flock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Not at all.
    None,
    /// Others are before us.
    Waiting,
    /// The flock is ours.
    HasCome,
}

/// Judges a file whose flock is ours. (It was somebody's, who may only have looked at the file.)
fn is_dead(paths: &LockPaths, claim: &Claim, file: &File) -> Result<bool> {
    let sighting = sight(&paths.lock, file, true, claim.is_held_here)?;
    Ok(sighting.is_some_and(|sighting| !sighting.judge(claim.patience).is_alive))
}

/// Who was in the way, for those who want to know.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the lock file said.
    pub record: Option<Record>,
    /// What that amounts to; `None` if the file could not be judged (no permission to open it) or
    /// changed hands too often to be looked at.
    pub verdict: Option<Verdict>,
    /// Why the file could not be opened.
    pub cause: Option<Error>,
}

impl Report {
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
}

/// An open lock file. Cheap to clone; the clones share the open file, and its flock.
#[derive(Debug, Clone)]
pub struct LockFile {
    /// What its flock belongs to.
    file: Arc<File>,
    /// Where it can be written by, if it can: often the same.
    writer: Option<Arc<File>>,
    /// Which file it is. As long as it is open, no other has this.
    id: FileId,
    /// Whether its holders keep a flock, all of them.
    promises_flock: bool,
}

impl LockFile {
    /// One that was found, and opened to be read.
    fn found(file: File, id: FileId) -> Self {
        Self { file: Arc::new(file), writer: None, id, promises_flock: false }
    }

    /// Tries to open it once more, to write it by, if it promises a flock.
    fn open_writer(&mut self) {
        if self.promises_flock {
            self.writer = sys::reopen_for_writing(&self.file).ok().map(Arc::new);
        }
    }

    /// Opens it once more, writable if it promises a flock. (If it doesn't, that would make it look
    /// as if its holder lived.)
    fn prepare_for_line(&mut self) {
        if self.is_heritable() {
            return; // opened for that purpose already
        }
        let record = || sys::read(&self.file).ok().and_then(|text| Record::decode(&text));
        self.promises_flock |= record().is_some_and(|record| record.promises_flock());
        if self.promises_flock
            && let Ok(file) = sys::reopen_for_writing(&self.file)
        {
            self.file = Arc::new(file);
            self.writer = Some(Arc::clone(&self.file));
        }
    }

    /// Whether who has its flock may make it its own by writing into it.
    fn is_heritable(&self) -> bool {
        self.promises_flock && self.writer.is_some()
    }
}

/// A lock that this process holds. Dropping it lets the kernel free the flock and leaves a dead
/// file behind; [`HeldLock::release`] removes the file first.
#[derive(Debug)]
pub struct HeldLock {
    paths: LockPaths,
    file: LockFile,
    token: String,
}

impl HeldLock {
    /// The open lock file, to be watched.
    pub fn file(&self) -> &File {
        &self.file.file
    }

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
        removed.and(self.unlock())
    }

    /// The same, but leaves the file to those who stand in line for it, if there are any. Then it has
    /// to be looked back at: see [`HandedOn::clear`].
    pub fn hand_on(&self) -> Result<Option<HandedOn>> {
        match HandedOn::leave(self) {
            Some(left) if matches!(self.is_at_its_path(), Ok(true)) => {
                self.unlock().map(|()| Some(left))
            }
            _ => self.release().map(|()| None),
        }
    }

    /// Closing would free it too, but a child between fork and exec may share the file.
    fn unlock(&self) -> Result<()> {
        sys::unlock(&self.file.file).or_else(without_flock).during("flock", &self.paths.lock)
    }
}

/// Tries to take the lock, once, without waiting.
pub fn attempt(paths: &LockPaths, claim: &Claim) -> Result<Attempt> {
    for _ in 0..ROUNDS {
        match look(paths, claim, time::now_ms())? {
            Look::Alive(contended) => return Ok(Attempt::Contended(contended)),
            Look::Moved => {}
            Look::Dead(dead, _) => {
                if let Some(attempt) = replace(paths, claim, dead)? {
                    return Ok(attempt);
                }
            }
            Look::Vacant if is_guarded(paths) => break,
            Look::Vacant => {
                if let Some(held) = publish(paths, claim)? {
                    return Ok(Attempt::Acquired(held));
                }
            }
        }
    }
    Ok(Attempt::Contended(Contended::default()))
}

// --- Looking ----------------------------------------------------------------------------------

enum Look {
    /// Nothing stands at the path.
    Vacant,
    /// A lock that has to be respected.
    Alive(Contended),
    /// A dead lock, whose flock is ours now where the file system has one.
    Dead(LockFile, Box<Sighting>),
    /// It changed while we looked.
    Moved,
}

/// Looks at the lock file and judges it as of an instant, keeping the flock of a dead one.
fn look(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Look> {
    let path = &paths.lock;
    let (mut file, status) = match open_regular(path) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Look::Vacant),
        // Not ours to read: another user's. Can't know counts as alive.
        Err(cause) if is_not_ours_to_read(&cause) => return Ok(Look::Alive(cause.into())),
        Err(error) => return Err(error),
    };
    let flock = take_flock(path, &mut file)?;
    if flock == Err(Errno::WOULDBLOCK) {
        // The proof is there: what the file says need not even be read.
        return Ok(Look::Alive(Contended::by_flock(LockFile::found(file, status.id))));
    }
    let mut file = LockFile::found(file, status.id);
    // Between opening it and getting its flock, the path may have gone to another file. Judging
    // this one is no harm; replacing it would be.
    if !names(path, &file, None)? {
        return Ok(Look::Moved);
    }
    let sighting = match sight(path, &file.file, flock.is_ok(), claim.is_held_here) {
        Ok(Some(sighting)) => sighting,
        Ok(None) => return Ok(Look::Moved),
        // Where flock is mandatory (SMB), reading somebody's locked file is refused.
        Err(cause) if is_not_ours_to_read(&cause) => return Ok(Look::Alive(cause.into())),
        Err(error) => return Err(error),
    };
    let verdict = sighting.judge_at(claim.patience, now_ms);
    if verdict.is_alive {
        // Its flock is nobody's: an older process may not even know of such a thing.
        sys::unlock(&file.file).or_else(without_flock).during("flock", path)?;
        return Ok(Look::Alive(Contended {
            file: Some(file),
            witness: verdict.witness,
            matures_in_ms: verdict.matures_in_ms,
            sighting: Some(Box::new(sighting)),
            ..Contended::default()
        }));
    }
    file.promises_flock = sighting.has_broken_its_promise();
    Ok(Look::Dead(file, Box::new(sighting)))
}

/// Tries to take the flock. NFS gives an exclusive one only on a file that is open for writing
/// (flock(2)): there, where nobody asks for leases, it is opened once more.
fn take_flock(path: &Path, file: &mut File) -> Result<rustix::io::Result<()>> {
    match sys::flock(file) {
        Err(Errno::BADF) => {}
        answer => return Ok(answer),
    }
    match sys::open_for_writing(path) {
        Ok(writable) if is_same(file, &writable).during("fstat", path)? => {
            let answer = sys::flock(&writable);
            *file = writable;
            Ok(answer)
        }
        _ => Ok(Err(Errno::BADF)),
    }
}

fn is_same(one: &File, other: &File) -> rustix::io::Result<bool> {
    Ok(sys::status_of(one)?.id == sys::status_of(other)?.id)
}

fn is_not_ours_to_read(error: &Error) -> bool {
    matches!(
        error,
        Error::System { errno: Errno::ACCESS | Errno::PERM, syscall: "open" | "read", .. }
    )
}

impl From<Error> for Contended {
    /// A lock file that can't be read: can't know counts as alive.
    fn from(cause: Error) -> Self {
        Self { cause: Some(cause), ..Self::default() }
    }
}

/// Reads what the file says and asks the kernel about it. `None` if the file is gone.
///
/// `has_flock`: whether its flock is ours. Where flock doesn't work, nothing follows from there being
/// none.
fn sight(
    path: &Path,
    file: &File,
    has_flock: bool,
    is_held_here: bool,
) -> Result<Option<Sighting>> {
    let status = sys::status_of(file).during("fstat", path)?;
    let bytes = match sys::read(file) {
        Ok(bytes) => bytes,
        Err(Errno::STALE) => return Ok(None),
        Err(errno) => return Err(errno).during("read", path),
    };
    let is_local = witness::is_local(file);
    Ok(Some(Sighting {
        record: Record::decode(&bytes),
        modified_ms: status.modified_ms,
        flocked: false,
        has_flock,
        testimony: witness::writer(file, is_local),
        is_local,
        is_held_here,
    }))
}

/// Where flock isn't supported there is none to give back.
fn without_flock(errno: Errno) -> rustix::io::Result<()> {
    match errno {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::BADF => Ok(()),
        other => Err(other),
    }
}

/// Opens the regular file at `path`, and says which it is; `None` if nothing is there.
fn open_regular(path: &Path) -> Result<Option<(File, Status)>> {
    // Looked at before it is opened: opening a device can do things.
    let Some(status) = status_at(path)? else {
        return Ok(None);
    };
    refuse_odd(&status, path)?;
    let file = match sys::open(path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        // Put there after we looked.
        Err(Errno::LOOP) => {
            return Err(Error::NotAFile { path: path.to_owned(), kind: FileKind::Symlink });
        }
        Err(errno) => return Err(errno).during("open", path),
    };
    let status = sys::status_of(&file).during("fstat", path)?;
    refuse_odd(&status, path)?;
    Ok(Some((file, status)))
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
fn names(path: &Path, file: &LockFile, token: Option<&str>) -> Result<bool> {
    let Some(there) = status_at(path)? else {
        return Ok(false);
    };
    if there.id == file.id {
        return Ok(true);
    }
    if there.odd_kind.is_some() || witness::is_local(&file.file) {
        return Ok(false);
    }
    let Ok(text_at_path) = sys::open(path).and_then(|file| sys::read(&file)) else {
        return Ok(false); // gone, or not to be read: it isn't ours
    };
    Ok(match token {
        Some(token) => {
            Record::decode(&text_at_path).is_some_and(|r| r.token.as_deref() == Some(token))
        }
        None => sys::read(&file.file).is_ok_and(|text| !text.is_empty() && text == text_at_path),
    })
}

/// Whether a late release of the older module is at work: it guards its removals with a folder.
/// One that is left over from a crash is old, and ignored.
fn is_guarded(paths: &LockPaths) -> bool {
    sys::status_at(&paths.guard()).is_ok_and(|guard| !is_abandoned(&guard))
}

fn is_abandoned(status: &Status) -> bool {
    time::now_ms().saturating_sub(status.modified_ms) > ABANDONED_AFTER_MS
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
    let held = fill(paths, claim, file).map_err(|(error, _)| error)?;
    match sys::link_unnamed(held.file(), &paths.lock) {
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
    let linked = sys::link(&paths.temporary(), &paths.lock);
    discard(&paths.temporary(), &held.file);
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
    let held = fill_or_remove(&paths.lock, paths, claim, file)?;
    Ok(held.is_at_its_path()?.then_some(held))
}

/// [`fill`] for a file that has the name `path` already. If that fails, nothing is left behind.
fn fill_or_remove(path: &Path, paths: &LockPaths, claim: &Claim, file: File) -> Result<HeldLock> {
    fill(paths, claim, file).map_err(|(error, file)| {
        if let Ok(status) = sys::status_of(&file) {
            discard(path, &LockFile::found(file, status.id));
        }
        error
    })
}

/// Flocks a new file and writes its record. A failure gives the file back.
fn fill(
    paths: &LockPaths,
    claim: &Claim,
    file: File,
) -> std::result::Result<HeldLock, (Error, File)> {
    // A file system without flock, or a contender that looks at the file just now: the record
    // then doesn't claim that witness, and the open descriptor stays as one.
    let witness = sys::flock(&file).is_ok().then_some(DeclaredWitness::Flock);
    let path = &paths.lock;
    let written = compose(claim, witness).during("getrandom", path).and_then(|composed| {
        sys::write_at(&file, composed.text.as_bytes(), 0).during("write", path)?;
        Ok((composed.token, sys::status_of(&file).during("fstat", path)?.id))
    });
    match written {
        Ok((token, id)) => {
            let file = Arc::new(file);
            let promises_flock = witness.is_some();
            let writer = Some(Arc::clone(&file));
            let file = LockFile { file, writer, id, promises_flock };
            Ok(HeldLock { paths: paths.clone(), file, token })
        }
        Err(error) => Err((error, file)),
    }
}

/// A record of ours, to be written.
struct Composed {
    text: String,
    token: String,
}

fn compose(claim: &Claim, witness: Option<DeclaredWitness>) -> rustix::io::Result<Composed> {
    let (own, token) = (process::own(), token()?);
    let record = Record {
        pid: Some(own.pid),
        created_at: Some(time::to_iso(time::now_ms())),
        starttime: own.start_time,
        comm: Some(own.comm.clone()),
        max_hold_ms: Some(claim.max_hold_ms),
        boot_id: own.boot_id.clone(),
        pid_namespace: own.pid_namespace,
        witness,
        token: Some(token.clone()),
    };
    Ok(Composed { text: record.encode(), token })
}

/// 128 random bits in hexadecimal.
fn token() -> rustix::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

// --- Takeover ---------------------------------------------------------------------------------

/// Makes a dead lock ours, in the way of its kind. `None`: the path went to another file.
fn replace(paths: &LockPaths, claim: &Claim, mut dead: LockFile) -> Result<Option<Attempt>> {
    dead.open_writer();
    if dead.is_heritable() {
        return succession::inherit(paths, claim, dead, None);
    }
    if is_guarded(paths) {
        return Ok(Some(Attempt::Contended(Contended::default())));
    }
    Ok(match take_over(paths, claim, &dead)? {
        Takeover::Done(held) => Some(Attempt::TakenOver(held)),
        Takeover::Occupied => Some(Attempt::Contended(Contended::default())),
        Takeover::Lost => None,
    })
}

enum Takeover {
    Done(HeldLock),
    /// Another contender is about it.
    Occupied,
    /// The path went to another file.
    Lost,
}

/// Replaces a dead lock whose flock we have.
///
/// `dead` stays open to the end: once it is closed its inode number may be given to another file.
fn take_over(paths: &LockPaths, claim: &Claim, dead: &LockFile) -> Result<Takeover> {
    let Some(held) = create_temporary(paths, claim, Some(dead.id))? else {
        return Ok(Takeover::Occupied);
    };
    let replaced = match names(&paths.lock, dead, None) {
        Ok(true) => exchange(paths, dead),
        Ok(false) => Ok(false),
        Err(error) => Err(error),
    };
    if !matches!(replaced, Ok(true)) {
        discard(&paths.temporary(), &held.file);
        replaced?;
        return Ok(Takeover::Lost);
    }
    // On a file system with a flock that isn't shared by all, another may have used our name.
    match held.is_at_its_path() {
        Ok(true) => Ok(Takeover::Done(held)),
        Ok(false) => Ok(Takeover::Lost),
        Err(error) => {
            let _ = held.release(); // can't know: better nobody's than two holders'
            Err(error)
        }
    }
}

/// Moves the temporary over the lock file. `false` if the temporary is gone.
fn rename(paths: &LockPaths) -> Result<bool> {
    match sys::rename(&paths.temporary(), &paths.lock) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).during("rename", &paths.lock),
    }
}

/// Swaps the temporary with the lock file, and back again if what came out isn't `dead`.
fn exchange(paths: &LockPaths, dead: &LockFile) -> Result<bool> {
    match sys::exchange(&paths.temporary(), &paths.lock) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false), // an older process has removed the dead lock
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return rename(paths),
        Err(errno) => return Err(errno).during("rename", &paths.lock),
    }
    // Can't tell is treated as another file: it goes back to where it was.
    if names(&paths.temporary(), dead, None).unwrap_or(false) {
        let _ = sys::unlink(&paths.temporary()); // else the next takeover sweeps it
        return Ok(true);
    }
    // An older process's new lock: back to its place. If ours was removed from the path meanwhile
    // there is nothing to swap with, and the path is vacant or somebody else's.
    match sys::exchange(&paths.temporary(), &paths.lock) {
        Err(Errno::NOENT) => match sys::link(&paths.temporary(), &paths.lock) {
            Ok(()) => sys::unlink(&paths.temporary()),
            Err(Errno::EXIST | Errno::NOENT) => Ok(()),
            other => other,
        },
        other => other,
    }
    .during("rename", &paths.lock)?;
    Ok(false)
}

/// A finished lock file under the session's temporary name. `None` while another contender's is
/// there. `dead`: the inode whose flock is ours.
fn create_temporary(
    paths: &LockPaths,
    claim: &Claim,
    dead: Option<FileId>,
) -> Result<Option<HeldLock>> {
    let path = &paths.temporary();
    for _ in 0..ROUNDS {
        let file = match sys::create_new(path) {
            Ok(file) => file,
            Err(Errno::EXIST) if sweep_temporary(path, dead)? => continue,
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(errno).during("open", path),
        };
        let held = fill_or_remove(path, paths, claim, file)?;
        // Between its creation and its flock somebody may have taken it for abandoned.
        if names(path, &held.file, None)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Removes a temporary that a crash left behind. `false` if it may be in use.
fn sweep_temporary(path: &Path, dead: Option<FileId>) -> Result<bool> {
    let Some((file, status)) = open_regular(path)? else {
        return Ok(true);
    };
    let file = LockFile::found(file, status.id);
    // A crash between link and unlink leaves two names for one inode; its flock is ours already.
    let is_abandoned = dead == Some(status.id)
        || sys::flock(&file.file) != Err(Errno::WOULDBLOCK)
            && match witness::writer(&file.file, witness::is_local(&file.file)) {
                Testimony::Writer => false,
                Testimony::NoWriter => true,
                Testimony::None => is_abandoned(&status),
            };
    if is_abandoned && names(path, &file, None)? {
        remove(path)?;
    }
    Ok(is_abandoned)
}

/// Takes a name away from a file of ours, if it still has it. What can't be removed is dead, and
/// swept by the next takeover.
fn discard(path: &Path, file: &LockFile) {
    if names(path, file, None).unwrap_or(false) {
        let _ = sys::unlink(path);
    }
}

fn remove(path: &Path) -> Result<()> {
    match sys::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).during("unlink", path),
    }
}

#[expect(clippy::needless_pass_by_value)] // shaped for `map_err`
pub(crate) fn errno_of(error: std::io::Error) -> Errno {
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
        let shared_with_child = held.file().try_clone().unwrap();
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
        let dead = LockFile::found(
            sys::open(&paths.lock).unwrap(),
            sys::status_at(&paths.lock).unwrap().id,
        );
        // After the look, an older process removes the dead lock and publishes its own.
        sys::unlink(&paths.lock).unwrap();
        std::fs::write(&paths.lock, "alive").unwrap();
        let ours = create_temporary(&paths, &CLAIM, None).unwrap().unwrap();
        assert!(!exchange(&paths, &dead).unwrap());
        assert_eq!(std::fs::read_to_string(&paths.lock).unwrap(), "alive");
        assert!(names(&paths.temporary(), &ours.file, None).unwrap());
    }
}
