//! The timers' thread sleeps in one epoll over a timerfd, an inotify instance and pidfds.
//!
//! Any thread can set the timerfd; that does not wake the sleeping one.
//!
//! A file is watched through `/proc/self/fd/N`, so the watch is on the opened inode, whatever its path names by
//! now. inotify(7) reports:
//!
//! * `IN_ATTRIB`: a name was removed, by a release or after a takeover's exchange;
//! * `IN_MOVE_SELF`: the file was renamed, or exchanged;
//! * `IN_CLOSE_WRITE`: a writer closed the file; a dying process closes all its files;
//! * `IN_DELETE_SELF`: the last name is gone and the last descriptor closed. Never early enough to help.
//!
//! The inotify instance is created with the first watch on a file. The kernel may refuse it (128 per user by
//! default); timers must work all the same.

use std::hash::{DefaultHasher, Hasher};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::files::{File, proc_path};
use crate::os::{Errno, Result};

/// Identifies a watch: an inotify watch descriptor or a pidfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {
    File(i32),
    /// The watch of a folder, and the hash of the name of one entry.
    Entry(i32, u64),
    Process(i32),
}

impl Token {
    /// Whether both belong to the watch of one folder.
    pub fn shares(self, other: Self) -> bool {
        matches!((self, other), (Self::Entry(one, _), Self::Entry(two, _)) if one == two)
    }
}

/// Two names with one hash cost a callback too many.
fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// What ended a sleep.
pub enum Event {
    /// The watched file changed, or the watched process ended.
    To(Token),
    /// The inotify queue overflowed: any file may have changed.
    Overflow,
    /// The timerfd expired.
    Time,
}

/// `data` of the epoll entries. For a pidfd it is the descriptor's number, which is smaller.
const TIMER: u64 = u64::MAX;
const INOTIFY: u64 = u64::MAX - 1;

const ZERO: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

pub struct Events {
    epoll: OwnedFd,
    timer: OwnedFd,
    inotify: OnceLock<OwnedFd>,
    pidfds: Mutex<Vec<OwnedFd>>,
}

impl Events {
    /// Opens two descriptors.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        // Where a sandbox forbids setting it, this says so, and no deadline is waited for in vain.
        let off = Itimerspec { it_interval: ZERO, it_value: ZERO };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &off)?;
        Ok(Self { epoll, timer, inotify: OnceLock::new(), pidfds: Mutex::default() })
    }

    /// Has [`Event::Time`] reported after `delay`, once. The last call counts.
    pub fn set_timer(&self, delay: Duration) {
        // All zeros would switch it off.
        let delay = delay.max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: delay.subsec_nanos().into(),
        };
        let setting = Itimerspec { it_interval: ZERO, it_value };
        // Fails only for a wrong descriptor or an invalid time.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting);
    }

    /// Sleeps until something happens.
    pub fn wait(&self, events: &mut Vec<Event>) {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); 16];
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut buffer[..], None) else {
            return; // EINTR; the caller loops
        };
        for event in ready {
            match event.data.u64() {
                TIMER => {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]); // set anew meanwhile
                    events.push(Event::Time);
                }
                INOTIFY => self.read_changes(events),
                pidfd => {
                    events.extend(i32::try_from(pidfd).map(|n| Event::To(Token::Process(n))));
                }
            }
        }
    }

    pub fn watch_file(&self, file: &File) -> Result<Token> {
        let names = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let mask = names | WatchFlags::CLOSE_WRITE;
        Ok(Token::File(inotify::add_watch(self.inotify()?, proc_path(file), mask)?))
    }

    /// Watches the attributes of one entry of a folder.
    pub fn watch_entry(&self, path: &Path) -> Result<Token> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        let watch =
            inotify::add_watch(self.inotify()?, folder, WatchFlags::ATTRIB | WatchFlags::ONLYDIR)?;
        Ok(Token::Entry(watch, hash(name.as_bytes())))
    }

    /// `SRCH` if the process has ended already.
    pub fn watch_process(&self, pid: i32) -> Result<Token> {
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let number = pidfd.as_raw_fd();
        let data = epoll::EventData::new_u64(u64::from(number.cast_unsigned()));
        // One shot: a pidfd stays readable for ever.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&self.epoll, &pidfd, data, flags)?;
        self.pidfds.lock().unwrap_or_else(PoisonError::into_inner).push(pidfd);
        Ok(Token::Process(number))
    }

    pub fn unwatch(&self, token: Token) {
        match token {
            // Fails if the inode is gone, and the watch with it.
            Token::File(watch) | Token::Entry(watch, _) => {
                if let Some(inotify) = self.inotify.get() {
                    let _ = inotify::remove_watch(inotify, watch);
                }
            }
            // Closing it takes it out of the epoll set.
            Token::Process(number) => {
                let mut pidfds = self.pidfds.lock().unwrap_or_else(PoisonError::into_inner);
                pidfds.retain(|pidfd| pidfd.as_raw_fd() != number);
            }
        }
    }

    fn inotify(&self) -> Result<&OwnedFd> {
        if let Some(inotify) = self.inotify.get() {
            return Ok(inotify);
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let data = epoll::EventData::new_u64(INOTIFY);
        epoll::add(&self.epoll, &inotify, data, epoll::EventFlags::IN)?;
        Ok(self.inotify.get_or_init(|| inotify))
    }

    fn read_changes(&self, events: &mut Vec<Event>) {
        let Some(inotify) = self.inotify.get() else {
            return;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                events.push(Event::Overflow);
            } else if !what.contains(ReadFlags::IGNORED) {
                // `IGNORED` reports the end of a watch, not a change.
                events.push(Event::To(match event.file_name() {
                    Some(name) => Token::Entry(event.wd(), hash(name.to_bytes())),
                    None => Token::File(event.wd()),
                }));
            }
        }
    }
}
