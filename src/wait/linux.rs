//! Events on Linux: one epoll over one inotify instance, the pidfds of watched processes, and an
//! eventfd to be woken by.
//!
//! A file is watched by way of `/proc/self/fd/N`, that is, by the inode that was opened: which file
//! has its path by now makes no difference. Of inotify(7):
//!
//! * `IN_ATTRIB` comes when a link goes: the release, or a takeover's rename over the file;
//! * `IN_MOVE_SELF` comes when somebody moves it away;
//! * `IN_CLOSE_WRITE` comes when a writer closes it, and a dying process closes everything;
//! * `IN_DELETE_SELF` comes only after the last close, and is too late for anything but safety;
//! * `IN_OPEN` comes when somebody opens the file, perhaps to read it: no change, but worth knowing.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What is watched: an inotify watch descriptor or a pidfd's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {
    File(i32),
    Process(i32),
}

/// What has happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    Changed,
    /// Whatever: the kernel had more to tell than it could keep.
    Overflow,
}

/// Marks in the epoll set; a pidfd goes by its number, which is neither.
const WAKE: u64 = u64::MAX;
const INOTIFY: u64 = u64::MAX - 1;

pub struct Events {
    epoll: OwnedFd,
    inotify: OwnedFd,
    wake: OwnedFd,
    pidfds: Mutex<Vec<OwnedFd>>,
}

impl Events {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &inotify, epoll::EventData::new_u64(INOTIFY), readable)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), readable)?;
        Ok(Self { epoll, inotify, wake, pidfds: Mutex::default() })
    }

    /// Ends the current or the next `wait` at once.
    pub fn wake(&self) {
        // The only failure is a counter that is full, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Sleeps until something happens, at most for `limit`; `tokens` are the processes that have
    /// ended. Says whether something has happened to files, which is to be read with `read_changes`.
    pub fn wait(&self, limit: Duration, tokens: &mut Vec<Token>) -> bool {
        tokens.clear();
        let mut has_changes = false;
        // Rounded up: waking too early would mean waking twice.
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); 16];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut buffer[..], Some(&limit)) else {
            return false; // interrupted; the caller comes back
        };
        for event in events {
            match event.data.u64() {
                WAKE => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                INOTIFY => has_changes = true,
                pidfd => tokens.extend(i32::try_from(pidfd).map(Token::Process)),
            }
        }
        has_changes
    }

    pub fn watch_file(&self, file: &File) -> Result<Token> {
        let links = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        self.watch(file, links | WatchFlags::CLOSE_WRITE | WatchFlags::OPEN)
    }

    /// Without its writers' comings and goings.
    pub fn watch_name(&self, file: &File) -> Result<Token> {
        self.watch(file, WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::OPEN)
    }

    fn watch(&self, file: &File, mask: WatchFlags) -> Result<Token> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Two watches of one inode are one to the kernel: the second adds to the first.
        inotify::add_watch(&self.inotify, path, mask | WatchFlags::MASK_ADD).map(Token::File)
    }

    pub fn watch_process(&self, pid: i32) -> Result<Token> {
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let number = pidfd.as_raw_fd();
        let data = epoll::EventData::new_u64(u64::from(number.cast_unsigned()));
        // Once: it stays readable for ever.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&self.epoll, &pidfd, data, flags)?;
        self.pidfds().push(pidfd);
        Ok(Token::Process(number))
    }

    pub fn unwatch(&self, token: Token) {
        match token {
            // Fails if the inode is gone, and the watch with it.
            Token::File(watch) => drop(inotify::remove_watch(&self.inotify, watch)),
            // Closing it takes it out of the epoll set.
            Token::Process(number) => self.pidfds().retain(|pidfd| pidfd.as_raw_fd() != number),
        }
    }

    /// Everything that the kernel has to tell of watched files, without waiting.
    pub fn read_changes(&self, mut tell: impl FnMut(Token, Change)) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                tell(Token::File(event.wd()), Change::Overflow);
            } else if what.contains(ReadFlags::OPEN) {
                tell(Token::File(event.wd()), Change::Opened);
            } else if !what.contains(ReadFlags::IGNORED) {
                // `IGNORED` only says that a watch is over.
                tell(Token::File(event.wd()), Change::Changed);
            }
        }
    }

    fn pidfds(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.pidfds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
