//! This process's locks and those who wait for them.
//!
//! An *environment* is one JavaScript world: the main thread or a worker. Re-entrancy belongs to
//! one environment; between environments, and between processes, the lock file excludes. Callers
//! arrive per session file, in order; once the lock's path is found they stand in that lock's
//! queue, and only the first of them contends on disk.
//!
//! A queue is worked on in *steps*: look at the lock; hand it over, or leave it alone until looking
//! again can matter. A step is started by an arrival, a release, or [`crate::wait`].
//!
//! The mutex here guards bookkeeping only. No system call of the protocol is made and no caller's
//! code is run while it is held.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::executor::{self, Place};
use crate::protocol::{
    self, Attempt, Claim, Cleared, Contended, HandedOn, HeldLock, Line, LockPaths, Recheck, SETTLE,
    WaitedFor,
};
use crate::time;
use crate::verdict::Patience;
use crate::wait::{self, Arrival, Timer, Watch};
use crate::witness::{self, Witness};

/// One JavaScript world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Environment(pub u64);

/// One acquisition that was granted: what a caller releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// What a caller calls its acquire, to cancel it by; unique within its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Whose numbers these are.
    pub client: u64,
    /// One of them.
    pub number: u64,
}

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub environment: Environment,
    /// What it calls this.
    pub ticket: Ticket,
    /// The file to protect; absolute.
    pub session_file: PathBuf,
    /// How long to wait, in milliseconds; `None` is for ever. One attempt is always made.
    pub timeout_ms: Option<u64>,
    /// See [`Patience`].
    pub stale_ms: u64,
    /// When the watchdog releases, in milliseconds after the lock was acquired.
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

/// Told once how an acquire ended, on any thread; or dropped, if it was cancelled or its
/// environment has ended. Must not wait.
pub type Deliver = Box<dyn FnOnce(Result<Grant>) + Send>;

/// Told once that a lock was lost, on any thread. Must not wait.
pub type TellLoss = Arc<dyn Fn(Loss) + Send + Sync>;

struct Waiter {
    request: Request,
    deadline: Option<Instant>,
    deliver: Deliver,
    /// Ends the wait where looking at the lock takes for ever.
    _overdue: Option<Timer>,
}

/// Everybody in this process who wants one lock.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// A thread works on this queue; whoever changes something sets `look_again` instead.
    is_running: bool,
    look_again: bool,
    /// Taken over, and ours if it stays so until then.
    settling: Option<(HeldLock, Instant)>,
    /// What the last look found in the way, and is being watched.
    obstacle: Option<Obstacle>,
    /// Something has happened to what is in the way.
    is_stirred: bool,
    /// How often in a row the lock was found contended by something that can't be watched.
    blind_looks: u32,
    alarm: Option<Timer>,
}

/// Something in the way, and who tells us when it changes.
#[derive(Default)]
struct Obstacle {
    contended: Contended,
    change: Option<Watch>,
    exit: Option<Watch>,
    place: Option<wait::Place>,
    /// Its process was alive when it was judged, and gone when it was to be watched.
    has_ended: bool,
    /// How often it was still there since something last happened to it.
    quiet_looks: u32,
}

/// A lock that this process holds.
struct Hold {
    environment: Environment,
    lock: Arc<HeldLock>,
    /// The acquisitions that share it.
    handles: HashSet<Handle>,
    since: Instant,
    /// The same on the wall clock, for people.
    acquired_at_ms: i64,
    /// Since when this process has had the lock again and again, ahead of those in line.
    series: Instant,
    /// How long it may be held; the watchdog's business.
    limit: Duration,
    /// Who wants to know if it is lost, and what watches for that.
    tell_loss: Vec<TellLoss>,
    loss_watch: Option<Watch>,
}

/// A lock file that this process left to those in line for it.
struct Left {
    file: HandedOn,
    at: Instant,
    /// As in [`Hold`].
    series: Instant,
}

