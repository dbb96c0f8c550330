//! One lock of this process, as a value: who holds it, who waits, and what is to be done next.
//!
//! A state machine. The driver calls a method for each *event* and takes the *orders* out by
//! [`Lock::orders`]. The machine makes no system call, reads no clock and takes no mutex: the
//! [driver](super::drive) carries the orders out and reports each result as the next event. So the
//! simulation can run the machine by itself, in every order of events (`tests/simulation`).
//!
//! ```text
//!            acquire               tried: acquired
//!   Idle ───────────────► Busy ───────────────────────────► Held
//!    ▲                    ▲  │ tried: queued, flocked          │
//!    │   turn or flock    │  ├────────────► Blocked            │ release, loss
//!    │   came             ├──┼───────────────┘                 │
//!    │   changed, time,   │  │ tried: otherwise contended      │
//!    │   nobody waits     ├──┼────────────► Watching           │
//!    │                    │  │ tried: taken over               │
//!    │                    │  └────────────► Settling ──────────┤
//!    └────────────────────┴────────────────────────────────────┘
//! ```
//!
//! Dropping an open file is a system call too. So the machine never drops a place, an obstacle or a held
//! lock: it hands each of them to the driver in an order.
//!
//! `C`: the driver's own data about a waiter. The machine keeps it and returns it with the waiter.

mod outcomes;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::order::{Check, Exceeded, Hold, Order, TryNow, Waiter, take_if};
use super::{Environment, Handle, Loss, Request, Ticket};
use crate::error::{Error, Result};
use crate::os::Instant;
use crate::protocol::{Approach, Attempt, Claim, HeldLock, LockPaths, Obstacle, Place, SETTLE};
use crate::verdict::Limits;

/// How long after a release this process leaves the queue. By then the next holder has started, and a
/// process that acquires again within this time still has its open queue file.
const LEAVE_AFTER: Duration = Duration::from_millis(20);

/// How often a waiting process checks whether its wait is stuck, although an event should wake it: a
/// person can remove the lock file, and the process that has the turn can be stopped (SIGSTOP).
const SAFETY_NET: Duration = Duration::from_secs(2);

/// An attempt can hang, on a mount whose server is gone. So long after its deadline the waiter times out
/// all the same, without a report about the holder.
pub const HUNG_AFTER: Duration = Duration::from_secs(2);

/// After so many attempts that found nothing changed, the kernel has surely stopped counting the writer.
const QUIET: u32 = 3;

#[derive(Debug)]
enum Stage {
    /// Nobody here has or wants the lock.
    Idle,
    /// The driver carries out an order; its result decides the next stage.
    Busy,
    /// A thread blocks, for our turn in the queue or for the holder's flock.
    Blocked(Box<waiting::Blocked>),
    /// An obstacle without a flock is in the way: an event or a timer ends the wait.
    Watching {
        obstacle: Obstacle,
        check_at: Instant,
    },
    /// Our file replaced a dead lock. The lock is ours if the path still names our file at `until`.
    /// `None`: the driver is checking that.
    Settling {
        lock: Arc<HeldLock>,
        until: Option<Instant>,
    },
    Held(Hold),
}

/// One lock of this process.
#[derive(Debug)]
pub struct Lock<C> {
    paths: LockPaths,
    /// Whether threads can block here.
    may_block: bool,
    stage: Stage,
    waiters: VecDeque<Waiter<C>>,
    /// The first deadline, or an earlier instant.
    first_deadline: Option<Instant>,
    /// Our place in the queue while nobody here waits, and when we leave it.
    place: Option<(Place, Instant)>,
    /// Why a thread could not block. Until nobody waits here any more, waits go by timers.
    cannot_block: Option<Error>,
    /// The number of the current wait. An event with an earlier number is stale.
    number: u64,
    /// How many threads of earlier waits are not back yet.
    away: usize,
    /// Whether an event arrived while the driver was still setting up the watch.
    is_stirred: bool,
    /// How many attempts in a row found nothing changed after an event.
    quiet_looks: u32,
    /// How many attempts in a row were made by timer, for lack of events.
    blind_looks: u32,
    orders: VecDeque<Order<C>>,
}

