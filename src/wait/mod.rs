//! "Look again": when a lock file changes, when a process ends, when an instant has come.
//!
//! One thread per process waits for changes, ends and instants, however many locks and waiters
//! there are, and one more per contended lock stands in line for its flock ([`in_line`]). They sleep
//! in the kernel until something happens. They start with the first thing to wait for, and go,
//! with their descriptors, soon after the last.
//!
//! A callback says only that it is worth looking; whether the lock is free is the protocol's to
//! find out. The order that loses no wake-up is the caller's: try, subscribe, *try again*, sleep.
//!
//! Callbacks run on these threads. What may hang (a network file system) has to be handed to
//! [`crate::executor`].

pub use line::{Arrival, Place};

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod events;
#[cfg_attr(not(target_os = "linux"), path = "no_line.rs")]
mod line;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, Result};

use events::{Change, Events, Token};

/// Something to be done on the waiting thread.
type Callback = Arc<dyn Fn() + Send + Sync>;

/// How long the thread stays when there is nothing left to wait for.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// The longest it sleeps before it looks whether there still is anything.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Ample for one look at a lock, `/proc/self/mountinfo` included.
const STACK_BYTES: usize = 256 * 1024;

/// Set to `timers`, nothing is ever reported but time: every wait then falls back on looking again
/// now and then, as it must where the system has no events to offer.
const MODE_VARIABLE: &str = "SESSION_WRITE_LOCK_WAIT";

/// How often the thread woke up, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeUps {
    /// For a change of a watched file, or the end of a watched process.
    pub events: u64,
    /// Because an instant had come.
    pub timers: u64,
}

static EVENT_WAKE_UPS: AtomicU64 = AtomicU64::new(0);
static TIMER_WAKE_UPS: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Agenda {
    /// By instant, and in order of arrival within one.
    timers: BTreeMap<(Instant, u64), Callback>,
    /// By what the kernel calls them. Two watches of one inode share a token.
    watches: HashMap<Token, Vec<Subscription>>,
    /// Changes that somebody else than the thread has read from the kernel.
    unhandled: Vec<Token>,
    /// Files that the kernel watches and nobody else: the thread takes these back when it is awake. A
    /// hand-over would have to wait for that otherwise.
    unwatched: Vec<Token>,
    numbers: u64,
    /// Present while the thread runs.
    events: Option<Arc<Events>>,
    /// When it wakes up by itself, if it sleeps.
    sleeps_until: Option<Instant>,
}

struct Subscription {
    number: u64,
    callback: Callback,
    /// Since when nobody has opened the file, to read it.
    unread_since: Instant,
}

static AGENDA: OnceLock<Mutex<Agenda>> = OnceLock::new();

/// A subscription; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    token: Token,
    number: u64,
}

/// A planned call; withdrawn when dropped.
#[derive(Debug)]
pub struct Timer {
    key: (Instant, u64),
}

/// Calls back at `instant` or soon after, once.
///
/// # Errors
/// Where the system gives no thread (`EAGAIN`) or no descriptors (`EMFILE`): then nothing will be
/// called.
pub fn at(instant: Instant, callback: impl Fn() + Send + Sync + 'static) -> Result<Timer> {
    let mut agenda = agenda();
    let events = agenda.events()?;
    let key = (instant, agenda.number());
    agenda.timers.insert(key, Arc::new(callback));
    // It has to sleep less long; if it doesn't sleep, it will see for itself.
    let is_too_late = agenda.sleeps_until.is_some_and(|until| instant < until);
    drop(agenda);
    if is_too_late {
        events.wake();
    }
    Ok(Timer { key })
}

/// Calls back whenever the file is unlinked or replaced, or somebody who had it open for writing
/// closes it or dies. `None` where such things can't be watched.
pub fn on_change(file: &File, callback: impl Fn() + Send + Sync + 'static) -> Option<Watch> {
    watch(file, Events::watch_file, Arc::new(callback))
}

