//! What a lock waits for: threads that block, watches of files and of processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Entry, Todo, happen, happen_by_timer, happen_here, report};
use crate::locks::folders::MOST_FOLDERS;
use crate::locks::{Handle, News, Registry, TellLoss, TellWanted, with_registry};
use crate::os::{self, Errno, blocked};
use crate::process;
use crate::protocol::{self, HeldLock, LockPaths, Obstacle, Place, ToldBy};

pub fn wait_for_turn(paths: &LockPaths, number: u64, place: Place) -> Todo {
    process::own(); // read now, so that it is known when the turn comes
    let (mut its_place, its_paths) = (place.clone(), paths.clone());
    let started = blocked::start(move |stop| {
        let end = block(|| {
            its_place.prepare();
            its_place.wait(stop)
        });
        happen(&its_paths, |lock, now| lock.turn_ended(now, number, its_place, end));
    });
    match started {
        Some(blocked) => keep_blocked(paths, number, blocked),
        None => report(paths, |lock, now| {
            lock.turn_ended(now, number, place, Err(Errno::AGAIN));
        }),
    }
}

pub fn wait_for_flock(paths: &LockPaths, number: u64, obstacle: Obstacle) -> Todo {
    process::own(); // as above
    let (mut its_obstacle, its_paths) = (obstacle.clone(), paths.clone());
    let started = blocked::start(move |stop| {
        let end = block(|| {
            its_obstacle.prepare();
            its_obstacle.wait(stop)
        });
        happen(&its_paths, |lock, now| lock.flock_ended(now, number, its_obstacle, end));
    });
    match started {
        Some(blocked) => keep_blocked(paths, number, blocked),
        None => report(paths, |lock, now| {
            lock.flock_ended(now, number, obstacle, Err(Errno::AGAIN));
        }),
    }
}

/// Runs a blocking wait. A panic counts as `EIO`.
fn block(wait: impl FnOnce() -> os::Result<()>) -> os::Result<()> {
    let end = catch_unwind(AssertUnwindSafe(wait)).unwrap_or(Err(Errno::IO));
    if end.is_ok() {
        os::count_event();
    }
    end
}

/// Keeps the handle that ends the wait, unless a later wait has begun or this one has been ended already.
fn keep_blocked(paths: &LockPaths, number: u64, blocked: blocked::Blocked) -> Todo {
    let unneeded = with_registry(|registry| {
        let Some(entry) = registry.locks.get_mut(paths) else { return Some(blocked) };
        let is_newer = entry.blocked.as_ref().is_none_or(|(kept, _)| *kept < number);
        if is_newer && entry.ended_wait < number {
            entry.blocked.replace((number, blocked)).map(|(_, old)| old)
        } else {
            Some(blocked)
        }
    });
    drop(unneeded);
    Todo::default()
}

pub fn end_wait(paths: &LockPaths, number: u64) {
    let blocked = with_registry(|registry| {
        let entry = registry.locks.get_mut(paths)?;
        entry.ended_wait = entry.ended_wait.max(number);
        entry.blocked.take_if(|(kept, _)| *kept <= number)
    });
    drop(blocked);
}

/// Subscribes to changes of the obstacle, then checks that it is still there: no wake-up is lost.
pub fn watch(paths: &LockPaths, number: u64, obstacle: Obstacle) -> Todo {
    let stir = || {
        let paths = paths.clone();
        move || happen_by_timer(&paths, |lock, _| lock.stirred(number))
    };
    let mut watches = Vec::new();
    let mut has_ended = false;
    let told_by = obstacle.told_by();
    if told_by == ToldBy::Time {
        tell_if_shared(paths, &obstacle);
    }
    if let (ToldBy::Close | ToldBy::Exit(_), Some(file)) = (told_by, obstacle.file()) {
        watches.extend(os::on_change(file, stir()));
    }
    let is_closing_told = told_by == ToldBy::Close && !watches.is_empty();
    if let ToldBy::Exit(pid) = told_by {
        match os::on_exit(pid, stir()) {
            Ok(watch) => watches.push(watch),
            Err(errno) => has_ended = errno == Errno::SRCH,
        }
    }
    let is_told = is_closing_told || watches.len() == 2;
    let is_same = !has_ended && (!is_told || obstacle.is_still_there(paths));
    with_registry(|registry| {
        if let Some(entry) = registry.locks.get_mut(paths) {
            entry.watches.extend(watches.into_iter().map(|watch| (number, watch)));
        }
    });
    report(paths, |lock, now| lock.watched(now, obstacle, is_told, is_same))
}

/// Tells a client who else uses the folder, once, where that costs safety or time. The same lock file is not asked twice in a row.
fn tell_if_shared(paths: &LockPaths, obstacle: &Obstacle) {
    let (folder, id) = (paths.folder(), obstacle.file_id());
    let is_asked = |registry: &Registry| {
        registry.asked.get(folder).is_some_and(|asked| asked.is_none() || *asked == id)
    };
    if id.is_none() || with_registry(|registry| is_asked(registry)) {
        return;
    }
    let shared_with = obstacle.shared_with(paths);
    let tell = with_registry(|registry| {
        let client = registry.locks.get(paths)?.lock.first_waiter()?.ticket.client;
        let (_, tell) = registry.clients.get(&client).cloned()?;
        if is_asked(registry) {
            return None; // another waiter was faster
        }
        if registry.asked.len() >= MOST_FOLDERS {
            registry.asked.clear();
        }
        registry.asked.insert(folder.to_owned(), id.filter(|_| shared_with.is_none()));
        Some(tell)
    });
    if let (Some(shared_with), Some(tell)) = (shared_with, tell) {
        tell(News::Shared(folder, shared_with));
    }
}

