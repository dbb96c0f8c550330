//! Judges a lock file for people and sweeps, and clears a dead one away.
//!
//! An inspection uses the same look and the same verdict as an acquire, so it reports what an acquire would do.
//!
//! # Clearing a dead lock
//!
//! Removing a dead lock by its path has the race that [`takeover`] describes. So a sweep takes the dead lock
//! over ([`clear`]), lets it settle if need be, and releases it. If an older process removes the
//! path blindly meanwhile, it removes only our file. A crash in between leaves a dead lock.
//!
//! Nothing here sleeps: the caller waits for the settling.

use std::path::{Path, PathBuf};

use super::file::{LockFile, facts_of, open_regular, unlock};
use super::obstacle::Kind;
use super::takeover::{self, Takeover};
use super::{Claim, HeldLock, LockPaths, Look, ROUNDS, guard, look, queue, temporary};
use crate::error::{Error, Result};
use crate::os::{self, Lease};
use crate::process;
use crate::record::{MAX_BYTES, Record};
use crate::verdict::{Facts, Flock, LookUp, Report, Verdict};

/// The result of an inspection.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Where it is.
    pub lock_path: PathBuf,
    /// The record and the verdict; empty if the file could not be read.
    pub report: Report,
    /// Why the file could not be read or removed.
    pub cause: Option<Error>,
    /// Whether this sweep removed it.
    pub is_removed: bool,
}

/// The result of [`clear`].
#[derive(Debug)]
pub enum Clearing {
    /// It is not dead, or could not be replaced.
    Kept(Inspection),
    /// It was dead, and a lock of ours has replaced it. The caller releases that.
    Replaced {
        /// The dead one.
        inspection: Box<Inspection>,
        /// Ours.
        held: HeldLock,
        /// Whether `held` has to settle first.
        settles: bool,
    },
}

impl Inspection {
    /// A lock file that exists, and about which nothing else is known.
    pub fn unknown(paths: &LockPaths, cause: Option<Error>) -> Self {
        let lock_path = paths.lock().to_owned();
        Self { lock_path, report: Report::default(), cause, is_removed: false }
    }

    fn new(paths: &LockPaths, mut facts: Facts, claim: &Claim, now_ms: i64) -> Self {
        look_up_for_reasons(&mut facts);
        let report = Report::new(&facts, &process::own(), claim.limits, now_ms);
        Self { report, ..Self::unknown(paths, None) }
    }

    /// The lock, and the record in it.
    pub fn subject(&self) -> Option<(LockPaths, Option<Record>)> {
        let (folder, name) = (self.lock_path.parent()?, self.lock_path.file_name()?);
        Some((LockPaths::in_folder(folder.to_owned(), name), self.report.record.clone()))
    }

    /// The verdict. Without a judgement: unknown, which counts as alive.
    pub fn verdict(&self) -> Verdict {
        self.report.judgement.as_ref().map_or(Verdict::Unknown, |judgement| judgement.verdict)
    }
}

