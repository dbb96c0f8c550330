//! Judges all lock files of a folder, and removes the dead ones.
//!
//! A sweep works in *steps*. Each step is one job for a worker: it reads one folder, or judges a few lock
//! files. Between two steps the worker serves other sessions. Dead locks settle in parallel, so that
//! thousands of them don't take 50 ms each.
//!
//! [`mod@inspect`] decides which lock is dead, and replaces it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::drive::{self, no_thread};
use super::leftovers;
use super::users::{self, Users};
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, Instant, RunsOn};
use crate::protocol::inspect::{self, Clearing, Inspection};
use crate::protocol::{Claim, HeldLock, LockPaths, Named, SETTLE, real_folder};
use crate::verdict::Limits;

/// How lock files are judged.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// See [`Limits`].
    pub stale_ms: u64,
    /// The instant from which ages are reckoned, in milliseconds since the epoch; `None`: now.
    pub now_ms: Option<i64>,
    /// See [`Claim`].
    pub spares_foreign: bool,
}

/// What to sweep, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder.
    pub folder: PathBuf,
    /// Whether folders in it are swept too.
    pub recursive: bool,
    /// Whether dead locks, and temporaries that were left behind, are removed.
    pub removes_dead: bool,
    /// Which files count.
    pub names: Names,
    /// Whether to find the processes of each lock.
    pub with_users: bool,
    /// How to judge.
    pub measure: Measure,
    /// Where to say how far the sweep is.
    pub progress: Arc<Progress>,
}

/// The names of the lock files that a sweep looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `*.jsonl.lock`.
    Sessions,
    /// `*.lock`, too, if the file holds a record of ours.
    Any,
}

/// How far a sweep is.
#[derive(Debug, Default)]
pub struct Progress {
    /// How many files have been dealt with.
    pub done: AtomicUsize,
    /// How many were found.
    pub total: AtomicUsize,
}

/// The result of a sweep.
#[derive(Debug)]
pub struct Swept {
    /// The lock files, in the order of their paths.
    pub found: Vec<Found>,
    /// The folders in it that could not be read.
    pub skipped: Vec<Error>,
}

/// A lock file that was found.
#[derive(Debug)]
pub struct Found {
    /// What it is.
    pub inspection: Inspection,
    /// Its processes, if they were asked for.
    pub users: Option<Users>,
}

/// Called once, on any thread, with the result. Must not block.
pub type Deliver = Box<dyn FnOnce(Result<Swept>) + Send>;

/// How many lock files one step judges: a few milliseconds of work.
const FILES_PER_STEP: usize = 32;

/// How many dead locks may settle at the same time; each is an open file.
const MOST_SETTLING: usize = 64;

/// The `maxHoldMs` in the record of a lock that replaces a dead one. It only shows a person who finds the
/// file that the hold was meant to be short.
const MAX_HOLD_MS: u64 = 10_000;

/// Judges one lock; `path` names the session file or the lock file. An empty list: there is no lock file.
pub fn inspect(path: PathBuf, measure: Measure, with_users: bool, deliver: Deliver) {
    os::run(Box::new(move |on| {
        deliver(match on {
            RunsOn::Worker => inspect_now(&path, measure)
                .map(|inspection| Swept::new(inspection.into_iter(), Vec::new(), with_users)),
            RunsOn::Caller => Err(no_thread(&path)),
        });
    }));
}

/// Sweeps a folder. If it is missing, there are no locks in it.
pub fn start(options: Options, deliver: Deliver) {
    os::run(Box::new(move |on| match on {
        RunsOn::Worker => match real_folder(&options.folder) {
            Ok(folder) => Sweep::new(options, folder, deliver).take_step(),
            Err(error) => deliver(Err(error)),
        },
        RunsOn::Caller => deliver(Err(no_thread(&options.folder))),
    }));
}

fn inspect_now(path: &Path, measure: Measure) -> Result<Option<Inspection>> {
    match LockPaths::find(path)? {
        Some(paths) => inspect::inspect(&paths, &measure.claim_on(&paths), measure.now_ms()),
        None => Ok(None),
    }
}

impl Swept {
    fn new(
        inspections: impl Iterator<Item = Inspection>,
        skipped: Vec<Error>,
        with_users: bool,
    ) -> Self {
        let mut found: Vec<_> =
            inspections.map(|inspection| Found { inspection, users: None }).collect();
        if with_users {
            let locks: Vec<_> =
                found.iter().filter_map(|found| found.inspection.subject()).collect();
            for (found, users) in found.iter_mut().zip(users::find(&locks)) {
                found.users = Some(users);
            }
        }
        Self { found, skipped }
    }
}

