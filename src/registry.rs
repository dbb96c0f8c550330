//! This process's locks and those who wait for them.
//!
//! An *environment* is one JavaScript world: the main thread or a worker. Re-entrancy belongs to
//! one environment; between environments, and between processes, the lock file excludes. Callers
//! arrive per session file, in order; once the lock's path is found they stand in that lock's
//! queue, and only the first of them contends on disk.
//!
//! The mutex here guards bookkeeping only. No system call of the protocol is made and no caller's
//! code is run while it is held, except the hand-over of an outcome, which never waits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::executor::{self, Place};
use crate::protocol::{self, Attempt, Claim, Contended, HeldLock, LockPaths, SETTLE};
use crate::verdict::Patience;

/// One JavaScript world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Environment(pub u64);

/// One acquisition that was granted: what a caller releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub environment: Environment,
    /// The file to protect; absolute.
    pub session_file: PathBuf,
    /// How long to wait, in milliseconds; `None` is for ever. One attempt is always made.
    pub timeout_ms: Option<u64>,
    /// See [`Patience`].
    pub stale_ms: u64,
    /// Goes into the record.
    pub max_hold_ms: u64,
    /// Whether a lock that this environment already holds will do.
    pub allow_reentrant: bool,
}

/// A lock that was granted.
#[derive(Debug, Clone)]
pub struct Grant {
    /// To release it by.
    pub handle: Handle,
    /// The lock file.
    pub lock_path: PathBuf,
}

/// Told once how an acquire ended, on a thread of ours; or dropped, if its environment has ended.
/// Must not wait and must not call back into this module.
pub type Deliver = Box<dyn FnOnce(Result<Grant>) + Send>;

struct Waiter {
    request: Request,
    deadline: Option<Instant>,
    deliver: Deliver,
}

/// Everybody in this process who wants one lock.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// A job works on this queue; whoever adds something sets `look_again` instead of starting one.
    is_running: bool,
    look_again: bool,
    /// Taken over from an older process, and ours if it stays so until then.
    settling: Option<(HeldLock, Instant)>,
    /// How often the first waiter found the lock contended.
    failures: u32,
    /// The next look that is on the executor's agenda.
    next_look: Option<Instant>,
}

/// A lock that this process holds.
struct Hold {
    environment: Environment,
    lock: Arc<HeldLock>,
    /// The acquisitions that share it.
    handles: HashSet<Handle>,
}

