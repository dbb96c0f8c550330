//! The lock on disk: how it is taken, taken over and given back.
//!
//! # The story of the races
//!
//! * A lock file appears whole, or not at all: [`make`], [`publish`].
//! * Two contenders find one dead lock: the flock of the dead file decides. [`takeover`].
//! * Waiters get the lock in the order of their arrival: [`queue`].
//! * A release removes the lock file only if it is still its own: [`HeldLock::release`].
//! * A contender flocks an older process's lock file only while it judges the file. It never opens it for
//!   writing, but over NFS 4: an open writer makes a lock look alive.
//!
//! An *attempt* puts these together. It never sleeps, and every loop is bounded: after too many lost rounds
//! the attempt returns `Contended`, and the caller retries.
//!
//! # Who knows whom
//!
//! ```text
//! mod (attempt), inspect
//! publish      takeover
//!        temporary
//!          make
//!      held     obstacle
//!          queue
//!          blank
//!          file
//!      paths    claim
//! ```

mod blank;
mod claim;
mod file;
mod held;
pub mod inspect;
mod make;
mod obstacle;
mod paths;
mod publish;
mod queue;
mod takeover;
mod temporary;

pub use claim::Claim;
pub use held::HeldLock;
pub use obstacle::{Obstacle, ToldBy};
pub use paths::{LockPaths, Named, real_folder};
pub use queue::{Place, Turn, is_waited_for};

use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::{self, Errno, FileId};
use crate::process;
use crate::verdict::{Facts, Flock, Ground};

use file::{LockFile, facts_of, guard, names, open_regular, unlock};
use obstacle::Kind;
use takeover::Takeover;

/// How long after a takeover the path must still be ours: longer than an older process takes between
/// reading the dead record and removing the path.
pub const SETTLE: Duration = Duration::from_millis(50);

/// How many rounds an attempt makes. A round is lost only if another process changed the path meanwhile.
const ROUNDS: usize = 16;

/// Where a contender is in the queue when it makes an attempt.
#[derive(Debug)]
pub enum Approach {
    /// It has no place yet.
    Newcomer,
    /// It has a place in the queue; perhaps it is its turn.
    Place(Place),
    /// It has blocked for the flock of this obstacle, and has that flock now.
    Flock(Obstacle),
    /// It ignores the queue, because it can't block here.
    PastTheQueue,
    /// It removes the queue file first, because the queue is stuck.
    PastAStuckQueue,
}

/// The result of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The lock is ours.
    Acquired(HeldLock),
    /// A dead lock was replaced: ours if [`HeldLock::is_at_its_path`] still says so after [`SETTLE`].
    TakenOver(HeldLock),
    /// Others are before us.
    Queued(Place),
    /// Another process has the lock, or something else is in the way.
    Contended(Obstacle),
}

