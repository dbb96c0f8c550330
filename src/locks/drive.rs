//! Carries out what a [`Lock`] orders, and reports what came of it.
//!
//! The driver passes an event to the lock under the registry's mutex, takes the orders out, and carries them
//! out one after the other without the mutex. In a *quick* folder (on a trusted file system) the thread that
//! brought the event does that. Elsewhere a system call may hang, so a worker does it.

mod outcomes;
mod waits;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use outcomes::{learn_trust, no_thread, share, timeout};
pub use waits::{watch_loss, watch_wanted};

use outcomes::{expire, grant, start_anew};
use waits::{end_wait, wait_for_flock, wait_for_turn, watch};

use super::lock::Lock;
use super::order::{Exceeded, Order, Waiter};
use super::{
    Acquisition, Deliver, Handle, Loss, News, Registry, Released, TellLoss, TellWanted, leftovers,
    with_registry,
};
use crate::error::{Error, Result};
use crate::os::{self, Instant, blocked};
use crate::protocol::{self, Attempt, HeldLock, LockPaths, LookPast, Place};

/// If one order takes longer, its folder is slow.
const SLOW: Duration = Duration::from_millis(250);

/// What the driver keeps with a waiter.
pub struct Caller {
    pub deliver: Deliver,
    pub since: Instant,
    pub restarts: u8,
    /// Times the waiter out if `LockPaths::resolve` hangs.
    pub overdue: Option<os::Timer>,
    /// The thread that deadlines and the watchdog need.
    pub _keeper: os::Keeper,
}

/// A lock, and the timers, threads and watches that bring it events.
pub struct Entry {
    pub lock: Lock<Caller>,
    alarm: Option<(Instant, os::Timer)>,
    /// The blocked thread of the wait with this number.
    blocked: Option<(u64, blocked::Blocked)>,
    /// Waits up to this number have been ended. `EndWait` may be carried out before the thread has started.
    ended_wait: u64,
    watches: Vec<(u64, os::Watch)>,
    /// The listeners for a loss, and the watch on the lock file.
    tell_loss: Vec<(Handle, TellLoss)>,
    loss_watch: Option<os::Watch>,
    /// The listeners for a waiter, and the watch on the queue file.
    tell_wanted: Vec<TellWanted>,
    wanted_watch: Option<os::Watch>,
}

impl Entry {
    pub fn new(paths: LockPaths, last_wait: u64) -> Self {
        Self {
            lock: Lock::new(paths, blocked::is_possible(), last_wait),
            alarm: None,
            blocked: None,
            ended_wait: last_wait,
            watches: Vec::new(),
            tell_loss: Vec::new(),
            loss_watch: None,
            tell_wanted: Vec::new(),
            wanted_watch: None,
        }
    }
}

/// Passes an event to the lock, and carries the orders out: on this thread in a quick folder, else on a worker.
pub fn happen<T>(paths: &LockPaths, event: impl FnOnce(&mut Lock<Caller>, Instant) -> T) -> T {
    let (answer, todo) = note(paths, |registry, now| event(&mut registry.entry(paths).lock, now));
    todo.carry_out_or_hand_over(paths, |_| false);
    answer
}

/// The same for an event that the timers' thread brings. All deadlines depend on that thread, so orders that
/// change the disk go to a worker: on a frozen file system they hang.
pub fn happen_by_timer(paths: &LockPaths, event: impl FnOnce(&mut Lock<Caller>, Instant)) {
    happen_to_entry_by_timer(paths, |entry, now| event(&mut entry.lock, now));
}

fn happen_to_entry_by_timer(paths: &LockPaths, event: impl FnOnce(&mut Entry, Instant)) {
    let ((), todo) = note(paths, |registry, now| event(registry.entry(paths), now));
    todo.carry_out_or_hand_over(paths, Todo::changes_the_disk);
}

/// The alarm rings, and can be set again, also for the same instant.
fn ring(paths: &LockPaths, instant: Instant) {
    happen_to_entry_by_timer(paths, |entry, now| {
        if let Some((_, rung)) = entry.alarm.take_if(|(planned, _)| *planned == instant) {
            rung.detach();
        }
        entry.lock.time(now);
    });
}

/// Passes an event to the lock, and carries the orders out before it returns.
pub fn happen_here<T>(paths: &LockPaths, event: impl FnOnce(&mut Lock<Caller>, Instant) -> T) -> T {
    let (answer, todo) = note(paths, |registry, now| event(&mut registry.entry(paths).lock, now));
    todo.carry_out(paths);
    answer
}