/// A sweep under way.
struct Sweep {
    options: Options,
    deliver: Deliver,
    /// Folders still to be read.
    folders: Vec<PathBuf>,
    /// Lock files, temporaries and queue files still to be judged.
    files: VecDeque<PathBuf>,
    /// In the order of their paths; `None`: the file was gone.
    found: Vec<Option<Inspection>>,
    /// Why folders could not be read.
    skipped: Vec<Error>,
    /// Whether the folder itself has been read: the others are in it.
    has_read_one: bool,
    settling: VecDeque<Settling>,
}

/// A lock of ours that replaced a dead one and settles.
struct Settling {
    /// Its index in `found`.
    index: usize,
    ours: HeldLock,
    until: Instant,
}

/// When the next step is due.
enum Next {
    Step,
    At(Instant),
    Over,
}

impl Sweep {
    /// `folder`: by its real path; `None` if it is missing.
    fn new(options: Options, folder: Option<PathBuf>, deliver: Deliver) -> Box<Self> {
        Box::new(Self {
            options,
            deliver,
            folders: Vec::from_iter(folder),
            files: VecDeque::new(),
            found: Vec::new(),
            skipped: Vec::new(),
            has_read_one: false,
            settling: VecDeque::new(),
        })
    }

    fn take_step(mut self: Box<Self>) {
        match self.step() {
            Ok(Next::Step) => self.go_on(),
            Ok(Next::At(instant)) => self.go_on_at(instant),
            Ok(Next::Over) => {
                let found = self.found.into_iter().flatten();
                let swept = Swept::new(found, self.skipped, self.options.with_users);
                (self.deliver)(Ok(swept));
            }
            Err(error) => (self.deliver)(Err(error)),
        }
    }

    /// Queues the next step behind the jobs that wait already. If the system gives no thread, the sweep ends
    /// with an error.
    fn go_on(self: Box<Self>) {
        os::run(Box::new(move |on| match on {
            RunsOn::Worker => self.take_step(),
            RunsOn::Caller => self.give_up(),
        }));
    }

    /// The locks that still settle become dead locks again, or leftovers.
    fn give_up(self: Box<Self>) {
        for Settling { ours, .. } in self.settling {
            if ours.is_freed_by_removal() {
                leftovers::add(Arc::new(ours));
            }
        }
        (self.deliver)(Err(no_thread(&self.options.folder)));
    }

    fn go_on_at(self: Box<Self>, instant: Instant) {
        let slot = Arc::new(Mutex::new(Some(self)));
        let go_on = {
            let slot = Arc::clone(&slot);
            move || take(&slot).into_iter().for_each(Self::go_on)
        };
        match os::at(instant, go_on) {
            Ok(timer) => timer.detach(),
            Err(_) => take(&slot).into_iter().for_each(Self::give_up),
        }
    }

    fn step(&mut self) -> Result<Next> {
        if let Some(folder) = self.folders.pop() {
            match self.read(&folder) {
                // A folder in the folder keeps nobody from seeing the rest.
                Err(error) if self.has_read_one => self.skipped.push(error),
                read => read?,
            }
            self.has_read_one = true;
            if self.folders.is_empty() {
                // By bytes, as JavaScript sorts strings; `Path` compares component by component.
                let files = self.files.make_contiguous();
                files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
                self.options.progress.total.store(self.files.len(), Ordering::Relaxed);
            }
            return Ok(Next::Step);
        }
        self.finish_settled();
        for _ in 0..FILES_PER_STEP {
            if self.settling.len() >= MOST_SETTLING {
                break;
            }
            match self.files.pop_front() {
                Some(file) => self.look_at(&file),
                None => break,
            }
        }
        let left = self.files.len() + self.settling.len();
        let total = self.options.progress.total.load(Ordering::Relaxed);
        self.options.progress.done.store(total.saturating_sub(left), Ordering::Relaxed);
        Ok(match self.settling.front() {
            _ if !self.files.is_empty() && self.settling.len() < MOST_SETTLING => Next::Step,
            Some(first) => Next::At(first.until),
            None => Next::Over,
        })
    }

