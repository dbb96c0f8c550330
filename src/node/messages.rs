//! What goes back to JavaScript: outcomes of calls, and news of a lock.

use std::path::Path;

use napi_derive::napi;

use crate::error::Error;
use crate::locks::{Exceeded, Grant, Loss, News};
use crate::os;
use crate::record::Record;
use crate::verdict::Report;

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
    /// Somebody else uses a folder.
    pub shared: Option<SharedFolder>,
}

/// A folder whose file system proves less than a local disk, and that somebody else uses.
#[napi(object)]
pub struct SharedFolder {
    pub folder: String,
    /// `"other-machine"` or `"other-mount"`.
    pub shared_with: String,
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

pub fn timeout(
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

pub fn refusal(error: &Error) -> Refusal {
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

impl From<News<'_>> for Message {
    fn from(news: News<'_>) -> Self {
        match news {
            News::Exceeded(paths, exceeded) => {
                let exceeded = Some(exceeded_hold(paths.lock(), exceeded));
                Self { exceeded, ..Self::default() }
            }
            News::Shared(folder, shared_with) => {
                let shared_with = shared_with.as_str().to_owned();
                let shared = Some(SharedFolder { folder: text(folder), shared_with });
                Self { shared, ..Self::default() }
            }
        }
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

pub fn loss_name(loss: Loss) -> String {
    let name = match loss {
        Loss::HoldExceeded => "hold-exceeded",
        Loss::Removed => "removed",
        Loss::Released => "released",
    };
    name.to_owned()
}

/// Paths come from JavaScript strings, so nothing is lost on the way back. Only a sweep can find names that are
/// not UTF-8; wrong bytes become U+FFFD.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