/// The same for an event that changes the registry, too.
pub fn resume(paths: &LockPaths, change: impl FnOnce(&mut Registry, Instant)) {
    let ((), todo) = note(paths, change);
    todo.carry_out(paths);
}

/// What follows from an event.
#[derive(Default)]
struct Todo {
    orders: VecDeque<Order<Caller>>,
    losses: Vec<(TellLoss, Loss)>,
    wanted: Vec<TellWanted>,
    /// Session files with arrivals to be let in.
    arrivals: Vec<PathBuf>,
    /// To be dropped outside of the mutex.
    garbage: Vec<Entry>,
    timer: Option<os::Timer>,
    watches: Vec<os::Watch>,
}

fn note<T>(paths: &LockPaths, event: impl FnOnce(&mut Registry, Instant) -> T) -> (T, Todo) {
    let now = os::now();
    with_registry(|registry| {
        let answer = event(registry, now);
        (answer, take_todo(registry, paths))
    })
}

/// What a lock has ordered. Each event is followed by this under the same lock of the mutex.
fn take_todo(registry: &mut Registry, paths: &LockPaths) -> Todo {
    let mut todo = Todo::default();
    let Some(entry) = registry.locks.get_mut(paths) else {
        return todo;
    };
    todo.orders = entry.lock.orders();
    // Right here: at every moment a waiter is where the end of its environment finds it.
    if todo.orders.iter().any(|order| matches!(order, Order::StartAnew(_))) {
        for order in std::mem::take(&mut todo.orders) {
            match order {
                Order::StartAnew(waiter) => {
                    match start_anew(&mut registry.arrivals, &registry.clients, paths, waiter) {
                        Ok(first) => todo.arrivals.extend(first),
                        Err(refused) => {
                            todo.orders.push_back(Order::Refuse(refused.0, refused.1));
                        }
                    }
                }
                order => todo.orders.push_back(order),
            }
        }
    }
    for order in &todo.orders {
        match order {
            Order::Grant(Waiter { request, .. }) => {
                let held = Acquisition::Held(paths.clone());
                registry.handles.insert(request.handle, held);
            }
            Order::Lost(handles, loss) => {
                for handle in handles {
                    registry.handles.remove(handle);
                    // After all of its environment nobody is left to ask.
                    let acquisition = match loss {
                        Loss::Released => continue,
                        Loss::HoldExceeded => Acquisition::Ending(Vec::new()),
                        Loss::Removed => Acquisition::Lost(*loss),
                    };
                    registry.handles.insert(*handle, acquisition);
                }
                let told = entry.tell_loss.extract_if(.., |(it, _)| handles.contains(it));
                todo.losses.extend(told.map(|(_, tell)| (tell, *loss)));
            }
            Order::Release(_, Some(_)) => registry.watchdog_releases += 1,
            _ => {}
        }
    }
    if entry.lock.hold().is_none() {
        entry.tell_loss.clear();
        entry.tell_wanted.clear();
        todo.watches.extend(entry.loss_watch.take());
        todo.watches.extend(entry.wanted_watch.take());
    } else if !entry.tell_wanted.is_empty() && entry.lock.is_wanted() {
        todo.wanted = std::mem::take(&mut entry.tell_wanted);
        todo.watches.extend(entry.wanted_watch.take());
    }
    todo.timer = entry.plan_alarm(paths);
    if entry.lock.is_done() && todo.orders.is_empty() {
        todo.garbage.extend(registry.forget(paths));
    }
    todo
}

impl Entry {
    /// Takes out who listens for the loss of this acquisition. To be dropped outside of the mutex.
    pub fn take_listeners(&mut self, handle: Handle) -> Vec<(Handle, TellLoss)> {
        self.tell_loss.extract_if(.., |(its, _)| *its == handle).collect()
    }

    /// Sets the timer for [`Lock::alarm`]. Returns the old timer, to be dropped outside of the mutex.
    fn plan_alarm(&mut self, paths: &LockPaths) -> Option<os::Timer> {
        let wanted = self.lock.alarm();
        let planned = self.alarm.as_ref().map(|(instant, _)| *instant);
        // A timer that is not needed any more does no harm; keeping it saves a system call.
        if wanted.is_none() || wanted == planned {
            return None;
        }
        let old = self.alarm.take();
        self.alarm = wanted.and_then(|instant| {
            let paths = paths.clone();
            let ring = move || ring(&paths, instant);
            // `at` can't fail while somebody waits: each waiter has a keeper. Without waiters a failure
            // delays only leaving the queue.
            Some((instant, os::at(instant, ring).ok()?))
        });
        old.map(|(_, timer)| timer)
    }
}

