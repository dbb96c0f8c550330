//! How a process waits for a lock, and how the wait ends.
//!
//! A wait ends in one of three ways: the turn or the flock is ours, nobody here wants the lock any more, or
//! a check finds that the wait is stuck. A blocked thread owns the place in the queue, and returns it: nobody
//! else gives the place up meanwhile, because byte locks belong to the open file, and the thread would not notice.

use std::sync::Arc;
use std::time::Duration;

use super::{Lock, QUIET, SAFETY_NET, Stage};
use crate::error::{Context, Result};
use crate::locks::order::Order;
use crate::os::{self, Errno, Instant};
use crate::protocol::{Approach, Attempt, Awaited, LookPast, Obstacle, Place, ToldBy};

/// A lock that is free for so long although processes queue for it is stuck: a hand-over takes less than a
/// millisecond. A waiting process then makes an attempt past the queue.
const STUCK_AFTER: Duration = Duration::from_millis(100);

/// If so many threads of earlier waits are not back, a wait that is given up stays `Blocked` until its thread is. Without that,
/// a loop of acquires and aborts would make hundreds of threads.
const MOST_AWAY: usize = 4;

/// How long before its deadline a waiter checks once more whether its wait is stuck: two checks, and an attempt.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// `None`: it would be over already.
fn last_look(now: Instant, deadline: Option<Instant>) -> Option<Instant> {
    deadline?.checked_sub(LAST_LOOK).filter(|at| *at > now)
}

/// The longest sleep where no event reports changes, in milliseconds, as a power of two.
const LONGEST_BLIND: u32 = 5;

#[derive(Debug)]
pub struct Blocked {
    pub(super) number: u64,
    /// What the thread blocks for; `None` once it is over.
    pub(super) awaited: Option<Awaited>,
    /// When to check whether the wait is stuck. `None`: the driver is checking.
    pub(super) check_at: Option<Instant>,
    /// Whether the lock was free at the last check.
    pub(super) was_free: bool,
    /// All waiters gave up. New waiters may come before the thread returns: soon; on Windows, when the lock is free.
    pub(super) is_over: bool,
    /// Whether an attempt past the queue is running. If the thread returns meanwhile, its result is kept
    /// in `ended` until the attempt is over.
    pub(super) is_trying: bool,
    pub(super) ended: Option<End>,
}

/// The result of a blocked thread.
#[derive(Debug)]
pub enum End {
    Turn(Place, crate::os::Result<()>),
    Flock(Obstacle, crate::os::Result<()>),
}

impl<C> Lock<C> {
    /// The result of [`Order::TryPast`], made while a thread still blocks. If the lock is not ours, the wait
    /// goes on; after an error, without the first waiter.
    pub fn tried_past(&mut self, now: Instant, result: Result<Attempt>) {
        let next_check = self.next_check(now, SAFETY_NET);
        let Stage::Blocked(blocked) = &mut self.stage else {
            return; // can't happen: the stage stays `Blocked` while `is_trying`
        };
        blocked.is_trying = false;
        blocked.was_free = false;
        blocked.check_at = Some(next_check);
        let (number, ended) = (blocked.number, blocked.ended.take());
        match result {
            Ok(Attempt::Acquired(lock)) => {
                self.end_wait(ended);
                return self.grant_first(now, Arc::new(lock));
            }
            Ok(Attempt::TakenOver(lock)) => {
                self.end_wait(ended);
                return self.settle(now, lock);
            }
            Ok(Attempt::Contended(obstacle)) => self.drop_obstacle(obstacle),
            Ok(Attempt::Queued(place)) => self.orders.push_back(Order::Leave(place)),
            Err(error) => self.refuse_first(error),
        }
        match ended {
            Some(ended) => self.thread_is_back(now, number, ended),
            None => self.give_up_if_unwanted(),
        }
    }

