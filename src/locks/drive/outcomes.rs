//! How an acquire ends: a grant, a time-out, or a new start in another folder.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Caller, Todo, guarded, take_todo};
use crate::error::{Error, Result};
use crate::locks::acquire::limit_resolving;
use crate::locks::lock::HUNG_AFTER;
use crate::locks::order::{Order, Waiter};
use crate::locks::{
    self, Acquisition, Environment, Grant, Handle, Request, TellNews, with_registry,
};
use crate::os::{self, Errno};
use crate::process;
use crate::protocol::{self, Attempt, HeldLock, LockPaths, inspect};
use crate::verdict::{Facts, Limits, Report};

/// After a shorter wait the folder is assumed to be the same: checking costs a `realpath`.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// How often a waiter resolves its session file again before it is refused.
const MOST_RESTARTS: u8 = 3;

pub fn grant(paths: &LockPaths, waiter: Waiter<Caller>) -> Todo {
    let handle = waiter.request.handle;
    let is_late = os::now().saturating_duration_since(waiter.caller.since) > LONG_WAIT;
    if is_late && !paths.is_still_of(&waiter.request.session_file) {
        // The name leads to another folder by now, with another lock.
        let (held, started) = with_registry(|registry| {
            registry.handles.remove(&handle);
            let held = registry.locks.get_mut(paths).and_then(|it| it.lock.release(handle));
            (held, start_anew(&mut registry.arrivals, &registry.clients, paths, waiter))
        });
        let mut todo = Todo::default();
        todo.orders.extend(held.map(|held| Order::Release(held, None)));
        match started {
            Ok(first) => todo.arrivals.extend(first),
            Err(refused) => todo.orders.push_back(Order::Refuse(refused.0, refused.1)),
        }
        return todo;
    }
    let grant = Grant {
        handle,
        lock_path: paths.lock().to_owned(),
        is_taken_over: waiter.is_taken_over,
        has_waited: waiter.has_waited,
    };
    (waiter.caller.deliver)(Ok(grant));
    Todo::default()
}

/// This process holds the lock under another spelling of its name: has the waiters wait there, where it can be shared.
pub fn move_waiters(paths: &LockPaths, other: &LockPaths, attempted: Result<Attempt>) {
    let (mut gone, now) = (Vec::new(), os::now());
    // Under one lock of the mutex: `cancel` finds every waiter in one place or the other, and who asks next finds no attempt
    // under way.
    let (here, there) = with_registry(|registry| {
        let lock = &mut registry.entry(paths).lock;
        let waiters = lock.take_waiters();
        lock.tried(now, attempted);
        for waiter in waiters {
            // Nobody could release what is granted to an environment that has ended.
            if registry.clients.contains_key(&waiter.request.ticket.client) {
                registry.entry(other).lock.acquire(now, waiter);
            } else {
                gone.push(waiter);
            }
        }
        (take_todo(registry, paths), take_todo(registry, other))
    });
    here.carry_out(paths);
    there.carry_out(other);
    for waiter in gone {
        (waiter.caller.deliver)(Err(moved(paths)));
    }
}

fn moved(paths: &LockPaths) -> Error {
    Error::System { errno: Errno::NOENT, syscall: "open", path: paths.lock().to_owned() }
}

/// Puts a waiter back among the arrivals. Its session file, if it is the first of them, which has to be
/// let in; or the waiter, if that has been done too often, or its environment has ended.
pub fn start_anew(
    arrivals: &mut HashMap<PathBuf, VecDeque<Waiter<Caller>>>,
    clients: &HashMap<u64, (Environment, TellNews)>,
    paths: &LockPaths,
    mut waiter: Waiter<Caller>,
) -> std::result::Result<Option<PathBuf>, Box<(Waiter<Caller>, Error)>> {
    waiter.caller.restarts += 1;
    let is_known = clients.contains_key(&waiter.request.ticket.client);
    if waiter.caller.restarts > MOST_RESTARTS || !is_known {
        return Err(Box::new((waiter, moved(paths))));
    }
    limit_resolving(&mut waiter);
    let session_file = waiter.request.session_file.clone();
    let others = arrivals.entry(session_file.clone()).or_default();
    others.push_back(waiter);
    Ok((others.len() == 1).then_some(session_file))
}

/// Delivers the time-out error, with a report about the holder. If the file system doesn't answer within
/// [`HUNG_AFTER`], delivers it without a report.
pub fn expire(paths: &LockPaths, waiters: Vec<Waiter<Caller>>, cause: Option<Error>) {
    let waiters = Arc::new(Mutex::new(waiters));
    let tell_all = {
        let (waiters, paths) = (Arc::clone(&waiters), paths.clone());
        move |facts: Option<&Facts>, cause: Option<&Error>| {
            let is_held_here = locks::is_held_here(&paths);
            let waiters =
                std::mem::take(&mut *waiters.lock().unwrap_or_else(PoisonError::into_inner));
            for Waiter { request, caller, .. } in waiters {
                let lock_path = paths.lock().to_owned();
                let error = timeout(&request, lock_path, is_held_here, facts, cause);
                (caller.deliver)(Err(error));
            }
        }
    };
    let is_quick = with_registry(|registry| registry.is_quick(Some(paths.folder())));
    let overdue = (!is_quick).then(|| {
        let tell_all = tell_all.clone();
        os::at(os::now() + HUNG_AFTER, move || tell_all(None, None))
    });
    let seen = guarded(paths, || inspect::facts(paths));
    drop(overdue);
    let (facts, unreadable) = match seen {
        Ok(facts) => (facts, None),
        Err(cause) => (None, Some(cause)),
    };
    tell_all(facts.as_ref(), unreadable.or(cause).as_ref());
}

/// The error at a deadline.
pub fn timeout(
    request: &Request,
    lock_path: PathBuf,
    is_held_here: bool,
    facts: Option<&Facts>,
    cause: Option<&Error>,
) -> Error {
    let limits = Limits::new(request.stale_ms, request.timeout_ms);
    let report = facts.map(|facts| Report::new(facts, &process::own(), limits, os::wall_ms()));
    Error::Timeout {
        timeout_ms: request.timeout_ms.unwrap_or(0),
        lock_path,
        is_held_here,
        report: Box::new(report.unwrap_or_default()),
        cause: cause.cloned().map(Box::new),
    }
}

/// The system gives no thread.
pub fn no_thread(path: &Path) -> Error {
    Error::System { errno: Errno::AGAIN, syscall: "pthread_create", path: path.to_owned() }
}

/// Adds an acquisition to a hold whose path was checked. `false` if the hold has ended.
pub fn share(paths: &LockPaths, held: &Arc<HeldLock>, handle: Handle) -> bool {
    with_registry(|registry| {
        let entry = registry.locks.get_mut(paths);
        let is_shared = entry.is_some_and(|entry| entry.lock.share(held, handle));
        if is_shared {
            registry.handles.insert(handle, Acquisition::Held(paths.clone()));
        }
        is_shared
    })
}

/// Finds out, once per folder, whether it is on a trusted file system.
pub fn learn_trust(session_file: &Path, paths: &LockPaths) {
    let (real, now) = (paths.folder(), os::now());
    let named = session_file.parent().unwrap_or(real);
    if !with_registry(|registry| registry.folders.is_known(named, real, now)) {
        let is_trusted = protocol::is_trusted_folder(real);
        with_registry(|registry| registry.folders.learn(named, real, is_trusted, now));
    }
}