impl Todo {
    fn is_empty(&self) -> bool {
        let tells = !self.losses.is_empty() || !self.wanted.is_empty();
        self.orders.is_empty() && !tells && self.arrivals.is_empty()
    }

    fn changes_the_disk(&self) -> bool {
        let changes = |order: &Order<_>| {
            use Order::{Leave, Release, Try, TryPast};
            matches!(order, Try(..) | TryPast(..) | Release(..) | Leave(..))
        };
        // Letting arrivals in can create folders, and makes attempts.
        !self.arrivals.is_empty() || self.orders.iter().any(changes)
    }

    /// Carries out the orders in a quick folder, as long as they are not `for_worker`. A worker does the rest.
    fn carry_out_or_hand_over(self, paths: &LockPaths, for_worker: fn(&Self) -> bool) {
        let is_quick = || with_registry(|registry| registry.is_quick(Some(paths.folder())));
        let rest = if self.is_empty() || is_quick() {
            self.carry_out_until(paths, for_worker)
        } else {
            Some(self)
        };
        if let Some(rest) = rest {
            let paths = paths.clone();
            // If the system gives no thread, `os::run` runs the job on this one.
            os::run(Box::new(move |_| rest.carry_out(&paths)));
        }
    }

    fn carry_out(self, paths: &LockPaths) {
        self.carry_out_until(paths, |_| false);
    }

    fn carry_out_until(mut self, paths: &LockPaths, stop: fn(&Self) -> bool) -> Option<Self> {
        loop {
            if stop(&self) {
                return Some(self);
            }
            for (tell, loss) in self.losses.drain(..) {
                tell(loss);
            }
            for tell in self.wanted.drain(..) {
                tell();
            }
            for session_file in self.arrivals.drain(..) {
                super::acquire::let_in(&session_file);
            }
            let order = self.orders.pop_front()?;
            let mut next = carry_out(paths, order);
            next.arrivals.append(&mut self.arrivals);
            // Earlier orders first.
            self.orders.append(&mut next.orders);
            next.orders = std::mem::take(&mut self.orders);
            self = next;
        }
    }
}

/// Passes a result to the lock. The caller carries out the orders that follow.
fn report(paths: &LockPaths, event: impl FnOnce(&mut Lock<Caller>, Instant)) -> Todo {
    note(paths, |registry, now| event(&mut registry.entry(paths).lock, now)).1
}

fn carry_out(paths: &LockPaths, order: Order<Caller>) -> Todo {
    match order {
        Order::Try(claim, approach) => {
            let result = guarded(paths, || protocol::attempt(paths, &claim, approach));
            if matches!(result, Ok(Attempt::Contended(_) | Attempt::Queued(_)))
                && let Some(other) = super::held_otherwise(paths)
            {
                outcomes::move_waiters(paths, &other, result);
                return Todo::default();
            }
            return report(paths, |lock, now| lock.tried(now, result));
        }
        Order::TryPast(claim, approach) => {
            let result = guarded(paths, || protocol::attempt(paths, &claim, approach));
            return report(paths, |lock, now| lock.tried_past(now, result));
        }
        Order::LookPast(number, claim, awaited) => {
            let look = guarded(paths, || Ok(protocol::look_past(paths, &claim, &awaited)));
            let look = look.unwrap_or(LookPast::Same);
            return report(paths, |lock, now| lock.looked(now, number, look));
        }
        Order::CheckPath(held) => {
            let is_ours = guarded(paths, || held.is_at_its_path());
            return report(paths, |lock, now| lock.path_checked(now, &held, is_ours));
        }
        Order::Release(held, None) => {
            let (_, place) = release(&held); // nobody is left who could be told of an error
            drop(held);
            return report(paths, |lock, now| lock.released(now, place));
        }
        Order::Release(held, Some(exceeded)) => release_exceeded(paths, held, exceeded),
        Order::WaitForTurn(number, place) => return wait_for_turn(paths, number, place),
        Order::WaitForFlock(number, obstacle) => return wait_for_flock(paths, number, obstacle),
        Order::EndWait(number) => end_wait(paths, number),
        Order::Watch(number, obstacle) => return watch(paths, number, obstacle),
        Order::Unwatch(number) => {
            let ended = with_registry(|registry| {
                let watches = &mut registry.locks.get_mut(paths)?.watches;
                Some(watches.extract_if(.., |(kept, _)| *kept <= number).collect::<Vec<_>>())
            });
            drop(ended);
        }
        Order::Grant(waiter) => return grant(paths, waiter),
        Order::Refuse(waiter, error) => (waiter.caller.deliver)(Err(error)),
        Order::Expire(waiters, cause) => expire(paths, waiters, cause),
        Order::StartAnew(_) | Order::Lost(..) => {} // done when they were noted
        Order::Leave(place) => leave(place),
        Order::Close(obstacle) => drop(obstacle),
    }
    report(paths, |_, _| {})
}