/// Judges a lock file as a contender does, and leaves it as it is. Ages are counted up to `now_ms`. `None`:
/// there is no lock file.
///
/// # Errors
/// Only if `lstat` fails. Any other error is reported in [`Inspection::cause`].
pub fn inspect(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Option<Inspection>> {
    let seen = match look_closely(paths, claim, now_ms) {
        // An acquire would notice at the latest when it takes the name; an inspection would not.
        Ok(Look::Vacant) if os::forget_names(paths.folder()).is_ok() => {
            look_closely(paths, claim, now_ms)
        }
        seen => seen,
    };
    match seen {
        Err(error @ Error::System { syscall: "lstat", .. }) => Err(error),
        Err(cause) => Ok(Some(Inspection::unknown(paths, Some(cause)))),
        Ok(Look::Vacant) => Ok(None),
        Ok(Look::Moved) => Ok(Some(Inspection::unknown(paths, None))),
        Ok(Look::Alive(kind)) => Ok(Some(in_the_way(paths, &kind, claim, now_ms))),
        Ok(Look::Dead(dead, facts, _)) => {
            let _ = unlock(paths.lock(), &dead); // dropping `dead` closes the file, which unlocks it too
            Ok(Some(Inspection::new(paths, *facts, claim, now_ms)))
        }
    }
}

/// Looks the process up for the report, where the verdict doesn't need it.
fn look_up_for_reasons(facts: &mut Facts) {
    if facts.process == LookUp::NotAsked
        && let Some(pid) = facts.pid_for_reasons(&process::own())
    {
        facts.process = os::find_process(pid).map_or(LookUp::NoSuchProcess, LookUp::Found);
    }
}

/// The facts about a lock file, for a time-out error. `None`: there is no lock file, or it is being replaced.
///
/// # Errors
/// If the file can't be read.
pub fn facts(paths: &LockPaths) -> Result<Option<Facts>> {
    let Some((file, status)) = open_regular(paths.lock())? else {
        return Ok(None);
    };
    let mut file = LockFile::new(file, status.id);
    let flock = file.try_flock();
    let facts = facts_of(paths.lock(), &file, flock, false);
    if flock == Flock::Ours {
        unlock(paths.lock(), &file)?;
    }
    let mut facts = facts?;
    facts.iter_mut().for_each(look_up_for_reasons);
    Ok(facts)
}

/// Whether a file holds a record that names a process and a time. Takes no lock on it, so another program's
/// lock file stays undisturbed.
pub fn has_record(path: &Path) -> bool {
    let bytes = open_regular(path).ok().flatten().and_then(|(file, _)| read_record(&file));
    let record = bytes.as_deref().and_then(Record::decode);
    record.is_some_and(|record| record.pid.is_some() && record.created_at_ms().is_some())
}

fn read_record(file: &os::File) -> Option<Vec<u8>> {
    os::read(file, MAX_BYTES + 1).ok() // one more: a longer file holds no record
}

/// Replaces a dead lock by a lock of ours. `None`: there is no lock file.
pub fn clear(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Option<Clearing>> {
    for _ in 0..ROUNDS {
        let (dead, facts, ground) = match look_closely(paths, claim, now_ms)? {
            Look::Vacant => return Ok(None),
            Look::Moved => continue,
            Look::Alive(kind) => {
                let alive = in_the_way(paths, &kind, claim, now_ms);
                return Ok(Some(Clearing::Kept(alive)));
            }
            Look::Dead(dead, facts, ground) => (dead, facts, ground),
        };
        let inspection = Box::new(Inspection::new(paths, *facts, claim, now_ms));
        let replaced = match guard(paths) {
            None => takeover::take_over(paths, claim, &dead, ground),
            Some(guarded) => Err(guarded),
        };
        let cause = match replaced {
            Ok(Takeover::Done(held)) => {
                return Ok(Some(Clearing::Replaced { inspection, held, settles: false }));
            }
            Ok(Takeover::Unsettled(held)) => {
                return Ok(Some(Clearing::Replaced { inspection, held, settles: true }));
            }
            Ok(Takeover::Lost) => continue,
            Ok(Takeover::Occupied(cause)) => cause,
            Err(cause) => Some(cause),
        };
        let _ = unlock(paths.lock(), &dead); // as above
        return Ok(Some(Clearing::Kept(Inspection { cause, ..*inspection })));
    }
    Ok(Some(Clearing::Kept(Inspection::unknown(paths, None))))
}

/// Removes an abandoned temporary. On failure it stays for the next takeover.
pub fn clear_temporary(path: &Path, claim: &Claim) {
    let _ = temporary::sweep(path, claim, None);
}

/// Removes a queue file that no process uses.
pub fn clear_queue(path: &Path) {
    queue::remove_abandoned(path);
}

/// A contender's look, repeated while the lock is in motion: a contender retries later, an inspection doesn't.
fn look_closely(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Look> {
    for _ in 1..ROUNDS {
        match look(paths, claim, now_ms)? {
            Look::Moved => {}
            Look::Alive(Kind::Flocked(file)) if is_being_judged(&file) => {
                wait_for_judge(paths, &file);
            }
            seen => return Ok(seen),
        }
    }
    look(paths, claim, now_ms)
}

/// Whether the flock belongs to a contender that judges the file just now. A holder has the file open for
/// writing; a contender hasn't.
fn is_being_judged(file: &LockFile) -> bool {
    file.is_trusted() && os::lease(&file.file) == Lease::Granted
}

/// Yields until the contender has given the flock back: microseconds, unless it is stopped.
fn wait_for_judge(paths: &LockPaths, file: &LockFile) {
    const TRIES: usize = 200;

    for _ in 0..TRIES {
        if os::flock(&file.file).is_ok() {
            let _ = unlock(paths.lock(), file); // as above
            return;
        }
        os::yield_now();
    }
}

fn in_the_way(paths: &LockPaths, kind: &Kind, claim: &Claim, now_ms: i64) -> Inspection {
    match kind {
        Kind::Respected { facts, .. } => Inspection::new(paths, (**facts).clone(), claim, now_ms),
        Kind::Unclear(cause) => Inspection::unknown(paths, cause.clone()),
        Kind::Flocked(file) => {
            let facts = facts_of(paths.lock(), file, Flock::Theirs, claim.is_held_here);
            match facts {
                Ok(Some(facts)) => Inspection::new(paths, facts, claim, now_ms),
                Ok(None) => Inspection::unknown(paths, None),
                Err(cause) => Inspection::unknown(paths, Some(cause)),
            }
        }
    }
}
