//! The timers' thread sleeps in one kqueue: a timer, files, and processes.
//!
//! Any thread can set the timer; that does not wake the sleeping one. A file is watched through its descriptor, so the
//! watch is on the opened inode, whatever its path names by now. kqueue(2) reports:
//!
//! * `NOTE_DELETE`, `NOTE_LINK`: a name was removed, by a release or after a takeover's exchange;
//! * `NOTE_RENAME`: the file was renamed, or exchanged.
//!
//! Nothing tells that a writer has closed a file, nor that the times of a file in a folder were set.

#![allow(clippy::unused_self, reason = "the same functions as on Linux")]
#![expect(unsafe_code, reason = "rustix's `kevent` is unsafe: it takes descriptors by number")]

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::kqueue::{
    self, Event as Kevent, EventFilter, EventFlags, ProcessEvents, VnodeEvents,
};
use rustix::process::Pid;

use super::files::File;
use crate::os::{Errno, Result};

/// Identifies a watch: a descriptor, or a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {
    File(i32),
    Process(i32),
}

impl Token {
    /// Whether both belong to the watch of one folder. There are none here.
    pub fn shares(self, _other: Self) -> bool {
        false
    }
}

/// What ended a sleep.
#[allow(dead_code, reason = "the same events as on Linux")]
pub enum Event {
    /// The watched file changed, or the watched process ended.
    To(Token),
    /// Never here.
    Overflow,
    /// The timer expired.
    Time,
}

pub struct Events {
    kqueue: OwnedFd,
    /// The watched files: a descriptor that is closed would take its watch along.
    files: Mutex<HashMap<i32, File>>,
}

impl Events {
    /// Opens a descriptor.
    pub fn new() -> Result<Self> {
        let kqueue = kqueue::kqueue()?;
        rustix::io::fcntl_setfd(&kqueue, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { kqueue, files: Mutex::default() })
    }

    /// Has [`Event::Time`] reported after `delay`, once. The last call counts.
    pub fn set_timer(&self, delay: Duration) {
        let timer =
            EventFilter::Timer { ident: 0, timer: Some(delay.max(Duration::from_nanos(1))) };
        // Fails only for a wrong descriptor, or for want of memory.
        let _ = self.change(timer, EventFlags::ADD | EventFlags::ONESHOT);
    }

    /// Sleeps until something happens.
    pub fn wait(&self, events: &mut Vec<Event>) {
        let mut happened = Vec::with_capacity(16);
        // SAFETY: no changes are made, so no descriptor is named.
        let result = unsafe {
            kqueue::kevent(&self.kqueue, &[], rustix::buffer::spare_capacity(&mut happened), None)
        };
        if result.is_err() {
            return; // EINTR; the caller loops
        }
        events.extend(happened.iter().filter_map(|event| match event.filter() {
            EventFilter::Timer { .. } => Some(Event::Time),
            EventFilter::Vnode { vnode, .. } => Some(Event::To(Token::File(vnode))),
            EventFilter::Proc { pid, .. } => {
                Some(Event::To(Token::Process(pid.as_raw_nonzero().get())))
            }
            _ => None,
        }));
    }

    pub fn watch_file(&self, file: &File) -> Result<Token> {
        let vnode = file.as_fd().as_raw_fd();
        let flags = VnodeEvents::DELETE | VnodeEvents::LINK | VnodeEvents::RENAME;
        // A second watch of this descriptor is the same one: both ask for the same.
        self.change(EventFilter::Vnode { vnode, flags }, EventFlags::ADD | EventFlags::CLEAR)?;
        self.files().insert(vnode, file.clone());
        Ok(Token::File(vnode))
    }

    /// A folder tells which entries come and go, not that one was touched.
    pub fn watch_entry(&self, _path: &Path) -> Result<Token> {
        Err(Errno::NOSYS)
    }

    /// `SRCH` if the process has ended already.
    pub fn watch_process(&self, pid: i32) -> Result<Token> {
        let number = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let exit = EventFilter::Proc { pid: number, flags: ProcessEvents::EXIT };
        self.change(exit, EventFlags::ADD | EventFlags::ONESHOT)?;
        Ok(Token::Process(pid))
    }

    pub fn unwatch(&self, token: Token) {
        // Fails if the process has ended, and the watch with it.
        let _ = match token {
            Token::File(vnode) => {
                let flags = VnodeEvents::empty();
                let result = self.change(EventFilter::Vnode { vnode, flags }, EventFlags::DELETE);
                self.files().remove(&vnode);
                result
            }
            Token::Process(pid) => Pid::from_raw(pid).map_or(Ok(()), |pid| {
                let flags = ProcessEvents::empty();
                self.change(EventFilter::Proc { pid, flags }, EventFlags::DELETE)
            }),
        };
    }

    fn change(&self, filter: EventFilter, flags: EventFlags) -> Result<()> {
        let change = Kevent::new(filter, flags, std::ptr::null_mut());
        // SAFETY: a descriptor that is named here is open: its caller has the file, or `files` has.
        unsafe {
            kqueue::kevent(&self.kqueue, &[change], &mut [] as &mut [Kevent], Some(Duration::ZERO))
        }?;
        Ok(())
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<i32, File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