    /// Collects the files and folders in a folder. Does not follow symbolic links to folders.
    fn read(&mut self, folder: &Path) -> Result<()> {
        let entries = match os::list(folder) {
            Err(Errno::NOENT) => return Ok(()),
            entries => entries.during("scandir", folder)?,
        };
        for entry in entries {
            let is_wanted = match Named::of(&entry.name) {
                Named::Lock => true,
                Named::Temporary | Named::Queue => self.options.removes_dead,
                Named::Other => {
                    let is_lock = Path::new(&entry.name).extension() == Some(OsStr::new("lock"));
                    self.options.names == Names::Any && is_lock && !entry.is_folder
                }
            };
            if is_wanted {
                self.files.push_back(folder.join(entry.name));
            } else if self.options.recursive && entry.is_folder {
                self.folders.push(folder.join(entry.name));
            }
        }
        Ok(())
    }

    fn look_at(&mut self, file: &Path) {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return;
        };
        match Named::of(name) {
            Named::Temporary => inspect::clear_temporary(file, &self.options.measure.claim(false)),
            Named::Queue => inspect::clear_queue(file),
            // Another program's lock file: not even its flock is taken for a moment.
            Named::Other if !inspect::has_record(file) => {}
            Named::Lock | Named::Other => {
                let paths = LockPaths::in_folder(folder.to_owned(), name);
                let inspection = if self.options.removes_dead {
                    self.clear(&paths)
                } else {
                    self.inspect(&paths)
                };
                self.found.push(inspection);
            }
        }
    }

    /// Replaces the lock if it is dead; the replacement settles if need be.
    fn clear(&mut self, paths: &LockPaths) -> Option<Inspection> {
        let measure = self.options.measure;
        match inspect::clear(paths, &measure.claim_on(paths), measure.now_ms()) {
            Ok(None) => None,
            Ok(Some(Clearing::Kept(inspection))) => Some(inspection),
            Ok(Some(Clearing::Replaced { mut inspection, held, settles: false })) => {
                match finish(held) {
                    Ok(is_removed) => inspection.is_removed = is_removed,
                    Err(cause) => inspection.cause = Some(cause),
                }
                super::removed(paths);
                Some(*inspection)
            }
            Ok(Some(Clearing::Replaced { inspection, held, settles: true })) => {
                let (index, until) = (self.found.len(), os::now() + SETTLE);
                self.settling.push_back(Settling { index, ours: held, until });
                Some(*inspection)
            }
            Err(cause) => Some(Inspection::unknown(paths, Some(cause))),
        }
    }

    fn inspect(&self, paths: &LockPaths) -> Option<Inspection> {
        let measure = self.options.measure;
        inspect::inspect(paths, &measure.claim_on(paths), measure.now_ms())
            .unwrap_or_else(|cause| Some(Inspection::unknown(paths, Some(cause))))
    }

    /// Releases the locks that have settled.
    fn finish_settled(&mut self) {
        let now = os::now();
        while self.settling.front().is_some_and(|first| first.until <= now) {
            let Some(Settling { index, ours, .. }) = self.settling.pop_front() else {
                return;
            };
            let paths = ours.paths().clone();
            let finished = finish(ours);
            super::removed(&paths);
            match (finished, &mut self.found[index]) {
                (Ok(true), Some(inspection)) => inspection.is_removed = true,
                (Err(cause), Some(inspection)) => inspection.cause = Some(cause),
                // Somebody else replaced our file: judge the new one.
                _ => self.found[index] = self.inspect(&paths),
            }
        }
    }
}

impl Measure {
    /// With the long grace, as for a contender that waits for ever.
    fn claim(self, is_held_here: bool) -> Claim {
        Claim {
            max_hold_ms: Some(MAX_HOLD_MS),
            label: None,
            limits: Limits::new(self.stale_ms, None),
            is_held_here,
            spares_foreign: self.spares_foreign,
            may_queue: false,
        }
    }

    fn claim_on(self, paths: &LockPaths) -> Claim {
        self.claim(super::is_held_here(paths))
    }

    fn now_ms(self) -> i64 {
        self.now_ms.unwrap_or_else(os::wall_ms)
    }
}

/// Releases the lock that replaced a dead one. `false`: somebody else had removed it before; the path may be
/// another holder's.
fn finish(ours: HeldLock) -> Result<bool> {
    let is_ours = ours.is_at_its_path();
    drive::release(&Arc::new(ours)).0?;
    is_ours
}

/// Takes the value out of a slot; a second call returns `None`.
fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