/// See [`super::watch_loss`].
pub fn watch_loss(handle: Handle, tell: TellLoss) {
    let held = with_registry(|registry| {
        let (paths, held) = registry.held(handle)?;
        let entry = registry.locks.get_mut(&paths)?;
        entry.tell_loss.push((handle, tell));
        Some((paths, held, entry.loss_watch.is_none()))
    });
    let Some((paths, held, is_new)) = held else {
        return;
    };
    if is_new {
        // On an untrusted file system another machine's changes are not reported, and beginning a watch can hang.
        let is_told = held.is_trusted() && {
            let its_paths = paths.clone();
            let watch = os::on_change(held.file(), move || {
                happen_by_timer(&its_paths, |lock, _| lock.check_path());
            });
            let is_told = watch.is_ok();
            keep_watch(&paths, &held, watch, |entry| &mut entry.loss_watch);
            is_told
        };
        if !is_told {
            let every = if held.is_trusted() { EVERY } else { EVERY_UNTRUSTED };
            happen_here(&paths, |lock, now| lock.check_every(now, &held, every));
        }
    }
    // The lock may have been lost before the watch was set up.
    happen(&paths, |lock, _| lock.check_path());
}

/// How often a held lock is checked where no event tells of what happens to it.
const EVERY: Duration = Duration::from_secs(1);

/// The same on an untrusted file system, where a check may ask a server.
const EVERY_UNTRUSTED: Duration = Duration::from_secs(5);

/// Keeps the watch, if there is one, for as long as the lock is held.
fn keep_watch(
    paths: &LockPaths,
    held: &Arc<HeldLock>,
    watch: os::Result<os::Watch>,
    place: fn(&mut Entry) -> &mut Option<os::Watch>,
) {
    let unneeded = with_registry(|registry| {
        let entry = registry.locks.get_mut(paths).filter(|entry| entry.lock.holds(held));
        match (entry, watch) {
            (Some(entry), Ok(watch)) => place(entry).replace(watch),
            (_, watch) => watch.ok(),
        }
    });
    drop(unneeded);
}

/// See [`super::super::watch_wanted`].
pub fn watch_wanted(handle: Handle, tell: TellWanted) {
    let held = with_registry(|registry| {
        let (paths, held) = registry.held(handle)?;
        let entry = registry.locks.get_mut(&paths)?;
        entry.tell_wanted.push(tell);
        Some((paths, held, entry.tell_wanted.len() == 1))
    });
    let Some((paths, held, is_new)) = held else {
        return;
    };
    if is_new && held.is_trusted() {
        let its_paths = paths.clone();
        let watch = os::on_touch(&paths.queue(), move || look_for_waiters(&its_paths));
        if watch.is_err() {
            look_later(paths.clone(), Arc::downgrade(&held));
        }
        keep_watch(&paths, &held, watch, |entry| &mut entry.wanted_watch);
    }
    // Somebody may wait already.
    look_for_waiters(&paths);
    happen_here(&paths, |_, _| {});
}

/// Looks for waiters now and then, as long as somebody listens to that.
fn look_later(paths: LockPaths, held: Weak<HeldLock>) {
    let look = move || {
        os::run(Box::new(move |_| {
            tell_if_waited_for(&paths);
            let goes_on = with_registry(|registry| {
                registry.locks.get(&paths).is_some_and(|entry| !entry.tell_wanted.is_empty())
            });
            if goes_on && held.strong_count() > 0 {
                look_later(paths, held);
            }
        }));
    };
    // Without a thread nobody is told; `lock.wanted` is a courtesy.
    os::at(os::now() + EVERY, look).into_iter().for_each(os::Timer::detach);
}

/// On a worker: the disk may be frozen.
fn look_for_waiters(paths: &LockPaths) {
    let paths = paths.clone();
    os::run(Box::new(move |_| tell_if_waited_for(&paths)));
}

/// Tells the listeners if another process waits in the queue.
fn tell_if_waited_for(paths: &LockPaths) {
    let held = with_registry(|registry| {
        let entry = registry.locks.get(paths).filter(|entry| !entry.tell_wanted.is_empty())?;
        entry.lock.hold().map(|hold| Arc::clone(&hold.lock))
    });
    if let Some(held) = held
        && protocol::is_waited_for(paths, held.place())
    {
        let (told, watch) = with_registry(|registry| {
            let entry = registry.locks.get_mut(paths).filter(|entry| entry.lock.holds(&held))?;
            Some((std::mem::take(&mut entry.tell_wanted), entry.wanted_watch.take()))
        })
        .unwrap_or_default();
        drop(watch);
        for tell in told {
            tell();
        }
    }
}