#[derive(Default)]
struct Registry {
    /// By session file: whose lock's path is still to be found.
    arrivals: HashMap<PathBuf, VecDeque<Waiter>>,
    queues: HashMap<LockPaths, Queue>,
    /// Folders, as they were named and as they really are, on file systems of this kernel's own.
    local_folders: HashSet<PathBuf>,
    /// By lock: one, or more where locks were lost and not yet released.
    holds: HashMap<LockPaths, Vec<Hold>>,
    handles: HashMap<Handle, LockPaths>,
    last_handle: u64,
    left: HashMap<LockPaths, Left>,
    /// The locks whose files are looked back at before long.
    looks_back: HashSet<LockPaths>,
    /// Why a handle that nobody has released yet holds nothing any more.
    lost: HashMap<Handle, Loss>,
    /// When the watchdog looks next.
    watchdog: Option<(Instant, Timer)>,
    /// How many locks the watchdog has released, and how many of them may still be on the disk.
    watchdog_releases: usize,
    watchdog_underway: usize,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// How long a wait must last before it is worth watching who reads the file.
const WATCH_READERS_AFTER: Duration = Duration::from_millis(8);

/// How long a process may take a lock again and again ahead of those in line. Within that, coming
/// back costs no change of threads; and it is about as long as a few of those take.
const LONGEST_SERIES: Duration = Duration::from_millis(2);

/// When a lock file that was left to those in line is looked back at: longer than the first of them
/// takes to wake up.
const LOOK_BACK_AFTER: Duration = Duration::from_millis(50);

/// More folders than this are not remembered; a gateway has a few.
const MOST_FOLDERS: usize = 1024;

/// How long after its deadline a waiter whose look at the lock hangs (on a mount whose server is
/// gone) is sent home without one.
const HUNG_AFTER: Duration = Duration::from_secs(2);

// --- What callers do ----------------------------------------------------------------------------

/// Asks for a lock. Returns at once; `deliver` hears how it ended, perhaps before that.
///
/// In a folder that is known to be local the first look is had right here: it takes less of the
/// calling thread than handing it over would, and far less time. Elsewhere no system call is made
/// on this thread.
pub fn acquire(request: Request, deliver: Deliver) {
    let deadline = request
        .timeout_ms
        .and_then(|timeout_ms| Instant::now().checked_add(Duration::from_millis(timeout_ms)));
    let session_file = request.session_file.clone();
    let is_local = with_registry(|registry| registry.is_known_local(session_file.parent()));
    let overdue = deadline.filter(|_| !is_local).and_then(|deadline| {
        let (environment, ticket) = (request.environment, request.ticket);
        wait::at(deadline + HUNG_AFTER, move || give_up(environment, ticket)).ok()
    });
    let is_first = with_registry(|registry| {
        let arrivals = registry.arrivals.entry(session_file.clone()).or_default();
        arrivals.push_back(Waiter { request, deadline, deliver, _overdue: overdue });
        arrivals.len() == 1
    });
    if is_first && is_local {
        admit(&session_file);
    } else if is_first {
        executor::run(Box::new(move |place| match place {
            Place::OwnThread => admit(&session_file),
            Place::CallersThread => turn_away(&session_file),
        }));
    }
}

/// Takes the lock now, or says that it can't be had now: `None`. Doesn't queue.
///
/// A dead lock is taken over here as well, and then takes [`SETTLE`].
pub fn try_acquire(request: &Request) -> Result<Option<Grant>> {
    let paths = LockPaths::resolve(&request.session_file)?;
    let (shared, claim) = with_registry(|registry| {
        let hold = registry.holds_of(&paths).iter().find(|hold| request.may_share(hold));
        (hold.map(|hold| Arc::clone(&hold.lock)), registry.claim(&paths, request))
    });
    if let Some(lock) = shared {
        check_loss(&lock);
        let grant = with_registry(|registry| registry.share(&lock));
        if grant.is_some() {
            return Ok(grant);
        }
    }
    let lock = match protocol::attempt(&paths, &claim)? {
        Attempt::Acquired(lock) => lock,
        Attempt::Contended(_) => return Ok(None),
        Attempt::TakenOver(lock) => {
            #[expect(clippy::disallowed_methods, reason = "the caller asked to block")]
            std::thread::sleep(SETTLE);
            if !lock.is_at_its_path()? {
                return Ok(None);
            }
            lock
        }
    };
    Ok(Some(with_registry(|registry| registry.hold(request, Arc::new(lock), Instant::now()))))
}

/// Withdraws an acquire. `false` if it has ended already, and its outcome is on its way.
pub fn cancel(environment: Environment, ticket: Ticket) -> bool {
    withdraw(environment, ticket).is_some()
}

/// Whether a lock is still registered as held: all of an environment may have been released
/// between the grant and the moment in which its caller hears of it.
pub fn is_registered(handle: Handle) -> bool {
    with_registry(|registry| registry.handles.contains_key(&handle))
}

/// Whether a lock is held, and its file still ours: asks the file system.
pub fn is_held(handle: Handle) -> bool {
    let lock = with_registry(|registry| Some(Arc::clone(&registry.hold_of(handle)?.lock)));
    // What can't be asked hasn't been refuted.
    lock.is_some_and(|lock| lock.is_at_its_path().unwrap_or(true))
}

/// Has `tell` told when the lock is lost. If it isn't held any more, says why instead.
pub fn watch_loss(handle: Handle, tell: TellLoss) -> Option<Loss> {
    let held = with_registry(|registry| {
        let lost = registry.lost.get(&handle).copied();
        let hold = registry.hold_of(handle).ok_or(lost.unwrap_or(Loss::Released))?;
        hold.tell_loss.push(tell);
        Ok((Arc::clone(&hold.lock), hold.loss_watch.is_some()))
    });
    let lock = match held {
        Err(loss) => return Some(loss),
        Ok((_, true)) => return None,
        Ok((lock, false)) => lock,
    };
    let watched = Arc::downgrade(&lock);
    let check = move || {
        if let Some(lock) = watched.upgrade() {
            check_loss(&lock);
        }
    };
    match wait::on_change(lock.file(), check) {
        Some(watch) => with_registry(|registry| {
            if let Some(hold) = registry.hold_of(handle) {
                hold.loss_watch = Some(watch);
            }
        }),
        None => look_for_loss(&Arc::downgrade(&lock)),
    }
    // It may have been lost before anybody watched.
    check_loss(&lock);
    with_registry(|registry| registry.lost.get(&handle).copied())
}

/// Gives one acquisition back, once; the lock goes with the last one. `done` hears how that went,
/// perhaps before this returns: see [`acquire`].
pub fn release(handle: Handle, done: Box<dyn FnOnce(Result<()>) + Send>) {
    let (hold, is_local) = with_registry(|registry| {
        let hold = registry.give_back(handle);
        let folder = hold.as_ref().map(|hold| hold.lock.paths().folder());
        let is_local = registry.is_known_local(folder);
        (hold, is_local)
    });
    match hold {
        None => done(Ok(())),
        Some(hold) if is_local => {
            let paths = hold.lock.paths().clone();
            let result = put_down(hold);
            // Who waits here is served here.
            serve(&paths);
            done(result);
        }
        Some(hold) => executor::run(Box::new(move |_| done(put_down_and_tell(hold)))),
    }
}

/// Gives back every lock of an environment, however often it was re-entered, before it returns.
/// Says how many there were.
pub fn release_all(environment: Environment) -> usize {
    let holds =
        with_registry(|registry| registry.take_everywhere(|hold| hold.environment == environment));
    let count = holds.len();
    for hold in holds {
        hold.tell(Loss::Released);
        // Unlocked in any case; a file that could not be removed is dead, and says so to the
        // next contender.
        let _ = remove_and_tell(hold);
    }
    count
}

/// Forgets an environment that has ended: its waiters and its locks.
pub fn end(environment: Environment) {
    let queues = with_registry(|registry| {
        let queues = registry.queues.values_mut().map(|queue| &mut queue.waiters);
        for waiters in queues.chain(registry.arrivals.values_mut()) {
            waiters.retain(|waiter| waiter.request.environment != environment);
        }
        registry.abandoned_queues()
    });
    queues.into_iter().for_each(abandon);
    release_all(environment);
    // It may have been the last one, and nobody look back after it.
    let left = with_registry(|registry| std::mem::take(&mut registry.left));
    for (paths, left) in left {
        if left.file.clear() == Cleared::NotYet {
            leave(&paths, left);
        }
    }
}

// --- What others ask ----------------------------------------------------------------------------

/// A lock that this process holds, for those who want to see.
#[derive(Debug, Clone)]
pub struct Held {
    /// The lock file.
    pub lock_path: PathBuf,
    /// When it was granted, on the wall clock.
    pub acquired_at_ms: i64,
    /// How long ago that was, on the monotonic clock.
    pub held_for: Duration,
    /// How long it may be held.
    pub limit: Duration,
    /// How many acquisitions share it.
    pub acquisitions: usize,
    /// How many acquires of this process wait for it.
    pub waiters: usize,
}

/// What this process holds, by the path of the lock file. Asks nobody: a loss that nobody has
/// noticed isn't known here either.
pub fn held() -> Vec<Held> {
    let mut held: Vec<_> = with_registry(|registry| {
        let holds = registry
            .holds
            .iter()
            .flat_map(|(paths, holds)| holds.iter().map(move |hold| (paths, hold)));
        let waiters = |paths| registry.queues.get(paths).map_or(0, |queue| queue.waiters.len());
        holds.map(|(paths, hold)| hold.describe(waiters(paths))).collect()
    });
    held.sort_by(|one, other| one.lock_path.as_os_str().cmp(other.lock_path.as_os_str()));
    held
}

/// Whether this process holds that lock, as far as it knows.
pub fn is_held_here(paths: &LockPaths) -> bool {
    with_registry(|registry| !registry.holds_of(paths).is_empty())
}

/// A lock file has gone: who waits for it in this process has a look at once.
pub fn look_again(paths: &LockPaths) {
    if with_registry(|registry| registry.queues.contains_key(paths)) {
        serve_elsewhere(paths.clone());
    }
}

// --- Arriving and leaving -----------------------------------------------------------------------

/// Finds out whose queue the arrivals for one session file belong to, and lets them in one after
/// the other. Until then each stays among the arrivals, where the end of its environment finds it.
fn admit(session_file: &Path) {
    while with_registry(|registry| registry.has_arrivals(session_file)) {
        match LockPaths::resolve(session_file) {
            Ok(paths) => {
                learn_locality(session_file, &paths);
                // In one step: whoever looks finds every waiter in one place or the other.
                with_registry(|registry| {
                    let queue = registry.queues.entry(paths.clone()).or_default();
                    let arrivals = registry.arrivals.get_mut(session_file);
                    queue.waiters.extend(arrivals.and_then(VecDeque::pop_front));
                });
                serve(&paths);
            }
            Err(error) => {
                let first = with_registry(|r| r.arrivals.get_mut(session_file)?.pop_front());
                if let Some(waiter) = first {
                    (waiter.deliver)(Err(error));
                }
            }
        }
    }
}

/// Finds out, once per folder, whether looks at its locks may be had on any thread.
fn learn_locality(session_file: &Path, paths: &LockPaths) {
    if with_registry(|registry| registry.is_known_local(session_file.parent())) {
        return;
    }
    if witness::is_local_folder(paths.folder()) {
        with_registry(|registry| {
            if registry.local_folders.len() >= MOST_FOLDERS {
                registry.local_folders.clear();
            }
            registry.local_folders.extend(session_file.parent().map(Path::to_owned));
            registry.local_folders.insert(paths.folder().to_owned());
        });
    }
}

/// Takes a waiter out of where it stands.
fn withdraw(environment: Environment, ticket: Ticket) -> Option<Waiter> {
    let is_it = |waiter: &Waiter| {
        waiter.request.environment == environment && waiter.request.ticket == ticket
    };
    let take = |waiters: &mut VecDeque<Waiter>| waiters.remove(waiters.iter().position(is_it)?);
    let (waiter, abandoned) = with_registry(|registry| {
        if let Some(waiter) = registry.arrivals.values_mut().find_map(take) {
            return (Some(waiter), None);
        }
        let found = registry.queues.iter_mut().find_map(|(paths, queue)| {
            let waiter = take(&mut queue.waiters)?;
            Some((waiter, queue.waiters.is_empty().then(|| paths.clone())))
        });
        found.map_or((None, None), |(waiter, abandoned)| (Some(waiter), abandoned))
    });
    abandoned.into_iter().for_each(abandon);
    waiter
}

/// Nobody waits there any more: the queue goes, with its watch and descriptor. Its place in line, by
/// which the holder goes, right now; who comes before the queue is gone stands in line anew.
fn abandon(paths: LockPaths) {
    let obstacle = with_registry(|registry| {
        let queue = registry.queues.get_mut(&paths).filter(|queue| queue.is_abandoned())?;
        queue.obstacle.take()
    });
    if let Some(obstacle) = obstacle {
        obstacle.give_up();
    }
    serve_elsewhere(paths);
}

/// The deadline is over and nobody has said so: a look at the lock hangs.
fn give_up(environment: Environment, ticket: Ticket) {
    if let Some(Waiter { request, deliver, .. }) = withdraw(environment, ticket) {
        deliver(Err(Error::Timeout {
            timeout_ms: request.timeout_ms.unwrap_or(0),
            lock_path: request.session_file.with_added_extension("lock"),
            report: Box::default(),
        }));
    }
}

/// The system gave no thread to work on.
fn turn_away(session_file: &Path) {
    let arrivals = with_registry(|registry| registry.arrivals.remove(session_file));
    for waiter in arrivals.into_iter().flatten() {
        (waiter.deliver)(Err(no_thread(session_file)));
    }
}

fn no_thread(path: &Path) -> Error {
    Error::System { errno: Errno::AGAIN, syscall: "pthread_create", path: path.to_owned() }
}

/// Gives the lock to those in line, or removes the file.
fn put_down(hold: Hold) -> Result<()> {
    let Hold { lock, series, loss_watch, .. } = hold;
    // First, or our own release would look like a loss.
    drop(loss_watch);
    let at = Instant::now();
    if let Some(file) = lock.hand_on()? {
        leave(lock.paths(), Left { file, at, series });
    }
    Ok(())
}

/// The same, and lets the next waiter of this process look at once.
fn put_down_and_tell(hold: Hold) -> Result<()> {
    let paths = hold.lock.paths().clone();
    let result = put_down(hold);
    look_again(&paths);
    result
}

/// Removes the file, whoever is in line: for a process that may end.
fn remove_and_tell(hold: Hold) -> Result<()> {
    let paths = hold.lock.paths().clone();
    drop(hold.loss_watch); // as above
    let result = hold.lock.release();
    look_again(&paths);
    result
}

/// Remembers a lock file that was left to those in line, and sees to it that it is looked back at.
fn leave(paths: &LockPaths, left: Left) {
    let (outdated, is_planned) = with_registry(|registry| {
        // Two threads may leave a lock one after the other, and come here in the other order.
        let is_newer = registry.left.get(paths).is_none_or(|known| known.at <= left.at);
        let outdated =
            if is_newer { registry.left.insert(paths.clone(), left) } else { Some(left) };
        (outdated, !registry.looks_back.insert(paths.clone()))
    });
    drop(outdated);
    if !is_planned {
        plan_look_back(paths, Instant::now() + LOOK_BACK_AFTER);
    }
}

fn plan_look_back(paths: &LockPaths, at: Instant) {
    let look = {
        let paths = paths.clone();
        move || look_back(&paths)
    };
    // On the waiting thread: only files on local disks are handed on.
    match wait::at(at, look) {
        Ok(timer) => timer.detach(),
        // Without that thread, who is in line will have to come; the next hand-over tries again.
        Err(_) => with_registry(|registry| {
            registry.looks_back.remove(paths);
        }),
    }
}

/// Removes the file if nobody has taken it; forgets it if somebody has, and we have not come back.
fn look_back(paths: &LockPaths) {
    let now = Instant::now();
    let left = with_registry(|registry| {
        registry.looks_back.remove(paths);
        registry.left.remove(paths)
    });
    let Some(left) = left else { return };
    if left.at + LOOK_BACK_AFTER > now || left.file.clear() == Cleared::NotYet {
        leave(paths, left);
    }
}

// --- Serving a queue ----------------------------------------------------------------------------

fn serve_elsewhere(paths: LockPaths) {
    executor::run(Box::new(move |place| {
        // Without a thread: whoever waits has a look on the waiting thread's agenda.
        if place == Place::OwnThread {
            serve(&paths);
        }
    }));
}

/// Works on a queue until nobody waits or the lock is somebody else's. One thread at a time; a
/// second call makes the first one look again.
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

/// What to do for the first waiter.
enum Task {
    Settle(HeldLock, Instant),
    /// Goes back to a lock file that this process has left to those in line.
    Return(Claim, Left, Option<Obstacle>),
    Attempt(Claim),
    /// Looks again at what the last look found in the way.
    MeetAgain(Claim, Obstacle),
}

/// One look at the lock.
fn step(paths: &LockPaths) -> Next {
    let now = Instant::now();
    // Before anything is looked at: whoever comes from here on is heard.
    with_registry(|registry| {
        if let Some(queue) = registry.queues.get_mut(paths) {
            queue.look_again = false;
        }
    });
    share_held_lock(paths);
    let task = match with_registry(|registry| registry.next_task(paths, now)) {
        Ok(task) => task,
        Err(leftovers) => {
            // Outside of the registry: closing files takes time.
            if let Some(obstacle) = leftovers.and_then(|queue| queue.obstacle) {
                obstacle.give_up();
            }
            return Next::Stop;
        }
    };
    match task {
        Task::Settle(lock, until) if now < until => {
            with_registry(|registry| {
                if let Some(queue) = registry.queues.get_mut(paths) {
                    queue.settling = Some((lock, until));
                }
            });
            sleep(paths, until)
        }
        Task::Settle(lock, _) => {
            match lock.is_at_its_path() {
                Ok(true) => grant(paths, lock, now),
                Ok(false) => drop(lock),
                Err(error) => refuse_first(paths, error),
            }
            Next::Again
        }
        Task::Return(claim, left, obstacle) => come_back(paths, now, &claim, left, obstacle),
        Task::Attempt(claim) => conclude(paths, now, protocol::attempt(paths, &claim), None),
        Task::MeetAgain(claim, obstacle) => meet_again(paths, now, &claim, obstacle),
    }
}

/// Goes back to a lock file that this process has left to those in line: ahead of them while the
/// series is short, behind them after that. `obstacle` is our own place in that line, if we have one.
fn come_back(
    paths: &LockPaths,
    now: Instant,
    claim: &Claim,
    left: Left,
    obstacle: Option<Obstacle>,
) -> Next {
    let returned = if left.may_go_on(now) {
        left.file.take_back(claim)
    } else if wait::has_lines() {
        left.file.stand_behind()
    } else {
        Ok(None)
    };
    let series = left.series;
    if matches!(returned, Ok(Some(Attempt::Contended(_)))) {
        leave(paths, left); // it may still come to be nobody's
    }
    match (returned, obstacle) {
        (Ok(Some(Attempt::Acquired(lock))), obstacle) => {
            let unused = with_registry(|registry| registry.keep_for_next(paths, obstacle));
            if let Some(obstacle) = &unused {
                obstacle.leave_line(); // or our own release would see somebody there
            }
            grant(paths, lock, series);
            Next::Again
        }
        (Ok(Some(Attempt::Contended(_))), Some(obstacle)) => keep_waiting(paths, now, obstacle),
        (Ok(Some(attempt)), _) => conclude(paths, now, Ok(attempt), None),
        (Ok(None), _) => conclude(paths, now, protocol::attempt(paths, claim), None),
        (Err(error), _) => conclude(paths, now, Err(error), None),
    }
}

/// Looks again at what the last look found in the way.
fn meet_again(paths: &LockPaths, now: Instant, claim: &Claim, obstacle: Obstacle) -> Next {
    let line = obstacle.line();
    let Obstacle { contended, change, exit, place, quiet_looks, .. } = obstacle;
    match protocol::recheck(paths, claim, contended, line) {
        Ok(Recheck::Still(contended)) => {
            // By now it is worth knowing whether others read the file, or take it away.
            let is_new = change.is_none() && place.is_some();
            let change = change.or_else(|| {
                place.as_ref()?;
                wait::on_removal(contended.file()?, when_stirred(paths, true))
            });
            if is_new && !contended.is_at_path(paths) {
                // It was removed before anybody watched.
                return conclude(paths, now, protocol::attempt(paths, claim), None);
            }
            let quiet_looks = quiet_looks.saturating_add(1);
            let has_ended = false;
            let obstacle = Obstacle { contended, change, exit, place, has_ended, quiet_looks };
            keep_waiting(paths, now, obstacle)
        }
        Ok(Recheck::Ended(attempt)) => conclude(paths, now, Ok(attempt), change),
        Ok(Recheck::Gone) => conclude(paths, now, protocol::attempt(paths, claim), None),
        Err(error) => conclude(paths, now, Err(error), None),
    }
}

/// What follows from an attempt. `watch` is that of the file which was taken over, if any.
fn conclude(
    paths: &LockPaths,
    now: Instant,
    attempted: Result<Attempt>,
    watch: Option<Watch>,
) -> Next {
    match attempted {
        Ok(Attempt::Acquired(lock)) => grant(paths, lock, Instant::now()),
        Ok(Attempt::TakenOver(lock)) => {
            let unread_since = watch.map_or_else(Instant::now, |watch| watch.unread_since());
            with_registry(|registry| {
                if let Some(queue) = registry.queues.get_mut(paths) {
                    queue.settling = Some((lock, unread_since + SETTLE));
                }
            });
        }
        Ok(Attempt::Contended(contended)) => {
            let obstacle = watch_obstacle(paths, contended);
            // Whatever happened before there was a watch has to be found out now. (In line nothing
            // is missed, and where nothing is told another look is due soon.)
            let is_as_it_was = !obstacle.is_watched()
                || obstacle.place.is_some()
                || obstacle.contended.is_still_there(paths);
            if is_as_it_was && !obstacle.has_ended {
                return keep_waiting(paths, now, obstacle);
            }
        }
        Err(error) => refuse_first(paths, error),
    }
    Next::Again
}

/// To be called when something has happened to what is in the way.
fn when_stirred(paths: &LockPaths, is_local: bool) -> impl Fn() + Send + Sync + 'static {
    let paths = paths.clone();
    move || {
        with_registry(|registry| {
            if let Some(queue) = registry.queues.get_mut(&paths) {
                queue.is_stirred = true;
            }
        });
        // A look at a local file is quick enough to be had right here.
        if is_local { serve(&paths) } else { serve_elsewhere(paths.clone()) }
    }
}

