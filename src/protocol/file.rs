//! An open lock file: which file it is, and the facts about it.

use std::path::Path;

use super::paths::LockPaths;
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
    /// What its locks prove.
    pub trust: Trust,
}

impl LockFile {
    /// A file that is open now, and the facts that are asked once.
    pub fn new(file: File, id: FileId) -> Self {
        let trust = os::trust(&file, id);
        Self { file, id, trust }
    }

    /// Tries to take the flock, and says who has it.
    pub fn try_flock(&mut self) -> Flock {
        let flocked = match os::flock(&self.file) {
            // NFS gives it only to a descriptor that is open for writing (flock(2)).
            Err(Errno::BADF) if self.trust == Trust::Flocks => self.flock_as_writer(),
            answer => answer,
        };
        match flocked {
            Ok(()) => Flock::Ours,
            Err(Errno::WOULDBLOCK) => Flock::Theirs,
            // As a reader, ask for a shared one: it is refused while somebody has the exclusive one.
            Err(Errno::BADF) => match os::flock_shared(&self.file) {
                Err(Errno::WOULDBLOCK) => Flock::Theirs,
                Ok(()) => {
                    let _ = os::unlock(&self.file); // on failure it ends with the open file
                    Flock::Unknown
                }
                Err(_) => Flock::Unknown,
            },
            Err(_) => Flock::Unknown,
        }
    }

    /// The same with a second open file, which this one becomes if the flock is ours.
    fn flock_as_writer(&mut self) -> os::Result<()> {
        let file = os::reopen_for_writing(&self.file).map_err(|_| Errno::BADF)?;
        os::flock(&file)?;
        self.file = file;
        Ok(())
    }

    /// Whether it is on a file system of this kernel.
    pub fn is_trusted(&self) -> bool {
        self.trust == Trust::Everything
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
/// Compares inodes. That is not enough where flocks prove nothing: one file may show two inode numbers (`VirtioFS`), and
/// a server that has given up our open file may give its number to another one. There contents are compared as well: the
/// record's `token` if given, otherwise, where the numbers differ, the whole text. Not over NFS 4, where a holder reads its
/// own file ([`HeldLock::is_at_its_path`](super::HeldLock::is_at_its_path)): to open the path for reading could give it a
/// delegation, and if its machine crashed, others would wait for that to be recalled.
pub fn names(path: &Path, file: &LockFile, token: Option<&str>) -> Result<bool> {
    if !file.is_trusted()
        && let Some(folder) = path.parent()
    {
        let _ = os::forget_names(folder); // on failure the answer may be old, as on systems that can't do this
    }
    let there = match status_at(path) {
        Ok(Some(there)) => there,
        // Windows: what is there is being deleted, and goes when its last user closes it.
        Ok(None) | Err(Error::System { errno: Errno::BUSY, .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let has_our_number = there.id == file.id;
    if has_our_number && (file.trust != Trust::Nothing || token.is_none()) {
        return Ok(true);
    }
    if there.odd_kind.is_some() || file.is_trusted() {
        return Ok(false);
    }
    let text_at_path = match os::open(path).and_then(|file| read_afresh(&file)) {
        Ok(text) => text,
        Err(Errno::NOENT) => return Ok(false),
        Err(_) => return Ok(has_our_number), // unreadable
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
pub fn read_afresh(file: &File) -> os::Result<Vec<u8>> {
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
    let read = if file.is_trusted() { read } else { read_afresh };
    let bytes = match read(&file.file) {
        Ok(bytes) => bytes,
        Err(Errno::STALE) => return Ok(None),
        Err(errno) => return Err(errno).during("read", path),
    };
    // A flock is proof enough. Elsewhere a refused lease means nothing: NFS refuses without a delegation.
    let asks = file.is_trusted() && flock != Flock::Theirs;
    let writer = if asks { os::lease(&file.file) } else { Lease::Unanswered };
    let mut facts = Facts {
        is_foreign: record::is_foreign(&bytes),
        record: Record::decode(&bytes),
        flock,
        writer,
        trust: file.trust,
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