/// Whether one can stand in line for a flock here.
pub fn has_lines() -> bool {
    !is_timers_only() && line::is_there()
}

/// Stands in line for the flock on `file`, first come, first served among all processes. Calls back
/// when it is ours; it then belongs to the open file. `None` where one can't stand in line.
pub fn in_line(
    file: &Arc<File>,
    callback: impl Fn(Arrival) + Send + Sync + 'static,
) -> Option<Place> {
    if !has_lines() {
        return None;
    }
    line::stand(Arc::clone(file), move |arrival| {
        EVENT_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        callback(arrival);
    })
}

/// Calls back when the file is unlinked or moved away, and keeps an eye on who opens it. `None` where
/// that can't be watched.
pub fn on_removal(file: &File, callback: impl Fn() + Send + Sync + 'static) -> Option<Watch> {
    watch(file, Events::watch_name, Arc::new(callback))
}

fn watch(
    file: &File,
    how: impl FnOnce(&Events, &File) -> Result<Token>,
    callback: Callback,
) -> Option<Watch> {
    if is_timers_only() {
        return None;
    }
    let mut agenda = agenda();
    let events = agenda.events().ok()?;
    // Under the lock: the event may come before this returns, and has to find the entry.
    let token = how(&events, file).ok()?;
    Some(agenda.subscribe(token, callback))
}

/// Calls back when the process has ended.
///
/// # Errors
/// `ESRCH` if it has ended already; others where that can't be watched.
pub fn on_exit(pid: i32, callback: impl Fn() + Send + Sync + 'static) -> Result<Watch> {
    if is_timers_only() {
        return Err(Errno::NOSYS);
    }
    let mut agenda = agenda();
    let token = agenda.events()?.watch_process(pid)?;
    Ok(agenda.subscribe(token, Arc::new(callback)))
}

/// What woke the thread so far.
pub fn wake_ups() -> WakeUps {
    WakeUps {
        events: EVENT_WAKE_UPS.load(Ordering::Relaxed),
        timers: TIMER_WAKE_UPS.load(Ordering::Relaxed),
    }
}

impl Watch {
    /// Since when nobody has opened the watched file to read it, for all that the kernel has told
    /// until now; at most since this watch began.
    pub fn unread_since(&self) -> Instant {
        let mut agenda = agenda();
        if agenda.collect_changes()
            && let Some(events) = &agenda.events
        {
            events.wake(); // the callbacks are the thread's to call
        }
        let watches = agenda.watches.get(&self.token).into_iter().flatten();
        let own = watches.into_iter().find(|watch| watch.number == self.number);
        own.map_or_else(Instant::now, |watch| watch.unread_since)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut agenda = agenda();
        let Some(watches) = agenda.watches.get_mut(&self.token) else {
            return;
        };
        watches.retain(|watch| watch.number != self.number);
        if watches.is_empty() {
            agenda.watches.remove(&self.token);
            match (self.token, &agenda.events) {
                (Token::Process(_), Some(events)) => events.unwatch(self.token),
                _ => agenda.unwatched.push(self.token),
            }
        }
    }
}

impl Timer {
    /// Lets it fire whatever becomes of its owner.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        agenda().timers.remove(&self.key);
    }
}

impl Agenda {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn subscribe(&mut self, token: Token, callback: Callback) -> Watch {
        let number = self.number();
        let unread_since = Instant::now();
        self.unwatched.retain(|unwatched| *unwatched != token);
        let watch = Subscription { number, callback, unread_since };
        self.watches.entry(token).or_default().push(watch);
        Watch { token, number }
    }

    /// The running thread's events; starts it if need be.
    fn events(&mut self) -> Result<Arc<Events>> {
        if let Some(events) = &self.events {
            return Ok(Arc::clone(events));
        }
        let events = Arc::new(Events::new()?);
        let for_thread = Arc::clone(&events);
        let thread = std::thread::Builder::new().name("session-lock".into());
        thread
            .stack_size(STACK_BYTES)
            .spawn(move || wait_and_call(&for_thread))
            .map_err(|_| Errno::AGAIN)?;
        self.events = Some(Arc::clone(&events));
        Ok(events)
    }

