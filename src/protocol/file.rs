//! An open lock file: which file it is, the facts about it, and the release of ours.

use std::path::Path;

use super::paths::LockPaths;
use super::queue::Place;
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, File, FileId, FileKind, Lease, Status, Trust};
use crate::process;
use crate::record::{self, Record};
use crate::verdict::{Facts, Flock, LookUp};

/// How old a guard folder must be before its maker is taken for dead, in milliseconds. Its maker needs
/// it for a few system calls.
const GUARD_MS: u64 = 30_000;

/// An open lock file. Cheap to clone; the clones share the open file, and its flock.
#[derive(Debug, Clone)]
pub struct LockFile {
    /// The open file, which owns the flock.
    pub file: File,
    /// Device and inode. No other file gets the same pair while this one is open.
    pub id: FileId,
}

/// A lock that this process holds. Dropping it lets the kernel free the flock and leaves a dead
/// file behind; [`HeldLock::release`] removes the file first.
#[derive(Debug)]
#[must_use = "dropping it leaves a dead lock file behind"]
pub struct HeldLock {
    paths: LockPaths,
    pub(super) file: LockFile,
    token: String,
    /// Our place in the queue, if we have one. We keep the turn for as long as we hold.
    place: Option<Place>,
    is_taken_over: bool,
}

impl LockFile {
    /// What its locks prove.
    pub fn trust(&self) -> Trust {
        os::trust(&self.file, self.id)
    }

    /// Tries to take the flock, and says who has it.
    pub fn try_flock(&self) -> Flock {
        match os::flock(&self.file) {
            Ok(()) => Flock::Ours,
            Err(Errno::WOULDBLOCK) => Flock::Theirs,
            // NFS grants an exclusive flock only on a descriptor open for writing (flock(2)), so ask for a shared
            // one. NFS refuses it while somebody has the exclusive one.
            Err(Errno::BADF) => match os::flock_shared(&self.file) {
                Ok(()) => {
                    let _ = os::unlock(&self.file); // on failure it ends with the open file
                    Flock::Free
                }
                Err(Errno::WOULDBLOCK) => Flock::Theirs,
                Err(_) => Flock::Unknown,
            },
            Err(_) => Flock::Unknown,
        }
    }

    /// Whether it is on a file system of this kernel.
    pub fn is_trusted(&self) -> bool {
        self.trust() == Trust::Everything
    }
}

impl HeldLock {
    pub(super) fn new(paths: &LockPaths, file: LockFile, token: String) -> Self {
        Self { paths: paths.clone(), file, token, place: None, is_taken_over: false }
    }

    /// The same lock, acquired by way of the queue.
    pub(super) fn by_turn(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// The same lock, which has replaced a dead one.
    pub(super) fn by_takeover(self) -> Self {
        Self { is_taken_over: true, ..self }
    }

    /// Whether it has replaced a dead lock.
    pub fn is_taken_over(&self) -> bool {
        self.is_taken_over
    }

    /// Our place in the queue, while we have one.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Whether it is on a trusted file system.
    pub fn is_trusted(&self) -> bool {
        self.file.is_trusted()
    }

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
        Ok(!self.is_revoked() && names(self.paths.lock(), &self.file, Some(&self.token))?)
    }

    /// Whether a file server has freed our flock, because it had not heard of this machine for too long. Then the
    /// kernel refuses to read the file with `EIO` (fs/nfs/nfs4state.c, `NFS_LOCK_LOST`).
    fn is_revoked(&self) -> bool {
        self.file.trust() == Trust::Flocks && read_afresh(&self.file.file) == Err(Errno::IO)
    }

    /// Whether `path` names this very file, too: another spelling, where the file system ignores case. A hard link is none.
    pub fn is_also_at(&self, path: &Path) -> Result<bool> {
        let has_one_name = os::status_of(&self.file.file).is_ok_and(|status| status.names == 1);
        Ok(has_one_name && names(path, &self.file, Some(&self.token))?)
    }

    /// Gives the lock back: removes the file if it is still ours, and only then. Returns whether it was.
    ///
    /// The order matters. First unlink, then unlock: a process that gets the flock finds the name gone. The
    /// turn is given up last: the next process in the queue wakes up when the path is vacant.
    ///
    /// If others use the queue, returns our place, already given up. The caller leaves the queue later:
    /// leaving now would compete for the processor with the process that has just been woken.
    ///
    /// On an error the lock is free all the same, but a dead file stays; the next contender replaces it.
    /// Afterwards this value protects nothing.
    pub fn release(&self) -> (Result<bool>, Option<Place>) {
        let was_ours = self.is_at_its_path().and_then(|ours| {
            if ours {
                remove_ours(self.paths.lock())?;
            }
            Ok(ours)
        });
        // Closing is not enough: a child between fork and exec may share the open file, and its flock.
        let unlocked = unlock(self.paths.lock(), &self.file);
        let place = self.place.clone().and_then(|mut place| {
            place.give_up();
            if place.is_shared() {
                place.close_later(&self.file.file);
                return Some(place);
            }
            place.leave();
            None
        });
        (was_ours.and_then(|ours| unlocked.map(|()| ours)), place)
    }
}

