//! The surface that `index.js` calls. Options in, promise out; no decision is made here.
//!
//! Arguments arrive checked: `index.js` does that, because napi takes `NaN` for 0. An outcome goes
//! back as a plain object that `index.js` turns into a lock or an error, so that error classes and
//! stack traces are JavaScript's own.

#![allow(missing_docs, reason = "index.d.ts documents what users see")]
#![allow(
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    clippy::cast_precision_loss,
    reason = "napi decides how arguments come; JavaScript has one kind of number"
)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use napi::bindgen_prelude::{Env, Object, Result};
use napi_derive::napi;

use crate::error::Error;
use crate::process::{self, Process};
use crate::protocol::Contended;
use crate::record::Record;
use crate::registry::{self, Environment, Grant, Handle, Request};

thread_local! {
    /// A JavaScript environment has a thread of its own, so that is where its identity lives: the
    /// same for every copy of `index.js` in it.
    static ENVIRONMENT: Cell<Option<Environment>> = const { Cell::new(None) };
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

#[napi(object)]
pub struct AcquireRequest {
    /// Absolute.
    pub session_file: String,
    /// Absent: no limit.
    pub timeout_ms: Option<f64>,
    pub stale_ms: f64,
    pub max_hold_ms: f64,
    pub allow_reentrant: bool,
}

/// How an acquire ended. With nothing in it, the lock was granted and then released together with
/// all others before its caller could hear of it.
#[napi(object)]
#[derive(Default)]
pub struct AcquireOutcome {
    pub granted: Option<Granted>,
    pub timeout: Option<Timeout>,
    pub refusal: Option<Refusal>,
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

/// Builds the value a promise resolves to, on the JavaScript thread.
type Resolve<T> = Box<dyn FnOnce(Env) -> Result<T> + Send>;

#[napi(catch_unwind, ts_return_type = "Promise<AcquireOutcome>")]
pub fn acquire(env: &Env, request: AcquireRequest) -> Result<Object<'_>> {
    let request = Request {
        environment: environment(env)?,
        session_file: PathBuf::from(request.session_file),
        timeout_ms: request.timeout_ms.map(whole_ms),
        stale_ms: whole_ms(request.stale_ms),
        max_hold_ms: whole_ms(request.max_hold_ms),
        allow_reentrant: request.allow_reentrant,
    };
    let (deferred, promise) = env.create_deferred::<AcquireOutcome, Resolve<AcquireOutcome>>()?;
    let deliver = move |result: std::result::Result<Grant, Error>| {
        deferred.resolve(Box::new(move |_| {
            Ok(match &result {
                Ok(grant) => granted(grant),
                Err(error) => failed(error),
            })
        }));
    };
    registry::acquire(request, Box::new(deliver));
    Ok(promise)
}

#[napi(catch_unwind, ts_return_type = "Promise<Refusal | undefined>")]
pub fn release(env: &Env, handle: f64) -> Result<Object<'_>> {
    let (deferred, promise) = env.create_deferred::<Option<Refusal>, Resolve<Option<Refusal>>>()?;
    let done = move |result: std::result::Result<(), Error>| {
        deferred.resolve(Box::new(move |_| Ok(result.err().as_ref().map(refusal))));
    };
    registry::release(handle_from(handle), Box::new(done));
    Ok(promise)
}

#[napi(catch_unwind)]
pub fn release_all(env: &Env) -> Result<u32> {
    let count = registry::release_all(environment(env)?);
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
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

/// Runs on the JavaScript thread: only here it is certain that the caller will hear of the lock.
fn granted(grant: &Grant) -> AcquireOutcome {
    if !registry::is_held(grant.handle) {
        return AcquireOutcome::default();
    }
    let granted = Granted { handle: handle_to(grant.handle), lock_path: text(&grant.lock_path) };
    AcquireOutcome { granted: Some(granted), ..AcquireOutcome::default() }
}

fn failed(error: &Error) -> AcquireOutcome {
    match error {
        Error::Timeout { lock_path, contended, .. } => AcquireOutcome {
            timeout: Some(timeout(lock_path, contended)),
            ..AcquireOutcome::default()
        },
        Error::System { .. } | Error::NotAFile { .. } => {
            AcquireOutcome { refusal: Some(refusal(error)), ..AcquireOutcome::default() }
        }
    }
}

fn timeout(lock_path: &Path, contended: &Contended) -> Timeout {
    let reasons = contended.verdict.iter().flat_map(|verdict| &verdict.reasons);
    Timeout {
        lock_path: text(lock_path),
        owner: contended.owner(),
        holder: contended.record.as_ref().map(Record::encode),
        stale_reasons: reasons.map(|reason| reason.as_str().to_owned()).collect(),
        cause: contended.cause.as_ref().map(refusal),
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

/// Paths come from JavaScript strings, so nothing is lost on the way back.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn handle_to(handle: Handle) -> f64 {
    handle.0 as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // made by `handle_to`
fn handle_from(number: f64) -> Handle {
    Handle(number as u64)
}

/// Milliseconds, rounded up: a fraction of one is still some time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturating is meant
fn whole_ms(number: f64) -> u64 {
    number.ceil() as u64
}
