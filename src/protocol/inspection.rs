//! What is this lock file? To judge one, and to clear a dead one away.
//!
//! It is looked at by the contender's own look and judged by the contender's own verdict, so what is
//! said here is what an acquire would do.
//!
//! # Clearing a dead lock
//!
//! Removing it by its path has the race that a takeover has: an older process may have read the dead
//! record as well, and be about to remove the path. If it finds the path vacant, or with the next
//! holder's lock, it removes whatever stands there. So a dead lock is cleared by a takeover that is
//! released again: the dead file is written over, or exchanged for a finished lock of ours
//! ([`clear`]); ours stays for [`SETTLE`](super::SETTLE), in which an older process's removal hits
//! nothing but it; and then it is released ([`finish`]). A crash in between leaves a dead lock for
//! the next contender.
//!
//! A lock that was [handed on](super::succession), and not taken yet, has no flock either. Nobody
//! has died, so it isn't cleared.
//!
//! Nothing here sleeps: the settling is the caller's to wait for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{
    Attempt, Claim, Contended, HeldLock, LockFile, LockPaths, Look, ROUNDS, TEMPORARY_SUFFIX,
    errno_of, look, replace, succession, sweep_temporary,
};
use crate::error::{Context, Error, Result};
use crate::record::Record;
use crate::sys;
use crate::verdict::{Patience, Sighting, Standing, Verdict};
use crate::witness::{Testimony, Witness};

/// What was found out about a lock file.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Where it is.
    pub lock_path: PathBuf,
    /// What it says, if anything.
    pub record: Option<Record>,
    /// What that amounts to; `None` if it could not be looked at.
    pub verdict: Option<Verdict>,
    /// Why it could not be looked at, or not be removed.
    pub cause: Option<Error>,
    /// Its last holder, which lives, has left it to those in line, and none of them has taken it yet.
    pub is_on_its_way: bool,
    /// Whether it was cleared away by who asked.
    pub is_removed: bool,
}

/// What became of a lock file that was to be cleared away if it is dead.
#[derive(Debug)]
pub enum Clearing {
    /// It isn't dead, or not to be had just now.
    Kept(Inspection),
    /// It was dead, and this lock of ours has taken its place. See [`finish`].
    Replaced(Inspection, HeldLock),
}

impl LockPaths {
    /// The lock of a session file, or the one that `path` itself is, by its name. Creates nothing;
    /// `None` if the folder is missing.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let is_lock_file = path.extension() == Some(OsStr::new("lock"));
        let lock_file =
            if is_lock_file { path.to_owned() } else { path.with_added_extension("lock") };
        let (Some(folder), Some(name)) = (lock_file.parent(), lock_file.file_name()) else {
            return Ok(None);
        };
        Ok(real_folder(folder)?.map(|folder| Self::in_folder(folder, name)))
    }
}

impl Inspection {
    /// A lock file of which nothing is known but that it is there.
    pub fn unknown(paths: &LockPaths, cause: Option<Error>) -> Self {
        Self {
            lock_path: paths.lock.clone(),
            record: None,
            verdict: None,
            cause,
            is_on_its_way: false,
            is_removed: false,
        }
    }

    fn new(paths: &LockPaths, sighting: Sighting, patience: Patience, now_ms: i64) -> Self {
        let verdict = Some(sighting.judge_at(patience, now_ms));
        Self { verdict, record: sighting.record, ..Self::unknown(paths, None) }
    }

    /// What it comes to. Can't know counts as alive; and so does what is on its way to a holder,
    /// although a contender that came just now could be faster.
    pub fn standing(&self) -> Standing {
        match &self.verdict {
            Some(verdict) if !self.is_on_its_way => verdict.standing(),
            _ => Standing::Unknown,
        }
    }
}

/// The real path of a folder; `None` if it is missing.
pub fn real_folder(folder: &Path) -> Result<Option<PathBuf>> {
    match folder.canonicalize() {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(errno_of(error)).during("realpath", folder),
    }
}

