//! The types that pass between a [`Lock`](super::lock::Lock) and its driver.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Environment, Handle, Loss, Request, Ticket};
use crate::error::Error;
use crate::os::Instant;
use crate::protocol::{Approach, Awaited, Claim, HeldLock, Obstacle, Place};

/// Removes and returns the items that `is_wanted` accepts. Both parts keep their order. Moves nothing if there are none:
/// there may be thousands of others.
pub fn take_if<T>(queue: &mut VecDeque<T>, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
    if !queue.iter().any(&is_wanted) {
        return Vec::new();
    }
    let (taken, kept) = std::mem::take(queue).into_iter().partition(is_wanted);
    *queue = Vec::into(kept);
    taken
}

/// An acquire that has not ended.
#[derive(Debug)]
pub struct Waiter<C> {
    /// What was asked for.
    pub request: Request,
    /// When the acquire times out.
    pub deadline: Option<Instant>,
    /// Whether somebody was in its way.
    pub has_waited: bool,
    /// Whether its lock replaced a dead one.
    pub is_taken_over: bool,
    /// The driver's own data.
    pub caller: C,
}

/// What an environment has while it holds the lock.
#[derive(Debug)]
pub struct Hold {
    /// The lock on disk.
    pub lock: Arc<HeldLock>,
    /// The environment that holds.
    pub environment: Environment,
    /// The client that took it.
    pub client: u64,
    /// The acquisitions that share it.
    pub handles: Vec<Handle>,
    /// When it was granted.
    pub since: Instant,
    /// How long it may be held; `None`: for ever.
    pub limit: Option<Duration>,
    /// What it is for.
    pub label: Option<Arc<str>>,
    /// When to check that the path still names our file.
    pub check: Check,
    /// How often, where no event tells of a loss; `None`: only while others wait here.
    pub check_every: Option<Duration>,
}

/// The next check of a held lock. One at a time: it can hang, and occupies a thread then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// There is none.
    Never,
    /// At this instant.
    At(Instant),
    /// The driver is checking.
    Now,
}

impl Check {
    /// The instant.
    pub fn at(self) -> Option<Instant> {
        if let Self::At(instant) = self { Some(instant) } else { None }
    }
}

/// What the driver has to do. Where an order has a result, its comment names the event that reports it.
#[derive(Debug)]
pub enum Order<C> {
    /// Make an attempt: [`super::lock::Lock::tried`].
    Try(Claim, Approach),
    /// Block for our turn: [`super::lock::Lock::turn_ended`].
    WaitForTurn(u64, Place),
    /// Block for the flock in the way: [`super::lock::Lock::flock_ended`].
    WaitForFlock(u64, Obstacle),
    /// Ends the wait with this number, and all earlier ones.
    EndWait(u64),
    /// Watch the obstacle; each change is reported by [`super::lock::Lock::stirred`]. The result:
    /// [`super::lock::Lock::watched`].
    Watch(u64, Obstacle),
    /// Ends the watch with this number, and all earlier ones.
    Unwatch(u64),
    /// Check whether a thread blocks in vain: [`super::lock::Lock::looked`].
    LookPast(u64, Claim, Awaited),
    /// Make an attempt past the queue, while a thread still blocks: [`super::lock::Lock::tried_past`].
    TryPast(Claim, Approach),
    /// Check whether the path still names our file: [`super::lock::Lock::path_checked`].
    CheckPath(Arc<HeldLock>),
    /// Release the lock: [`super::lock::Lock::released`]. `Exceeded`: the watchdog ended the hold.
    Release(Arc<HeldLock>, Option<Exceeded>),
    /// Grant the lock to the waiter.
    Grant(Waiter<C>),
    /// End the waiter's acquire with this error.
    Refuse(Waiter<C>, Error),
    /// End these acquires with a time-out error that says who holds the lock. `Error`: its cause.
    Expire(Vec<Waiter<C>>, Option<Error>),
    /// The folder was moved or removed: resolve the waiter's session file again.
    StartAnew(Waiter<C>),
    /// Report the loss of these acquisitions to their listeners.
    Lost(Vec<Handle>, Loss),
    /// Leave the queue.
    Leave(Place),
    /// Close the obstacle's file.
    Close(Obstacle),
}

/// A hold that the watchdog ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// How long it was held.
    pub held_for: Duration,
    /// Its `max_hold_ms`.
    pub limit: Duration,
    /// What it was for.
    pub label: Option<Arc<str>>,
    /// The client that took it.
    pub client: u64,
    /// The environment that held it.
    pub environment: Environment,
    /// The acquisitions that shared it.
    pub handles: Vec<Handle>,
}

/// What the caller of [`super::lock::Lock::try_acquire`] has to do.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "used at once, and never stored")]
pub enum TryNow {
    /// Make this attempt, and report it by [`super::lock::Lock::tried_now`].
    Try(Claim, Approach),
    /// If the path still names our file, share this lock by [`super::lock::Lock::share`].
    Share(Arc<HeldLock>),
    /// Another acquire of this process has the lock, or is before this one.
    Contended,
}

impl Hold {
    /// Plans a check for this instant, unless there is an earlier one.
    pub fn check_by(&mut self, at: Instant) {
        self.check = match self.check {
            Check::Never => Check::At(at),
            Check::At(planned) => Check::At(planned.min(at)),
            Check::Now => Check::Now,
        };
    }

    /// When the watchdog ends the hold; `None` if there is no limit, or the instant does not fit the clock.
    pub fn ends_at(&self) -> Option<Instant> {
        self.since.checked_add(self.limit?)
    }
}

impl Request {
    /// Whether it is the acquire with this ticket.
    pub fn is_of(&self, environment: Environment, ticket: Ticket) -> bool {
        self.environment == environment && self.ticket == ticket
    }

    /// Whether it makes one attempt and waits for nobody.
    pub fn is_single_attempt(&self) -> bool {
        self.timeout_ms == Some(0)
    }

    /// Whether this request may share the hold: re-entrant, and of the same environment.
    pub fn may_share(&self, hold: &Hold) -> bool {
        self.allow_reentrant && self.environment == hold.environment
    }
}
