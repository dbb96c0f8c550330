//! "Call back": at an instant, when a file changes, when a process ends.
//!
//! One thread per process serves all locks and waiters. It starts with the first timer or watch, and ends, and
//! closes its descriptors, a second after the last one.
//!
//! A callback means only that something may have changed; the protocol finds out whether the lock is free. The
//! caller has to keep the order that loses no wake-up: try, subscribe, *try again*, sleep.
//!
//! Callbacks run on that thread. Work that may hang (a network file system) belongs on a worker:
//! [`run`](super::run).

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::system::events::{Event, Events, Token};
use super::{Errno, File, Instant, Result};

/// To be called once.
type Once = Box<dyn FnOnce() + Send>;

/// To be called at every change.
type Callback = Arc<dyn Fn() + Send + Sync>;

/// How long the thread runs on without timers, watches and keepers.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Ample for judging a lock, `/proc/self/mountinfo` included.
const STACK_BYTES: usize = 256 * 1024;

/// How often threads of ours woke up, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeUps {
    /// A watched file changed, a watched process ended, or a blocked thread got its lock or was told to look again.
    pub events: u64,
    /// A timer expired.
    pub timers: u64,
}

static EVENT_WAKE_UPS: AtomicU64 = AtomicU64::new(0);
static TIMER_WAKE_UPS: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Agenda {
    /// By instant, and in order of arrival within one.
    timers: BTreeMap<(Instant, u64), Once>,
    /// By the kernel's token. Two watches of one inode share a token.
    watches: HashMap<Token, Vec<(u64, Callback)>>,
    /// How many [`Keeper`]s exist.
    keepers: usize,
    numbers: u64,
    /// Present while the thread runs.
    events: Option<Arc<Events>>,
    /// When the timerfd expires: at the first timer, or earlier.
    armed: Option<Instant>,
}

static AGENDA: OnceLock<Mutex<Agenda>> = OnceLock::new();

/// A subscription; ends when dropped.
#[derive(Debug)]
#[must_use = "it ends when dropped"]
pub struct Watch {
    token: Token,
    number: u64,
}

/// A planned call; withdrawn when dropped.
#[derive(Debug)]
#[must_use = "it is withdrawn when dropped"]
pub struct Timer {
    key: (Instant, u64),
}

/// Keeps the thread running. While there is one, [`at`] does not fail.
#[derive(Debug)]
pub struct Keeper(());

/// Keeps the thread running until the [`Keeper`] is dropped.
///
/// # Errors
/// Where the system gives no thread (`AGAIN`) or no descriptors (`MFILE`, `NFILE`).
pub fn keep_timers() -> Result<Keeper> {
    let mut agenda = agenda();
    agenda.events()?;
    agenda.keepers += 1;
    Ok(Keeper(()))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut agenda = agenda();
        agenda.keepers -= 1;
        agenda.plan_end();
    }
}

/// Calls back at `instant` or soon after, once.
///
/// # Errors
/// As [`keep_timers`]: then nothing will be called.
pub fn at(instant: Instant, callback: impl FnOnce() + Send + 'static) -> Result<Timer> {
    let mut agenda = agenda();
    agenda.events()?;
    let key = (instant, agenda.number());
    agenda.timers.insert(key, Box::new(callback));
    agenda.arm(instant);
    Ok(Timer { key })
}

/// Calls back whenever the file loses a name, is moved away, or is closed by somebody who had it open
/// for writing.
///
/// # Errors
/// Where that can't be watched.
pub fn on_change(file: &File, callback: impl Fn() + Send + Sync + 'static) -> Result<Watch> {
    watch(|events| events.watch_file(file), callback)
}

/// Calls back whenever the attributes of the file that `path` names change: by [`touch`](super::touch), or when
/// a name of it is removed. There need not be such a file yet.
///
/// # Errors
/// Where its folder can't be watched.
pub fn on_touch(path: &Path, callback: impl Fn() + Send + Sync + 'static) -> Result<Watch> {
    watch(|events| events.watch_entry(path), callback)
}

/// Calls back when the process has ended.
///
/// # Errors
/// `SRCH` if it has ended already; others where that can't be watched.
pub fn on_exit(pid: i32, callback: impl Fn() + Send + Sync + 'static) -> Result<Watch> {
    watch(|events| events.watch_process(pid), callback)
}