/// Looks at a lock file as a contender does, and leaves it as it is. Ages are reckoned as of
/// `now_ms`. `None`: there is none.
///
/// # Errors
/// Where it can't be known whether there is one. If there is one that can't be read, that is said
/// in the inspection.
pub fn inspect(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Option<Inspection>> {
    let seen = match look_closely(paths, claim, now_ms) {
        Err(Error::System { errno, syscall: "lstat", path }) => {
            return Err(Error::System { errno, syscall: "lstat", path });
        }
        Err(cause) => return Ok(Some(Inspection::unknown(paths, Some(cause)))),
        Ok(seen) => seen,
    };
    Ok(match seen {
        Look::Vacant => None,
        Look::Moved => Some(Inspection::unknown(paths, None)),
        Look::Alive(contended) => Some(in_the_way(paths, contended, claim.patience, now_ms)),
        Look::Dead(dead, sighting) => {
            let is_on_its_way = succession::is_on_its_way(&dead, sighting.record.as_ref());
            let_go(&dead);
            let inspection = Inspection::new(paths, *sighting, claim.patience, now_ms);
            Some(Inspection { is_on_its_way, ..inspection })
        }
    })
}

/// Replaces a dead lock by one of ours, to be settled and finished. `None`: there is no lock file.
pub fn clear(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Option<Clearing>> {
    for _ in 0..ROUNDS {
        let (dead, sighting) = match look_closely(paths, claim, now_ms)? {
            Look::Vacant => return Ok(None),
            Look::Moved => continue,
            Look::Alive(contended) => {
                let alive = in_the_way(paths, contended, claim.patience, now_ms);
                return Ok(Some(Clearing::Kept(alive)));
            }
            Look::Dead(dead, sighting) => (dead, sighting),
        };
        let is_on_its_way = succession::is_on_its_way(&dead, sighting.record.as_ref());
        let inspection = Inspection::new(paths, *sighting, claim.patience, now_ms);
        let replaced = if is_on_its_way {
            Ok(Some(Attempt::Contended(Contended::default())))
        } else {
            replace(paths, claim, dead.clone())
        };
        let cause = match replaced {
            Ok(Some(Attempt::TakenOver(ours) | Attempt::Acquired(ours))) => {
                return Ok(Some(Clearing::Replaced(inspection, ours)));
            }
            Ok(None) => continue,
            Ok(Some(Attempt::Contended(_))) => None,
            Err(cause) => Some(cause),
        };
        let_go(&dead);
        return Ok(Some(Clearing::Kept(Inspection { cause, is_on_its_way, ..inspection })));
    }
    Ok(Some(Clearing::Kept(Inspection::unknown(paths, None))))
}

/// Releases what a dead lock was replaced by, once that has settled. `false`: somebody else has
/// removed it by then, and the path may be another holder's.
pub fn finish(ours: &HeldLock) -> Result<bool> {
    let is_ours = ours.is_at_its_path();
    ours.release()?;
    is_ours
}

/// Removes a temporary that a crash left behind.
pub fn clear_temporary(path: &Path) -> Result<()> {
    sweep_temporary(path, None).map(drop)
}

/// Whether a file of this name is the temporary of some session.
pub fn is_temporary(name: &OsStr) -> bool {
    let Some(lock_name) = name.as_encoded_bytes().strip_suffix(TEMPORARY_SUFFIX.as_bytes()) else {
        return false;
    };
    let is_short = |hash: &[u8]| {
        hash.len() == 16 && hash.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    lock_name.ends_with(b".jsonl.lock") || lock_name.strip_suffix(b".lock").is_some_and(is_short)
}

/// A contender's look; but what is in motion gets some more of them: a contender will come again, and
/// we won't.
fn look_closely(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Look> {
    for _ in 1..ROUNDS {
        match look(paths, claim, now_ms)? {
            Look::Moved => {}
            Look::Alive(contended) if is_in_motion(&contended) => outlast(&contended),
            Look::Dead(dead, seen) if succession::is_on_its_way(&dead, seen.record.as_ref()) => {
                let_go(&dead);
                std::thread::yield_now();
            }
            seen => return Ok(seen),
        }
    }
    look(paths, claim, now_ms)
}

/// A holder of ours has its file open for writing. A flock without that belongs to somebody who
/// judges the file just now. And a record with nothing but the promise is just being written.
fn is_in_motion(contended: &Contended) -> bool {
    contended.witness == Some(Witness::Flock)
        && contended.sighting().is_some_and(|sighting| {
            let is_being_judged = sighting.testimony == Testimony::NoWriter;
            let is_being_written =
                |record: &Record| record.promises_flock() && record.pid.is_none();
            is_being_judged || sighting.record.as_ref().is_some_and(is_being_written)
        })
}

/// Lets somebody finish; that takes him microseconds, if he isn't stopped.
fn outlast(moving: &Contended) {
    const TRIES: usize = 200;

    for _ in 0..TRIES {
        if !is_in_motion(moving) || !moving.is_proved() {
            break;
        }
        std::thread::yield_now();
    }
    if let Some(file) = moving.file() {
        let _ = sys::unlock(file); // it goes with the descriptor in any case
    }
}

fn in_the_way(
    paths: &LockPaths,
    contended: Contended,
    patience: Patience,
    now_ms: i64,
) -> Inspection {
    match contended.sighting() {
        Some(sighting) => Inspection::new(paths, sighting, patience, now_ms),
        None => Inspection::unknown(paths, contended.cause),
    }
}

/// Gives the flock of a dead lock back. Closing would do, but for a child that shares the file.
fn let_go(dead: &LockFile) {
    let _ = sys::unlock(&dead.file); // it goes with the descriptor in any case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    const CLAIM: Claim = Claim {
        max_hold_ms: 1_000,
        patience: Patience { stale_ms: 60_000, grace_ms: 30_000 },
        is_held_here: false,
    };

    fn session() -> (tempfile::TempDir, LockPaths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = LockPaths::resolve(&folder.path().join("chat.jsonl")).unwrap();
        (folder, paths)
    }

    #[test]
    fn a_lock_is_found_by_its_session_and_by_itself() {
        let (folder, paths) = session();
        assert_eq!(LockPaths::find(&folder.path().join("chat.jsonl")).unwrap().unwrap(), paths);
        assert_eq!(LockPaths::find(&paths.lock).unwrap().unwrap(), paths);
        assert_eq!(LockPaths::find(&folder.path().join("none/chat.jsonl")).unwrap(), None);
        assert!(!folder.path().join("none").exists());
    }

    #[test]
    fn every_temporary_is_told_by_its_name_and_no_lock_file_is() {
        let folder = tempfile::tempdir().unwrap();
        for length in [1, 239, 240, 241, 244] {
            let name = format!("{}.jsonl", "x".repeat(length));
            let paths = LockPaths::resolve(&folder.path().join(name)).unwrap();
            assert!(is_temporary(paths.temporary().file_name().unwrap()), "{length}");
            assert!(!is_temporary(paths.lock.file_name().unwrap()), "{length}");
        }
        for name in ["a.lock.new", "a.jsonl.lock.new.new", "0123456789ABCDEF.lock.new", ".lock.new"]
        {
            assert!(!is_temporary(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn an_inspection_leaves_no_flock_behind_even_where_a_child_shares_the_open_file() {
        let (_folder, paths) = session();
        std::fs::write(&paths.lock, r#"{"pid":2147483647}"#).unwrap();
        let Look::Dead(dead, _) = look(&paths, &CLAIM, time::now_ms()).unwrap() else {
            panic!("it is dead");
        };
        let shared_with_child = dead.file.try_clone().unwrap();
        let_go(&dead);
        assert_eq!(sys::flock(&sys::open(&paths.lock).unwrap()), Ok(()));
        drop(shared_with_child);
    }

    #[test]
    fn what_replaces_a_dead_lock_excludes_until_it_is_finished() {
        let (folder, paths) = session();
        std::fs::write(&paths.lock, r#"{"pid":2147483647}"#).unwrap();
        let clear = || clear(&paths, &CLAIM, time::now_ms()).unwrap();
        let Some(Clearing::Replaced(inspection, ours)) = clear() else {
            panic!("it is dead");
        };
        assert_eq!(inspection.standing(), Standing::Dead);
        let Some(Clearing::Kept(held)) = clear() else {
            panic!("it is held");
        };
        assert_eq!(held.standing(), Standing::Held);
        assert!(finish(&ours).unwrap());
        assert!(clear().is_none());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_sweeper_that_dies_while_it_settles_leaves_a_dead_lock() {
        let (_folder, paths) = session();
        std::fs::write(&paths.lock, r#"{"pid":2147483647}"#).unwrap();
        let replaced = clear(&paths, &CLAIM, time::now_ms()).unwrap();
        drop(replaced); // what the kernel does
        let inspection = inspect(&paths, &CLAIM, time::now_ms()).unwrap().unwrap();
        assert_eq!(inspection.standing(), Standing::Dead);
    }
}
