//! Standing in line for a flock.
//!
//! The kernel queues those who block in `flock` on one open file, first come, first served, and
//! wakes only the first when it comes free (fs/locks.c, `__locks_insert_block`). So eight waiting
//! processes cost one wake-up for each hand-over, where a watch on the file would wake all eight.
//! A thread has to block for it: one per contended lock, not per waiter, kept for the next lock
//! when it is done.
//!
//! **Leaving the line.** A blocked `flock` ends early only by a signal whose handler returns. We
//! take a real-time signal that nobody handles, give it a handler that does nothing, and send it to
//! that very thread. If the host uses that signal itself, it is left alone, and there is no line
//! to stand in. The signal may arrive a moment before the thread blocks and be lost on it, so it
//! is sent again until the thread has left.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long a thread waits for another line to stand in.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// How soon a signal that was lost on its thread is sent again.
const SIGNAL_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Ample for one look at a lock; there may be as many of these threads as contended locks.
const STACK_BYTES: usize = 128 * 1024;

/// A place in line. Leaves it when dropped.
#[derive(Debug)]
pub struct Place(Arc<Stand>);

/// What a thread and the owner of its place share.
struct Stand {
    file: Arc<File>,
    callback: Box<dyn Fn(Arrival) + Send + Sync>,
    state: Mutex<State>,
}

/// When a flock comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Its owner waits for it.
    InTime,
    /// Its owner has left, but the thread had not noticed. Nobody wants it, and it is ours.
    TooLate,
}

enum State {
    /// No thread has taken it up yet.
    Waiting,
    /// This thread is about to block, or blocks.
    Blocking(Thread),
    /// The owner has left; the thread, if there was one, has not noticed yet.
    Leaving(Option<Thread>),
    /// The flock is ours.
    Come,
    /// It isn't, and nobody stands here any more.
    Over,
}

/// Whether one can stand in line at all.
pub fn is_there() -> bool {
    signal::is_ours()
}

/// Stands in line for the flock on `file`. Calls back when it is ours; it then belongs to the open
/// file, and is given back by closing or unlocking that. `None` where there is no line.
pub fn stand(file: Arc<File>, callback: impl Fn(Arrival) + Send + Sync + 'static) -> Option<Place> {
    let state = Mutex::new(State::Waiting);
    let stand = Arc::new(Stand { file, callback: Box::new(callback), state });
    hand_to_thread(Arc::clone(&stand)).then_some(Place(stand))
}

impl Place {
    /// Whether the flock is ours.
    pub fn has_come(&self) -> bool {
        matches!(*self.0.state(), State::Come)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let thread = match *state {
            State::Come | State::Over => return,
            State::Waiting => None,
            State::Blocking(thread) => Some(thread),
            State::Leaving(thread) => thread,
        };
        *state = State::Leaving(thread);
        drop(state);
        call_back_thread(&self.0);
    }
}

impl Stand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until the flock is ours or the owner has left.
    fn wait(&self) {
        {
            let mut state = self.state();
            if matches!(*state, State::Leaving(_)) {
                *state = State::Over;
                return;
            }
            *state = State::Blocking(signal::this_thread());
        }
        let result = loop {
            match flock(&self.file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) if matches!(*self.state(), State::Blocking(_)) => {}
                result => break result,
            }
        };
        let outcome = if result.is_ok() { State::Come } else { State::Over };
        let before = std::mem::replace(&mut *self.state(), outcome);
        if result.is_ok() {
            let has_left = matches!(before, State::Leaving(_));
            (self.callback)(if has_left { Arrival::TooLate } else { Arrival::InTime });
        }
    }
}

/// Wakes the thread of a place whose owner has left, again and again until it has noticed.
fn call_back_thread(stand: &Arc<Stand>) {
    let state = stand.state();
    let State::Leaving(Some(thread)) = *state else {
        return;
    };
    // Under the lock: the thread can't go on to something else meanwhile.
    signal::send(thread);
    drop(state);
    let again = Arc::clone(stand);
    let timer = super::at(Instant::now() + SIGNAL_AGAIN_AFTER, move || call_back_thread(&again));
    // Without a timer, the thread leaves when the flock is free.
    timer.into_iter().for_each(super::Timer::detach);
}

impl std::fmt::Debug for Stand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stand").field("file", &self.file).finish_non_exhaustive()
    }
}