/// Has us told when what is in the way changes.
fn watch_obstacle(paths: &LockPaths, mut contended: Contended) -> Obstacle {
    let Some(file) = contended.file().map(Arc::clone) else {
        return Obstacle { contended, ..Obstacle::default() };
    };
    let is_local = with_registry(|registry| registry.is_known_local(Some(paths.folder())))
        || witness::is_local(&file);
    let look = || when_stirred(paths, is_local);
    let is_flocked = contended.witness() == Some(Witness::Flock);
    // Elsewhere another machine may release it, and nobody would tell.
    let has_line = is_local && is_flocked && wait::has_lines();
    if has_line {
        contended.prepare_for_line();
    }
    let file = contended.file().map_or(file, Arc::clone);
    let waited_for = contended.waited_for().filter(|_| has_line);
    let place = waited_for.and_then(|waited_for| stand_in_line(&file, waited_for, look()));
    let is_blind = is_local && place.is_none();
    let change = is_blind.then(|| wait::on_change(&file, look())).flatten();
    let exit = contended.pid_to_outlive().map(|pid| wait::on_exit(pid, look()));
    // With a witness the pid means nothing: it may be another namespace's.
    let has_ended = contended.witness().is_none() && matches!(exit, Some(Err(Errno::SRCH)));
    let exit = exit.and_then(std::result::Result::ok);
    Obstacle { contended, change, exit, place, has_ended, quiet_looks: Obstacle::QUIET }
}

