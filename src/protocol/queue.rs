//! The queue: processes get the lock in the order of their arrival.
//!
//! A flock on the lock file gives no order, because a release removes the file: every waiter would wake, find
//! the name gone, and contend anew. So waiting processes queue at another file, `<lock file>.queue`. It is
//! empty, and exists only while a process uses it.
//!
//! Every process in the queue has an exclusive lock on one byte, its *place*. A process that joins locks the
//! byte after the last locked one. *It is a process's turn when no lower byte is locked.* To wait for its
//! turn, a process blocks for the next lower locked byte. The kernel frees a byte when its process leaves or
//! dies, and wakes the one process that blocks for it. A newcomer can't overtake: its byte is the highest.
//!
//! Only the process that has the turn takes the lock, or waits for its holder. It keeps its place until it
//! releases the lock.
//!
//! **Safety does not depend on the queue**: the lock file and its flock exclude. If somebody deletes the queue
//! file, only the order is lost. So if the process that has the turn does not run, the waiting processes
//! [abandon] the queue: one of them removes the file, and all join anew.
//!
//! Why the rules are as they are:
//!
//! * **The name is checked after the place is taken, and after every wait.** The file can have been removed
//!   after it was opened, and then there would be two queues; or the queue can have been abandoned.
//! * **To remove the file, a process must get an exclusive lock on all of it.** A question would not do:
//!   somebody could join between the answer and the removal.
//! * **The name is checked before the removal.** A file that somebody has put in the place of ours is
//!   in use by others.
//! * **A leaving process first gives up its place.** If two leave at once, each would see the other, and
//!   neither would remove the file.
//!
//! A file at that path is used only if it is regular, empty, has one name, belongs to this user, and is on a
//! trusted file system. It is opened read-only, checked, and only then reopened for writing through its
//! descriptor, because exclusive byte locks need that. Nothing is ever written into it.

use std::path::Path;

use super::ROUNDS;
use super::blank::Blank;
use super::paths::LockPaths;
use crate::os::blocked::Stop;
use crate::os::{self, Errno, File, FileId, Status};

/// A place in the queue. Closing the file gives the place up, as a crash does.
#[derive(Debug, Clone)]
pub struct Place {
    paths: LockPaths,
    file: File,
    id: FileId,
    /// Our byte; `None` before we have joined, and after our turn is over.
    byte: Option<u64>,
    has_turn: bool,
    /// Our future lock file, if it was prepared.
    blank: Option<Blank>,
    /// The lock file of our last hold, if it is still open.
    released: Option<File>,
}

/// The result of [`Place::try_turn`].
#[derive(Debug)]
pub enum Turn {
    /// It is our turn.
    Ours(Place),
    /// Others are before us: see [`Place::wait`].
    Later(Place),
    /// No queue can be used here.
    NoQueue,
}

/// Whether there is a queue file.
pub fn is_there(paths: &LockPaths) -> bool {
    os::HAS_BYTE_LOCKS && os::status_at(&paths.queue()).is_ok()
}

/// Joins the queue, creating its file if need be, and asks whether it is our turn.
pub fn join(paths: &LockPaths) -> Turn {
    Place::open(paths).map_or(Turn::NoQueue, Place::try_turn)
}

/// Whether another process waits in the queue. `own`: our place, if we have one.
pub fn is_waited_for(paths: &LockPaths, own: Option<&Place>) -> bool {
    // A process that removes the file has locked all bytes. It does not wait.
    let is_used =
        |file: &File| matches!(last_locked(file, u64::MAX), Ok(Some(byte)) if byte != ALL);
    match os::status_at(&paths.queue()) {
        Ok(found) if own.is_some_and(|place| place.id == found.id) => {
            own.is_some_and(|place| is_used(&place.file))
        }
        Ok(found) if is_usable(&found) => os::open(&paths.queue()).is_ok_and(|file| is_used(&file)),
        _ => false,
    }
}