#[derive(Default)]
struct Registry {
    /// By session file: whose lock's path is still to be found.
    arrivals: HashMap<PathBuf, VecDeque<Waiter>>,
    queues: HashMap<LockPaths, Queue>,
    holds: Vec<Hold>,
    handles: u64,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// Asks for a lock. Returns at once; `deliver` hears how it ended.
pub fn acquire(request: Request, deliver: Deliver) {
    let deadline = request
        .timeout_ms
        .and_then(|timeout_ms| Instant::now().checked_add(Duration::from_millis(timeout_ms)));
    let session_file = request.session_file.clone();
    let is_first = with_registry(|registry| {
        let arrivals = registry.arrivals.entry(session_file.clone()).or_default();
        arrivals.push_back(Waiter { request, deadline, deliver });
        arrivals.len() == 1
    });
    if is_first {
        executor::run(Box::new(move |place| match place {
            Place::OwnThread => admit(&session_file),
            Place::CallersThread => turn_away(&session_file),
        }));
    }
}

/// Whether a granted lock is still held when its caller finally hears of it: all locks of the
/// environment may have been released in between.
pub fn is_held(handle: Handle) -> bool {
    with_registry(|registry| registry.holds.iter().any(|hold| hold.handles.contains(&handle)))
}

/// Gives one acquisition back, once; the lock goes with the last one. `done` hears how that went,
/// at once or on a thread of ours.
pub fn release(handle: Handle, done: Box<dyn FnOnce(Result<()>) + Send>) {
    let Some(lock) = with_registry(|registry| registry.give_back(handle)) else {
        return done(Ok(()));
    };
    executor::run(Box::new(move |_| done(put_down(&lock))));
}

/// Gives back every lock of an environment, however often it was re-entered, before it returns.
/// Says how many there were.
pub fn release_all(environment: Environment) -> usize {
    let locks = with_registry(|registry| registry.take_all(environment));
    let count = locks.len();
    for lock in locks {
        // Unlocked in any case; a file that could not be removed is dead, and says so to the
        // next contender.
        let _ = put_down(&lock);
    }
    count
}

/// Forgets an environment that has ended: its waiters and its locks.
pub fn end(environment: Environment) {
    with_registry(|registry| {
        let queues = registry.queues.values_mut().map(|queue| &mut queue.waiters);
        for waiters in queues.chain(registry.arrivals.values_mut()) {
            waiters.retain(|waiter| waiter.request.environment != environment);
        }
    });
    release_all(environment);
}

/// Finds out whose queue the arrivals for one session file belong to, and lets them in one after
/// the other. Until then each stays among the arrivals, where the end of its environment finds it.
fn admit(session_file: &PathBuf) {
    while with_registry(|registry| registry.has_arrivals(session_file)) {
        let resolved = LockPaths::resolve(session_file);
        let admitted = with_registry(|registry| {
            let waiter = registry.arrivals.get_mut(session_file)?.pop_front()?;
            match resolved {
                Ok(paths) => {
                    registry.queues.entry(paths.clone()).or_default().waiters.push_back(waiter);
                    Some(paths)
                }
                Err(error) => {
                    (waiter.deliver)(Err(error));
                    None
                }
            }
        });
        if let Some(paths) = admitted {
            serve(&paths);
        }
    }
}

/// The system gave no thread to work on.
fn turn_away(session_file: &PathBuf) {
    with_registry(|registry| {
        for waiter in registry.arrivals.remove(session_file).into_iter().flatten() {
            (waiter.deliver)(Err(Error::System {
                errno: Errno::AGAIN,
                syscall: "pthread_create",
                path: session_file.clone(),
            }));
        }
    });
}

/// Gives the file back and lets the next waiter of this process look at once.
fn put_down(lock: &HeldLock) -> Result<()> {
    let result = lock.release();
    let paths = lock.paths().clone();
    if with_registry(|registry| registry.queues.contains_key(&paths)) {
        executor::run(Box::new(move |place| {
            // A waiter has a look on the agenda, and that a thread.
            if place == Place::OwnThread {
                serve(&paths);
            }
        }));
    }
    result
}

// --- Serving a queue ----------------------------------------------------------------------------

/// Works on a queue until nobody waits or the lock is somebody else's, then puts the next look on
/// the agenda. One thread at a time; a second call makes the first one look again.
fn serve(paths: &LockPaths) {
    let is_mine = with_registry(|registry| match registry.queues.get_mut(paths) {
        None => false,
        Some(queue) if queue.is_running => {
            queue.look_again = true;
            false
        }
        Some(queue) => {
            queue.is_running = true;
            true
        }
    });
    if !is_mine {
        return;
    }
    while let Next::Again = step(paths) {}
}

enum Next {
    Again,
    Stop,
}

/// One look at the lock for the first waiter.
fn step(paths: &LockPaths) -> Next {
    let now = Instant::now();
    share_held_lock(paths);
    let Some(task) = with_registry(|registry| registry.next_task(paths, now)) else {
        return Next::Stop;
    };
    match task {
        Task::Sleep(until) => sleep(paths, until),
        Task::Confirm(lock) => {
            match lock.is_at_its_path() {
                Ok(true) => grant(paths, lock),
                Ok(false) => drop(lock),
                Err(error) => refuse_first(paths, error),
            }
            Next::Again
        }
        Task::Attempt(claim) => match protocol::attempt(paths, &claim) {
            Ok(Attempt::Acquired(lock)) => {
                grant(paths, lock);
                Next::Again
            }
            Ok(Attempt::Settling(lock)) => {
                with_registry(|registry| {
                    if let Some(queue) = registry.queues.get_mut(paths) {
                        queue.settling = Some((lock, Instant::now() + SETTLE));
                    }
                });
                Next::Again
            }
            Ok(Attempt::Contended(contended)) => {
                with_registry(|registry| registry.expire(paths, now, &contended));
                sleep(paths, None)
            }
            Err(error) => {
                refuse_first(paths, error);
                Next::Again
            }
        },
    }
}

enum Task {
    /// Nothing to do before then; `None`: until the next look is due.
    Sleep(Option<Instant>),
    Confirm(HeldLock),
    Attempt(Claim),
}

/// Lets re-entrant waiters in whose environment holds the lock, if it still does.
fn share_held_lock(paths: &LockPaths) {
    let held: Vec<_> = with_registry(|registry| {
        let wanted = registry.queues.get(paths).map(|queue| &queue.waiters);
        let is_wanted = |hold: &Hold| {
            wanted.is_some_and(|waiters| waiters.iter().any(|waiter| waiter.may_share(hold)))
        };
        let holds = registry.holds.iter().filter(|hold| hold.lock.paths() == paths);
        holds.filter(|hold| is_wanted(hold)).map(|hold| Arc::clone(&hold.lock)).collect()
    });
    for lock in held {
        // A lock whose file was taken away protects nothing: who wants one now has to contend.
        let is_whole = lock.is_at_its_path().unwrap_or(true);
        with_registry(|registry| registry.share_or_drop(paths, &lock, is_whole));
    }
}

/// Hands a new lock to the first waiter, or puts it down if nobody waits any more.
fn grant(paths: &LockPaths, lock: HeldLock) {
    let lock = Arc::new(lock);
    let unwanted = with_registry(|registry| {
        let first = registry.queues.get_mut(paths).and_then(|queue| {
            queue.failures = 0;
            queue.waiters.pop_front()
        });
        let Some(waiter) = first else {
            return Some(lock);
        };
        let handle = registry.new_handle();
        registry.holds.push(Hold {
            environment: waiter.request.environment,
            lock,
            handles: HashSet::from([handle]),
        });
        (waiter.deliver)(Ok(Grant { handle, lock_path: paths.lock().to_owned() }));
        None
    });
    if let Some(lock) = unwanted {
        let _ = lock.release(); // as in `release_all`
    }
}

/// The first waiter's attempt failed for good; those behind it try for themselves.
fn refuse_first(paths: &LockPaths, error: Error) {
    with_registry(|registry| {
        if let Some(waiter) =
            registry.queues.get_mut(paths).and_then(|queue| queue.waiters.pop_front())
        {
            (waiter.deliver)(Err(error));
        }
    });
}

/// Puts the next look on the agenda, unless something has happened meanwhile.
fn sleep(paths: &LockPaths, until: Option<Instant>) -> Next {
    with_registry(|registry| {
        let Some(queue) = registry.queues.get_mut(paths) else {
            return Next::Stop;
        };
        if std::mem::take(&mut queue.look_again) {
            return Next::Again;
        }
        queue.is_running = false;
        let now = Instant::now();
        let deadline = queue.waiters.iter().filter_map(|waiter| waiter.deadline).min();
        let look = until.unwrap_or_else(|| {
            let recheck = now + recheck_after(queue.failures);
            deadline.map_or(recheck, |deadline| recheck.min(deadline))
        });
        queue.failures = queue.failures.saturating_add(1);
        // An earlier look that is on the agenda already will do, and comes back here.
        if queue.next_look.is_none_or(|planned| planned <= now || look < planned) {
            queue.next_look = Some(look);
            let paths = paths.clone();
            executor::run_at(look, Box::new(move |_| serve(&paths)));
        }
        Next::Stop
    })
}

/// How long to leave a contended lock alone: soon at first, then about 30 times a second.
fn recheck_after(failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_millis(32);
    Duration::from_millis(1 << failures.min(5)).min(LONGEST)
}

impl Waiter {
    fn may_share(&self, hold: &Hold) -> bool {
        self.request.allow_reentrant && self.request.environment == hold.environment
    }
}

impl Registry {
    fn new_handle(&mut self) -> Handle {
        self.handles += 1;
        Handle(self.handles)
    }

