//! The locks of this process.
//!
//! An *environment* is one face of the lock in one JavaScript world, the main thread or a worker. Re-entrancy belongs to one
//! environment; between environments, and between processes, the lock excludes.
//!
//! One map leads from the path of a lock file to its [`Lock`](lock::Lock). The lock decides the next step;
//! [`drive`] carries it out. The functions here and in `acquire` only find the lock of a call.

mod acquire;
mod drive;
mod folders;
mod leftovers;
mod lock;
mod order;
pub mod sweep;
pub mod users;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Result;
use crate::os::{self, FileId, Instant};
use crate::protocol::{HeldLock, LockPaths};
use crate::verdict::SharedWith;

pub use acquire::{acquire, try_acquire};
use drive::{Caller, Entry, happen, happen_here};
use folders::QuickFolders;
pub use order::Exceeded;
use order::{Waiter, take_if};

/// One face of the lock in one JavaScript world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Environment(pub u64);

/// The number of a granted acquisition. A caller releases by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// The number of an acquire, unique within its environment. A caller cancels by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The client that numbers its acquires.
    pub client: u64,
    /// The acquire's number within the client.
    pub number: u64,
}

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The environment that asks.
    pub environment: Environment,
    /// The number of this acquire.
    pub ticket: Ticket,
    /// The number by which the caller will release.
    pub handle: Handle,
    /// The file to protect; absolute.
    pub session_file: PathBuf,
    /// How long to wait, in milliseconds; `None`: for ever. At least one attempt is made.
    pub timeout_ms: Option<u64>,
    /// See [`Limits`](crate::verdict::Limits).
    pub stale_ms: u64,
    /// When the watchdog releases, in milliseconds after the lock was acquired; `None`: never.
    pub max_hold_ms: Option<u64>,
    /// What the lock is for, in the caller's words.
    pub label: Option<Arc<str>>,
    /// Whether a file at the lock's path that is not a lock file is refused, not taken for a dead lock.
    pub spares_foreign: bool,
    /// Whether to share the lock if this environment already holds it.
    pub allow_reentrant: bool,
}

/// A lock that was granted.
#[derive(Debug, Clone)]
pub struct Grant {
    /// To release it by.
    pub handle: Handle,
    /// The lock file.
    pub lock_path: PathBuf,
    /// Whether it replaced a dead lock.
    pub is_taken_over: bool,
    /// Whether somebody was in its way.
    pub has_waited: bool,
}

/// How a holder lost its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The watchdog released it: it was held for longer than its `max_hold_ms`.
    HoldExceeded,
    /// Somebody removed the lock file, or put another one in its place.
    Removed,
    /// All locks of its environment were released.
    Released,
}

/// Called once, on any thread, with the outcome of an acquire. Dropped uncalled if the acquire was cancelled
/// or its environment has ended. Must not block.
pub type Deliver = Box<dyn FnOnce(Result<Grant>) + Send>;

/// Called once, on any thread, with the result of a release: how the lock was lost before, if it was.
pub type Released = Box<dyn FnOnce(Result<Option<Loss>>) + Send>;

/// Called once, on any thread, when a lock is lost. Must not block.
pub type TellLoss = Arc<dyn Fn(Loss) + Send + Sync>;

/// Called at most once, on any thread, when another acquire has begun to wait for a held lock. Must not block.
pub type TellWanted = Arc<dyn Fn() + Send + Sync>;

/// What a client is told beside the outcomes of its calls.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// The watchdog has ended a hold. The client answers by [`heard`].
    Exceeded(&'a LockPaths, &'a Exceeded),
    /// An acquire waits for a lock that shows who else uses its folder. Told once for each folder.
    Shared(&'a Path, SharedWith),
}

/// Called, on any thread. Must not block.
pub type TellNews = Arc<dyn Fn(News<'_>) + Send + Sync>;

/// A lock that this process holds, as `heldLocks` shows it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The lock file.
    pub lock_path: PathBuf,
    /// How long ago it was granted.
    pub held_for: Duration,
    /// How long it may be held; `None`: for ever.
    pub limit: Option<Duration>,
    /// What it is for.
    pub label: Option<Arc<str>>,
    /// How many acquisitions share it.
    pub acquisitions: usize,
    /// How many acquires of this process wait for it.
    pub waiters: usize,
}

