//! No events here: nothing but time.

use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::{Errno, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "nothing is ever told here")]
pub enum Change {
    Opened,
    Changed,
    Overflow,
}

#[derive(Default)]
pub struct Events {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Events {
    pub fn new() -> Result<Self> {
        Ok(Self::default())
    }

    pub fn wake(&self) {
        *self.is_woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_one();
    }

    pub fn wait(&self, limit: Duration, tokens: &mut Vec<Token>) -> bool {
        tokens.clear();
        let is_woken = self.is_woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.woken.wait_timeout_while(is_woken, limit, |is_woken| !*is_woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        false
    }

    pub fn read_changes(&self, _tell: impl FnMut(Token, Change)) {}

    pub fn watch_file(&self, _file: &File) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn watch_name(&self, _file: &File) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn watch_process(&self, _pid: i32) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    pub fn unwatch(&self, token: Token) {
        match token {}
    }
}