    /// The result of [`Order::WaitForTurn`]: it is our turn, or the thread could not block.
    pub fn turn_ended(
        &mut self,
        now: Instant,
        number: u64,
        place: Place,
        end: crate::os::Result<()>,
    ) {
        self.thread_is_back(now, number, End::Turn(place, end));
    }

    /// The result of [`Order::WaitForFlock`]: the flock is ours, another attempt has to be made, or the thread could not
    /// block.
    pub fn flock_ended(
        &mut self,
        now: Instant,
        number: u64,
        obstacle: Obstacle,
        end: crate::os::Result<()>,
    ) {
        self.thread_is_back(now, number, End::Flock(obstacle, end));
    }

    fn thread_is_back(&mut self, now: Instant, number: u64, end: End) {
        match &mut self.stage {
            Stage::Blocked(blocked) if blocked.number == number && blocked.is_trying => {
                blocked.ended = Some(end);
            }
            Stage::Blocked(blocked) if blocked.number == number && blocked.is_over => {
                let awaited = blocked.awaited.take();
                self.drop_end(end);
                self.close(awaited);
                self.stage = Stage::Idle;
                self.go_on();
            }
            Stage::Blocked(blocked) if blocked.number == number => {
                let awaited = blocked.awaited.take();
                self.wait_ended(now, end);
                self.close(awaited);
            }
            // This wait was ended before: the result is stale.
            _ => {
                self.away = self.away.saturating_sub(1);
                self.drop_end(end);
            }
        }
    }

    fn wait_ended(&mut self, now: Instant, end: End) {
        if self.waiters.is_empty() {
            self.drop_end(end);
            self.rest();
            return;
        }
        match end {
            End::Turn(place, Ok(())) => self.try_by(Approach::Place(place)),
            End::Flock(obstacle, Ok(())) => self.try_by(Approach::Flock(obstacle)),
            End::Turn(place, Err(Errno::INTR)) => self.block_for_turn(now, place),
            End::Flock(obstacle, Err(Errno::INTR)) => {
                let place = obstacle.place().cloned();
                self.orders.push_back(Order::Close(obstacle));
                self.try_by(place.map_or(Approach::Newcomer, Approach::Place));
            }
            End::Turn(_, Err(errno)) | End::Flock(_, Err(errno)) => {
                let syscall = if matches!(end, End::Turn(..)) { "fcntl" } else { "flock" };
                self.note_block_failure(errno, syscall);
                self.drop_end(end);
                self.try_by(Approach::PastTheQueue);
            }
        }
    }

    pub(super) fn drop_end(&mut self, end: End) {
        match end {
            End::Turn(place, _) => self.orders.push_back(Order::Leave(place)),
            End::Flock(obstacle, _) => self.drop_obstacle(obstacle),
        }
    }

    /// The result of [`Order::Watch`]. `is_told`: events will report changes. `is_same`: the obstacle was
    /// still in the way after the watch was set up.
    pub fn watched(&mut self, now: Instant, obstacle: Obstacle, is_told: bool, is_same: bool) {
        let matures = obstacle.matures_in_ms().map(Duration::from_millis);
        let check_after = if is_told {
            self.blind_looks = 0;
            match obstacle.told_by() {
                // The kernel raises IN_CLOSE_WRITE a moment before it stops counting the writer, so a
                // lease asked for at once is still refused. Try again after 4, 32 and 256 ms.
                ToldBy::Close if self.quiet_looks < QUIET => {
                    Duration::from_millis(4 << (3 * self.quiet_looks))
                }
                _ => SAFETY_NET,
            }
        } else {
            self.blind_looks = self.blind_looks.saturating_add(1);
            Duration::from_millis(1 << self.blind_looks.min(LONGEST_BLIND))
        };
        let check_after = matures.map_or(check_after, |matures| matures.min(check_after));
        self.stage = Stage::Watching { obstacle, check_at: now + check_after };
        self.give_up_if_unwanted();
        if std::mem::take(&mut self.is_stirred) || !is_same {
            self.look_again();
        }
    }