/// Has us told when the flock is ours.
fn stand_in_line(
    file: &Arc<File>,
    waited_for: WaitedFor,
    look: impl Fn() + Send + Sync + 'static,
) -> Option<wait::Place> {
    let waited_for = Arc::new(waited_for);
    let in_line = Arc::clone(&waited_for);
    let place = wait::in_line(file, move |arrival| match arrival {
        Arrival::InTime => look(),
        Arrival::TooLate => in_line.decline(),
    });
    if place.is_none() {
        waited_for.leave();
    }
    place
}

/// Sends those home whose deadline has come, and sleeps for the others.
fn keep_waiting(paths: &LockPaths, now: Instant, obstacle: Obstacle) -> Next {
    let (expired, is_abandoned) = with_registry(|registry| registry.take_expired(paths, now));
    if is_abandoned {
        obstacle.leave_line(); // before anybody hears that nobody waits
    }
    for Waiter { request, deliver, .. } in expired {
        let patience = request.patience();
        deliver(Err(Error::Timeout {
            timeout_ms: request.timeout_ms.unwrap_or(0),
            lock_path: paths.lock().to_owned(),
            report: Box::new(obstacle.contended.report(patience)),
        }));
    }
    if is_abandoned {
        obstacle.give_up();
        return Next::Again; // somebody may have come meanwhile, and stands in line anew
    }
    let until = with_registry(|registry| {
        let queue = registry.queues.get_mut(paths)?;
        queue.blind_looks =
            if obstacle.is_watched() { 0 } else { queue.blind_looks.saturating_add(1) };
        let deadline = queue.waiters.iter().filter_map(|waiter| waiter.deadline).min();
        let recheck = now + obstacle.recheck_after(queue.blind_looks);
        queue.obstacle = Some(obstacle);
        Some(deadline.map_or(recheck, |deadline| deadline.min(recheck)))
    });
    until.map_or(Next::Stop, |until| sleep(paths, until))
}