fn watch(
    how: impl FnOnce(&Events) -> Result<Token>,
    callback: impl Fn() + Send + Sync + 'static,
) -> Result<Watch> {
    if !super::has_events() {
        return Err(Errno::NOSYS);
    }
    let mut agenda = agenda();
    // Under the mutex: an event that arrives before this returns has to find the entry.
    let token = how(&*agenda.events()?)?;
    let number = agenda.number();
    agenda.watches.entry(token).or_default().push((number, Arc::new(callback)));
    Ok(Watch { token, number })
}

/// What woke threads of ours so far.
pub fn wake_ups() -> WakeUps {
    WakeUps {
        events: EVENT_WAKE_UPS.load(Ordering::Relaxed),
        timers: TIMER_WAKE_UPS.load(Ordering::Relaxed),
    }
}

/// Counts a blocked thread that got its lock, or was told to look again.
pub fn count_event() {
    EVENT_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a thread that has slept for a while instead (Windows).
#[allow(dead_code, reason = "on other systems none does")]
pub fn count_timer() {
    TIMER_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut agenda = agenda();
        let Some(watches) = agenda.watches.get_mut(&self.token) else {
            return;
        };
        watches.retain(|(number, _)| *number != self.number);
        if watches.is_empty() {
            agenda.watches.remove(&self.token);
            let is_shared = agenda.watches.keys().any(|token| token.shares(self.token));
            if let Some(events) = agenda.events.as_ref().filter(|_| !is_shared) {
                events.unwatch(self.token);
            }
            agenda.plan_end();
        }
    }
}

impl Timer {
    /// Lets the timer expire although nobody keeps it.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut agenda = agenda();
        // Dropping the callback may run other code, so it is dropped outside of the mutex.
        let callback = agenda.timers.remove(&self.key);
        agenda.plan_end();
        drop(agenda);
        drop(callback);
    }
}

impl Agenda {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
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
        self.armed = None;
        Ok(events)
    }

    fn is_empty(&self) -> bool {
        self.timers.is_empty() && self.watches.is_empty() && self.keepers == 0
    }

    /// Sets the timerfd so that the thread wakes up by `instant`. Setting it does not wake the thread.
    fn arm(&mut self, instant: Instant) {
        if self.armed.is_none_or(|armed| instant < armed)
            && let Some(events) = &self.events
        {
            self.armed = Some(instant);
            events.set_timer(instant.saturating_duration_since(super::now()));
        }
    }

    /// If nothing is left to wait for, lets the thread check after [`IDLE_LIMIT`] whether to end.
    fn plan_end(&mut self) {
        if self.is_empty() {
            self.arm(super::now() + IDLE_LIMIT);
        }
    }

    /// Takes out what is due.
    fn due(&mut self, now: Instant) -> Vec<Once> {
        let mut due = Vec::new();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            due.push(entry.remove());
        }
        due
    }

    fn callbacks(&self, events: &[Event]) -> Vec<Callback> {
        let all = events.iter().any(|event| matches!(event, Event::Overflow));
        let is_told = |token: &Token| {
            all || events.iter().any(|event| matches!(event, Event::To(it) if it == token))
        };
        let told = self.watches.iter().filter(|(token, _)| is_told(token));
        told.flat_map(|(_, watches)| watches).map(|(_, callback)| Arc::clone(callback)).collect()
    }
}

/// The loop of the thread.
fn wait_and_call(events: &Events) {
    let mut happened = Vec::new();
    // Since when there is nothing to wait for.
    let mut idle_since: Option<Instant> = None;
    loop {
        happened.clear();
        events.wait(&mut happened);
        let (changed, due) = {
            let mut agenda = agenda();
            if happened.iter().any(|event| matches!(event, Event::Time)) {
                agenda.armed = None;
            }
            (agenda.callbacks(&happened), agenda.due(super::now()))
        };
        if !changed.is_empty() {
            EVENT_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        }
        if !due.is_empty() {
            TIMER_WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        }
        // A panic is a bug; the panic hook has printed it. The other callbacks go on.
        for callback in changed {
            let _ = catch_unwind(AssertUnwindSafe(|| callback()));
        }
        for callback in due {
            let _ = catch_unwind(AssertUnwindSafe(callback));
        }
        let mut agenda = agenda();
        let now = super::now();
        if let Some(&(first, _)) = agenda.timers.keys().next() {
            agenda.arm(first);
        }
        if !agenda.is_empty() {
            idle_since = None;
            continue;
        }
        let since = *idle_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= IDLE_LIMIT {
            agenda.events = None;
            return;
        }
        agenda.arm(since + IDLE_LIMIT);
    }
}

/// No callback runs under this mutex, so a panic can't leave the agenda half changed.
fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}