/// Tries to take the lock, once, without waiting.
pub fn attempt(paths: &LockPaths, claim: &Claim, approach: Approach) -> Result<Attempt> {
    if matches!(approach, Approach::PastAStuckQueue) {
        queue::abandon(paths);
    }
    let (mut way, mut flocked) = match approach {
        Approach::Newcomer => (Way::Anew, None),
        Approach::Place(place) => (Way::Place(place), None),
        Approach::PastTheQueue | Approach::PastAStuckQueue => (Way::Past, None),
        Approach::Flock(Obstacle { kind: Kind::Flocked(file), place }) => {
            (place.map_or(Way::Anew, Way::Place), Some(file))
        }
        Approach::Flock(Obstacle { place, .. }) => (place.map_or(Way::Anew, Way::Place), None),
    };
    // With the turn, assume that the path is vacant and publish first. If the path is taken, `link` fails, and
    // the next round looks.
    let mut is_vacant = matches!(&way, Way::Place(place) if place.has_turn()) && flocked.is_none();
    for _ in 0..ROUNDS {
        let seen = match flocked.take() {
            Some(file) => look_at(paths, claim, file, Flock::Ours, os::wall_ms())?,
            None if std::mem::take(&mut is_vacant) => Look::Vacant,
            None => look(paths, claim, os::wall_ms())?,
        };
        way = match (way, &seen) {
            // We have the dead lock's flock, which excludes all others: take it over, queue or not.
            (way, Look::Dead(..)) => way,
            (Way::Place(place), _) => place.try_turn().into(),
            // The lock is held: join the queue.
            (Way::Anew, Look::Alive(_)) if claim.may_queue && seen.is_trusted() => {
                queue::join(paths).into()
            }
            // The lock is free, but others wait already: join the queue.
            (Way::Anew, Look::Vacant) if claim.may_queue && queue::is_there(paths) => {
                queue::join(paths).into()
            }
            (way, _) => way,
        };
        if let Way::Later(place) = way {
            return Ok(if claim.may_queue {
                Attempt::Queued(place)
            } else {
                contended(Kind::Unclear(None), Some(place))
            });
        }
        match seen {
            // The path names another file or none: assume a release, as above.
            Look::Moved => is_vacant = matches!(&way, Way::Place(_)),
            Look::Alive(kind) => return Ok(contended(kind, way.place())),
            Look::Dead(dead, _, ground) => {
                if let Some(guarded) = guard(paths) {
                    unlock(paths.lock(), &dead)?;
                    return Ok(contended(Kind::Unclear(Some(guarded)), way.place()));
                }
                match takeover::take_over(paths, claim, &dead, ground)? {
                    Takeover::Done(held) => {
                        return Ok(Attempt::Acquired(held.by_turn(way.place())));
                    }
                    Takeover::Unsettled(held) => {
                        return Ok(Attempt::TakenOver(held.by_turn(way.place())));
                    }
                    Takeover::Occupied(cause) => {
                        unlock(paths.lock(), &dead)?;
                        return Ok(contended(Kind::Unclear(cause), way.place()));
                    }
                    Takeover::Lost => unlock(paths.lock(), &dead)?,
                }
            }
            Look::Vacant => {
                if let Some(guarded) = guard(paths) {
                    return Ok(contended(Kind::Unclear(Some(guarded)), way.place()));
                }
                let blank = match &mut way {
                    Way::Place(place) => place.take_blank(),
                    _ => None,
                };
                if let Some(held) = publish::publish(paths, claim, blank)? {
                    return Ok(Attempt::Acquired(held.by_turn(way.place())));
                }
            }
        }
    }
    Ok(contended(Kind::Unclear(None), way.place()))
}

/// The state of an attempt in the queue.
enum Way {
    /// It has not asked for the queue yet.
    Anew,
    /// It has a place and, after [`Place::try_turn`], the turn.
    Place(Place),
    /// It has a place, and others are before it.
    Later(Place),
    /// It makes its attempt without a queue.
    Past,
}

impl From<Turn> for Way {
    fn from(turn: Turn) -> Self {
        match turn {
            Turn::Ours(place) => Self::Place(place),
            Turn::Later(place) => Self::Later(place),
            Turn::NoQueue => Self::Past,
        }
    }
}

impl Way {
    fn place(self) -> Option<Place> {
        match self {
            Self::Place(place) | Self::Later(place) => Some(place),
            Self::Anew | Self::Past => None,
        }
    }
}

fn contended(kind: Kind, place: Option<Place>) -> Attempt {
    Attempt::Contended(Obstacle { kind, place })
}

/// What a thread blocks for.
#[derive(Debug, Clone)]
pub enum Awaited {
    /// Its turn in the queue, which has this file.
    Turn(FileId),
    /// The flock of the lock file. It is its turn.
    Flock(Obstacle),
}

/// The result of [`look_past`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookPast {
    /// All is as it was.
    Same,
    /// The lock is free or dead.
    Free,
    /// The file that the thread blocks on has lost its name: nobody may ever wake the thread.
    Nameless,
}

/// Finds out whether a wait is stuck, from outside of the thread that blocks.
pub fn look_past(paths: &LockPaths, claim: &Claim, awaited: &Awaited) -> LookPast {
    let has_name = match awaited {
        Awaited::Turn(queue) => queue::is_at_path(paths, *queue),
        Awaited::Flock(obstacle) => obstacle.is_at_path(paths),
    };
    let is_held = has_name && matches!(awaited, Awaited::Flock(_));
    match has_name {
        _ if !is_held && is_free(paths, claim) => LookPast::Free,
        true => LookPast::Same,
        false => LookPast::Nameless,
    }
}