/// Leaves the queue alone until something happens, at most until then.
fn sleep(paths: &LockPaths, until: Instant) -> Next {
    let is_local = with_registry(|registry| registry.is_known_local(Some(paths.folder())));
    let look = {
        let paths = paths.clone();
        move || if is_local { serve(&paths) } else { serve_elsewhere(paths.clone()) }
    };
    let alarm = match wait::at(until, look) {
        Ok(alarm) => alarm,
        Err(errno) => {
            // Nothing would ever look again, not even when a takeover has settled.
            let settling = with_registry(|r| r.queues.get_mut(paths)?.settling.take());
            if let Some((lock, _)) = settling {
                let _ = lock.release();
            }
            let path = paths.lock().to_owned();
            refuse_first(paths, Error::System { errno, syscall: "epoll_create", path });
            return Next::Again;
        }
    };
    let (next, outdated) = with_registry(|registry| {
        let Some(queue) = registry.queues.get_mut(paths) else {
            return (Next::Stop, None);
        };
        let outdated = queue.alarm.replace(alarm);
        // Nobody left: the next step clears up.
        if std::mem::take(&mut queue.look_again) || queue.is_abandoned() {
            return (Next::Again, outdated);
        }
        queue.is_running = false;
        (Next::Stop, outdated)
    });
    drop(outdated);
    next
}