    fn is_empty(&self) -> bool {
        self.timers.is_empty() && self.watches.is_empty()
    }

    /// Takes back what nobody watches any more.
    fn unwatch(&mut self) {
        let unwatched = std::mem::take(&mut self.unwatched);
        if let Some(events) = &self.events {
            for token in unwatched {
                events.unwatch(token);
            }
        }
    }

    /// How long to sleep now, and whether that is for lack of anything to wait for.
    fn plan_sleep(&mut self, now: Instant) -> (Duration, bool) {
        let is_empty = self.is_empty();
        let longest = if is_empty { IDLE_LIMIT } else { LONGEST_SLEEP };
        let first = self.timers.first_key_value().map(|((instant, _), _)| *instant);
        let limit =
            first.map_or(longest, |first| first.saturating_duration_since(now).min(longest));
        self.sleeps_until = now.checked_add(limit);
        (limit, is_empty)
    }

    /// Reads what the kernel has to tell: notes what was opened, and keeps what has changed for the
    /// thread. Says whether there is such.
    fn collect_changes(&mut self) -> bool {
        let Some(events) = self.events.clone() else {
            return false;
        };
        let (now, watches, unhandled) = (Instant::now(), &mut self.watches, &mut self.unhandled);
        events.read_changes(|token, change| match change {
            Change::Opened => {
                for watch in watches.get_mut(&token).into_iter().flatten() {
                    watch.unread_since = now;
                }
            }
            Change::Overflow => {
                for (token, watches) in watches.iter_mut() {
                    unhandled.push(*token);
                    for watch in watches {
                        watch.unread_since = now;
                    }
                }
            }
            Change::Changed if unhandled.contains(&token) => {}
            Change::Changed => unhandled.push(token),
        });
        !self.unhandled.is_empty()
    }

    /// Takes out what is due.
    fn due(&mut self, now: Instant) -> Vec<Callback> {
        let mut due = Vec::new();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            due.push(entry.remove());
        }
        due
    }

    fn callbacks(&self, tokens: &[Token]) -> Vec<Callback> {
        let watches = tokens.iter().filter_map(|token| self.watches.get(token)).flatten();
        watches.map(|watch| Arc::clone(&watch.callback)).collect()
    }
}

/// The life of the thread.
fn wait_and_call(events: &Events) {
    let mut tokens = Vec::new();
    loop {
        let started = Instant::now();
        let (limit, was_idle) = agenda().plan_sleep(started);
        let has_changes = events.wait(limit, &mut tokens);
        let (changed, due) = {
            let mut agenda = agenda();
            agenda.sleeps_until = None;
            agenda.unwatch();
            if has_changes {
                agenda.collect_changes();
            }
            tokens.append(&mut agenda.unhandled);
            (agenda.callbacks(&tokens), agenda.due(Instant::now()))
        };
        if !changed.is_empty() {
            EVENT_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        }
        if !due.is_empty() {
            TIMER_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        }
        for callback in changed.into_iter().chain(due) {
            // A panic is a bug and has been reported by now; other sessions must not pay for it.
            let _ = catch_unwind(AssertUnwindSafe(|| callback()));
        }
        let mut agenda = agenda();
        if was_idle && agenda.is_empty() && started.elapsed() >= IDLE_LIMIT {
            agenda.events = None;
            agenda.unwatched.clear(); // they go with it
            return;
        }
    }
}

fn is_timers_only() -> bool {
    static TIMERS_ONLY: OnceLock<bool> = OnceLock::new();
    *TIMERS_ONLY
        .get_or_init(|| std::env::var_os(MODE_VARIABLE).is_some_and(|mode| mode == "timers"))
}

/// No callback runs under this lock, so a panic can't leave it half changed.
fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}
