//! The surface that `index.js` calls. Options in, outcomes out; no decision is made here.
//!
//! Arguments arrive checked: `index.js` does that, because napi takes `NaN` for 0. Outcomes go back
//! as plain objects that `index.js` turns into locks and errors, so that error classes and stack
//! traces are JavaScript's own. Later outcomes go to the one function that a [`Client`] was made with. One
//! threadsafe function is cheaper than one per promise, and the only thing that Node has to clean up with an
//! environment.

#![allow(missing_docs, reason = "index.d.ts documents what users see")]
#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    clippy::trivially_copy_pass_by_ref,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "napi decides how arguments come; JavaScript has one kind of number"
)]

mod inspection;
mod messages;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use napi::bindgen_prelude::{Env, Function, Result, Status};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::error::Error;
use crate::locks::{self, Environment, Grant, Handle, Loss, News, Request, Ticket};
use crate::os;
use crate::process;
use messages::{Message, Outcome, loss_name};

/// The version that this binary was built from. The loader refuses a binary of another version.
#[napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Calls the client's function from any thread. Weak: it keeps no process alive.
type Tell = Arc<ThreadsafeFunction<Message, (), Message, Status, false, true>>;

/// The two environments of a JavaScript world: one for each face of the lock, so that the locks of one face are no
/// business of the other's.
#[derive(Clone, Copy)]
struct Faces {
    session: Environment,
    general: Environment,
}

thread_local! {
    /// Each JavaScript world has its own thread, so this is thread-local: the same for every copy of
    /// `index.js` in it.
    static FACES: Cell<Option<Faces>> = const { Cell::new(None) };

    /// The call that runs on this thread and can return an outcome.
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// The calling world. The first call numbers its environments and adds a clean-up hook.
fn faces(env: &Env) -> Result<Faces> {
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    if let Some(faces) = FACES.get() {
        return Ok(faces);
    }
    let world = WORLDS.fetch_add(1, Ordering::Relaxed);
    let faces = Faces { session: Environment(2 * world), general: Environment(2 * world + 1) };
    env.add_env_cleanup_hook(faces, |faces| {
        FACES.set(None);
        locks::end(faces.session);
        locks::end(faces.general);
    })?;
    FACES.set(Some(faces));
    Ok(faces)
}

/// One face of the lock, of one copy of `index.js`, in one JavaScript world.
#[napi]
pub struct Client {
    environment: Environment,
    /// Of the general face. It refuses a file that is not a lock file; the session face's names are clear.
    is_general: bool,
    /// Distinguishes its tickets from those of other copies in the same environment.
    number: u64,
    tell: Tell,
}

/// A running call, and its outcome if it was delivered before the call returns.
struct Call {
    ticket: Ticket,
    outcome: Option<Outcome>,
}

/// The recipient of one outcome. Small, because each waiter has one.
struct Recipient {
    ticket: Ticket,
    tell: Tell,
}

impl Recipient {
    /// Returns the outcome from the running call if that is on this thread; else sends it to the client.
    fn deliver(self, outcome: Outcome) {
        let late = CALL.with_borrow_mut(|call| match call {
            Some(call) if call.ticket == self.ticket => {
                call.outcome = Some(outcome);
                None
            }
            _ => Some(outcome),
        });
        if let Some(outcome) = late {
            tell_outcome(&self.tell, self.ticket.number as f64, outcome);
        }
    }
}

impl Client {
    fn watch_news(&self) {
        let tell = Arc::clone(&self.tell);
        let tell_news = move |news: News<'_>| {
            tell.call(Message::from(news), ThreadsafeFunctionCallMode::NonBlocking);
        };
        locks::watch_news(self.number, self.environment, Arc::new(tell_news));
    }
}

#[napi]
impl Client {
    #[napi(constructor, catch_unwind)]
    pub fn new(env: &Env, tell: Function<'_, Message, ()>, is_general: bool) -> Result<Self> {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let tell = tell.build_threadsafe_function::<Message>().weak::<true>().build()?;
        let (faces, tell) = (faces(env)?, Arc::new(tell));
        let environment = if is_general { faces.general } else { faces.session };
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let client = Self { environment, is_general, number, tell };
        client.watch_news();
        Ok(client)
    }

