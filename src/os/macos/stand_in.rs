//! In the place of `calls`, where macOS is tried on Linux: Linux's answers about processes and file systems, and no
//! events at all. What `kqueue` would tell is found out by time.

#![allow(
    dead_code,
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the same functions as in `calls`"
)]

#[path = "../linux/process.rs"]
pub mod process;
#[path = "../linux/trust.rs"]
pub mod trust;

#[path = "../linux/random.rs"]
mod random;

use crate::os::Details;

pub use super::files;
pub use random::random;

/// Its name.
pub fn process_details(pid: i32) -> Option<Details> {
    Some(Details {
        process: process::find_process(pid)?,
        own_pid: Some(pid),
        pid_namespace: None,
        running_for_ms: None,
        command: None,
        is_stopped: false,
    })
}

pub mod events {
    //! A timer, and nothing to be watched.

    use std::path::Path;
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use super::files::File;
    use crate::os::{Errno, Result};

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Token {}

    impl Token {
        pub fn shares(self, _other: Self) -> bool {
            match self {}
        }
    }

    pub enum Event {
        To(Token),
        Overflow,
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

        pub fn set_timer(&self, delay: Duration) {
            let expires = Instant::now().checked_add(delay);
            *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
            self.was_set.notify_one();
        }

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
}
