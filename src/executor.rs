//! Threads of our own for disk work and for looking again later.
//!
//! Jobs run off the event loop and off libuv's pool, whose four threads belong to `fs` and `dns`,
//! and whose running tasks would hold up the end of the process. A few threads are started when
//! there is work, and end when there was none for a while. A job never waits: what has to wait is
//! put on the agenda for a later instant and costs no thread until then.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A piece of work. It is told where it runs.
pub type Job = Box<dyn FnOnce(Place) + Send>;

/// Where a job finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a thread that was made for work.
    OwnThread,
    /// On the thread that asked for it: the system had no other. Be quick.
    CallersThread,
}

/// As many as libuv has: disks gain nothing from more, and hung mounts must not eat the machine.
const MAX_THREADS: usize = 4;

/// How long a thread waits for work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Ample for `/proc/self/mountinfo` and a nested record; the system's default is 8 MiB.
const STACK_BYTES: usize = 256 * 1024;

struct Agenda {
    ready: VecDeque<Job>,
    /// By instant, and in order of arrival within one.
    later: BTreeMap<(Instant, u64), Job>,
    arrivals: u64,
    threads: usize,
    idle: usize,
}

static AGENDA: Mutex<Agenda> = Mutex::new(Agenda {
    ready: VecDeque::new(),
    later: BTreeMap::new(),
    arrivals: 0,
    threads: 0,
    idle: 0,
});

static WORK_ARRIVED: Condvar = Condvar::new();

/// Runs `job` on one of the threads, now or as soon as one is free. Where the system gives no
/// thread at all, it runs before this returns, and is told so.
pub fn run(job: Job) {
    let mut agenda = agenda();
    agenda.ready.push_back(job);
    WORK_ARRIVED.notify_one();
    if agenda.idle >= agenda.ready.len() || agenda.threads >= MAX_THREADS {
        return;
    }
    let thread = std::thread::Builder::new().name("session-lock".into()).stack_size(STACK_BYTES);
    match thread.spawn(work) {
        Ok(_) => agenda.threads += 1,
        // The others will get to it.
        Err(_) if agenda.threads > 0 => {}
        Err(_) => {
            let job = agenda.ready.pop_back();
            drop(agenda);
            if let Some(job) = job {
                job(Place::CallersThread);
            }
        }
    }
}

/// Runs `job` at `instant` or soon after. Only to be called from a job: its thread is the one that
/// is sure to be there.
pub fn run_at(instant: Instant, job: Job) {
    let mut agenda = agenda();
    agenda.arrivals += 1;
    let key = (instant, agenda.arrivals);
    agenda.later.insert(key, job);
    // A thread that waits already may have to wait less long.
    WORK_ARRIVED.notify_one();
}

/// The life of a thread: what is ready, then what is due, then wait for either.
fn work() {
    let mut agenda = agenda();
    loop {
        if let Some(job) = agenda.next() {
            drop(agenda);
            // A panic is a bug, and has been reported by now; the other sessions must not pay for it.
            let _ = catch_unwind(AssertUnwindSafe(|| job(Place::OwnThread)));
            agenda = self::agenda();
            continue;
        }
        let until_due = agenda
            .later
            .first_key_value()
            .map(|((instant, _), _)| instant.saturating_duration_since(Instant::now()));
        agenda.idle += 1;
        let (guard, waited) = WORK_ARRIVED
            .wait_timeout(agenda, until_due.unwrap_or(IDLE_LIMIT))
            .unwrap_or_else(PoisonError::into_inner);
        agenda = guard;
        agenda.idle -= 1;
        // The last one stays while something is to be done later.
        let is_needed = agenda.threads == 1 && !agenda.later.is_empty();
        if waited.timed_out() && until_due.is_none() && agenda.ready.is_empty() && !is_needed {
            agenda.threads -= 1;
            return;
        }
    }
}

impl Agenda {
    fn next(&mut self) -> Option<Job> {
        self.ready.pop_front().or_else(|| {
            let due = self.later.first_entry().filter(|entry| entry.key().0 <= Instant::now())?;
            Some(due.remove())
        })
    }
}

/// No job runs under this lock, so a panic can't leave it half changed.
fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.lock().unwrap_or_else(PoisonError::into_inner)
}