/// Whether this is still the queue file. Somebody has it open.
pub fn is_at_path(paths: &LockPaths, id: FileId) -> bool {
    os::status_at(&paths.queue()).is_ok_and(|found| found.id == id)
}

/// Removes the file of a stuck queue. The waiting processes notice that, and join anew.
pub fn abandon(paths: &LockPaths) {
    if os::status_at(&paths.queue()).is_ok_and(|found| is_usable(&found)) {
        let _ = os::unlink(&paths.queue()); // on failure the next check finds the queue stuck again
    }
}

impl Place {
    /// Opens the queue file. `None`: there can't be a queue here.
    fn open(paths: &LockPaths) -> Option<Self> {
        if !os::HAS_BYTE_LOCKS {
            return None;
        }
        let path = paths.queue();
        // `lstat` before `open`: opening a device can have side effects.
        if os::status_at(&path).is_ok_and(|found| !is_usable(&found)) {
            return None;
        }
        let file = os::create_or_open(&path).ok()?;
        let status = os::status_of(&file).ok()?;
        if !is_usable(&status) || !os::is_trusted(&file, status.id) {
            return None;
        }
        let file = os::reopen_for_writing(&file).ok()?;
        let paths = paths.clone();
        Some(Self {
            paths,
            file,
            id: status.id,
            byte: None,
            has_turn: false,
            blank: None,
            released: None,
        })
    }

    /// Joins the queue if we have no place yet, and asks whether it is our turn.
    pub fn try_turn(mut self) -> Turn {
        for _ in 0..ROUNDS {
            match self.look() {
                Ok(Standing::Turn) => return Turn::Ours(self),
                Ok(Standing::Behind(_)) | Err(_) => return Turn::Later(self),
                Ok(Standing::Removed) => {
                    self.give_up();
                    match Self::open(&self.paths) {
                        Some(place) => self = place,
                        None => return Turn::NoQueue,
                    }
                }
            }
        }
        Turn::Later(self)
    }

    /// Blocks until it is our turn.
    ///
    /// # Errors
    /// `INTR` if `stop` was asked to end the wait; others if the system can't block here. The place stays
    /// valid.
    pub fn wait(&mut self, stop: &Stop) -> os::Result<()> {
        loop {
            match self.look()? {
                Standing::Turn => return Ok(()),
                Standing::Behind(byte) => {
                    stop.wait(|| os::byte_wait(&self.file, byte))?;
                    if self.byte.is_none() {
                        // We have no byte yet: give back the shared lock that `byte_wait` has taken.
                        os::unlock_bytes(&self.file)?;
                    }
                }
                Standing::Removed => {
                    self.give_up(); // for those behind us, at once: our file has clones
                    *self = Self::open(&self.paths).ok_or(Errno::NOENT)?;
                }
            }
        }
    }

    /// Takes a place if we have none, and finds out who is before us.
    fn look(&mut self) -> os::Result<Standing> {
        if self.has_turn {
            return Ok(Standing::Turn);
        }
        let byte = match self.byte {
            Some(byte) => byte,
            None => match self.take_byte()? {
                Some(byte) => {
                    // A holder that wants to know of waiters watches the file's times. On failure it isn't told.
                    let _ = os::touch(&self.file);
                    *self.byte.insert(byte)
                }
                // A process that removes the file has locked all bytes. It unlocks them soon.
                None => return Ok(Standing::Behind(0)),
            },
        };
        let before = last_locked(&self.file, byte)?;
        if !is_at_path(&self.paths, self.id) {
            return Ok(Standing::Removed);
        }
        self.has_turn = before.is_none();
        Ok(before.map_or(Standing::Turn, Standing::Behind))
    }

