//! The surface that `index.js` calls. Options in, outcomes out; no decision is made here.
//!
//! Arguments arrive checked: `index.js` does that, because napi takes `NaN` for 0. Outcomes go back
//! as plain objects that `index.js` turns into locks and errors, so that error classes and stack
//! traces are JavaScript's own. What ends later is reported to the one function that a [`Client`]
//! was made with: one threadsafe function for everything is cheaper than one for each promise, and
//! is the only thing of ours that Node has to take down with an environment.

#![allow(missing_docs, reason = "index.d.ts documents what users see")]
#![allow(
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "napi decides how arguments come; JavaScript has one kind of number"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use napi::bindgen_prelude::{Env, Function, Result, Status};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::error::Error;
use crate::process::{self, Process};
use crate::protocol::Report;
use crate::protocol::inspection::Inspection;
use crate::record::Record;
use crate::registry::{self, Environment, Grant, Handle, Held, Loss, Request, Ticket};
use crate::sweep::{self, Measure};
use crate::wait;
use crate::witness::Witness;

/// Calls the client's function from any thread. Weak: it keeps no process alive.
type Tell = Arc<ThreadsafeFunction<Message, (), Message, Status, false, true>>;

thread_local! {
    /// A JavaScript environment has a thread of its own, so that is where its identity lives: the
    /// same for every copy of `index.js` in it.
    static ENVIRONMENT: Cell<Option<Environment>> = const { Cell::new(None) };

    /// The call that runs on this thread and can return an outcome.
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// The environment that calls; introduced on its first call, and cleaned up after at its end.
fn environment(env: &Env) -> Result<Environment> {
    static ENVIRONMENTS: AtomicU64 = AtomicU64::new(0);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let environment = Environment(ENVIRONMENTS.fetch_add(1, Ordering::Relaxed));
    env.add_env_cleanup_hook(environment, |environment| {
        ENVIRONMENT.set(None);
        registry::end(environment);
    })?;
    ENVIRONMENT.set(Some(environment));
    Ok(environment)
}

/// What a client is told. Of `ticket` and `handle` one is set: something that was asked for has
/// ended, or a lock was lost.
#[napi(object)]
#[derive(Default)]
pub struct Message {
    pub ticket: Option<f64>,
    pub outcome: Option<Outcome>,
    pub handle: Option<f64>,
    /// See `loss_name`.
    pub loss: Option<String>,
}

/// How an acquire or a release ended. With nothing in it: a lock was released; or it was granted
/// and then released together with all others before its caller could hear of it.
#[napi(object)]
#[derive(Default)]
pub struct Outcome {
    pub granted: Option<Granted>,
    pub timeout: Option<Timeout>,
    pub refusal: Option<Refusal>,
    /// Somebody holds it, and the caller didn't want to wait.
    pub contended: Option<bool>,
}

#[napi(object)]
pub struct Granted {
    pub handle: f64,
    pub lock_path: String,
}

/// The deadline came.
#[napi(object)]
pub struct Timeout {
    pub lock_path: String,
    pub owner: String,
    /// The record, as JSON.
    pub holder: Option<String>,
    pub stale_reasons: Vec<String>,
    /// Why the lock file could not be read.
    pub cause: Option<Refusal>,
}

/// What an `Error` is made of.
#[napi(object)]
pub struct Refusal {
    pub message: String,
    pub path: String,
    /// The kernel's number; absent where it wasn't the kernel that refused.
    pub errno: Option<i32>,
    pub syscall: Option<String>,
}

/// How often the waiting thread of this process woke up, and for what.
#[napi(object)]
pub struct WakeUps {
    pub events: f64,
    pub timers: f64,
}

/// One copy of `index.js` in one environment.
#[napi]
pub struct Client {
    environment: Environment,
    /// Tells its tickets from those of other copies in the same environment.
    number: u64,
    tell: Tell,
}

/// A call of a client that may be answered before it returns, and the answer.
struct Call {
    ticket: Ticket,
    outcome: Option<Outcome>,
}

/// Where one outcome goes. Kept for each waiter, so there is little in it.
struct Recipient {
    ticket: Ticket,
    tell: Tell,
}

impl Recipient {
    /// To the call that asked for it, if that still runs, on this thread; else to the client.
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

#[napi]
impl Client {
    #[napi(constructor, catch_unwind)]
    pub fn new(env: &Env, tell: Function<'_, Message, ()>) -> Result<Self> {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let tell = tell.build_threadsafe_function::<Message>().weak::<true>().build()?;
        Ok(Self {
            environment: environment(env)?,
            number: CLIENTS.fetch_add(1, Ordering::Relaxed),
            tell: Arc::new(tell),
        })
    }

    /// The outcome, if there is one by the time this returns; else it is told under `ticket`.
    /// `session_file` is absolute, an infinite `timeout_ms` no limit.
    #[napi(catch_unwind)]
    pub fn acquire(
        &self,
        ticket: f64,
        session_file: String,
        timeout_ms: f64,
        stale_ms: f64,
        max_hold_ms: f64,
        allow_reentrant: bool,
    ) -> Option<Outcome> {
        let request = Request {
            environment: self.environment,
            ticket: self.ticket(ticket),
            session_file: PathBuf::from(session_file),
            timeout_ms: timeout_ms.is_finite().then(|| whole_ms(timeout_ms)),
            stale_ms: whole_ms(stale_ms),
            max_hold_ms: whole_ms(max_hold_ms),
            allow_reentrant,
        };
        self.now_or_later(request.ticket, |recipient| {
            let deliver = |result: std::result::Result<Grant, Error>| {
                recipient.deliver(result.map_or_else(Outcome::from, Outcome::from));
            };
            registry::acquire(request, Box::new(deliver));
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
    ) -> Outcome {
        let request = Request {
            environment: self.environment,
            ticket: self.ticket(0.0),
            session_file: PathBuf::from(session_file),
            timeout_ms: None,
            stale_ms: whole_ms(stale_ms),
            max_hold_ms: whole_ms(max_hold_ms),
            allow_reentrant,
        };
        match registry::try_acquire(&request) {
            Ok(Some(grant)) => grant.into(),
            Ok(None) => Outcome { contended: Some(true), ..Outcome::default() },
            Err(error) => error.into(),
        }
    }

    /// Withdraws an acquire; nothing will be told of it. `false`: too late, it will be.
    #[napi(catch_unwind)]
    pub fn cancel(&self, ticket: f64) -> bool {
        registry::cancel(self.environment, self.ticket(ticket))
    }

    /// The outcome, if there is one by the time this returns; else it is told under `ticket`.
    #[napi(catch_unwind)]
    pub fn release(&self, ticket: f64, handle: f64) -> Option<Outcome> {
        self.now_or_later(self.ticket(ticket), |recipient| {
            let done = |result| recipient.deliver(released(result));
            registry::release(handle_from(handle), Box::new(done));
        })
    }

    /// For the end of the process: drops what waits, then releases every lock. A waiter that was
    /// served only now would leave its lock file behind.
    #[napi(catch_unwind)]
    pub fn end(&self) {
        registry::end(self.environment);
    }

    #[napi(catch_unwind)]
    pub fn release_all(&self) -> u32 {
        u32::try_from(registry::release_all(self.environment)).unwrap_or(u32::MAX)
    }

    /// A loss of this lock will be told under its handle. If it isn't held, the reason, now.
    #[napi(catch_unwind)]
    pub fn watch_loss(&self, handle: f64) -> Option<String> {
        let tell = Arc::clone(&self.tell);
        let tell_loss = move |loss| {
            let loss = Some(loss_name(loss));
            let message = Message { handle: Some(handle), loss, ..Message::default() };
            tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        registry::watch_loss(handle_from(handle), Arc::new(tell_loss)).map(loss_name)
    }

    /// Runs `start`. What it delivers on this thread before it returns is returned; anything else
    /// is told.
    fn now_or_later(&self, ticket: Ticket, start: impl FnOnce(Recipient)) -> Option<Outcome> {
        CALL.set(Some(Call { ticket, outcome: None }));
        start(Recipient { ticket, tell: Arc::clone(&self.tell) });
        CALL.take().and_then(|call| call.outcome)
    }

    fn ticket(&self, number: f64) -> Ticket {
        Ticket { client: self.number, number: number as u64 }
    }
}

// --- Inspection ---------------------------------------------------------------------------------

/// Lock files that are being looked at; what was found can be taken once the ticket has been told.
#[napi]
pub struct Inspections {
    found: Arc<Mutex<VecDeque<Inspection>>>,
}

/// What was found out about a lock file.
#[napi(object)]
pub struct Inspected {
    pub lock_path: String,
    /// The record, as JSON.
    pub holder: Option<String>,
    pub process_may_live: bool,
    pub age_ms: Option<f64>,
    pub stale_reasons: Vec<String>,
    pub witnessed: Option<String>,
    pub verdict: String,
    pub removed: bool,
    pub cause: Option<Refusal>,
}

/// A lock that this process holds.
#[napi(object)]
pub struct HeldHere {
    pub lock_path: String,
    /// Milliseconds since the epoch.
    pub acquired_at_ms: f64,
    pub held_for_ms: f64,
    pub max_hold_ms: f64,
    pub acquisitions: u32,
    pub waiters: u32,
}

#[napi]
impl Client {
    /// Looks at one lock, by the name of its session file or its own; both absolute.
    #[napi(catch_unwind)]
    pub fn inspect(
        &self,
        ticket: f64,
        path: String,
        stale_ms: f64,
        now_ms: Option<f64>,
    ) -> Inspections {
        let measure = measure(stale_ms, now_ms);
        self.find(ticket, |deliver| sweep::inspect(PathBuf::from(path), measure, deliver))
    }

    /// Looks at all locks of a folder, and removes the dead ones if that is asked for.
    #[napi(catch_unwind)]
    pub fn sweep(
        &self,
        ticket: f64,
        folder: String,
        stale_ms: f64,
        now_ms: Option<f64>,
        removes_dead: bool,
        recursive: bool,
    ) -> Inspections {
        let options = sweep::Options {
            folder: PathBuf::from(folder),
            recursive,
            removes_dead,
            measure: measure(stale_ms, now_ms),
        };
        self.find(ticket, |deliver| sweep::start(options, deliver))
    }

    fn find(&self, ticket: f64, start: impl FnOnce(sweep::Deliver)) -> Inspections {
        let found = Arc::new(Mutex::new(VecDeque::new()));
        let (list, tell) = (Arc::clone(&found), Arc::clone(&self.tell));
        start(Box::new(move |result| {
            let outcome = result.map(|inspections| {
                *list.lock().unwrap_or_else(PoisonError::into_inner) = inspections.into();
            });
            tell_outcome(&tell, ticket, released(outcome));
        }));
        Inspections { found }
    }
}

#[napi]
impl Inspections {
    /// The next ones, at most so many: a long list is handed over in parts, because it takes the
    /// JavaScript thread's time.
    #[napi(catch_unwind)]
    pub fn take(&self, count: u32) -> Vec<Inspected> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let count = found.len().min(count as usize);
        found.drain(..count).map(Inspected::from).collect()
    }
}

impl From<Inspection> for Inspected {
    fn from(inspection: Inspection) -> Self {
        let verdict = inspection.verdict.as_ref();
        let reasons = verdict.into_iter().flat_map(|verdict| &verdict.reasons);
        Self {
            lock_path: text(&inspection.lock_path),
            holder: inspection.record.as_ref().map(Record::encode),
            process_may_live: verdict.is_none_or(|verdict| verdict.process_may_live),
            age_ms: verdict.and_then(|verdict| verdict.age_ms).map(|age_ms| age_ms as f64),
            stale_reasons: reasons.map(|reason| reason.as_str().to_owned()).collect(),
            witnessed: verdict.and_then(|verdict| verdict.witness).map(witness_name),
            verdict: inspection.standing().as_str().to_owned(),
            removed: inspection.is_removed,
            cause: inspection.cause.as_ref().map(refusal),
        }
    }
}

#[napi(catch_unwind)]
pub fn held_locks() -> Vec<HeldHere> {
    registry::held().into_iter().map(HeldHere::from).collect()
}

impl From<Held> for HeldHere {
    fn from(held: Held) -> Self {
        Self {
            lock_path: text(&held.lock_path),
            acquired_at_ms: held.acquired_at_ms as f64,
            held_for_ms: held.held_for.as_secs_f64() * 1_000.0,
            max_hold_ms: held.limit.as_millis() as f64,
            acquisitions: held.acquisitions as u32,
            waiters: held.waiters as u32,
        }
    }
}

fn measure(stale_ms: f64, now_ms: Option<f64>) -> Measure {
    Measure { stale_ms: whole_ms(stale_ms), now_ms: now_ms.map(|now_ms| now_ms as i64) }
}

fn witness_name(witness: Witness) -> String {
    let name = match witness {
        Witness::Flock => "flock",
        Witness::OpenForWriting => "open-for-writing",
    };
    name.to_owned()
}

// --- Single questions ---------------------------------------------------------------------------

/// Whether a granted lock is still there when its caller hears of it.
#[napi(catch_unwind)]
pub fn is_registered(handle: f64) -> bool {
    registry::is_registered(handle_from(handle))
}

/// Asks the file system.
#[napi(catch_unwind)]
pub fn is_held(handle: f64) -> bool {
    registry::is_held(handle_from(handle))
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
    process::pid_from_number(pid).and_then(Process::find).and_then(Process::name)
}

#[napi(catch_unwind)]
pub fn process_start_time(pid: f64) -> Option<f64> {
    let process = process::pid_from_number(pid).and_then(Process::find)?;
    process.start_time.map(|ticks| ticks as f64)
}

/// For tests: what woke this process's waiters.
#[napi(catch_unwind)]
pub fn wake_ups() -> WakeUps {
    let wait::WakeUps { events, timers } = wait::wake_ups();
    WakeUps { events: events as f64, timers: timers as f64 }
}

/// For tests: the watchdog's look, so many milliseconds ahead of its time.
#[napi(catch_unwind)]
pub fn run_watchdog(ahead_ms: f64) {
    let now = Instant::now().checked_add(Duration::from_millis(whole_ms(ahead_ms)));
    now.into_iter().for_each(registry::run_watchdog);
}

/// For tests.
#[napi(catch_unwind)]
pub fn watchdog_releases() -> f64 {
    registry::watchdog_releases() as f64
}

/// For tests.
#[napi(catch_unwind)]
pub fn is_idle() -> bool {
    registry::is_idle()
}

fn tell_outcome(tell: &Tell, ticket: f64, outcome: Outcome) {
    let message = Message { ticket: Some(ticket), outcome: Some(outcome), ..Message::default() };
    // It fails only if the environment has ended; `registry::end` then clears up after it.
    tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
}

impl From<Grant> for Outcome {
    fn from(Grant { handle, lock_path }: Grant) -> Self {
        let granted = Granted { handle: handle.0 as f64, lock_path: text(&lock_path) };
        Self { granted: Some(granted), ..Self::default() }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Timeout { lock_path, report, .. } => {
                Self { timeout: Some(timeout(&lock_path, &report)), ..Self::default() }
            }
            error => Self { refusal: Some(refusal(&error)), ..Self::default() },
        }
    }
}

/// What became of a release.
fn released(result: std::result::Result<(), Error>) -> Outcome {
    result.map_or_else(Outcome::from, |()| Outcome::default())
}

fn timeout(lock_path: &Path, report: &Report) -> Timeout {
    let reasons = report.verdict.iter().flat_map(|verdict| &verdict.reasons);
    Timeout {
        lock_path: text(lock_path),
        owner: report.owner(),
        holder: report.record.as_ref().map(Record::encode),
        stale_reasons: reasons.map(|reason| reason.as_str().to_owned()).collect(),
        cause: report.cause.as_ref().map(refusal),
    }
}

fn refusal(error: &Error) -> Refusal {
    let (path, errno, syscall) = match error {
        Error::System { errno, syscall, path } => {
            (path, Some(errno.raw_os_error()), Some((*syscall).to_owned()))
        }
        Error::NotAFile { path, .. } | Error::Timeout { lock_path: path, .. } => (path, None, None),
    };
    Refusal { message: error.to_string(), path: text(path), errno, syscall }
}

fn loss_name(loss: Loss) -> String {
    let name = match loss {
        Loss::HoldExceeded => "hold-exceeded",
        Loss::Removed => "removed",
        Loss::Released => "released",
    };
    name.to_owned()
}

/// Paths come from JavaScript strings, so nothing is lost on the way back. Only a sweep finds other
/// names; of those that aren't UTF-8 it shows what can be shown.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Counted up from 1: the 2^53 that a JavaScript number can tell apart last for centuries.
fn handle_from(number: f64) -> Handle {
    Handle(number as u64)
}

/// Milliseconds, rounded up: a fraction of one is still some time.
fn whole_ms(number: f64) -> u64 {
    number.ceil() as u64
}
