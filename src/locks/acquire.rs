//! How an acquire finds its lock: until the path is known, it waits among the *arrivals* of its session file,
//! because resolving the path takes system calls, which may hang. Also the acquire that never waits.

use std::path::Path;
use std::time::Duration;

use super::drive::{self, Caller, happen_here, leave, no_thread, resume};
use super::order::{TryNow, Waiter, take_if};
use super::{Acquisition, Deliver, Grant, Registry, Request, lock, with_registry};
use crate::error::{Error, Result};
use crate::os::{self, Errno, RunsOn};
use crate::protocol::{self, Attempt, HeldLock, LockPaths, SETTLE};

/// Asks for a lock. Returns at once; `deliver` is called with the outcome, perhaps before this returns.
///
/// In a quick folder the calling thread makes the first attempt: that costs less than handing the attempt to
/// another thread. Elsewhere this thread makes no system call.
pub fn acquire(request: Request, deliver: Deliver) {
    // Deadlines and the watchdog need a thread. Without one, nothing is granted.
    let keeper = match os::keep_timers() {
        Ok(keeper) => keeper,
        Err(errno) => return deliver(Err(no_timers(errno, &request.session_file))),
    };
    let now = os::now();
    let timeout = request.timeout_ms.map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
    let caller = Caller { deliver, since: now, restarts: 0, overdue: None, _keeper: keeper };
    arrive(Waiter { request, deadline, has_waited: false, is_taken_over: false, caller });
}

fn no_timers(errno: Errno, path: &Path) -> Error {
    if errno == Errno::AGAIN {
        return no_thread(path);
    }
    Error::System { errno, syscall: "epoll_create1", path: path.to_owned() }
}

/// Adds a waiter to the arrivals. The first of them starts [`admit`].
fn arrive(mut waiter: Waiter<Caller>) {
    let session_file = waiter.request.session_file.clone();
    let is_quick = with_registry(|registry| registry.is_quick(session_file.parent()));
    if !is_quick {
        limit_resolving(&mut waiter);
    }
    let is_first = with_registry(|registry| {
        let arrivals = registry.arrivals.entry(session_file.clone()).or_default();
        arrivals.push_back(waiter);
        arrivals.len() == 1
    });
    if is_first {
        let_in(&session_file);
    }
}

/// Sees to it that a waiter times out although `resolve` hangs, on a mount whose server is gone: [`lock::HUNG_AFTER`] after
/// its deadline, if it is among the arrivals then.
pub fn limit_resolving(waiter: &mut Waiter<Caller>) {
    if waiter.caller.overdue.is_none()
        && let Some(overdue) = waiter.deadline.and_then(|it| it.checked_add(lock::HUNG_AFTER))
    {
        let session_file = waiter.request.session_file.clone();
        // `at` can't fail: the waiter has a keeper.
        waiter.caller.overdue = os::at(overdue, move || give_up_arrivals(&session_file)).ok();
    }
}

/// Has the arrivals for one session file let in: here in a quick folder, else by a worker.
pub fn let_in(session_file: &Path) {
    if with_registry(|registry| registry.is_quick(session_file.parent())) {
        return admit(session_file);
    }
    let session_file = session_file.to_owned();
    os::run(Box::new(move |on| match on {
        RunsOn::Worker => admit(&session_file),
        RunsOn::Caller => {
            let arrivals = with_registry(|registry| registry.arrivals.remove(&session_file));
            for waiter in arrivals.into_iter().flatten() {
                (waiter.caller.deliver)(Err(no_thread(&session_file)));
            }
        }
    }));
}

