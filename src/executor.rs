//! Threads of our own for disk work.
//!
//! Jobs run off the event loop and off libuv's pool, whose four threads belong to `fs` and `dns`,
//! and whose running tasks would hold up the end of the process. A few threads are started when
//! there is work, more only if those hang, and all end when there was none for a while. A job
//! never waits for a lock; what has to wait is left to [`crate::wait`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wait::{self, Timer};

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

/// As many as libuv has: disks gain nothing from more.
const THREADS: usize = 4;

/// With jobs that hang (on a mount whose server is gone), others take their places, up to this.
const MAX_THREADS: usize = 64;

/// When nothing was taken up for so long although there was something, jobs hang.
const STUCK_AFTER: Duration = Duration::from_millis(100);

/// How long a thread waits for work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Ample for `/proc/self/mountinfo` and a nested record; the system's default is 8 MiB.
const STACK_BYTES: usize = 256 * 1024;

struct Agenda {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// How many jobs were taken up so far: what tells busy threads from stuck ones.
    taken: u64,
    /// Looks whether the threads are stuck, while jobs wait for them.
    alarm: Option<Timer>,
}

static AGENDA: Mutex<Agenda> =
    Mutex::new(Agenda { jobs: VecDeque::new(), threads: 0, idle: 0, taken: 0, alarm: None });

static WORK_ARRIVED: Condvar = Condvar::new();

/// Runs `job` on one of the threads, now or as soon as one is free. Where the system gives no
/// thread at all, it runs before this returns, and is told so.
pub fn run(job: Job) {
    let mut agenda = agenda();
    agenda.jobs.push_back(job);
    WORK_ARRIVED.notify_one();
    if agenda.idle >= agenda.jobs.len() {
        return;
    }
    if agenda.threads >= THREADS {
        agenda.watch_for_hangs();
    } else if !agenda.start_thread() && agenda.threads == 0 {
        let job = agenda.jobs.pop_back();
        drop(agenda);
        if let Some(job) = job {
            job(Place::CallersThread);
        }
    }
}

/// Whether no job runs and none waits.
pub fn is_idle() -> bool {
    let agenda = agenda();
    agenda.jobs.is_empty() && agenda.idle == agenda.threads
}

/// The life of a thread.
fn work() {
    let mut agenda = agenda();
    loop {
        if let Some(job) = agenda.jobs.pop_front() {
            agenda.taken += 1;
            drop(agenda);
            // A panic is a bug, and has been reported by now; the other sessions must not pay for it.
            let _ = catch_unwind(AssertUnwindSafe(|| job(Place::OwnThread)));
            agenda = self::agenda();
            continue;
        }
        agenda.idle += 1;
        let (guard, waited) =
            WORK_ARRIVED.wait_timeout(agenda, IDLE_LIMIT).unwrap_or_else(PoisonError::into_inner);
        agenda = guard;
        agenda.idle -= 1;
        if waited.timed_out() && agenda.jobs.is_empty() {
            agenda.threads -= 1;
            return;
        }
    }
}

impl Agenda {
    /// Whether the system gave one.
    fn start_thread(&mut self) -> bool {
        let thread = std::thread::Builder::new().name("session-lock".into());
        let is_started = thread.stack_size(STACK_BYTES).spawn(work).is_ok();
        self.threads += usize::from(is_started);
        is_started
    }

    /// Looks again in a moment. If no job was taken up by then although some wait, the threads
    /// hang, and another one is started.
    fn watch_for_hangs(&mut self) {
        if self.alarm.is_some() || self.threads >= MAX_THREADS {
            return;
        }
        let taken = self.taken;
        let alarm = wait::at(Instant::now() + STUCK_AFTER, move || {
            let mut agenda = agenda();
            agenda.alarm = None;
            if agenda.jobs.is_empty() {
                return;
            }
            if agenda.taken == taken {
                agenda.start_thread();
            }
            agenda.watch_for_hangs();
        });
        self.alarm = alarm.ok(); // without it, only the usual threads work
    }
}

/// No job runs under this lock, so a panic can't leave it half changed.
fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.lock().unwrap_or_else(PoisonError::into_inner)
}