/// Opens the regular file at `path`, and says which it is; `None` if nothing is there.
pub fn open_regular(path: &Path) -> Result<Option<(File, Status)>> {
    // `lstat` before `open`: opening a device can have side effects.
    let Some(status) = status_at(path)? else {
        return Ok(None);
    };
    refuse_odd(&status, path)?;
    let file = match os::open(path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        // A symbolic link was put there after `lstat`.
        Err(Errno::LOOP) => {
            return Err(Error::NotAFile { path: path.to_owned(), kind: FileKind::Symlink });
        }
        Err(errno) => return Err(errno).during("open", path),
    };
    let status = os::status_of(&file).during("fstat", path)?;
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
    match os::status_at(path) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno).during("lstat", path),
    }
}

/// Whether `path` still names the open `file`.
///
/// Compares inodes. Where one file may show two inode numbers (`VirtioFS`), compares contents: the record's
/// `token` if given, the whole text otherwise.
pub fn names(path: &Path, file: &LockFile, token: Option<&str>) -> Result<bool> {
    let there = match status_at(path) {
        Ok(Some(there)) => there,
        // Windows: what is there is being deleted, and goes when its last user closes it.
        Ok(None) | Err(Error::System { errno: Errno::BUSY, .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if there.id == file.id {
        return Ok(true);
    }
    if there.odd_kind.is_some() || file.is_trusted() {
        return Ok(false);
    }
    let Ok(text_at_path) = os::open(path).and_then(|file| read_afresh(&file)) else {
        return Ok(false); // gone or unreadable: not this file
    };
    Ok(match token {
        Some(token) => {
            Record::decode(&text_at_path).is_some_and(|r| r.token.as_deref() == Some(token))
        }
        None => read(&file.file).is_ok_and(|text| !text.is_empty() && text == text_at_path),
    })
}

/// Reads a lock file, one byte past the longest record: that byte shows that the file is too long.
fn read(file: &File) -> os::Result<Vec<u8>> {
    os::read(file, record::MAX_BYTES + 1)
}

/// The same where the kernel may keep what the file, or an earlier one of that name, contained before: it does not see
/// what another host, mount or spelling of the name has done.
fn read_afresh(file: &File) -> os::Result<Vec<u8>> {
    let _ = os::forget_contents(file); // on failure the text may be old, as on systems that can't do this
    read(file)
}

/// Reads the record and asks the kernel about the file and its holder. `None` if the file is gone.
pub fn facts_of(
    path: &Path,
    file: &LockFile,
    flock: Flock,
    is_held_here: bool,
) -> Result<Option<Facts>> {
    let status = os::status_of(&file.file).during("fstat", path)?;
    let trust = file.trust();
    let read = if trust == Trust::Everything { read } else { read_afresh };
    let bytes = match read(&file.file) {
        Ok(bytes) => bytes,
        Err(Errno::STALE) => return Ok(None),
        Err(errno) => return Err(errno).during("read", path),
    };
    // A flock is proof enough. Elsewhere a refused lease means nothing: NFS refuses without a delegation.
    let asks = trust == Trust::Everything && flock != Flock::Theirs;
    let writer = if asks { os::lease(&file.file) } else { Lease::Unanswered };
    let mut facts = Facts {
        is_foreign: record::is_foreign(&bytes),
        record: Record::decode(&bytes),
        flock,
        writer,
        trust,
        is_held_here,
        modified_ms: status.modified_ms,
        changed_ms: status.changed_ms,
        process: LookUp::NotAsked,
    };
    if let Some(pid) = facts.pid_to_look_up(&process::own()) {
        facts.process = os::find_process(pid).map_or(LookUp::NoSuchProcess, LookUp::Found);
    }
    Ok(Some(facts))
}

/// Gives the flock back.
pub fn unlock(path: &Path, file: &LockFile) -> Result<()> {
    match os::unlock(&file.file) {
        // Where flock isn't supported there is none to give back.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::BADF) => Ok(()),
        answer => answer.during("flock", path),
    }
}

/// Removes a name. No error if it is gone already.
pub fn remove(path: &Path) -> Result<()> {
    match os::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).during("unlink", path),
    }
}

/// The same for our own lock file. If somebody on Windows has it open and denies others to delete it, a dead file stays.
fn remove_ours(path: &Path) -> Result<()> {
    match remove(path) {
        Err(Error::System { errno: Errno::BUSY, .. }) => Ok(()),
        answer => answer,
    }
}

/// Removes `path` if it still names `file`, which is ours. If that fails, the file is dead, and the next
/// takeover removes it.
pub fn discard(path: &Path, file: &LockFile) {
    if names(path, file, None).unwrap_or(false) {
        let _ = os::unlink(path);
    }
}

/// The error to report while a late release of an older process removes the lock: it guards the removal with
/// a folder. A folder older than [`GUARD_MS`] remains from a crash and is ignored; so is one from the future.
pub fn guard(paths: &LockPaths) -> Option<Error> {
    let path = paths.guard();
    let found = os::status_at(&path).ok()?;
    let age_ms = os::wall_ms().abs_diff(found.modified_ms);
    (age_ms <= GUARD_MS).then_some(Error::Guarded { path })
}
