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

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::{Env, Function, Result, Status};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::error::Error;
use crate::locks::sweep::{self, Found, Measure, Names, Progress};
use crate::locks::users::{User, Users};
use crate::locks::{self, Environment, Exceeded, Grant, Handle, Held, Loss, Request, Ticket};
use crate::os;
use crate::process;
use crate::record::Record;
use crate::verdict::{Ground, Judgement, Report};

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

/// A message to a client. With `ticket`: the outcome of a call. With `handle`: the loss of a lock.
#[napi(object)]
#[derive(Default)]
pub struct Message {
    pub ticket: Option<f64>,
    pub outcome: Option<Outcome>,
    pub handle: Option<f64>,
    /// See `loss_name`.
    pub loss: Option<String>,
    /// Somebody waits for the lock with this handle.
    pub is_wanted: Option<bool>,
    /// The watchdog has ended a hold.
    pub exceeded: Option<ExceededHold>,
}

/// A hold that the watchdog has ended. `watchdog_heard` confirms it.
#[napi(object)]
pub struct ExceededHold {
    /// The acquisitions that shared it.
    pub handles: Vec<f64>,
    pub lock_path: String,
    pub held_for_ms: f64,
    pub max_hold_ms: f64,
    pub label: Option<String>,
}

/// The outcome of an acquire or a release. Empty: the release, or the inspection, succeeded.
#[napi(object)]
#[derive(Default)]
pub struct Outcome {
    pub granted: Option<Granted>,
    pub timeout: Option<Timeout>,
    pub refusal: Option<Refusal>,
    /// The lock is contended, and the caller didn't want to wait.
    pub contended: Option<bool>,
    /// Of a release: how the lock was lost before. See `loss_name`.
    pub lost: Option<String>,
}

#[napi(object)]
pub struct Granted {
    pub handle: f64,
    pub lock_path: String,
    /// It has replaced a dead lock. Absent: no. A property that is not there costs nothing.
    pub is_taken_over: Option<bool>,
    /// Somebody was in its way.
    pub has_waited: Option<bool>,
}

/// The deadline came.
#[napi(object)]
pub struct Timeout {
    pub lock_path: String,
    pub owner: String,
    /// Whether this very process holds it.
    pub is_held_here: bool,
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
    /// `"system"`, `"not-a-file"`, `"foreign"`, `"guarded"` or `"bug"`.
    pub kind: String,
    pub path: String,
    /// The errno; absent if the error is not from the kernel.
    pub errno: Option<i32>,
    /// The errno's name, if known.
    pub name: Option<String>,
    pub syscall: Option<String>,
}

/// How often this process's threads woke up, and for what.
#[napi(object)]
pub struct WakeUps {
    pub events: f64,
    pub timers: f64,
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

#[napi]
impl Client {
    #[napi(constructor, catch_unwind)]
    pub fn new(env: &Env, tell: Function<'_, Message, ()>, is_general: bool) -> Result<Self> {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let tell = tell.build_threadsafe_function::<Message>().weak::<true>().build()?;
        let (faces, tell) = (faces(env)?, Arc::new(tell));
        let environment = if is_general { faces.general } else { faces.session };
        let its_tell = Arc::clone(&tell);
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        locks::watch_watchdog(
            number,
            environment,
            Arc::new(move |paths, exceeded| {
                let exceeded = Some(exceeded_hold(paths.lock(), exceeded));
                let message = Message { exceeded, ..Message::default() };
                its_tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
            }),
        );
        Ok(Self { environment, is_general, number, tell })
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

// --- Inspection ---------------------------------------------------------------------------------

/// The results of an inspection or a sweep; complete once the ticket's outcome was told.
#[napi]
pub struct Inspections {
    results: Arc<Mutex<Results>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Results {
    found: VecDeque<Found>,
    skipped: Vec<Error>,
}

/// How far a sweep is: how many of the files that were found have been dealt with.
#[napi(object)]
pub struct SweepProgress {
    pub done: u32,
    pub total: u32,
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
    /// Why; absent if it could not be judged.
    pub ground: Option<String>,
    pub removed: bool,
    pub cause: Option<Refusal>,
    /// If it was asked for.
    pub users: Option<UsersFound>,
}

/// The processes of a lock.
#[napi(object)]
pub struct UsersFound {
    pub holders: Vec<UserFound>,
    pub waiters: Vec<UserFound>,
    pub writer: String,
}

/// A process that holds a lock or waits for it.
#[napi(object)]
pub struct UserFound {
    pub pid: i32,
    pub comm: Option<String>,
    pub command: Option<String>,
    /// Absent for a waiter.
    pub witness: Option<String>,
    pub is_writer: bool,
    pub is_stopped: bool,
}

/// A lock that this process holds.
#[napi(object)]
pub struct HeldHere {
    pub lock_path: String,
    /// Milliseconds since the epoch.
    pub acquired_at_ms: f64,
    pub held_for_ms: f64,
    /// Infinite: no limit.
    pub max_hold_ms: f64,
    pub acquisitions: u32,
    pub waiters: u32,
    pub label: Option<String>,
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
        with_users: bool,
    ) -> Inspections {
        let measure = self.measure(stale_ms, now_ms);
        let path = PathBuf::from(path);
        let progress = Arc::default();
        self.find(ticket, progress, |deliver| sweep::inspect(path, measure, with_users, deliver))
    }

    /// Looks at all locks of a folder, and removes the dead ones if that is asked for.
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "from JavaScript"
    )]
    #[napi(catch_unwind)]
    pub fn sweep(
        &self,
        ticket: f64,
        folder: String,
        stale_ms: f64,
        now_ms: Option<f64>,
        removes_dead: bool,
        recursive: bool,
        any_name: bool,
        with_users: bool,
    ) -> Inspections {
        let progress = Arc::<Progress>::default();
        let options = sweep::Options {
            folder: PathBuf::from(folder),
            recursive,
            removes_dead,
            names: if any_name { Names::Any } else { Names::Sessions },
            with_users,
            measure: self.measure(stale_ms, now_ms),
            progress: Arc::clone(&progress),
        };
        self.find(ticket, progress, |deliver| sweep::start(options, deliver))
    }