/// Lets re-entrant waiters in whose environment holds the lock, if it still does.
fn share_held_lock(paths: &LockPaths) {
    let held: Vec<_> = with_registry(|registry| {
        let wanted = registry.queues.get(paths).map(|queue| &queue.waiters);
        let is_wanted = |hold: &Hold| {
            wanted.is_some_and(|waiters| waiters.iter().any(|w| w.request.may_share(hold)))
        };
        let holds = registry.holds_of(paths).iter();
        holds.filter(|hold| is_wanted(hold)).map(|hold| Arc::clone(&hold.lock)).collect()
    });
    for lock in held {
        // A lock whose file was taken away protects nothing: who wants one now has to contend.
        if !lock.is_at_its_path().unwrap_or(true) {
            report_loss(&lock, Loss::Removed);
            continue;
        }
        while let Some((waiter, grant)) = with_registry(|registry| registry.share_next(&lock)) {
            (waiter.deliver)(Ok(grant));
        }
    }
}

/// Hands a new lock to the first waiter, or puts it down if nobody waits any more.
fn grant(paths: &LockPaths, lock: HeldLock, series: Instant) {
    let lock = Arc::new(lock);
    let granted = with_registry(|registry| {
        let waiter = registry.queues.get_mut(paths)?.waiters.pop_front()?;
        let grant = registry.hold(&waiter.request, Arc::clone(&lock), series);
        Some((waiter, grant))
    });
    match granted {
        Some((waiter, grant)) => (waiter.deliver)(Ok(grant)),
        None => drop(lock.release()), // as in `release_all`
    }
}

/// The first waiter's attempt failed for good; those behind it try for themselves.
fn refuse_first(paths: &LockPaths, error: Error) {
    let first = with_registry(|registry| registry.queues.get_mut(paths)?.waiters.pop_front());
    if let Some(waiter) = first {
        (waiter.deliver)(Err(error));
    }
}

// --- Losing a lock ------------------------------------------------------------------------------

/// Asks the file system whether a lock is still whole, and tells if it isn't.
fn check_loss(lock: &Arc<HeldLock>) {
    if !lock.is_at_its_path().unwrap_or(true) {
        report_loss(lock, Loss::Removed);
    }
}

/// Where nobody tells of changes: looks once a second for as long as the lock is held.
fn look_for_loss(lock: &Weak<HeldLock>) {
    const EVERY: Duration = Duration::from_secs(1);

    let lock = Weak::clone(lock);
    let check = move || {
        if let Some(held) = lock.upgrade() {
            check_loss(&held);
            drop(held); // the last one, if the lock was released or lost
            look_for_loss(&lock);
        }
    };
    // Without a thread nobody can look; `held` still can be asked.
    wait::at(Instant::now() + EVERY, check).into_iter().for_each(Timer::detach);
}

/// Takes a lost lock out of the books and tells who wanted to know.
fn report_loss(lock: &Arc<HeldLock>, loss: Loss) {
    let hold = with_registry(|registry| {
        let hold = registry.take(lock.paths(), |hold| Arc::ptr_eq(&hold.lock, lock)).pop()?;
        registry.lost.extend(hold.handles.iter().map(|&handle| (handle, loss)));
        Some(hold)
    });
    if let Some(hold) = hold {
        hold.tell(loss);
        // The flock goes with the descriptor; the file, if there is one, is somebody else's.
        let _ = put_down_and_tell(hold);
    }
}

/// Releases what was held for too long, whatever the event loop does meanwhile.
fn bark() {
    run_watchdog(Instant::now());
}

/// What the watchdog does at `now`. It comes by itself; only tests have it run ahead of its time.
pub fn run_watchdog(now: Instant) {
    let exceeded = with_registry(|registry| {
        registry.watchdog = None;
        let exceeded = registry.take_everywhere(|hold| hold.ends().is_some_and(|ends| ends <= now));
        for handle in exceeded.iter().flat_map(|hold| &hold.handles) {
            registry.lost.insert(*handle, Loss::HoldExceeded);
        }
        registry.watchdog_releases += exceeded.len();
        registry.watchdog_underway += exceeded.len();
        let next = registry.holds.values().flatten().filter_map(Hold::ends).min();
        registry.plan_watchdog(next);
        exceeded
    });
    for hold in exceeded {
        hold.tell(Loss::HoldExceeded);
        // Elsewhere: stderr may be a pipe that nobody reads.
        executor::run(Box::new(move |_| {
            let (held_for, max) = ((now - hold.since).as_millis(), hold.limit.as_millis());
            let path = hold.lock.paths().lock().to_owned();
            let _ = put_down_and_tell(hold);
            with_registry(|registry| registry.watchdog_underway -= 1);
            eprintln!(
                "[session-write-lock] releasing lock held for {held_for}ms (max={max}ms): {}",
                path.display()
            );
        }));
    }
}

