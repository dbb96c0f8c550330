//! Threads that block: for the turn in a queue, or for a lock file's flock.
//!
//! The kernel queues the threads that block for a lock, and wakes one at a time. With eight waiting processes
//! a hand-over costs one wake-up; a watch on the file would wake all eight. So each contended lock (not each
//! waiter) has one blocked thread, and for a moment a few that are on their way back. The thread is reused for the next lock.
//!
//! **Ending a blocked call.** Only a signal whose handler returns ends it early. A signal that arrives a moment
//! before the thread blocks has no effect, so it is sent again until the thread has noticed. On Windows nothing ends it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::system::signal::{self, Thread};
use super::{Errno, Result};

/// How long a thread waits for another call before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// How soon the signal is sent again.
const SIGNAL_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Ample for one attempt; there may be as many of these threads as contended locks.
const STACK_BYTES: usize = 128 * 1024;

/// A blocking job under way. Dropping this asks the job to end; the job reports its own result.
#[derive(Debug)]
#[must_use = "the job is asked to end when this is dropped"]
pub struct Blocked(Arc<Call>);

/// A job runs each blocking call through this.
#[derive(Debug, Clone)]
pub struct Stop(Arc<Call>);

#[derive(Debug, Default)]
struct Call(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_stopped: bool,
    /// The thread, while it blocks or is about to.
    thread: Option<Thread>,
}

type Job = Box<dyn FnOnce(&Stop) + Send>;

/// Whether threads may block: only with a signal to end the call, and only if events may be used.
pub fn is_possible() -> bool {
    super::has_events() && signal::is_ours()
}

/// Runs a job that blocks, on a thread of its own. `None` if the system gives no thread.
pub fn start(job: impl FnOnce(&Stop) + Send + 'static) -> Option<Blocked> {
    let call = Arc::new(Call::default());
    hand_to_thread((Arc::clone(&call), Box::new(job))).then_some(Blocked(call))
}

impl Stop {
    /// Makes a blocking call, again after each other signal. `INTR`: the job was asked to end.
    pub fn wait(&self, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        loop {
            {
                let mut state = self.0.state();
                if state.is_stopped {
                    return Err(Errno::INTR);
                }
                state.thread = Some(signal::this_thread());
            }
            let answer = call();
            self.0.state().thread = None;
            if answer != Err(Errno::INTR) {
                return answer;
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.state().is_stopped = true;
        if signal::ENDS_CALLS {
            call_out(&self.0, SIGNAL_AGAIN_AFTER);
        }
    }
}

impl Call {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the signal, and again until the thread has noticed: `after` so long, then after twice as long.
fn call_out(call: &Arc<Call>, after: Duration) {
    let state = call.state();
    let Some(thread) = state.thread else {
        return;
    };
    // Under the mutex: the thread can't leave the call and start another one meanwhile.
    signal::send(thread);
    drop(state);
    let again = Arc::clone(call);
    let timer = super::at(super::now() + after, move || call_out(&again, after * 2));
    // Without a timer the thread blocks until it gets the lock.
    timer.into_iter().for_each(super::Timer::detach);
}

// --- Threads ------------------------------------------------------------------------------------

#[derive(Default)]
struct Threads {
    jobs: VecDeque<(Arc<Call>, Job)>,
    idle: usize,
}

static THREADS: OnceLock<Mutex<Threads>> = OnceLock::new();
static JOB_ARRIVED: Condvar = Condvar::new();

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Whether this is one of our threads, and will take up the next job itself.
    static IS_FREE_SOON: Cell<bool> = const { Cell::new(false) };
}

/// Queues a job. `false` if no thread is free and the system gives none.
fn hand_to_thread(job: (Arc<Call>, Job)) -> bool {
    let mut threads = threads();
    threads.jobs.push_back(job);
    if IS_FREE_SOON.replace(false) {
        return true;
    }
    if threads.idle >= threads.jobs.len() {
        JOB_ARRIVED.notify_one();
        return true;
    }
    let thread = std::thread::Builder::new().name("session-lock".into()).stack_size(STACK_BYTES);
    let is_started = thread.spawn(work).is_ok();
    if !is_started {
        threads.jobs.pop_back();
    }
    is_started
}

/// The loop of a thread.
fn work() {
    signal::accept();
    let mut threads = threads();
    loop {
        if let Some((call, job)) = threads.jobs.pop_front() {
            drop(threads);
            IS_FREE_SOON.set(true);
            let stop = Stop(call);
            // A panic is a bug; the panic hook has printed it. Other sessions' jobs go on.
            let _ = catch_unwind(AssertUnwindSafe(|| job(&stop)));
            threads = self::threads();
            continue;
        }
        threads.idle += 1;
        let (guard, waited) =
            JOB_ARRIVED.wait_timeout(threads, IDLE_LIMIT).unwrap_or_else(PoisonError::into_inner);
        threads = guard;
        threads.idle -= 1;
        if waited.timed_out() && threads.jobs.is_empty() {
            return;
        }
    }
}