    fn has_arrivals(&mut self, session_file: &PathBuf) -> bool {
        let is_empty = self.arrivals.get(session_file).is_none_or(VecDeque::is_empty);
        if is_empty {
            self.arrivals.remove(session_file);
        }
        !is_empty
    }

    /// What to do for the first waiter. `None`: nobody waits, and the queue is gone.
    fn next_task(&mut self, paths: &LockPaths, now: Instant) -> Option<Task> {
        let is_held_here = self.holds.iter().any(|hold| hold.lock.paths() == paths);
        let queue = self.queues.get_mut(paths)?;
        queue.look_again = false;
        if let Some((lock, until)) = queue.settling.take() {
            if now < until {
                queue.settling = Some((lock, until));
                return Some(Task::Sleep(Some(until)));
            }
            return Some(Task::Confirm(lock));
        }
        let Some(first) = queue.waiters.front() else {
            self.queues.remove(paths);
            return None;
        };
        Some(Task::Attempt(Claim {
            max_hold_ms: first.request.max_hold_ms,
            patience: Patience::new(first.request.stale_ms, first.request.timeout_ms),
            is_held_here,
        }))
    }

    /// Tells those whose deadline had come before the look who was in the way.
    fn expire(&mut self, paths: &LockPaths, looked_at: Instant, contended: &Contended) {
        let Some(queue) = self.queues.get_mut(paths) else {
            return;
        };
        let waiters = std::mem::take(&mut queue.waiters);
        for waiter in waiters {
            match (waiter.deadline, waiter.request.timeout_ms) {
                (Some(deadline), Some(timeout_ms)) if deadline <= looked_at => {
                    (waiter.deliver)(Err(Error::Timeout {
                        timeout_ms,
                        lock_path: paths.lock().to_owned(),
                        contended: Box::new(contended.clone()),
                    }));
                }
                _ => queue.waiters.push_back(waiter),
            }
        }
    }