/// How many locks the watchdog has released so far, those that may still be on the disk included.
pub fn watchdog_releases() -> usize {
    with_registry(|registry| registry.watchdog_releases)
}

/// Whether no disk work of this process is under way: no release, no look at a lock.
pub fn is_idle() -> bool {
    with_registry(|registry| registry.watchdog_underway == 0) && executor::is_idle()
}

// --- Bookkeeping --------------------------------------------------------------------------------

impl Request {
    fn may_share(&self, hold: &Hold) -> bool {
        self.allow_reentrant && self.environment == hold.environment
    }

    fn patience(&self) -> Patience {
        Patience::new(self.stale_ms, self.timeout_ms)
    }
}

impl Queue {
    fn is_abandoned(&self) -> bool {
        self.waiters.is_empty() && self.settling.is_none()
    }
}

impl Left {
    fn may_go_on(&self, now: Instant) -> bool {
        now.duration_since(self.series) < LONGEST_SERIES
    }
}

impl Obstacle {
    /// For when nobody waits any more. A flock that has come all the same is given back.
    fn give_up(self) {
        self.leave_line();
        if self.line() == Line::HasCome
            && let Some(waited_for) = self.contended.waited_for()
        {
            waited_for.decline();
        }
    }

    /// Tells the holder that we don't wait any more.
    fn leave_line(&self) {
        if self.place.is_some()
            && let Some(waited_for) = self.contended.waited_for()
        {
            waited_for.leave();
        }
    }

    fn line(&self) -> Line {
        match &self.place {
            None => Line::None,
            Some(place) if place.has_come() => Line::HasCome,
            Some(_) => Line::Waiting,
        }
    }

    /// From so many on, it is as quiet as it can be.
    const QUIET: u32 = 3;

    /// Whether every change of it will be told.
    fn is_watched(&self) -> bool {
        // Of a flock that is handed on nobody is told but who stands in line for it.
        let has_events = self.contended.witness() == Some(Witness::OpenForWriting)
            || self.exit.is_some()
            || self.contended.matures_in_ms().is_some();
        self.place.is_some() || (self.change.is_some() && has_events)
    }

    fn recheck_after(&self, blind_looks: u32) -> Duration {
        /// Events can be lost: a queue of them can overflow, and a contender can die at a bad
        /// moment.
        const SAFETY_NET: Duration = Duration::from_secs(10);
        /// Where nobody tells, looking about 30 times a second is a compromise.
        const LONGEST_BLIND: Duration = Duration::from_millis(32);

        let matures = self.contended.matures_in_ms().map(Duration::from_millis);
        let recheck = if self.place.is_some() && self.change.is_none() {
            // A watch on readers spares the takeover its settling; a wait that ends at once does
            // without one.
            WATCH_READERS_AFTER
        } else if !self.is_watched() {
            Duration::from_millis(1 << blind_looks.min(5)).min(LONGEST_BLIND)
        } else if self.contended.witness() == Some(Witness::OpenForWriting) {
            // The kernel tells that a writer closes the file a moment before it stops counting it
            // as one: after 4, 32 and 256 ms it surely has, and after that every 2 s.
            Duration::from_millis(4 << (3 * self.quiet_looks.min(Self::QUIET)))
        } else {
            SAFETY_NET
        };
        matures.map_or(recheck, |matures| matures.min(recheck))
    }
}

impl Registry {
    fn is_known_local(&self, folder: Option<&Path>) -> bool {
        folder.is_some_and(|folder| self.local_folders.contains(folder))
    }

    fn has_arrivals(&mut self, session_file: &Path) -> bool {
        let is_empty = self.arrivals.get(session_file).is_none_or(VecDeque::is_empty);
        if is_empty {
            self.arrivals.remove(session_file);
        }
        !is_empty
    }

    fn claim(&self, paths: &LockPaths, request: &Request) -> Claim {
        Claim {
            max_hold_ms: request.max_hold_ms,
            patience: request.patience(),
            is_held_here: !self.holds_of(paths).is_empty(),
        }
    }

    /// `Err`: nobody waits, and this is what is left of the queue.
    fn next_task(
        &mut self,
        paths: &LockPaths,
        now: Instant,
    ) -> std::result::Result<Task, Option<Box<Queue>>> {
        let Some(queue) = self.queues.get_mut(paths) else {
            return Err(None);
        };
        if let Some((lock, until)) = queue.settling.take() {
            return Ok(Task::Settle(lock, until));
        }
        let mut obstacle = queue.obstacle.take();
        if let Some(obstacle) = obstacle.as_mut().filter(|_| std::mem::take(&mut queue.is_stirred))
        {
            obstacle.quiet_looks = 0;
        }
        let Some(first) = self.queues.get(paths).and_then(|queue| queue.waiters.front()) else {
            return Err(self.queues.remove(paths).map(Box::new));
        };
        let claim = self.claim(paths, &first.request);
        let line = obstacle.as_ref().map_or(Line::None, Obstacle::line);
        let left = self.left.get(paths).filter(|left| match line {
            Line::None => true,
            Line::Waiting => left.may_go_on(now),
            Line::HasCome => false,
        });
        if left.is_some()
            && let Some(left) = self.left.remove(paths)
        {
            return Ok(Task::Return(claim, left, obstacle));
        }
        Ok(match obstacle {
            Some(obstacle) => Task::MeetAgain(claim, obstacle),
            None => Task::Attempt(claim),
        })
    }

    /// Those behind the first waiter stay in line; without any, the obstacle comes back.
    fn keep_for_next(&mut self, paths: &LockPaths, obstacle: Option<Obstacle>) -> Option<Obstacle> {
        match self.queues.get_mut(paths) {
            Some(queue) if queue.waiters.len() > 1 => {
                queue.obstacle = obstacle;
                None
            }
            _ => obstacle,
        }
    }