    /// The outcome, if there is one by the time this returns; else it is told under `ticket`.
    /// `session_file` is absolute. An infinite `timeout_ms` or `max_hold_ms` is no limit.
    #[napi(catch_unwind)]
    pub fn acquire(
        &self,
        ticket: f64,
        session_file: String,
        timeout_ms: f64,
        stale_ms: f64,
        max_hold_ms: f64,
        allow_reentrant: bool,
        label: Option<String>,
    ) -> Option<Outcome> {
        let ticket = self.ticket(ticket);
        let times = (timeout_ms, stale_ms, max_hold_ms);
        let request = self.request(ticket, session_file, times, allow_reentrant, label);
        self.now_or_later(request.ticket, |recipient| {
            let deliver = |result: std::result::Result<Grant, Error>| {
                recipient.deliver(result.map_or_else(Outcome::from, Outcome::from));
            };
            locks::acquire(request, Box::new(deliver));
        })
    }

    /// The outcome, now. Takes what `acquire` takes, and doesn't wait.
    #[napi(catch_unwind)]
    pub fn try_acquire(
        &self,
        session_file: String,
        _timeout_ms: f64,
        stale_ms: f64,
        max_hold_ms: f64,
        allow_reentrant: bool,
        label: Option<String>,
    ) -> Outcome {
        let times = (f64::INFINITY, stale_ms, max_hold_ms);
        let ticket = self.ticket(0.0);
        let request = self.request(ticket, session_file, times, allow_reentrant, label);
        match locks::try_acquire(&request) {
            Ok(Some(grant)) => grant.into(),
            Ok(None) => Outcome { contended: Some(true), ..Outcome::default() },
            Err(error) => error.into(),
        }
    }

    /// Withdraws an acquire; its outcome will not be told. `false`: too late, the outcome will be told.
    #[napi(catch_unwind)]
    pub fn cancel(&self, ticket: f64) -> bool {
        locks::cancel(self.environment, self.ticket(ticket))
    }

    /// The outcome, if there is one by the time this returns; else it is told under `ticket`.
    #[napi(catch_unwind)]
    pub fn release(&self, ticket: f64, handle: f64) -> Option<Outcome> {
        self.now_or_later(self.ticket(ticket), |recipient| {
            let done = |result: std::result::Result<Option<Loss>, Error>| {
                let lost = |loss: Option<Loss>| Outcome {
                    lost: loss.map(loss_name),
                    ..Outcome::default()
                };
                recipient.deliver(result.map_or_else(Outcome::from, lost));
            };
            locks::release(handle_from(handle), Box::new(done));
        })
    }

    /// For the end of the process: drops all waiters, then releases every lock. A waiter that got the lock now
    /// would leave its lock file behind.
    #[napi(catch_unwind)]
    pub fn end(&self) {
        locks::end(self.environment);
        self.watch_news(); // the process may live on, and acquire again
    }

    #[napi(catch_unwind)]
    pub fn release_all(&self) -> u32 {
        u32::try_from(locks::release_all(self.environment)).unwrap_or(u32::MAX)
    }

