//! A session in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use session_write_lock::error::Result;
use session_write_lock::locks::{self, Environment, Grant, Loss, Request, Ticket};
use session_write_lock::os;
use session_write_lock::protocol::{
    self, Approach, Attempt, Claim, HeldLock, LockPaths, Obstacle, Place, inspect,
};
use session_write_lock::verdict::{Limits, Report};

/// A pid that no Linux can give: the limit is 2^22.
pub const NOBODY: i32 = i32::MAX;

/// Long enough for a loaded machine, short enough to notice a wait that should not be.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Session {
    folder: tempfile::TempDir,
    pub paths: LockPaths,
}

impl Session {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = LockPaths::resolve(&folder.path().join("chat.jsonl")).unwrap();
        Self { folder, paths }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("chat.jsonl")
    }

    pub fn lock(&self) -> &Path {
        self.paths.lock()
    }

    /// What stands in the folder.
    pub fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn attempt(&self) -> Attempt {
        self.attempt_by(Approach::Newcomer)
    }

    pub fn attempt_by(&self, approach: Approach) -> Attempt {
        protocol::attempt(&self.paths, &claim(), approach).unwrap()
    }

    /// Takes a lock that nobody alive is in the way of.
    pub fn acquire(&self) -> HeldLock {
        match self.attempt() {
            Attempt::Acquired(held) | Attempt::TakenOver(held) => held,
            other => panic!("{other:?}"),
        }
    }

    /// What is in the way, behind which a newcomer stands.
    pub fn obstacle(&self) -> Obstacle {
        match self.attempt() {
            Attempt::Contended(obstacle) => obstacle,
            other => panic!("{other:?}"),
        }
    }

    /// Who is in the way.
    pub fn contended(&self) -> Report {
        let inspection = inspect::inspect(&self.paths, &claim(), os::wall_ms());
        inspection.unwrap().unwrap().report
    }

    /// Whether a newcomer stands behind something that can't be judged.
    pub fn is_kept_out(&self) -> bool {
        let obstacle = self.obstacle();
        let is_unclear = obstacle.file().is_none();
        obstacle.into_place().into_iter().for_each(Place::leave);
        is_unclear
    }

    /// What a rude user does. (Not by way of rm: a child that is being started shares the open files
    /// of its parent for a moment, and makes dead locks of other tests look alive.)
    pub fn remove_lock(&self) {
        fs::remove_file(self.lock()).unwrap();
    }

    pub fn remove_queue(&self) {
        fs::remove_file(self.file().with_extension("jsonl.lock.queue")).unwrap();
    }

    /// The lock of a flock holder that has died.
    pub fn leave_dead_lock(&self) {
        drop(self.acquire()); // what the kernel does when its process dies
    }

    /// The lock of an older process that has died.
    pub fn leave_older_dead_lock(&self) {
        fs::write(self.lock(), format!(r#"{{"pid":{NOBODY}}}"#)).unwrap();
    }

    /// A request for this session's lock that waits for good.
    pub fn request(&self, environment: Environment) -> Request {
        Request {
            environment,
            ticket: ticket(),
            handle: locks::new_handle(),
            session_file: self.file(),
            timeout_ms: None,
            stale_ms: 60_000,
            max_hold_ms: Some(60_000),
            label: None,
            spares_foreign: false,
            allow_reentrant: true,
        }
    }
}

pub fn claim() -> Claim {
    let limits = Limits::new(60_000, Some(100));
    Claim {
        max_hold_ms: Some(60_000),
        label: None,
        limits,
        is_held_here: false,
        spares_foreign: false,
        may_queue: true,
    }
}

/// An acquire that is under way.
pub struct Pending(mpsc::Receiver<Result<Grant>>);

impl Pending {
    pub fn of(request: Request) -> Self {
        let (sender, receiver) = mpsc::channel();
        locks::acquire(request, Box::new(move |result| drop(sender.send(result))));
        Self(receiver)
    }

    pub fn result(&self) -> Result<Grant> {
        self.0.recv_timeout(SOON).expect("an acquire came to no end")
    }

    pub fn grant(&self) -> Grant {
        self.result().unwrap()
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// Its environment ended: nobody will hear of it.
    pub fn is_dropped(&self) -> bool {
        matches!(self.0.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected))
    }
}

/// Releases and waits for the end of it.
pub fn release(grant: &Grant) -> Result<Option<Loss>> {
    let (sender, receiver) = mpsc::channel();
    locks::release(grant.handle, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(SOON).expect("a release came to no end")
}

/// No two acquires have the same.
fn ticket() -> Ticket {
    Ticket { client: 0, number: environment().0 }
}

/// Environments of tests that run side by side must not be the same.
pub fn environment() -> Environment {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Environment(NEXT.fetch_add(1, Ordering::Relaxed))
}
