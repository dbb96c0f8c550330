//! A lock that this process holds, and its release.

use std::path::Path;

use super::file::{LockFile, names, read_afresh, remove, unlock};
use super::paths::LockPaths;
use super::queue::Place;
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, File, Trust};

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

    /// Whether only the removal of its file frees it: nothing else would prove there that the file is dead. A release that
    /// has failed has to be tried again. The flock is kept until then: it keeps those who see it from taking the lock over
    /// by age between our check of the path and the removal.
    pub fn is_freed_by_removal(&self) -> bool {
        self.file.trust == Trust::Nothing
    }

    /// The same lock, if its path names it. An error: nobody holds it.
    pub fn confirmed(self) -> Result<Option<Self>> {
        match self.is_at_its_path() {
            Ok(is_ours) => Ok(is_ours.then_some(self)),
            Err(error) => {
                let _ = self.release(); // no holder is better than two
                Err(error)
            }
        }
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
        Ok(!self.is_revoked()? && names(self.paths.lock(), &self.file, Some(&self.token))?)
    }

    /// Whether a file server has freed our flock, because it had not heard of this machine for too long. Then the
    /// kernel refuses to read the file with `EIO` (fs/nfs/nfs4state.c, `NFS_LOCK_LOST`); if the file is gone by now, with
    /// `ESTALE` or `EBADF`.
    fn is_revoked(&self) -> Result<bool> {
        if self.file.trust != Trust::Flocks {
            return Ok(false);
        }
        let mut answer = read_afresh(&self.file.file);
        if answer == Err(Errno::IO) {
            // On a `soft` mount a server that does not answer gives this error, too. So it has to answer now.
            os::forget_names(self.paths.folder()).during("statx", self.paths.folder())?;
            answer = read_afresh(&self.file.file);
        }
        Ok(matches!(answer, Err(Errno::IO | Errno::STALE | Errno::BADF)))
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
    /// On an error a file stays. It is dead, and the lock free; but if the lock
    /// [is freed by removal](HeldLock::is_freed_by_removal), it counts as held, and the release has to be tried again.
    /// Afterwards this value protects nothing.
    pub fn release(&self) -> (Result<bool>, Option<Place>) {
        let was_ours = self.is_at_its_path().and_then(|ours| {
            if ours {
                match remove(self.paths.lock()) {
                    // Somebody has it open and lets nobody remove it (Windows): a dead file stays.
                    Err(Error::System { errno: Errno::BUSY, .. })
                        if !self.is_freed_by_removal() => {}
                    answer => answer?,
                }
            }
            Ok(ours)
        });
        if was_ours.is_err() && self.is_freed_by_removal() {
            return (was_ours, None);
        }
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
        // Without its name the flock means nothing there, and the mount may be gone.
        let unlocked = if self.is_freed_by_removal() { Ok(()) } else { unlocked };
        (was_ours.and_then(|ours| unlocked.map(|()| ours)), place)
    }
}