    /// A loss of this lock will be told under its handle. If the lock is not held, returns the reason at once.
    #[napi(catch_unwind)]
    pub fn watch_loss(&self, handle: f64) -> Option<String> {
        let tell = Arc::clone(&self.tell);
        let tell_loss = move |loss| {
            let loss = Some(loss_name(loss));
            let message = Message { handle: Some(handle), loss, ..Message::default() };
            tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        locks::watch_loss(handle_from(handle), Arc::new(tell_loss)).map(loss_name)
    }

    /// Tells under the handle as soon as somebody waits for this lock.
    #[napi(catch_unwind)]
    pub fn watch_wanted(&self, handle: f64) {
        let tell = Arc::clone(&self.tell);
        let tell_wanted = move || {
            let message =
                Message { handle: Some(handle), is_wanted: Some(true), ..Message::default() };
            tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        locks::watch_wanted(handle_from(handle), Arc::new(tell_wanted));
    }

    fn request(
        &self,
        ticket: Ticket,
        session_file: String,
        (timeout_ms, stale_ms, max_hold_ms): (f64, f64, f64),
        allow_reentrant: bool,
        label: Option<String>,
    ) -> Request {
        let limit = |ms: f64| ms.is_finite().then(|| whole_ms(ms));
        Request {
            environment: self.environment,
            ticket,
            handle: locks::new_handle(),
            session_file: PathBuf::from(session_file),
            timeout_ms: limit(timeout_ms),
            stale_ms: whole_ms(stale_ms),
            max_hold_ms: limit(max_hold_ms),
            label: label.map(Arc::from),
            spares_foreign: self.is_general,
            allow_reentrant,
        }
    }

    /// Runs `start`. Returns the outcome if it is delivered on this thread before `start` returns; else the
    /// outcome is told later.
    fn now_or_later(&self, ticket: Ticket, start: impl FnOnce(Recipient)) -> Option<Outcome> {
        CALL.set(Some(Call { ticket, outcome: None }));
        start(Recipient { ticket, tell: Arc::clone(&self.tell) });
        CALL.take().and_then(|call| call.outcome)
    }

    fn ticket(&self, number: f64) -> Ticket {
        Ticket { client: self.number, number: number as u64 }
    }
}

fn tell_outcome(tell: &Tell, ticket: f64, outcome: Outcome) {
    let message = Message { ticket: Some(ticket), outcome: Some(outcome), ..Message::default() };
    // It fails only if the environment has ended; `locks::end` then clears up after it.
    tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
}

// --- Single questions ---------------------------------------------------------------------------

/// What the watchdog told about this hold was heard. `false`: too late, it has printed a line.
#[napi(catch_unwind)]
pub fn watchdog_heard(handle: f64) -> bool {
    locks::heard(handle_from(handle))
}

/// Whether a granted lock is still there when its caller hears of it.
#[napi(catch_unwind)]
pub fn is_registered(handle: f64) -> bool {
    locks::is_registered(handle_from(handle))
}

/// Asks the file system.
#[napi(catch_unwind)]
pub fn is_held(handle: f64) -> bool {
    locks::is_held(handle_from(handle))
}

#[napi(catch_unwind)]
pub fn is_alive(pid: f64, comm: Option<String>) -> bool {
    process::is_alive(pid, comm.as_deref())
}

#[napi(catch_unwind)]
pub fn process_comm() -> String {
    process::own().comm.clone()
}

#[napi(catch_unwind)]
pub fn process_comm_for_pid(pid: f64) -> Option<String> {
    process::pid_from_number(pid).and_then(os::find_process).and_then(process::name_of)
}

#[napi(catch_unwind)]
pub fn process_start_time(pid: f64) -> Option<f64> {
    let process = process::pid_from_number(pid).and_then(os::find_process)?;
    process.start_time.map(|ticks| ticks as f64)
}

/// For tests: what woke this process's waiters.
#[napi(catch_unwind)]
pub fn wake_ups() -> WakeUps {
    let os::WakeUps { events, timers } = os::wake_ups();
    WakeUps { events: events as f64, timers: timers as f64 }
}

/// For tests: runs the watchdog as if `ahead_ms` had passed.
#[napi(catch_unwind)]
pub fn run_watchdog(ahead_ms: f64) {
    let now = os::now().checked_add(Duration::from_millis(whole_ms(ahead_ms)));
    now.into_iter().for_each(locks::run_watchdog);
}

/// For tests.
#[napi(catch_unwind)]
pub fn watchdog_releases() -> f64 {
    locks::watchdog_releases() as f64
}

/// For tests.
#[napi(catch_unwind)]
pub fn is_idle() -> bool {
    locks::is_idle()
}

/// How often this process's threads woke up, and for what.
#[napi(object)]
pub struct WakeUps {
    pub events: f64,
    pub timers: f64,
}

/// Counted up from 1: the 2^53 that a JavaScript number can tell apart last for centuries.
fn handle_from(number: f64) -> Handle {
    Handle(number as u64)
}

/// Milliseconds, rounded up: a fraction of one is still some time.
fn whole_ms(number: f64) -> u64 {
    number.ceil() as u64
}