    /// A watched file has changed, or a watched process has ended.
    pub fn stirred(&mut self, number: u64) {
        if self.number != number {
            return;
        }
        self.quiet_looks = 0;
        // The event may arrive before `watched` is called: `watched` then tries again at once.
        self.is_stirred = !matches!(self.stage, Stage::Watching { .. });
        self.look_again();
    }

    /// The result of [`Order::LookPast`].
    pub fn looked(&mut self, now: Instant, number: u64, look: LookPast) {
        let is_free = look == LookPast::Free;
        let next_check = self.next_check(now, if is_free { STUCK_AFTER } else { SAFETY_NET });
        let Stage::Blocked(blocked) = &mut self.stage else {
            return;
        };
        if blocked.number != number {
            return; // this is another wait by now
        }
        if look != LookPast::Same && !os::WAIT_GIVES_FLOCK {
            // Nothing calls the thread back there, and nobody is passed by another attempt: there is no queue.
            let awaited = blocked.awaited.take();
            self.orders.push_back(Order::EndWait(number)); // it may not have begun
            self.away += 1;
            self.close(awaited);
            return self.go_on();
        }
        let was_free = std::mem::replace(&mut blocked.was_free, is_free);
        let is_stuck = is_free && was_free;
        if look == LookPast::Nameless {
            self.orders.push_back(Order::EndWait(blocked.number)); // it then waits on the file of that name
        }
        blocked.check_at = Some(next_check);
        if is_stuck && let Some(first) = self.waiters.front() {
            let claim = self.claim(&first.request);
            if let Stage::Blocked(blocked) = &mut self.stage {
                blocked.is_trying = true;
                blocked.check_at = None;
                // If it is our turn, the queue isn't stuck: somebody removed the lock file.
                let has_turn = matches!(blocked.awaited, Some(Awaited::Flock(_)));
                let approach =
                    if has_turn { Approach::PastTheQueue } else { Approach::PastAStuckQueue };
                self.orders.push_back(Order::TryPast(claim, approach));
            }
        }
    }

    pub(super) fn stand_behind(&mut self, now: Instant, obstacle: Obstacle) {
        self.expire(now, obstacle.cause().cloned());
        if self.waiters.is_empty() {
            self.drop_obstacle(obstacle);
            self.rest();
        } else if self.may_queue() && obstacle.told_by() == ToldBy::Flock {
            let number = self.block(now, Awaited::Flock(obstacle.clone()));
            self.orders.push_back(Order::WaitForFlock(number, obstacle));
        } else {
            self.number += 1;
            self.is_stirred = false;
            self.stage = Stage::Busy;
            self.orders.push_back(Order::Watch(self.number, obstacle));
        }
    }

    pub(super) fn block_for_turn(&mut self, now: Instant, place: Place) {
        if self.waiters.is_empty() {
            self.orders.push_back(Order::Leave(place));
            self.rest();
        } else {
            let number = self.block(now, Awaited::Turn(place.file_id()));
            self.orders.push_back(Order::WaitForTurn(number, place));
        }
    }

    fn block(&mut self, now: Instant, awaited: Awaited) -> u64 {
        self.number += 1;
        let number = self.number;
        self.stage = Stage::Blocked(Box::new(Blocked {
            number,
            awaited: Some(awaited),
            check_at: Some(self.next_check(now, SAFETY_NET)),
            was_free: false,
            is_over: false,
            is_trying: false,
            ended: None,
        }));
        number
    }

    /// When to check whether the wait is stuck: after so long, or in time for whoever gives up first.
    fn next_check(&self, now: Instant, after: Duration) -> Instant {
        let last_looks = self.waiters.iter().filter_map(|waiter| last_look(now, waiter.deadline));
        last_looks.min().map_or(now + after, |at| at.max(now + STUCK_AFTER).min(now + after))
    }

