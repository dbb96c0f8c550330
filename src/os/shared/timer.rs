//! Events where nothing can be watched: a timer. What an event would tell is found out by time.

#![allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same functions as on Linux")]

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::files::File;
use crate::os::{Errno, Result};

/// There are no watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {}

impl Token {
    pub fn shares(self, _other: Self) -> bool {
        match self {}
    }
}

/// What ended a sleep.
#[allow(dead_code, reason = "the same events as on Linux")]
pub enum Event {
    /// Never here.
    To(Token),
    /// Never here.
    Overflow,
    /// The timer expired.
    Time,
}

#[derive(Default)]
pub struct Events {
    expires: Mutex<Option<Instant>>,
    was_set: Condvar,
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
impl Events {
    pub fn new() -> Result<Self> {
        Ok(Self::default())
    }

    /// Has [`Event::Time`] reported after `delay`, once. The last call counts.
    pub fn set_timer(&self, delay: Duration) {
        let expires = Instant::now().checked_add(delay);
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
        self.was_set.notify_one();
    }

    /// Sleeps until the timer expires.
    pub fn wait(&self, events: &mut Vec<Event>) {
        let mut expires = self.expires.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = expires.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                *expires = None;
                events.push(Event::Time);
                return;
            }
            let left = left.unwrap_or(Duration::from_hours(1));
            let woken = self.was_set.wait_timeout(expires, left);
            expires = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn watch_file(&self, _file: &File) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn watch_entry(&self, _path: &Path) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn watch_process(&self, _pid: i32) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn unwatch(&self, token: Token) {
        match token {}
    }
}