    /// Those whose deadline has come, and whether nobody is left.
    fn take_expired(&mut self, paths: &LockPaths, now: Instant) -> (Vec<Waiter>, bool) {
        let Some(queue) = self.queues.get_mut(paths) else {
            return (Vec::new(), true);
        };
        let is_expired = |waiter: &Waiter| waiter.deadline.is_some_and(|deadline| deadline <= now);
        let waiters = std::mem::take(&mut queue.waiters);
        let (expired, waiting): (Vec<_>, Vec<_>) = waiters.into_iter().partition(is_expired);
        queue.waiters = waiting.into();
        (expired, queue.waiters.is_empty())
    }

    fn abandoned_queues(&self) -> Vec<LockPaths> {
        let queues = self.queues.iter().filter(|(_, queue)| queue.waiters.is_empty());
        queues.map(|(paths, _)| paths.clone()).collect()
    }

    fn holds_of(&self, paths: &LockPaths) -> &[Hold] {
        self.holds.get(paths).map_or(&[], Vec::as_slice)
    }

    fn hold_of(&mut self, handle: Handle) -> Option<&mut Hold> {
        let holds = self.holds.get_mut(self.handles.get(&handle)?)?;
        holds.iter_mut().find(|hold| hold.handles.contains(&handle))
    }

    fn new_handle(&mut self, paths: &LockPaths) -> Handle {
        self.last_handle += 1;
        let handle = Handle(self.last_handle);
        self.handles.insert(handle, paths.clone());
        handle
    }

    /// Books a new lock.
    fn hold(&mut self, request: &Request, lock: Arc<HeldLock>, series: Instant) -> Grant {
        let paths = lock.paths().clone();
        let handle = self.new_handle(&paths);
        let hold = Hold {
            environment: request.environment,
            lock,
            handles: HashSet::from([handle]),
            since: Instant::now(),
            acquired_at_ms: time::now_ms(),
            series,
            limit: Duration::from_millis(request.max_hold_ms),
            tell_loss: Vec::new(),
            loss_watch: None,
        };
        self.plan_watchdog(hold.ends());
        let grant = Grant { handle, lock_path: paths.lock().to_owned() };
        self.holds.entry(paths).or_default().push(hold);
        grant
    }

    /// Books one more acquisition of a lock, if it is still held.
    fn share(&mut self, lock: &Arc<HeldLock>) -> Option<Grant> {
        let paths = lock.paths();
        let is_it = |hold: &Hold| Arc::ptr_eq(&hold.lock, lock);
        let place = self.holds_of(paths).iter().position(is_it)?;
        let handle = self.new_handle(paths);
        self.holds.get_mut(paths)?[place].handles.insert(handle);
        Some(Grant { handle, lock_path: paths.lock().to_owned() })
    }

    /// The same for the next waiter who may share it.
    fn share_next(&mut self, lock: &Arc<HeldLock>) -> Option<(Waiter, Grant)> {
        let paths = lock.paths();
        let hold = self.holds.get(paths)?.iter().find(|hold| Arc::ptr_eq(&hold.lock, lock))?;
        let waiters = &mut self.queues.get_mut(paths)?.waiters;
        let place = waiters.iter().position(|waiter| waiter.request.may_share(hold))?;
        let waiter = waiters.remove(place)?;
        let grant = self.share(lock)?;
        Some((waiter, grant))
    }

    /// Removes one acquisition. The lock, if it was the last one.
    fn give_back(&mut self, handle: Handle) -> Option<Hold> {
        self.lost.remove(&handle);
        let hold = self.hold_of(handle)?;
        hold.handles.remove(&handle);
        let paths = self.handles.remove(&handle)?;
        self.take(&paths, |hold| hold.handles.is_empty()).pop()
    }

    /// Takes holds of one lock out of the books.
    fn take(&mut self, paths: &LockPaths, is_wanted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let Some(holds) = self.holds.get_mut(paths) else {
            return Vec::new();
        };
        let taken: Vec<_> = holds.extract_if(.., |hold| is_wanted(hold)).collect();
        if holds.is_empty() {
            self.holds.remove(paths);
        }
        for handle in taken.iter().flat_map(|hold| &hold.handles) {
            self.handles.remove(handle);
        }
        if self.holds.is_empty() {
            self.watchdog = None;
        }
        taken
    }

    /// The same for all locks.
    fn take_everywhere(&mut self, is_wanted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let paths: Vec<_> = self.holds.keys().cloned().collect();
        paths.iter().flat_map(|paths| self.take(paths, &is_wanted)).collect()
    }

    /// Sees to it that the watchdog looks then. If it looks earlier already, it finds nothing and
    /// plans its next look.
    fn plan_watchdog(&mut self, ends: Option<Instant>) {
        let Some(ends) = ends else {
            return;
        };
        if self.watchdog.as_ref().is_none_or(|(planned, _)| ends < *planned) {
            // Without a thread there is no watchdog; the record says how long it was meant for.
            self.watchdog = wait::at(ends, bark).ok().map(|timer| (ends, timer));
        }
    }
}

impl Hold {
    fn describe(&self, waiters: usize) -> Held {
        Held {
            lock_path: self.lock.paths().lock().to_owned(),
            acquired_at_ms: self.acquired_at_ms,
            held_for: self.since.elapsed(),
            limit: self.limit,
            acquisitions: self.handles.len(),
            waiters,
        }
    }

    fn tell(&self, loss: Loss) {
        for tell in &self.tell_loss {
            tell(loss);
        }
    }

    /// When the watchdog comes; `None` if that is beyond what a clock can say.
    fn ends(&self) -> Option<Instant> {
        self.since.checked_add(self.limit)
    }
}

/// The bookkeeping is whole between any two statements that can panic, so poison means nothing.
fn with_registry<T>(use_it: impl FnOnce(&mut Registry) -> T) -> T {
    let mut registry: MutexGuard<'_, Option<Registry>> =
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(registry.get_or_insert_with(Registry::default))
}
