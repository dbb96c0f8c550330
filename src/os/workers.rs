//! The workers: threads for disk work.
//!
//! Jobs don't run on the event loop, nor on libuv's pool: its four threads serve `fs` and `dns`, and a running
//! task there delays the end of the process. A few threads start when there is work, more only if those hang;
//! each ends after a second without work. A job never waits for a lock: that is for
//! [`blocked`](super::blocked) and [`at`](super::at).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Timer;

/// A piece of work. Its argument says where it runs.
pub type Job = Box<dyn FnOnce(RunsOn) + Send>;

/// Where a job finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsOn {
    /// On a worker.
    Worker,
    /// On the thread that called [`run`], because the system gave no other. Be quick.
    Caller,
}

/// How many workers run at most while none hangs: as many as libuv has.
const THREADS: usize = 4;

/// How many workers run at most while some hang (on a mount whose server is gone).
const MAX_THREADS: usize = 64;

/// If jobs wait and no worker took one up for so long, the workers hang.
const STUCK_AFTER: Duration = Duration::from_millis(100);

/// How long a thread waits for work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Ample for `/proc/self/mountinfo` and a nested record; the system's default is 8 MiB.
const STACK_BYTES: usize = 256 * 1024;

struct Agenda {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// How many jobs were taken up so far. If this grows, the workers are busy, not stuck.
    taken: u64,
    /// Checks whether the workers are stuck, while jobs wait.
    alarm: Option<Timer>,
}

static AGENDA: Mutex<Agenda> =
    Mutex::new(Agenda { jobs: VecDeque::new(), threads: 0, idle: 0, taken: 0, alarm: None });

static WORK_ARRIVED: Condvar = Condvar::new();

/// Runs `job` on a worker, as soon as one is free. If the system gives no thread at all, runs it on this
/// thread, with [`RunsOn::Caller`].
pub fn run(job: Job) {
    let mut agenda = agenda();
    agenda.jobs.push_back(job);
    WORK_ARRIVED.notify_one();
    if agenda.idle >= agenda.jobs.len() {
        return;
    }
    if agenda.threads < THREADS && agenda.start_thread() {
        return;
    }
    if agenda.threads > 0 {
        return agenda.watch_for_hangs();
    }
    let job = agenda.jobs.pop_back();
    drop(agenda);
    if let Some(job) = job {
        job(RunsOn::Caller);
    }
}

/// Whether no job runs or waits.
pub fn is_idle() -> bool {
    let agenda = agenda();
    agenda.jobs.is_empty() && agenda.idle == agenda.threads
}

/// The loop of a worker.
fn work() {
    let mut agenda = agenda();
    loop {
        if let Some(job) = agenda.jobs.pop_front() {
            agenda.taken += 1;
            drop(agenda);
            // A panic is a bug; the panic hook has printed it. Other sessions' jobs go on.
            let _ = catch_unwind(AssertUnwindSafe(|| job(RunsOn::Worker)));
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
    /// Starts a worker. `false` if the system gives no thread.
    fn start_thread(&mut self) -> bool {
        let thread = std::thread::Builder::new().name("session-lock".into());
        let is_started = thread.stack_size(STACK_BYTES).spawn(work).is_ok();
        self.threads += usize::from(is_started);
        is_started
    }

    /// Checks again after [`STUCK_AFTER`]. If jobs wait and none was taken up by then, starts another worker.
    fn watch_for_hangs(&mut self) {
        if self.alarm.is_some() || self.threads >= MAX_THREADS {
            return;
        }
        let taken = self.taken;
        let alarm = super::at(super::now() + STUCK_AFTER, move || {
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

/// No job runs under this mutex, so a panic can't leave the agenda half changed.
fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.lock().unwrap_or_else(PoisonError::into_inner)
}