/// Everything that this process knows of its locks.
#[derive(Default)]
struct Registry {
    /// By session file: the waiters whose lock path is not resolved yet.
    arrivals: HashMap<PathBuf, VecDeque<Waiter<Caller>>>,
    locks: HashMap<LockPaths, Entry>,
    /// The highest number of a wait of a lock that was forgotten. A thread may still be about to speak of that wait, so
    /// the waits of a lock made anew have higher numbers.
    last_wait: u64,
    handles: HashMap<Handle, Acquisition>,
    last_handle: u64,
    folders: QuickFolders,
    /// By folder: the last lock file that was asked who else uses the folder; `None` once that was told.
    asked: HashMap<PathBuf, Option<FileId>>,
    /// How many locks the watchdog has released.
    watchdog_releases: usize,
    /// By number.
    clients: HashMap<u64, (Environment, TellNews)>,
    /// What the watchdog has told, and JavaScript has not heard yet: by a handle of the hold.
    unheard: HashMap<Handle, (LockPaths, Exceeded)>,
}

/// The state of an acquisition that was granted and not released.
enum Acquisition {
    Held(LockPaths),
    /// The watchdog has ended it, and its lock is still being released. Who releases it meanwhile is told after that.
    Ending(Vec<Released>),
    Lost(Loss),
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// The mutex guards bookkeeping only: no system call of the protocol and no caller's code runs under it. The
/// registry is consistent at every statement that can panic, so a poisoned mutex is used all the same.
fn with_registry<T>(use_it: impl FnOnce(&mut Registry) -> T) -> T {
    let mut registry: MutexGuard<'_, Option<Registry>> =
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(registry.get_or_insert_with(Registry::default))
}

// --- Calls --------------------------------------------------------------------------------------

/// A number that no other acquisition has.
pub fn new_handle() -> Handle {
    with_registry(|registry| {
        registry.last_handle += 1;
        Handle(registry.last_handle)
    })
}

/// Withdraws an acquire. `false` if it has ended already; then its outcome is delivered.
pub fn cancel(environment: Environment, ticket: Ticket) -> bool {
    let is_it = |waiter: &Waiter<Caller>| waiter.request.is_of(environment, ticket);
    loop {
        let (arrival, paths) = with_registry(|registry| {
            let mut arrivals = registry.arrivals.values_mut();
            let arrival = arrivals.find_map(|its| its.remove(its.iter().position(is_it)?));
            let mut locks = registry.locks.iter();
            let found = locks.find(|(_, entry)| entry.lock.is_awaited_by(environment, ticket));
            (arrival, found.map(|(paths, _)| paths.clone()))
        });
        let Some(paths) = paths else { return arrival.is_some() };
        if happen(&paths, |lock, _| lock.cancel(environment, ticket)).is_some() {
            return true;
        } // else it has moved, or ended, since
    }
}

/// Whether a lock is still registered as held. [`release_all`] may have released it between the grant and the
/// call of `deliver`.
pub fn is_registered(handle: Handle) -> bool {
    with_registry(|registry| registry.handles.contains_key(&handle))
}

/// Whether a lock is held and its path still names our file. Asks the file system.
pub fn is_held(handle: Handle) -> bool {
    let lock = with_registry(|registry| registry.held(handle).map(|(_, lock)| lock));
    // An error proves nothing: the lock counts as held.
    lock.is_some_and(|lock| lock.is_at_its_path().unwrap_or(true))
}

/// Calls `tell` when the lock is lost. If it is not held any more, returns why instead.
pub fn watch_loss(handle: Handle, tell: TellLoss) -> Option<Loss> {
    drive::watch_loss(handle, tell);
    with_registry(|registry| match registry.handles.get(&handle) {
        Some(Acquisition::Held(_)) => None,
        Some(Acquisition::Ending(_)) => Some(Loss::HoldExceeded),
        Some(Acquisition::Lost(loss)) => Some(*loss),
        None => Some(Loss::Released),
    })
}

/// Calls `tell` as soon as somebody waits for the lock who may not share it: in this process, or in the queue.
///
/// On an untrusted file system there is no queue. There, as with older processes, only waiters of this process
/// are noticed.
pub fn watch_wanted(handle: Handle, tell: TellWanted) {
    drive::watch_wanted(handle, tell);
}

/// Calls `tell` with the client's news. If it does not answer that the watchdog has ended a hold, the watchdog
/// prints a line itself.
pub fn watch_news(client: u64, environment: Environment, tell: TellNews) {
    with_registry(|registry| registry.clients.insert(client, (environment, tell)));
}

/// What the watchdog told about this hold was heard. `false`: too late, it has printed a line.
pub fn heard(handle: Handle) -> bool {
    with_registry(|registry| registry.unheard.remove(&handle)).is_some()
}

/// Gives one acquisition back. The last one releases the lock. `done` is called with the result, perhaps
/// before this returns: see [`acquire()`]. A second release of the same handle does nothing.
pub fn release(handle: Handle, done: Released) {
    let mut done = Some(done);
    // In one go: a loss in between would be told to nobody.
    let (released, lock, unneeded) = with_registry(|registry| {
        if let Some(Acquisition::Ending(waiting)) = registry.handles.get_mut(&handle) {
            waiting.extend(done.take());
            return Default::default();
        }
        let released = registry.handles.remove(&handle);
        let entry = match &released {
            Some(Acquisition::Held(paths)) => registry.locks.get_mut(paths),
            _ => None,
        };
        let Some(entry) = entry else { return (released, None, Vec::new()) };
        (released, entry.lock.release(handle), entry.take_listeners(handle))
    });
    drop(unneeded);
    let Some(done) = done else {
        return;
    };
    let paths = match released {
        Some(Acquisition::Held(paths)) => paths,
        Some(Acquisition::Lost(loss)) => return done(Ok(Some(loss))),
        // `Ending` was dealt with above.
        Some(Acquisition::Ending(_)) | None => return done(Ok(None)),
    };
    happen_here(&paths, |_, _| {}); // what follows from that: the watches of the hold and the alarm
    let Some(lock) = lock else {
        return done(Ok(None));
    };
    if with_registry(|registry| registry.is_quick(Some(paths.folder()))) {
        drive::release_and_tell(&paths, &lock, done);
    } else {
        os::run(Box::new(move |_| drive::release_and_tell(&paths, &lock, done)));
    }
}

/// Releases every lock of an environment, however often it was re-entered, before it returns. Returns how
/// many there were.
pub fn release_all(environment: Environment) -> usize {
    let locks = with_registry(|registry| registry.all_locks());
    locks.iter().filter(|paths| release_in(paths, environment)).count()
}

/// Releases one lock, if the environment holds it. Returns whether it did.
fn release_in(paths: &LockPaths, environment: Environment) -> bool {
    let lock = happen_here(paths, |lock, _| lock.release_environment(environment));
    if let Some(lock) = &lock {
        let (_, place) = drive::release(lock);
        happen_here(paths, |lock, now| lock.released(now, place));
    }
    happen_here(paths, |lock, _| lock.leave_now());
    lock.is_some()
}

/// Ends an environment: drops its waiters and releases its locks.
pub fn end(environment: Environment) {
    let (clients, arrivals, locks) = with_registry(|registry| {
        // Without a client nobody of it becomes an arrival again.
        let is_its = |_: &u64, it: &mut (Environment, TellNews)| it.0 == environment;
        let clients: Vec<_> = registry.clients.extract_if(is_its).collect();
        let is_gone = |waiter: &Waiter<Caller>| waiter.request.environment == environment;
        let arrivals: Vec<_> =
            registry.arrivals.values_mut().flat_map(|waiters| take_if(waiters, is_gone)).collect();
        (clients, arrivals, registry.all_locks())
    });
    drop((clients, arrivals));
    for paths in &locks {
        drop(happen_here(paths, |lock, _| lock.forget(environment)));
    }
    release_all(environment);
    let unheard = with_registry(|registry| {
        let is_its = |_: &Handle, it: &mut (LockPaths, Exceeded)| it.1.environment == environment;
        registry.unheard.extract_if(is_its).collect::<Vec<_>>()
    });
    for (_, (paths, exceeded)) in unheard {
        drive::print_exceeded(&paths, &exceeded);
    }
}

// --- Questions ----------------------------------------------------------------------------------

/// The locks that this process holds, sorted by path. Does not ask the file system, so a loss that was not
/// noticed yet does not show.
pub fn held() -> Vec<Held> {
    let now = os::now();
    let describe = |(paths, entry): (&LockPaths, &Entry)| {
        let hold = entry.lock.hold()?;
        Some(Held {
            lock_path: paths.lock().to_owned(),
            held_for: now.saturating_duration_since(hold.since),
            limit: hold.limit,
            label: hold.label.clone(),
            acquisitions: hold.handles.len(),
            waiters: entry.lock.waiters(),
        })
    };
    let mut held: Vec<_> =
        with_registry(|registry| registry.locks.iter().filter_map(describe).collect());
    held.sort_by(|one, other| one.lock_path.as_os_str().cmp(other.lock_path.as_os_str()));
    held
}

/// Whether this process holds that lock, as far as it knows.
pub fn is_held_here(paths: &LockPaths) -> bool {
    with_registry(|registry| registry.locks.get(paths).is_some_and(|it| it.lock.hold().is_some()))
}

/// The same lock under another spelling of its name, if this process holds it: where the file system ignores case, both
/// name one lock file.
fn held_otherwise(paths: &LockPaths) -> Option<LockPaths> {
    let holds = with_registry(|registry| {
        let held = registry.locks.iter().filter_map(|(other, entry)| {
            let hold = entry.lock.hold().filter(|_| other.is_spelled_otherwise(paths))?;
            Some((other.clone(), Arc::clone(&hold.lock)))
        });
        held.collect::<Vec<_>>()
    });
    let is_it = |held: &HeldLock| drive::guarded(paths, || held.is_also_at(paths.lock()));
    holds.into_iter().find(|(_, held)| is_it(held).unwrap_or(false)).map(|(other, _)| other)
}

/// A sweep has removed this lock file: a waiter in this process makes an attempt at once.
pub fn removed(paths: &LockPaths) {
    if with_registry(|registry| registry.locks.contains_key(paths)) {
        happen(paths, |lock, _| lock.removed());
    }
}

/// Ends all holds that are too long at `now`. For tests: [`lock::Lock::time`] does that by itself.
pub fn run_watchdog(now: Instant) {
    for paths in with_registry(|registry| registry.all_locks()) {
        happen(&paths, |lock, _| lock.run_watchdog(now));
    }
}

/// How many holds the watchdog has ended; their files may still be on disk. For tests.
pub fn watchdog_releases() -> usize {
    with_registry(|registry| registry.watchdog_releases)
}

/// Whether the workers have nothing to do. Work in quick folders runs on other threads, and does not count.
pub fn is_idle() -> bool {
    os::is_idle()
}

impl Registry {
    /// Whether any thread may make system calls there.
    fn is_quick(&self, folder: Option<&Path>) -> bool {
        folder.is_some_and(|folder| self.folders.is_quick(folder))
    }

    fn has_arrivals(&mut self, session_file: &Path) -> bool {
        let is_empty = self.arrivals.get(session_file).is_none_or(VecDeque::is_empty);
        if is_empty {
            self.arrivals.remove(session_file);
        }
        !is_empty
    }

    fn entry(&mut self, paths: &LockPaths) -> &mut Entry {
        let new = || Entry::new(paths.clone(), self.last_wait);
        self.locks.entry(paths.clone()).or_insert_with(new)
    }

    fn forget(&mut self, paths: &LockPaths) -> Option<Entry> {
        let entry = self.locks.remove(paths)?;
        self.last_wait = self.last_wait.max(entry.lock.last_wait());
        Some(entry)
    }

    fn all_locks(&self) -> Vec<LockPaths> {
        self.locks.keys().cloned().collect()
    }

    fn held(&self, handle: Handle) -> Option<(LockPaths, Arc<HeldLock>)> {
        let Acquisition::Held(paths) = self.handles.get(&handle)? else {
            return None;
        };
        let hold = self.locks.get(paths)?.lock.hold()?;
        hold.handles.contains(&handle).then(|| (paths.clone(), Arc::clone(&hold.lock)))
    }
}