    fn measure(&self, stale_ms: f64, now_ms: Option<f64>) -> Measure {
        Measure {
            stale_ms: whole_ms(stale_ms),
            now_ms: now_ms.map(|now_ms| now_ms as i64),
            spares_foreign: self.is_general,
        }
    }

    fn find(
        &self,
        ticket: f64,
        progress: Arc<Progress>,
        start: impl FnOnce(sweep::Deliver),
    ) -> Inspections {
        let results = Arc::<Mutex<Results>>::default();
        let (slot, tell) = (Arc::clone(&results), Arc::clone(&self.tell));
        start(Box::new(move |result| {
            let outcome = result.map(|swept| {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                    Results { found: swept.found.into(), skipped: swept.skipped };
            });
            tell_outcome(&tell, ticket, inspected_all(outcome));
        }));
        Inspections { results, progress }
    }
}

#[napi]
impl Inspections {
    /// The next `count` results. A long list is taken in parts, so that the event loop is not held up.
    #[napi(catch_unwind)]
    pub fn take(&self, count: u32) -> Vec<Inspected> {
        let found = &mut self.results().found;
        let count = found.len().min(count as usize);
        found.drain(..count).map(Inspected::from).collect()
    }

    /// Why folders could not be read.
    #[napi(catch_unwind)]
    pub fn skipped(&self) -> Vec<Refusal> {
        self.results().skipped.iter().map(refusal).collect()
    }

