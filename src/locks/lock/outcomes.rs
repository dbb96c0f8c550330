//! How an acquire ends: a grant, a refusal, a time-out; and how a hold ends.

use std::sync::Arc;
use std::time::Duration;

use super::{Lock, QUIET, SAFETY_NET, Stage};
use crate::error::Error;
use crate::locks::order::{Check, Exceeded, Hold, Order, Waiter, take_if};
use crate::locks::{Loss, Request};
use crate::os::{Errno, Instant};
use crate::protocol::HeldLock;
use crate::verdict::Report;

impl<C> Lock<C> {
    /// Grants the lock to the first waiter. If all waiters have given up, releases it.
    pub(super) fn grant_first(&mut self, now: Instant, lock: Arc<HeldLock>) {
        let Some(mut waiter) = self.waiters.pop_front() else {
            self.stage = Stage::Busy;
            self.orders.push_back(Order::Release(lock, None));
            return;
        };
        waiter.is_taken_over = lock.is_taken_over();
        self.take_hold(now, lock, &waiter.request);
        self.orders.push_back(Order::Grant(waiter));
        self.share_with_waiters();
    }

    pub(super) fn take_hold(&mut self, now: Instant, lock: Arc<HeldLock>, request: &Request) {
        self.quiet_looks = QUIET;
        self.blind_looks = 0;
        self.stage = Stage::Held(Hold {
            lock,
            environment: request.environment,
            client: request.ticket.client,
            handles: vec![request.handle],
            since: now,
            limit: request.max_hold_ms.map(Duration::from_millis),
            label: request.label.clone(),
            check: if self.waiters.is_empty() { Check::Never } else { Check::At(now + SAFETY_NET) },
            check_every: None,
        });
    }

    /// Grants the lock to the waiters that may share the hold.
    pub(super) fn share_with_waiters(&mut self) {
        let Stage::Held(hold) = &mut self.stage else {
            return;
        };
        for waiter in take_if(&mut self.waiters, |waiter| waiter.request.may_share(hold)) {
            hold.handles.push(waiter.request.handle);
            self.orders.push_back(Order::Grant(waiter));
        }
    }

    /// The attempt failed with an error: refuses the first waiter. The others make their own attempts. If the folder is
    /// gone, all start anew, in their order.
    pub(super) fn refuse_first(&mut self, error: Error) {
        if matches!(&error, Error::System { errno: Errno::NOENT, .. }) {
            self.orders.extend(self.waiters.drain(..).map(Order::StartAnew));
        } else if let Some(waiter) = self.waiters.pop_front() {
            self.orders.push_back(Order::Refuse(waiter, error));
        }
    }

    /// Times out the waiters whose deadline is over.
    pub(super) fn expire(&mut self, now: Instant, cause: Option<Error>) {
        let expired = self.take_expired(now);
        if !expired.is_empty() {
            let cause = cause.or_else(|| self.cannot_block.clone());
            self.orders.push_back(Order::Expire(expired, cause));
            self.give_up_if_unwanted();
        }
    }

    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Waiter<C>> {
        if self.first_deadline.is_none_or(|first| now < first) {
            return Vec::new();
        }
        let is_over = |waiter: &Waiter<C>| waiter.deadline.is_some_and(|it| it <= now);
        let expired = take_if(&mut self.waiters, is_over);
        self.first_deadline = self.waiters.iter().filter_map(|waiter| waiter.deadline).min();
        expired
    }

    /// Times out a waiter without a report about the holder.
    pub(super) fn time_out(&mut self, waiter: Waiter<C>) {
        let error = Error::Timeout {
            timeout_ms: waiter.request.timeout_ms.unwrap_or(0),
            lock_path: self.paths.lock().to_owned(),
            is_held_here: self.hold().is_some(),
            report: Box::new(Report::default()),
            cause: None,
        };
        self.orders.push_back(Order::Refuse(waiter, error));
    }

    /// Ends the hold. The lock has to be released.
    pub(super) fn take_lock(&mut self) -> Option<Arc<HeldLock>> {
        let lock = Arc::clone(&self.hold()?.lock);
        self.stage = Stage::Busy;
        Some(lock)
    }

    pub(super) fn lose(&mut self, loss: Loss, exceeded: Option<Exceeded>) {
        let handles = self.hold().map(|hold| hold.handles.clone());
        if let (Some(handles), Some(lock)) = (handles, self.take_lock()) {
            self.orders.push_back(Order::Lost(handles, loss));
            self.orders.push_back(Order::Release(lock, exceeded));
        }
    }
}