    fn take_byte(&self) -> os::Result<Option<u64>> {
        for _ in 0..ROUNDS {
            let byte = match last_locked(&self.file, u64::MAX)? {
                Some(ALL) => return Ok(None),
                last => last.map_or(0, |last| last + 1),
            };
            match os::lock_byte(&self.file, byte) {
                Ok(()) => return Ok(Some(byte)),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// For a wait: creates the blank before it is our turn, and closes the file of our last hold. If there is no
    /// blank, the attempt creates the file.
    pub fn prepare(&mut self) {
        self.released = None;
        if self.blank.is_none() {
            self.blank = Blank::create_ahead(&self.paths);
        }
    }

    /// Closes `file`, a lock file that we have released, later: with the place, or at our next wait. Closing the
    /// last descriptor of a file without a name frees the inode, which takes as long as the rest of the release;
    /// the process that has just been woken often waits for this processor.
    pub fn close_later(&mut self, file: &File) {
        self.released = Some(file.clone());
    }

    /// Takes the blank out.
    pub fn take_blank(&mut self) -> Option<Blank> {
        self.blank.take()
    }

    /// The queue file.
    pub fn file_id(&self) -> FileId {
        self.id
    }

    /// Whether it is our turn.
    pub fn has_turn(&self) -> bool {
        self.has_turn
    }

    /// Whether another process uses the queue. An error counts as yes.
    pub fn is_shared(&self) -> bool {
        os::locked_byte(&self.file, 0, u64::MAX).map_or(true, |byte| byte.is_some())
    }

    /// Gives up the place and the turn. The next process in the queue wakes up.
    pub fn give_up(&mut self) {
        self.byte = None;
        self.has_turn = false;
        self.blank = None;
        let _ = os::unlock_bytes(&self.file); // closing the file unlocks it, too
    }

    /// Leaves the queue, and removes its file if no other process uses it.
    pub fn leave(mut self) {
        self.give_up();
        remove_if_unused(&self.paths.queue(), &self.file, self.id);
    }
}

/// Who is before us.
enum Standing {
    /// Nobody: it is our turn.
    Turn,
    /// The process that has locked this byte.
    Behind(u64),
    /// The path doesn't name our file any more.
    Removed,
}

/// Returned by [`last_locked`] if a process has locked all bytes, to remove the file.
const ALL: u64 = u64::MAX;

/// The last byte before `end` that another process has locked, or [`ALL`].
fn last_locked(file: &File, end: u64) -> os::Result<Option<u64>> {
    let mut last = None;
    loop {
        let from = last.map_or(0, |byte: u64| byte + 1);
        match os::locked_byte(file, from, end)? {
            None => return Ok(last),
            // The kernel reports where the lock begins. A lock that begins before `from` covers all bytes.
            Some(byte) if byte < from => return Ok(Some(ALL)),
            // The kernel reports any one of several locks: there may be more after it.
            Some(byte) => last = Some(byte),
        }
    }
}

/// Whether this file may be used as a queue file.
fn is_usable(status: &Status) -> bool {
    status.odd_kind.is_none()
        && status.length == 0
        && status.names <= 1
        && status.owner == os::own_user()
}

/// Removes a queue file if no process is in the queue. Otherwise the last process that leaves removes it.
fn remove_if_unused(path: &Path, file: &File, id: FileId) {
    let is_named = || os::status_at(path).is_ok_and(|found| found.id == id);
    if os::lock_all_bytes(file).is_ok() {
        if is_named() {
            let _ = os::unlink(path); // on failure an empty file stays; the next process uses it
        }
        let _ = os::unlock_bytes(file); // as above
    }
}

/// For a sweep: removes the queue file at `path` if no process is in the queue.
pub fn remove_abandoned(path: &Path) {
    if !os::status_at(path).is_ok_and(|found| is_usable(&found)) {
        return;
    }
    if let Ok(file) = os::open(path)
        && let Ok(status) = os::status_of(&file)
        && is_usable(&status)
        && os::is_trusted(&file, status.id)
        && let Ok(file) = os::reopen_for_writing(&file)
    {
        remove_if_unused(path, &file, status.id);
    }
}