impl<C> Lock<C> {
    /// A lock that nobody here has or wants. `may_block`: whether threads can block here. `last_wait`: its waits
    /// have higher numbers.
    pub fn new(paths: LockPaths, may_block: bool, last_wait: u64) -> Self {
        Self {
            paths,
            may_block,
            stage: Stage::Idle,
            waiters: VecDeque::new(),
            first_deadline: None,
            place: None,
            cannot_block: None,
            number: last_wait,
            away: 0,
            is_stirred: false,
            quiet_looks: QUIET,
            blind_looks: 0,
            orders: VecDeque::new(),
        }
    }

    // --- What is asked of it ----------------------------------------------------------------------

    /// Takes the orders out. The driver carries them out in this sequence.
    pub fn orders(&mut self) -> VecDeque<Order<C>> {
        std::mem::take(&mut self.orders)
    }

    /// When [`Lock::time`] has to be called.
    pub fn alarm(&self) -> Option<Instant> {
        let first_deadline = self.first_deadline.filter(|_| !self.waiters.is_empty());
        let deadline = match self.stage {
            // A running attempt or settling is not cut short at the deadline.
            Stage::Busy | Stage::Settling { .. } => {
                first_deadline.and_then(|first| first.checked_add(HUNG_AFTER))
            }
            _ => first_deadline,
        };
        let own = match &self.stage {
            Stage::Idle => self.place.as_ref().map(|(_, leave_at)| *leave_at),
            Stage::Busy => None,
            // A thread whose wait nobody wants any more may come back late.
            Stage::Blocked(blocked) => blocked.check_at.filter(|_| !self.waiters.is_empty()),
            Stage::Watching { check_at, .. } => Some(*check_at),
            Stage::Settling { until, .. } => *until,
            Stage::Held(hold) => hold.check.at().into_iter().chain(hold.ends_at()).min(),
        };
        own.into_iter().chain(deadline).min()
    }

