//! Looking at locks: one, those of a folder, those that this process holds.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi_derive::napi;

use super::messages::{Outcome, Refusal, refusal, text};
use super::{Client, tell_outcome, whole_ms};
use crate::error::Error;
use crate::locks::sweep::{self, Found, Measure, Names, Progress};
use crate::locks::users::{User, Users};
use crate::locks::{self, Held};
use crate::os;
use crate::record::Record;
use crate::verdict::{Ground, Judgement};

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
    /// Who else uses the folder: `"other-machine"` or `"other-mount"`.
    pub shared_with: Option<String>,
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
            shared_with: inspection.report.shared_with.map(|it| it.as_str().to_owned()),
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

/// The outcome of an inspection.
fn inspected_all(result: std::result::Result<(), Error>) -> Outcome {
    result.map_or_else(Outcome::from, |()| Outcome::default())
}