/// A panic is a bug, and has been reported by now: it costs this acquire, and no other.
pub fn catch<T>(path: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(call));
    result.unwrap_or_else(|_| Err(Error::Bug { path: path.to_owned() }))
}

/// Makes system calls. One that is slow shows that the disk is.
pub fn guarded<T>(paths: &LockPaths, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = os::now();
    let result = catch(paths.lock(), call);
    let now = os::now();
    if now.saturating_duration_since(started) > SLOW {
        with_registry(|registry| registry.folders.note_slow(paths.folder(), now));
    }
    result
}

/// Releases a lock on disk. Returns whether the file at its path was still ours.
///
/// A lock file that could not be removed is dead, and the next contender takes it over; or it is one of the
/// [leftovers].
pub fn release(held: &Arc<HeldLock>) -> (Result<bool>, Option<Place>) {
    let mut place = None;
    let result = guarded(held.paths(), || {
        let (result, left) = held.release();
        place = left;
        result
    });
    if result.is_err() && held.is_freed_by_removal() {
        leftovers::add(Arc::clone(held));
    }
    (result, place)
}

/// Releases a lock, calls `done` with the result, and then makes the next waiter's attempt on this thread. When
/// `done` is called, the lock can be acquired again.
pub fn release_and_tell(paths: &LockPaths, held: &Arc<HeldLock>, done: Released) {
    let (result, place) = release(held);
    let todo = report(paths, |lock, now| lock.released(now, place));
    done(result.map(|was_ours| (!was_ours).then_some(Loss::Removed)));
    todo.carry_out(paths);
}

pub fn leave(place: Place) {
    // After a panic the queue file may stay; the next process that leaves removes it.
    let _ = catch_unwind(AssertUnwindSafe(|| place.leave()));
}

/// How long JavaScript may take to hear of a hold that the watchdog has ended.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

fn release_exceeded(paths: &LockPaths, held: Arc<HeldLock>, exceeded: Exceeded) {
    let paths = paths.clone();
    os::run(Box::new(move |_| {
        let (_, place) = release(&held); // an error changes nothing for who is told of the loss
        drop(held);
        happen_here(&paths, |lock, now| lock.released(now, place));
        for handle in &exceeded.handles {
            end_acquisition(*handle);
        }
        tell_exceeded(&paths, &exceeded);
    }));
}

/// The lock of this acquisition is released. Tells who has released it meanwhile.
fn end_acquisition(handle: Handle) {
    let waiting = with_registry(|registry| {
        let Some(Acquisition::Ending(waiting)) = registry.handles.get_mut(&handle) else {
            return Vec::new();
        };
        let waiting = std::mem::take(waiting);
        if waiting.is_empty() {
            registry.handles.insert(handle, Acquisition::Lost(Loss::HoldExceeded));
        } else {
            registry.handles.remove(&handle);
        }
        waiting
    });
    for done in waiting {
        done(Ok(Some(Loss::HoldExceeded)));
    }
}

/// Tells the client, which warns in JavaScript. If its thread is busy, prints a line.
fn tell_exceeded(paths: &LockPaths, exceeded: &Exceeded) {
    let Some(&handle) = exceeded.handles.first() else {
        return;
    };
    let tell = with_registry(|registry| {
        let (_, tell) = registry.clients.get(&exceeded.client).cloned()?;
        registry.unheard.insert(handle, (paths.clone(), exceeded.clone()));
        Some(tell)
    });
    let Some(tell) = tell else {
        return print_exceeded(paths, exceeded);
    };
    tell(News::Exceeded(paths, exceeded));
    let late = move || {
        if let Some((paths, exceeded)) = with_registry(|registry| registry.unheard.remove(&handle))
        {
            os::run(Box::new(move |_| print_exceeded(&paths, &exceeded)));
        }
    };
    os::at(os::now() + HEARD_WITHIN, late).into_iter().for_each(os::Timer::detach);
}

