//! What is in a contender's way.

use super::file::{LockFile, facts_of};
use super::paths::LockPaths;
use super::queue::Place;
use crate::error::Error;
use crate::os::blocked::Stop;
use crate::os::{self, Errno, File, FileId, Trust};
use crate::process;
use crate::verdict::{Facts, Flock, Judgement, LookUp, SharedWith};

/// Something in the way. It keeps the lock file open, to watch the file and to keep its inode number from being
/// reused.
#[derive(Debug, Clone)]
pub struct Obstacle {
    pub(super) kind: Kind,
    /// Our place in the queue, if we have one: it is our turn.
    pub(super) place: Option<Place>,
}

/// The kinds of obstacles.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Another process has the flock of this file.
    Flocked(LockFile),
    /// No flock, but the facts say that the holder is or may be alive.
    Respected {
        /// The lock file.
        file: LockFile,
        /// The facts.
        facts: Box<Facts>,
        /// The verdict on them.
        judgement: Box<Judgement>,
    },
    /// The lock file can't be read, changes all the time, or is guarded.
    Unclear(Option<Error>),
}

/// The event that reports the end of an obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldBy {
    /// A thread blocks in `flock`.
    Flock,
    /// inotify: a writer closes the file.
    Close,
    /// A pidfd: this process ends.
    Exit(i32),
    /// No event: a timer.
    Time,
}

impl Obstacle {
    /// The event that reports its end. None on untrusted file systems, where another machine may release.
    pub fn told_by(&self) -> ToldBy {
        match &self.kind {
            Kind::Flocked(file) if file.is_trusted() => ToldBy::Flock,
            Kind::Respected { file, .. } if !file.is_trusted() => ToldBy::Time,
            Kind::Respected { facts, .. } if facts.writer == os::Lease::Refused => ToldBy::Close,
            Kind::Respected { facts, .. } => match pid_to_outlive(facts) {
                Some(pid) => ToldBy::Exit(pid),
                None => ToldBy::Time,
            },
            Kind::Flocked(_) | Kind::Unclear(_) => ToldBy::Time,
        }
    }

    /// The open lock file, to be watched.
    pub fn file(&self) -> Option<&File> {
        match &self.kind {
            Kind::Flocked(file) | Kind::Respected { file, .. } => Some(&file.file),
            Kind::Unclear(_) => None,
        }
    }

    /// Who else uses the folder, where that costs safety or time. Reads the lock file if nobody has.
    pub fn shared_with(&self, paths: &LockPaths) -> Option<SharedWith> {
        let own = process::own();
        match &self.kind {
            Kind::Flocked(file) if file.trust != Trust::Nothing => None,
            Kind::Flocked(file) => {
                facts_of(paths.lock(), file, Flock::Theirs, false).ok()??.shared_with(&own)
            }
            Kind::Respected { facts, .. } => facts.shared_with(&own),
            Kind::Unclear(_) => None,
        }
    }

    /// In how many milliseconds the verdict becomes dead by age.
    pub fn matures_in_ms(&self) -> Option<u64> {
        match &self.kind {
            Kind::Respected { judgement, .. } => judgement.matures_in_ms,
            Kind::Flocked(_) | Kind::Unclear(_) => None,
        }
    }

    /// Why it could not be judged.
    pub fn cause(&self) -> Option<&Error> {
        match &self.kind {
            Kind::Unclear(cause) => cause.as_ref(),
            Kind::Flocked(_) | Kind::Respected { .. } => None,
        }
    }

    /// Device and inode of its file, which it keeps open.
    pub fn file_id(&self) -> Option<FileId> {
        match &self.kind {
            Kind::Flocked(file) | Kind::Respected { file, .. } => Some(file.id),
            Kind::Unclear(_) => None,
        }
    }

    /// Whether its file is still at the path.
    pub fn is_at_path(&self, paths: &LockPaths) -> bool {
        let is_it = |id| os::status_at(paths.lock()).is_ok_and(|found| found.id == id);
        self.file_id().is_some_and(is_it)
    }

    /// Whether nothing has changed since the look. Asked after the watch was set up: the watch reports later
    /// changes.
    pub fn is_still_there(&self, paths: &LockPaths) -> bool {
        let Kind::Respected { file, facts, .. } = &self.kind else {
            return false;
        };
        let is_proved = || os::lease(&file.file) == os::Lease::Refused;
        self.is_at_path(paths) && (facts.writer != os::Lease::Refused || is_proved())
    }

    /// Blocks until the flock is ours, or may be free. The [attempt](super::attempt) that follows uses it; closing the file
    /// gives it back.
    ///
    /// # Errors
    /// `INTR` if another attempt has to find out: `stop` was asked to end the wait, or the system does not give the flock
    /// to those who wait for it. Others if the system can't block here.
    pub fn wait(&self, stop: &Stop) -> os::Result<()> {
        let Kind::Flocked(file) = &self.kind else { return Ok(()) };
        stop.wait(|| os::flock_wait(&file.file))?;
        if os::WAIT_GIVES_FLOCK { Ok(()) } else { Err(Errno::INTR) }
    }

    /// [`Place::prepare`] for our place, if we have one.
    pub fn prepare(&mut self) {
        if let Some(place) = &mut self.place {
            place.prepare();
        }
    }

    /// Our place in the queue.
    pub fn into_place(self) -> Option<Place> {
        self.place
    }

    /// Our place in the queue.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }
}

/// The process whose end would change the verdict: one that was looked up and is there, or this one. Where the number
/// means nothing, as in another machine's record, nobody may have it: that is no end.
fn pid_to_outlive(facts: &Facts) -> Option<i32> {
    let pid = facts.record.as_ref()?.pid?;
    let is_there = matches!(facts.process, LookUp::Found(_));
    (is_there || pid == process::own().pid).then_some(pid)
}