    /// Before a waiter joins, which may have less time than those who wait. If nobody did any more, the thread may wait on
    /// a file that has lost its name meanwhile.
    pub(super) fn check_in_time(&mut self, now: Instant, deadline: Option<Instant>) {
        let is_first = self.waiters.is_empty();
        if let Stage::Blocked(blocked) = &mut self.stage
            && let Some(check_at) = &mut blocked.check_at
        {
            let in_time = last_look(now, deadline).map_or(*check_at, |at| at.min(*check_at));
            *check_at = if is_first { now } else { in_time };
        }
    }

    /// The attempt past the queue took the lock: ends the wait of the thread that still blocks.
    fn end_wait(&mut self, ended: Option<End>) {
        if let Some(ended) = ended {
            self.drop_end(ended);
        } else {
            self.orders.push_back(Order::EndWait(self.number));
            self.away += 1;
        }
        if let Stage::Blocked(blocked) = &mut self.stage {
            let awaited = blocked.awaited.take();
            self.close(awaited);
        }
    }

    fn note_block_failure(&mut self, errno: Errno, syscall: &'static str) {
        let failed: crate::os::Result<()> = Err(errno);
        let syscall = if errno == Errno::AGAIN { "pthread_create" } else { syscall };
        self.cannot_block = failed.during(syscall, self.paths.lock()).err();
    }

    /// Ends the watch and makes another attempt. Does nothing outside of `Watching`.
    pub(super) fn look_again(&mut self) {
        if matches!(self.stage, Stage::Watching { .. })
            && let Stage::Watching { obstacle, .. } =
                std::mem::replace(&mut self.stage, Stage::Busy)
        {
            self.orders.push_back(Order::Unwatch(self.number));
            // Our place, which has the turn, is used again for the attempt.
            let place = obstacle.place().cloned();
            self.orders.push_back(Order::Close(obstacle));
            let approach = place.map_or_else(|| self.approach(), Approach::Place);
            self.try_by(approach);
        }
    }

    /// If nobody waits any more, ends the wait and leaves the queue.
    pub(super) fn give_up_if_unwanted(&mut self) {
        if !self.waiters.is_empty() {
            return;
        }
        match &mut self.stage {
            Stage::Watching { .. } => {
                if let Stage::Watching { obstacle, .. } =
                    std::mem::replace(&mut self.stage, Stage::Idle)
                {
                    self.orders.push_back(Order::Unwatch(self.number));
                    self.drop_obstacle(obstacle);
                    self.rest();
                }
            }
            // The attempt goes on, and its result decides.
            Stage::Blocked(blocked) if blocked.is_trying => {}
            Stage::Blocked(blocked) => {
                self.orders.push_back(Order::EndWait(self.number));
                if os::WAIT_GIVES_FLOCK && self.away < MOST_AWAY {
                    // The thread returns soon, and what it brings is dropped. Who comes meanwhile makes an attempt.
                    let awaited = blocked.awaited.take();
                    self.away += 1;
                    self.close(awaited);
                    self.rest();
                } else {
                    // Who comes waits for the thread to return.
                    blocked.is_over = true;
                }
            }
            Stage::Idle | Stage::Busy | Stage::Settling { .. } | Stage::Held(_) => {}
        }
    }

    pub(super) fn drop_obstacle(&mut self, obstacle: Obstacle) {
        self.orders.extend(obstacle.place().cloned().map(Order::Leave));
        self.orders.push_back(Order::Close(obstacle));
    }

    fn close(&mut self, awaited: Option<Awaited>) {
        if let Some(Awaited::Flock(obstacle)) = awaited {
            self.orders.push_back(Order::Close(obstacle));
        }
    }

    pub(super) fn leave(&mut self) {
        self.orders.extend(self.place.take().map(|(place, _)| Order::Leave(place)));
    }
}