    #[napi(catch_unwind)]
    pub fn progress(&self) -> SweepProgress {
        let number = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u32;
        SweepProgress { done: number(&self.progress.done), total: number(&self.progress.total) }
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Found> for Inspected {
    fn from(Found { inspection, users }: Found) -> Self {
        let judgement = inspection.report.judgement.as_ref();
        let reasons = judgement.into_iter().flat_map(|judgement| &judgement.reasons);
        Self {
            lock_path: text(&inspection.lock_path),
            holder: inspection.report.record.as_ref().map(Record::encode),
            process_may_live: judgement.is_none_or(Judgement::process_may_live),
            age_ms: judgement.and_then(|judgement| judgement.age_ms).map(|age_ms| age_ms as f64),
            stale_reasons: reasons.map(|reason| reason.as_str().to_owned()).collect(),
            witnessed: judgement.and_then(|judgement| witness_name(judgement.ground)),
            verdict: inspection.verdict().as_str().to_owned(),
            ground: judgement.map(|judgement| judgement.ground.as_str().to_owned()),
            removed: inspection.is_removed,
            cause: inspection.cause.as_ref().map(refusal),
            users: users.map(UsersFound::from),
        }
    }
}

impl From<Users> for UsersFound {
    fn from(Users { holders, waiters, writer }: Users) -> Self {
        let all = |users: Vec<User>| users.into_iter().map(UserFound::from).collect();
        let writer = writer.as_str().to_owned();
        Self { holders: all(holders), waiters: all(waiters), writer }
    }
}

impl From<User> for UserFound {
    fn from(User { pid, name, command, is_stopped, ground, is_writer }: User) -> Self {
        let witness = ground.map(|ground| ground.as_str().to_owned());
        Self { pid, comm: name, command, witness, is_writer, is_stopped }
    }
}

#[napi(catch_unwind)]
pub fn held_locks() -> Vec<HeldHere> {
    locks::held().into_iter().map(HeldHere::from).collect()
}

impl From<Held> for HeldHere {
    fn from(held: Held) -> Self {
        Self {
            lock_path: text(&held.lock_path),
            acquired_at_ms: os::wall_ms() as f64 - held.held_for.as_millis() as f64,
            held_for_ms: held.held_for.as_secs_f64() * 1_000.0,
            max_hold_ms: held.limit.map_or(f64::INFINITY, |limit| limit.as_millis() as f64),
            acquisitions: held.acquisitions as u32,
            waiters: held.waiters as u32,
            label: held.label.as_deref().map(str::to_owned),
        }
    }
}

fn witness_name(ground: Ground) -> Option<String> {
    let is_witness = matches!(ground, Ground::Flock | Ground::OpenForWriting);
    is_witness.then(|| ground.as_str().to_owned())
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

fn tell_outcome(tell: &Tell, ticket: f64, outcome: Outcome) {
    let message = Message { ticket: Some(ticket), outcome: Some(outcome), ..Message::default() };
    // It fails only if the environment has ended; `locks::end` then clears up after it.
    tell.call(message, ThreadsafeFunctionCallMode::NonBlocking);
}

impl From<Grant> for Outcome {
    fn from(Grant { handle, lock_path, is_taken_over, has_waited }: Grant) -> Self {
        let lock_path = text(&lock_path);
        let handle = handle.0 as f64;
        let is_taken_over = is_taken_over.then_some(true);
        let has_waited = has_waited.then_some(true);
        let granted = Granted { handle, lock_path, is_taken_over, has_waited };
        Self { granted: Some(granted), ..Self::default() }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Timeout { lock_path, is_held_here, report, cause, .. } => {
                let timeout = timeout(&lock_path, is_held_here, &report, cause.as_deref());
                Self { timeout: Some(timeout), ..Self::default() }
            }
            error => Self { refusal: Some(refusal(&error)), ..Self::default() },
        }
    }
}

/// The outcome of an inspection.
fn inspected_all(result: std::result::Result<(), Error>) -> Outcome {
    result.map_or_else(Outcome::from, |()| Outcome::default())
}

fn timeout(
    lock_path: &Path,
    is_held_here: bool,
    report: &Report,
    cause: Option<&Error>,
) -> Timeout {
    let reasons = report.judgement.iter().flat_map(|judgement| &judgement.reasons);
    Timeout {
        lock_path: text(lock_path),
        owner: report.owner(),
        is_held_here,
        holder: report.record.as_ref().map(Record::encode),
        stale_reasons: reasons.map(|reason| reason.as_str().to_owned()).collect(),
        cause: cause.map(refusal),
    }
}

fn refusal(error: &Error) -> Refusal {
    let (path, errno, syscall) = match error {
        Error::System { errno, syscall, path } => (path, Some(*errno), Some((*syscall).to_owned())),
        Error::NotAFile { path, .. }
        | Error::Foreign { path }
        | Error::Guarded { path }
        | Error::Bug { path }
        | Error::Timeout { lock_path: path, .. } => (path, None, None),
    };
    let kind = match error {
        Error::NotAFile { .. } => "not-a-file",
        Error::Foreign { .. } => "foreign",
        Error::Guarded { .. } => "guarded",
        Error::Bug { .. } => "bug",
        Error::System { .. } | Error::Timeout { .. } => "system",
    };
    Refusal {
        message: error.to_string(),
        kind: kind.to_owned(),
        path: text(path),
        errno: errno.map(os::Errno::raw),
        name: errno.and_then(os::Errno::name).map(str::to_owned),
        syscall,
    }
}

fn exceeded_hold(lock_path: &Path, exceeded: &Exceeded) -> ExceededHold {
    ExceededHold {
        handles: exceeded.handles.iter().map(|handle| handle.0 as f64).collect(),
        lock_path: text(lock_path),
        held_for_ms: exceeded.held_for.as_millis() as f64,
        max_hold_ms: exceeded.limit.as_millis() as f64,
        label: exceeded.label.as_deref().map(str::to_owned),
    }
}

fn loss_name(loss: Loss) -> String {
    let name = match loss {
        Loss::HoldExceeded => "hold-exceeded",
        Loss::Removed => "removed",
        Loss::Released => "released",
    };
    name.to_owned()
}

/// Paths come from JavaScript strings, so nothing is lost on the way back. Only a sweep can find names that are
/// not UTF-8; wrong bytes become U+FFFD.
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