    fn share_or_drop(&mut self, paths: &LockPaths, lock: &Arc<HeldLock>, is_whole: bool) {
        let Some(place) = self.holds.iter().position(|hold| Arc::ptr_eq(&hold.lock, lock)) else {
            return; // released meanwhile
        };
        if !is_whole {
            self.holds.swap_remove(place);
            return;
        }
        let Some(queue) = self.queues.get_mut(paths) else {
            return;
        };
        let (sharing, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut queue.waiters)
            .into_iter()
            .partition(|waiter| waiter.may_share(&self.holds[place]));
        queue.waiters = waiting;
        for waiter in sharing {
            let handle = self.new_handle();
            self.holds[place].handles.insert(handle);
            (waiter.deliver)(Ok(Grant { handle, lock_path: paths.lock().to_owned() }));
        }
    }

    /// Removes one acquisition. The lock, if it was the last one.
    fn give_back(&mut self, handle: Handle) -> Option<Arc<HeldLock>> {
        let place = self.holds.iter().position(|hold| hold.handles.contains(&handle))?;
        let handles = &mut self.holds[place].handles;
        handles.remove(&handle);
        handles.is_empty().then(|| self.holds.swap_remove(place).lock)
    }

    fn take_all(&mut self, environment: Environment) -> Vec<Arc<HeldLock>> {
        let (gone, kept) = std::mem::take(&mut self.holds)
            .into_iter()
            .partition(|hold| hold.environment == environment);
        self.holds = kept;
        gone.into_iter().map(|hold| hold.lock).collect()
    }
}

/// The bookkeeping is whole between any two statements that can panic, so poison means nothing.
fn with_registry<T>(use_it: impl FnOnce(&mut Registry) -> T) -> T {
    let mut registry: MutexGuard<'_, Option<Registry>> =
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(registry.get_or_insert_with(Registry::default))
}