    /// Whether the driver may forget this lock.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Idle)
            && self.waiters.is_empty()
            && self.place.is_none()
            && self.away == 0
    }

    /// The number of the last wait.
    pub fn last_wait(&self) -> u64 {
        self.number
    }

    /// The hold, while the lock is ours.
    pub fn hold(&self) -> Option<&Hold> {
        if let Stage::Held(hold) = &self.stage { Some(hold) } else { None }
    }

    /// Whether the hold is of this very lock file.
    pub fn holds(&self, lock: &Arc<HeldLock>) -> bool {
        self.hold().is_some_and(|hold| Arc::ptr_eq(&hold.lock, lock))
    }

    /// Whether somebody here waits for a lock that we hold, and may not share it.
    pub fn is_wanted(&self) -> bool {
        let waits =
            |request: &Request, hold| !request.is_single_attempt() && !request.may_share(hold);
        self.hold().is_some_and(|hold| self.waiters.iter().any(|it| waits(&it.request, hold)))
    }

    /// How many wait here.
    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    /// Whether this acquire waits here.
    pub fn is_awaited_by(&self, environment: Environment, ticket: Ticket) -> bool {
        self.waiters.iter().any(|waiter| waiter.request.is_of(environment, ticket))
    }

    /// The acquire that has waited longest.
    pub fn first_waiter(&self) -> Option<&Request> {
        self.waiters.front().map(|waiter| &waiter.request)
    }

    // --- Events: what callers do --------------------------------------------------------------------

    /// A caller wants the lock, and waits for it.
    pub fn acquire(&mut self, now: Instant, mut waiter: Waiter<C>) {
        self.first_deadline = self.first_deadline.into_iter().chain(waiter.deadline).min();
        if let Stage::Held(hold) = &mut self.stage {
            if waiter.request.may_share(hold) {
                // A lock whose file was removed protects nothing: check the path before sharing it.
                self.orders.push_back(Order::CheckPath(Arc::clone(&hold.lock)));
            } else {
                hold.check_by(now + SAFETY_NET);
                waiter.has_waited = true;
            }
        } else {
            waiter.has_waited |= !matches!(self.stage, Stage::Idle);
            self.check_in_time(now, waiter.deadline);
        }
        self.waiters.push_back(waiter);
        if matches!(self.stage, Stage::Idle) {
            self.go_on();
        }
    }

    /// A caller wants the lock without waiting.
    pub fn try_acquire(&mut self, request: &Request) -> TryNow {
        match &self.stage {
            Stage::Held(hold) if request.may_share(hold) => TryNow::Share(Arc::clone(&hold.lock)),
            Stage::Idle => {
                let claim = Claim { may_queue: false, ..self.claim(request) };
                let approach = Approach::PastTheQueue;
                self.stage = Stage::Busy;
                TryNow::Try(claim, approach)
            }
            _ => TryNow::Contended,
        }
    }

    /// The result of the attempt that [`Lock::try_acquire`] asked for: the settled lock, or `None`.
    pub fn tried_now(&mut self, now: Instant, request: &Request, lock: Option<HeldLock>) {
        self.stage = Stage::Idle;
        match lock {
            Some(lock) => {
                self.take_hold(now, Arc::new(lock), request);
                self.share_with_waiters();
            }
            None => self.go_on(),
        }
    }

    /// Adds an acquisition to the hold of `lock`, whose path was checked. `false` if the hold has ended.
    pub fn share(&mut self, lock: &Arc<HeldLock>, handle: Handle) -> bool {
        match &mut self.stage {
            Stage::Held(hold) if Arc::ptr_eq(&hold.lock, lock) => {
                hold.handles.push(handle);
                true
            }
            _ => false,
        }
    }

    /// Gives one acquisition back. Returns the lock if that was the last acquisition: the caller releases
    /// it and reports [`Lock::released`].
    pub fn release(&mut self, handle: Handle) -> Option<Arc<HeldLock>> {
        let Stage::Held(hold) = &mut self.stage else {
            return None;
        };
        hold.handles.retain(|other| *other != handle);
        let is_last = hold.handles.is_empty();
        is_last.then(|| self.take_lock()).flatten()
    }

    /// Ends the hold of an environment, if it has one. The caller releases the lock and reports
    /// [`Lock::released`].
    pub fn release_environment(&mut self, environment: Environment) -> Option<Arc<HeldLock>> {
        let hold = self.hold().filter(|hold| hold.environment == environment)?;
        self.orders.push_back(Order::Lost(hold.handles.clone(), Loss::Released));
        self.take_lock()
    }

    /// A caller withdraws its acquire.
    pub fn cancel(&mut self, environment: Environment, ticket: Ticket) -> Option<Waiter<C>> {
        let is_it = |waiter: &Waiter<C>| waiter.request.is_of(environment, ticket);
        let waiter = self.waiters.remove(self.waiters.iter().position(is_it)?);
        self.give_up_if_unwanted();
        waiter
    }

    /// All waiters are to wait for another lock. An attempt that runs goes on without them.
    pub fn take_waiters(&mut self) -> VecDeque<Waiter<C>> {
        let gone = std::mem::take(&mut self.waiters);
        self.give_up_if_unwanted();
        gone
    }

    /// An environment has ended: removes its waiters.
    pub fn forget(&mut self, environment: Environment) -> Vec<Waiter<C>> {
        let gone = take_if(&mut self.waiters, |waiter| waiter.request.environment == environment);
        self.give_up_if_unwanted();
        gone
    }

    // --- Events: what came of orders ----------------------------------------------------------------

    /// The result of [`Order::Try`].
    pub fn tried(&mut self, now: Instant, result: Result<Attempt>) {
        match result {
            Ok(Attempt::Acquired(lock)) => self.grant_first(now, Arc::new(lock)),
            Ok(Attempt::TakenOver(lock)) => self.settle(now, lock),
            Ok(Attempt::Queued(place)) => {
                self.note_wait();
                self.expire(now, None);
                self.block_for_turn(now, place);
            }
            Ok(Attempt::Contended(obstacle)) => {
                self.note_wait();
                let first = self.waiters.front();
                if first.is_some_and(|first| first.request.is_single_attempt()) {
                    // It has not queued. Those behind it make their own attempts.
                    self.expire(now, obstacle.cause().cloned());
                    self.drop_obstacle(obstacle);
                    self.go_on();
                } else {
                    self.stand_behind(now, obstacle);
                }
            }
            Err(error) => {
                self.stage = Stage::Idle;
                self.refuse_first(error);
                self.go_on();
            }
        }
    }

    /// The first waiter has to wait. Those behind it do so from the start.
    fn note_wait(&mut self) {
        if let Some(first) = self.waiters.front_mut() {
            first.has_waited = true;
        }
    }

    fn settle(&mut self, now: Instant, lock: HeldLock) {
        self.stage = Stage::Settling { lock: Arc::new(lock), until: Some(now + SETTLE) };
    }

    /// This process has removed the lock file (a sweep).
    pub fn removed(&mut self) {
        self.look_again();
    }

    /// Something has happened to the lock file. If we hold it, its path has to be checked.
    pub fn check_path(&mut self) {
        if let Stage::Held(hold) = &self.stage {
            self.orders.push_back(Order::CheckPath(Arc::clone(&hold.lock)));
        }
    }

    /// No event will tell of the loss of this lock, or not of each: checks its path so often.
    pub fn check_every(&mut self, now: Instant, lock: &Arc<HeldLock>, every: Duration) {
        if let Stage::Held(hold) = &mut self.stage
            && Arc::ptr_eq(&hold.lock, lock)
        {
            hold.check_every = Some(every);
            hold.check_by(now + every);
        }
    }

    /// The process may be about to end: leaves the queue without the usual delay.
    pub fn leave_now(&mut self) {
        if matches!(self.stage, Stage::Idle) {
            self.leave();
        }
    }

    /// The result of [`Order::CheckPath`]: whether the path still names our file.
    pub fn path_checked(&mut self, now: Instant, lock: &Arc<HeldLock>, is_ours: Result<bool>) {
        match &mut self.stage {
            Stage::Settling { lock: settling, .. } if Arc::ptr_eq(settling, lock) => {
                self.stage = Stage::Busy;
                match is_ours {
                    Ok(true) => self.grant_first(now, Arc::clone(lock)),
                    // The takeover failed. The release gives up the place in the queue.
                    Ok(false) => self.orders.push_back(Order::Release(Arc::clone(lock), None)),
                    Err(error) => {
                        self.refuse_first(error);
                        self.orders.push_back(Order::Release(Arc::clone(lock), None));
                    }
                }
            }
            Stage::Held(hold) if Arc::ptr_eq(&hold.lock, lock) => {
                // An error proves nothing: the hold stays.
                if !is_ours.unwrap_or(true) {
                    self.lose(Loss::Removed, None);
                    return;
                }
                self.share_with_waiters();
                let for_waiters = (!self.waiters.is_empty()).then_some(SAFETY_NET);
                if let Stage::Held(hold) = &mut self.stage {
                    hold.check = Check::Never;
                    if let Some(every) = for_waiters.into_iter().chain(hold.check_every).min() {
                        hold.check_by(now + every);
                    }
                }
            }
            _ => {}
        }
    }

    /// A lock was released. `place`: ours in the queue, if others use it.
    pub fn released(&mut self, now: Instant, place: Option<Place>) {
        self.leave(); // of a `tryLock`, which did not use the place
        self.place = place.map(|place| (place, now + LEAVE_AFTER));
        self.stage = Stage::Idle;
        self.go_on();
    }

    /// The instant that [`Lock::alarm`] named is here.
    pub fn time(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::Idle => {
                let is_due = self.place.as_ref().is_some_and(|(_, leave_at)| *leave_at <= now);
                if is_due {
                    self.leave();
                }
            }
            Stage::Settling { until: Some(until), lock } if *until <= now => {
                self.orders.push_back(Order::CheckPath(Arc::clone(lock)));
                self.stage = Stage::Settling { lock: Arc::clone(lock), until: None };
            }
            // An attempt that hangs may hang for ever: waiters long past their deadline time out.
            Stage::Busy | Stage::Settling { .. } => {
                if let Some(overdue) = now.checked_sub(HUNG_AFTER) {
                    for waiter in self.take_expired(overdue) {
                        self.time_out(waiter);
                    }
                }
            }
            Stage::Watching { check_at, obstacle } => {
                let (is_due, cause) = (*check_at <= now, obstacle.cause().cloned());
                self.expire(now, cause);
                if is_due {
                    self.quiet_looks = self.quiet_looks.saturating_add(1);
                    self.look_again();
                }
            }
            Stage::Blocked(_) => {
                self.expire(now, None);
                if let Some(first) = self.waiters.front() {
                    let claim = self.claim(&first.request);
                    if let Stage::Blocked(blocked) = &mut self.stage
                        && blocked.check_at.take_if(|check_at| *check_at <= now).is_some()
                        && let Some(awaited) = blocked.awaited.clone()
                    {
                        self.orders.push_back(Order::LookPast(blocked.number, claim, awaited));
                    }
                }
            }
            Stage::Held(_) => {
                self.expire(now, None); // before the check, which can hang
                if let Stage::Held(hold) = &mut self.stage
                    && hold.check.at().is_some_and(|at| at <= now)
                {
                    hold.check = Check::Now;
                    self.orders.push_back(Order::CheckPath(Arc::clone(&hold.lock)));
                }
                self.run_watchdog(now);
            }
        }
    }

    /// Ends a hold that is too long.
    pub fn run_watchdog(&mut self, now: Instant) {
        if let Some(hold) = self.hold()
            && let Some(limit) = hold.limit
            && hold.ends_at().is_some_and(|ends_at| ends_at <= now)
        {
            let held_for = now.saturating_duration_since(hold.since);
            let exceeded = Exceeded {
                held_for,
                limit,
                label: hold.label.clone(),
                client: hold.client,
                environment: hold.environment,
                handles: hold.handles.clone(),
            };
            self.lose(Loss::HoldExceeded, Some(exceeded));
        }
    }

    // --- The next step ------------------------------------------------------------------------------

    /// Makes an attempt for the first waiter; without waiters, becomes `Idle`.
    fn go_on(&mut self) {
        if self.waiters.is_empty() {
            self.rest();
        } else {
            let approach = self.approach();
            self.try_by(approach);
        }
    }

    /// Nobody waits: forgets everything about the last wait.
    fn rest(&mut self) {
        self.stage = Stage::Idle;
        self.first_deadline = None;
        self.cannot_block = None;
        self.quiet_looks = QUIET;
        self.blind_looks = 0;
    }

    fn try_by(&mut self, approach: Approach) {
        if let Some(first) = self.waiters.front() {
            let claim = self.claim(&first.request);
            self.stage = Stage::Busy;
            self.orders.push_back(Order::Try(claim, approach));
        }
    }

    fn approach(&mut self) -> Approach {
        if self.waiters.front().is_some_and(|waiter| waiter.request.is_single_attempt()) {
            return Approach::PastTheQueue;
        }
        match self.place.take() {
            Some((place, _)) => Approach::Place(place),
            None if self.may_queue() => Approach::Newcomer,
            None => Approach::PastTheQueue,
        }
    }

    fn may_queue(&self) -> bool {
        self.may_block && self.cannot_block.is_none()
    }

    fn claim(&self, request: &Request) -> Claim {
        Claim {
            max_hold_ms: request.max_hold_ms,
            label: request.label.clone(),
            limits: Limits::new(request.stale_ms, request.timeout_ms),
            is_held_here: self.hold().is_some(),
            spares_foreign: request.spares_foreign,
            may_queue: self.may_queue() && !request.is_single_attempt(),
        }
    }
}