/// Not on the timers' thread: stderr may be a pipe that nobody reads.
pub fn print_exceeded(paths: &LockPaths, exceeded: &Exceeded) {
    let label = exceeded.label.as_deref().map(|label| format!(" label={label:?}"));
    // stderr may be closed.
    let _ = writeln!(
        io::stderr(),
        "[session-write-lock] releasing lock held for {}ms (max={}ms): {}{}",
        exceeded.held_for.as_millis(),
        exceeded.limit.as_millis(),
        paths.lock().display(),
        label.unwrap_or_default(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::{Environment, Request, Ticket};
    use crate::os::Errno;

    fn waiter(number: u64, session_file: &Path, deadline: Option<Instant>) -> Waiter<()> {
        waiter_of((), number, session_file, deadline)
    }

    fn waiter_of<C>(
        caller: C,
        number: u64,
        session_file: &Path,
        deadline: Option<Instant>,
    ) -> Waiter<C> {
        Waiter {
            request: Request {
                environment: Environment(number),
                ticket: Ticket { client: 0, number },
                handle: Handle(number),
                session_file: session_file.to_owned(),
                timeout_ms: None,
                stale_ms: 60_000,
                max_hold_ms: Some(60_000),
                label: None,
                spares_foreign: false,
                allow_reentrant: false,
            },
            deadline,
            has_waited: false,
            is_taken_over: false,
            caller,
        }
    }

    /// A lock that somebody holds, and one that contends for it. The folder goes when it is dropped.
    fn held_and_wanted() -> (tempfile::TempDir, LockPaths, [Lock<()>; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let session_file = folder.path().join("chat.jsonl");
        let paths = LockPaths::resolve(&session_file).unwrap();
        let mut locks = [(); 2].map(|()| Lock::new(paths.clone(), true, 0));
        locks[0].acquire(os::now(), waiter(1, &session_file, None));
        make_attempt(&mut locks[0], &paths);
        (folder, paths, locks)
    }

    /// Carries out the attempt that is ordered.
    fn make_attempt<C>(lock: &mut Lock<C>, paths: &LockPaths) {
        let Some(Order::Try(claim, approach)) = lock.orders().pop_front() else {
            panic!("no attempt")
        };
        let attempted = protocol::attempt(paths, &claim, approach);
        lock.tried(os::now(), attempted);
    }

    #[test]
    fn who_comes_when_nobody_wants_a_wait_any_more_finds_out_at_once() {
        let (folder, paths, [_holder, mut contender]) = held_and_wanted();
        let session_file = folder.path().join("chat.jsonl");
        let gives_up_at = os::now() + Duration::from_mins(1);
        let mut give_up = |number| {
            contender.acquire(os::now(), waiter(number, &session_file, Some(gives_up_at)));
            make_attempt(&mut contender, &paths);
            // Its thread blocks, and stays: nobody carries these orders out.
            contender.time(gives_up_at);
            assert!(contender.orders().iter().any(|order| matches!(order, Order::EndWait(_))));
            assert_eq!(contender.alarm(), None);
        };
        give_up(2);
        if os::WAIT_GIVES_FLOCK {
            // By an attempt, as long as not too many threads are away.
            (3..=6).for_each(give_up);
        }
        let later = gives_up_at + Duration::from_mins(1);
        contender.acquire(later, waiter(7, &session_file, None));
        let alarm = contender.alarm().expect("a look");
        assert_eq!(alarm, later, "its file may have lost its name");
        contender.time(alarm);
        assert!(matches!(contender.orders().pop_back(), Some(Order::LookPast(..))));
    }

    #[test]
    fn a_thread_that_comes_back_while_nobody_waits_any_more_leaves_the_queue() {
        let (folder, paths, [_holder, mut contender]) = held_and_wanted();
        if !os::WAIT_GIVES_FLOCK {
            return; // no attempt is made past a thread there
        }
        let waiter = waiter(2, &folder.path().join("chat.jsonl"), None);
        let (environment, ticket) = (waiter.request.environment, waiter.request.ticket);
        contender.acquire(os::now(), waiter);
        make_attempt(&mut contender, &paths);
        let Some(Order::WaitForFlock(wait, awaited)) = contender.orders().pop_back() else {
            panic!("no wait")
        };
        contender.looked(os::now(), wait, LookPast::Free);
        contender.looked(os::now(), wait, LookPast::Free);
        let Some(Order::TryPast(claim, approach)) = contender.orders().pop_back() else {
            panic!("no attempt past the queue")
        };
        assert!(contender.cancel(environment, ticket).is_some());
        contender.flock_ended(os::now(), wait, awaited, Err(Errno::INTR));
        contender.tried_past(os::now(), protocol::attempt(&paths, &claim, approach));
        assert!(contender.orders().iter().any(|order| matches!(order, Order::Leave(_))));
        assert!(contender.is_done());
    }

    #[test]
    fn a_lock_that_was_forgotten_does_not_use_the_numbers_of_its_waits_again() {
        let (folder, paths, [_holder, _]) = held_and_wanted();
        let session_file = folder.path().join("chat.jsonl");
        let [first, second] = [1, 2].map(|number| {
            let keeper = os::keep_timers().unwrap();
            let deliver: Deliver = Box::new(|_| ());
            let caller =
                Caller { deliver, since: os::now(), restarts: 0, overdue: None, _keeper: keeper };
            let waiter = waiter_of(caller, number, &session_file, None);
            let (environment, ticket) = (waiter.request.environment, waiter.request.ticket);
            with_registry(|registry| {
                let lock = &mut registry.entry(&paths).lock;
                lock.acquire(os::now(), waiter);
                make_attempt(lock, &paths);
                let order = lock.orders().pop_back();
                assert!(lock.cancel(environment, ticket).is_some());
                match order {
                    Some(Order::WaitForFlock(wait, obstacle)) => {
                        lock.flock_ended(os::now(), wait, obstacle, Err(Errno::INTR));
                    }
                    // By timers.
                    Some(Order::Watch(_, obstacle)) => {
                        lock.watched(os::now(), obstacle, false, true);
                    }
                    _ => panic!("no wait"),
                }
                lock.orders();
                let forgotten = registry.forget(&paths).expect("a lock");
                assert!(forgotten.lock.is_done());
                forgotten.lock.last_wait()
            })
        });
        assert!(second > first, "{second} after {first}: a late word of the first would count");
    }

    #[test]
    fn each_waiter_has_a_look_before_its_deadline() {
        let (folder, paths, [_holder, mut contender]) = held_and_wanted();
        let session_file = folder.path().join("chat.jsonl");
        let (now, second) = (os::now(), Duration::from_secs(1));
        let deadlines = [now + second, now + second * 2];
        for (number, deadline) in (2..).zip(deadlines) {
            contender.acquire(now, waiter(number, &session_file, Some(deadline)));
        }
        make_attempt(&mut contender, &paths);
        for deadline in deadlines {
            let looks_at = contender.alarm().expect("a look");
            assert_eq!(deadline.saturating_duration_since(looks_at), second / 4);
            contender.time(looks_at);
            let Some(Order::LookPast(number, ..)) = contender.orders().pop_back() else {
                panic!("no look")
            };
            contender.looked(looks_at, number, LookPast::Same);
            assert_eq!(contender.alarm(), Some(deadline));
            contender.time(deadline);
        }
    }

    #[test]
    fn a_panic_in_a_step_costs_one_acquire_and_the_next_gets_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let session_file = folder.path().join("chat.jsonl");
        let paths = LockPaths::resolve(&session_file).unwrap();
        let mut lock = Lock::new(paths.clone(), true, 0);
        lock.acquire(os::now(), waiter(1, &session_file, None));
        lock.acquire(os::now(), waiter(2, &session_file, None));
        let Some(Order::Try(..)) = lock.orders().pop_front() else { panic!("no attempt") };
        let broken = guarded(&paths, || panic!("forced by a test"));
        lock.tried(os::now(), broken);
        let mut orders = lock.orders();
        let Some(Order::Refuse(refused, Error::Bug { path })) = orders.pop_front() else {
            panic!("the first waiter hears of it");
        };
        assert_eq!((refused.request.handle, path.as_path()), (Handle(1), paths.lock()));
        let Some(Order::Try(claim, approach)) = orders.pop_front() else { panic!("no attempt") };
        let attempted = guarded(&paths, || protocol::attempt(&paths, &claim, approach));
        lock.tried(os::now(), attempted);
        let Some(Order::Grant(granted)) = lock.orders().pop_front() else { panic!("no lock") };
        assert_eq!(granted.request.handle, Handle(2));
        let held = lock.release(Handle(2)).unwrap();
        release(&held).0.unwrap();
        lock.released(os::now(), None);
        assert!(lock.is_done());
    }
}