/// Resolves a session file, and moves its arrivals to the lock one after the other. Until then each stays
/// among the arrivals, so that [`cancel`](super::cancel) and [`end`](super::end) find it.
fn admit(session_file: &Path) {
    while with_registry(|registry| registry.has_arrivals(session_file)) {
        let found = drive::catch(session_file, || {
            let paths = LockPaths::resolve(session_file)?;
            drive::learn_trust(session_file, &paths);
            Ok(paths)
        });
        let take = |registry: &mut Registry| registry.arrivals.get_mut(session_file)?.pop_front();
        match found {
            // Under one lock of the mutex: `cancel` finds every waiter in one place or the other.
            Ok(paths) => resume(&paths, |registry, now| {
                if let Some(waiter) = take(registry) {
                    registry.entry(&paths).lock.acquire(now, waiter);
                }
            }),
            Err(error) => {
                if let Some(waiter) = with_registry(take) {
                    (waiter.caller.deliver)(Err(error));
                }
            }
        }
    }
}

/// Times out the arrivals whose deadline is over although `resolve` has not returned.
fn give_up_arrivals(session_file: &Path) {
    let now = os::now();
    let overdue = with_registry(|registry| {
        let arrivals = registry.arrivals.get_mut(session_file);
        let is_over = |it: &Waiter<Caller>| it.deadline.is_some_and(|deadline| deadline <= now);
        arrivals.map(|arrivals| take_if(arrivals, is_over))
    });
    for waiter in overdue.into_iter().flatten() {
        let lock_path = session_file.with_added_extension("lock");
        let timeout = drive::timeout(&waiter.request, lock_path, false, None, None);
        (waiter.caller.deliver)(Err(timeout));
    }
}

/// Takes the lock without waiting and without joining the queue. `None`: it is contended.
///
/// Takes a dead lock over too, and then may block for [`SETTLE`].
pub fn try_acquire(request: &Request) -> Result<Option<Grant>> {
    let _keeper = os::keep_timers().map_err(|errno| no_timers(errno, &request.session_file))?;
    let paths = LockPaths::resolve(&request.session_file)?;
    drive::learn_trust(&request.session_file, &paths);
    try_acquire_at(&paths, request)
}

fn try_acquire_at(paths: &LockPaths, request: &Request) -> Result<Option<Grant>> {
    let grant = |is_taken_over| Grant {
        handle: request.handle,
        lock_path: paths.lock().to_owned(),
        is_taken_over,
        has_waited: false,
    };
    match happen_here(paths, |lock, _| lock.try_acquire(request)) {
        TryNow::Contended => Ok(None),
        TryNow::Share(lock) => {
            let is_ours = lock.is_at_its_path().unwrap_or(true);
            if is_ours && drive::share(paths, &lock, request.handle) {
                return Ok(Some(grant(false)));
            }
            happen_here(paths, |it, now| it.path_checked(now, &lock, Ok(is_ours)));
            try_acquire(request)
        }
        TryNow::Try(claim, approach) => {
            let taken = drive::guarded(paths, || {
                protocol::attempt(paths, &claim, approach).and_then(take_now)
            });
            let (lock, error) = match taken {
                Ok(lock) => (lock, None),
                Err(error) => (None, Some(error)),
            };
            let (is_ours, is_taken_over) =
                (lock.is_some(), lock.as_ref().is_some_and(HeldLock::is_taken_over));
            resume(paths, |registry, now| {
                if is_ours {
                    registry.handles.insert(request.handle, Acquisition::Held(paths.clone()));
                }
                registry.entry(paths).lock.tried_now(now, request, lock);
            });
            if error.is_none()
                && !is_ours
                && let Some(other) = super::held_otherwise(paths)
            {
                return try_acquire_at(&other, request);
            }
            error.map_or(Ok(is_ours.then(|| grant(is_taken_over))), Err)
        }
    }
}

/// The lock that the attempt took, after settling.
fn take_now(attempt: Attempt) -> Result<Option<HeldLock>> {
    match attempt {
        Attempt::Acquired(lock) => Ok(Some(lock)),
        Attempt::TakenOver(lock) => {
            os::sleep(SETTLE); // the caller asked to block
            lock.confirmed()
        }
        Attempt::Queued(place) => {
            leave(place);
            Ok(None)
        }
        Attempt::Contended(obstacle) => {
            obstacle.into_place().into_iter().for_each(leave);
            Ok(None)
        }
    }
}