/// Whether the lock is free or dead.
fn is_free(paths: &LockPaths, claim: &Claim) -> bool {
    match look(paths, claim, os::wall_ms()) {
        Ok(Look::Vacant) => true,
        Ok(Look::Dead(dead, ..)) => unlock(paths.lock(), &dead).is_ok(),
        Ok(Look::Alive(_) | Look::Moved) | Err(_) => false,
    }
}

/// Whether a folder is on a trusted file system.
pub fn is_trusted_folder(folder: &std::path::Path) -> bool {
    os::open(folder).is_ok_and(|folder| {
        os::status_of(&folder).is_ok_and(|status| os::is_trusted(&folder, status.id))
    })
}

// --- Looking ----------------------------------------------------------------------------------

/// What is at the path.
enum Look {
    /// Nothing.
    Vacant,
    /// A lock that has to be respected.
    Alive(Kind),
    /// A dead lock, and why it is dead. We have its flock, where the file system has flocks.
    Dead(LockFile, Box<Facts>, Ground),
    /// It changed while we looked.
    Moved,
}

impl Look {
    /// Whether this lock file is known to be on a trusted file system, so that a queue can be used.
    fn is_trusted(&self) -> bool {
        match self {
            Self::Alive(Kind::Flocked(file) | Kind::Respected { file, .. }) => file.is_trusted(),
            _ => false,
        }
    }
}

/// Looks at the lock file and judges it as of an instant, keeping the flock of a dead one.
fn look(paths: &LockPaths, claim: &Claim, now_ms: i64) -> Result<Look> {
    let path = paths.lock();
    let (file, status) = match open_regular(path) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Look::Vacant),
        // Another user's, or leased: it can't be judged, so it counts as alive.
        Err(cause) if is_not_ours_to_read(&cause) => {
            return Ok(Look::Alive(Kind::Unclear(Some(cause))));
        }
        Err(error) => return Err(error),
    };
    let mut file = LockFile::new(file, status.id);
    match file.try_flock() {
        // The flock proves that the holder is alive: the record is not needed.
        Flock::Theirs => Ok(Look::Alive(Kind::Flocked(file))),
        flock => look_at(paths, claim, file, flock, now_ms),
    }
}

/// The same for a lock file that is open, and whose flock may be ours.
fn look_at(
    paths: &LockPaths,
    claim: &Claim,
    file: LockFile,
    flock: Flock,
    now_ms: i64,
) -> Result<Look> {
    let path = paths.lock();
    // Between `open` and `flock` another file may have been put at the path. We must not replace that file
    // because of a verdict on this one.
    if !names(path, &file, None)? {
        unlock(path, &file)?;
        return Ok(Look::Moved);
    }
    let facts = match facts_of(path, &file, flock, claim.is_held_here) {
        Ok(Some(facts)) => Box::new(facts),
        Ok(None) => return Ok(Look::Moved),
        // Where flock is mandatory (SMB), reading somebody's locked file is refused.
        Err(cause) if is_not_ours_to_read(&cause) => {
            return Ok(Look::Alive(Kind::Unclear(Some(cause))));
        }
        Err(error) => return Err(error),
    };
    if claim.spares_foreign && facts.is_foreign {
        unlock(path, &file)?;
        return Err(Error::Foreign { path: path.to_owned() });
    }
    let judgement = Box::new(facts.judge(&process::own(), claim.limits, now_ms));
    if judgement.is_alive() {
        // The holder keeps no flock (an older process), so we must not keep its flock either.
        unlock(path, &file)?;
        return Ok(Look::Alive(Kind::Respected { file, facts, judgement }));
    }
    Ok(Look::Dead(file, facts, judgement.ground))
}

/// Whether the error says that we may not read the file: it is another user's, or leased. On Windows: somebody denies
/// it to others, or it is being deleted.
fn is_not_ours_to_read(error: &Error) -> bool {
    matches!(
        error,
        Error::System {
            errno: Errno::ACCESS | Errno::PERM | Errno::AGAIN,
            syscall: "open" | "read",
            ..
        } | Error::System { errno: Errno::BUSY, .. }
    )
}