// --- Threads ------------------------------------------------------------------------------------

#[derive(Default)]
struct Threads {
    stands: VecDeque<Arc<Stand>>,
    idle: usize,
}

static THREADS: OnceLock<Mutex<Threads>> = OnceLock::new();
static STAND_ARRIVED: Condvar = Condvar::new();

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Whether this is one of our threads, and will take up the next stand itself.
    static IS_FREE_SOON: Cell<bool> = const { Cell::new(false) };
}

/// Whether a thread has taken it up, or will.
fn hand_to_thread(stand: Arc<Stand>) -> bool {
    let mut threads = threads();
    threads.stands.push_back(stand);
    if IS_FREE_SOON.replace(false) {
        return true;
    }
    if threads.idle >= threads.stands.len() {
        STAND_ARRIVED.notify_one();
        return true;
    }
    let thread = std::thread::Builder::new().name("session-lock".into()).stack_size(STACK_BYTES);
    let is_started = thread.spawn(work).is_ok();
    if !is_started {
        threads.stands.pop_back();
    }
    is_started
}

/// The life of a thread.
fn work() {
    signal::accept();
    let mut threads = threads();
    loop {
        if let Some(stand) = threads.stands.pop_front() {
            drop(threads);
            IS_FREE_SOON.set(true);
            // A panic is a bug and has been reported by now; other sessions must not pay for it.
            let _ = catch_unwind(AssertUnwindSafe(|| stand.wait()));
            drop(stand);
            threads = self::threads();
            continue;
        }
        threads.idle += 1;
        let (guard, waited) =
            STAND_ARRIVED.wait_timeout(threads, IDLE_LIMIT).unwrap_or_else(PoisonError::into_inner);
        threads = guard;
        threads.idle -= 1;
        if waited.timed_out() && threads.stands.is_empty() {
            return;
        }
    }
}

// --- The signal ---------------------------------------------------------------------------------

use signal::Thread;

/// The one signal that calls a thread back, and all that is unsafe about it.
#[expect(unsafe_code, reason = "no safe crate sends signals to threads, or asks who handles one")]
mod signal {
    use std::sync::OnceLock;

    /// A thread, for as long as it says that it is [`super::State::Blocking`].
    #[derive(Debug, Clone, Copy)]
    pub struct Thread(libc::pthread_t);

    // SAFETY: a `pthread_t` names a thread from any thread (pthreads(7)); on some systems its type
    // is a pointer, which is never followed here.
    unsafe impl Send for Thread {}

    /// One of those that neither the C library nor any runtime here uses for itself.
    fn number() -> libc::c_int {
        libc::SIGRTMAX() - 3
    }

    extern "C" fn do_nothing(_signal: libc::c_int) {}

    /// Whether the signal was unused and is ours now.
    pub fn is_ours() -> bool {
        static IS_OURS: OnceLock<bool> = OnceLock::new();
        *IS_OURS.get_or_init(|| {
            // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask, SIG_DFL.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: reads the current disposition into a `sigaction` of ours.
            let is_known =
                unsafe { libc::sigaction(number(), std::ptr::null(), &raw mut action) } == 0;
            if !is_known || action.sa_sigaction != libc::SIG_DFL {
                return false;
            }
            action.sa_sigaction = do_nothing as *const () as libc::sighandler_t;
            action.sa_flags = 0; // in particular no SA_RESTART: the system call is to end
            // SAFETY: `action` is initialised; the handler touches nothing, so it may run at any
            // moment on any thread, and it is never unloaded: Node never unmaps an addon.
            unsafe { libc::sigaction(number(), &raw const action, std::ptr::null_mut()) == 0 }
        })
    }

    pub fn this_thread() -> Thread {
        // SAFETY: has no preconditions.
        Thread(unsafe { libc::pthread_self() })
    }

    pub fn send(thread: Thread) {
        // SAFETY: the caller holds the lock of a stand that is still being waited for, so the
        // thread is alive; a handler that does nothing is installed.
        unsafe { libc::pthread_kill(thread.0, number()) };
    }

    /// Lets the signal through on this thread, whatever it has inherited.
    pub fn accept() {
        // SAFETY: all-zero bytes are a valid `sigset_t`; the calls fill and use only that.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, number());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
    }
}
