//! All lock files of a folder: which are alive, which are dead; and the dead ones cleared away.
//!
//! A sweep works in *turns*, each a job of its own on the [executor]: it reads one
//! folder, or looks at a few lock files. Between two turns other sessions' work has its own. What
//! settles is left alone meanwhile, so that thousands of dead locks don't take 50 ms each.
//!
//! What is dead, and how it is replaced, is [`inspection`]'s to know.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::executor::{self, Place};
use crate::protocol::inspection::{self, Clearing, Inspection};
use crate::protocol::{Claim, HeldLock, LockPaths, SETTLE, errno_of};
use crate::registry;
use crate::time;
use crate::verdict::Patience;
use crate::wait;

/// How lock files are judged.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// See [`Patience`].
    pub stale_ms: u64,
    /// The instant from which ages are reckoned, in milliseconds since the epoch; `None`: now.
    pub now_ms: Option<i64>,
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
    /// How to judge.
    pub measure: Measure,
}

/// Told once what was found, on any thread. Must not wait.
pub type Deliver = Box<dyn FnOnce(Result<Vec<Inspection>>) + Send>;

/// The lock files that a sweep is about.
const LOCK_SUFFIX: &[u8] = b".jsonl.lock";

/// Lock files that one turn looks at: a few milliseconds of work.
const TURN: usize = 32;

/// Dead locks that may settle at the same time; each is an open file.
const MOST_SETTLING: usize = 64;

/// What the record of a lock says that stands for a dead one while that settles; no more than to
/// tell a person who finds it that it was meant to be short.
const MAX_HOLD_MS: u64 = 10_000;

/// Looks at one lock, by the name of its session file or its own. An empty list: there is none.
pub fn inspect(path: PathBuf, measure: Measure, deliver: Deliver) {
    executor::run(Box::new(move |place| {
        deliver(match place {
            Place::OwnThread => inspect_now(&path, measure).map(Vec::from_iter),
            Place::CallersThread => Err(no_thread(path)),
        });
    }));
}

/// Sweeps a folder. If it is missing, there are no locks in it.
pub fn start(options: Options, deliver: Deliver) {
    executor::run(Box::new(move |place| match place {
        Place::OwnThread => match inspection::real_folder(&options.folder) {
            Ok(folder) => Sweep::new(options, folder, deliver).take_turn(),
            Err(error) => deliver(Err(error)),
        },
        Place::CallersThread => deliver(Err(no_thread(options.folder))),
    }));
}

/// The system gave no thread to work on.
fn no_thread(path: PathBuf) -> Error {
    Error::System { errno: Errno::AGAIN, syscall: "pthread_create", path }
}

fn inspect_now(path: &Path, measure: Measure) -> Result<Option<Inspection>> {
    match LockPaths::find(path)? {
        Some(paths) => inspection::inspect(&paths, &measure.claim(&paths), measure.now_ms()),
        None => Ok(None),
    }
}

/// A sweep under way.
struct Sweep {
    options: Options,
    deliver: Deliver,
    /// To be read.
    folders: Vec<PathBuf>,
    /// Lock files and temporaries to be looked at.
    files: VecDeque<PathBuf>,
    /// In the order of their paths; `None` for one that was gone.
    found: Vec<Option<Inspection>>,
    settling: VecDeque<Settling>,
}

/// A dead lock that has been replaced.
struct Settling {
    /// Which one of those that were found.
    index: usize,
    ours: HeldLock,
    until: Instant,
}

/// When a sweep goes on.
enum Next {
    Turn,
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
            settling: VecDeque::new(),
        })
    }

    fn take_turn(mut self: Box<Self>) {
        match self.turn() {
            Ok(Next::Turn) => self.go_on(),
            Ok(Next::At(instant)) => self.go_on_at(instant),
            Ok(Next::Over) => (self.deliver)(Ok(self.found.into_iter().flatten().collect())),
            Err(error) => (self.deliver)(Err(error)),
        }
    }

    /// Behind whatever else waits for a thread by now. If there is none any more, that is the end:
    /// what just settles becomes a dead lock again.
    fn go_on(self: Box<Self>) {
        executor::run(Box::new(move |place| match place {
            Place::OwnThread => self.take_turn(),
            Place::CallersThread => (self.deliver)(Err(no_thread(self.options.folder))),
        }));
    }

    fn go_on_at(self: Box<Self>, instant: Instant) {
        let shared = Arc::new(Mutex::new(Some(self)));
        let go_on = {
            let shared = Arc::clone(&shared);
            move || {
                let sweep = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
                sweep.into_iter().for_each(Self::go_on);
            }
        };
        if let Ok(timer) = wait::at(instant, go_on.clone()) {
            timer.detach();
        } else {
            #[expect(clippy::disallowed_methods, reason = "nothing else would wake us")]
            std::thread::sleep(instant.saturating_duration_since(Instant::now()));
            go_on();
        }
    }

    fn turn(&mut self) -> Result<Next> {
        if let Some(folder) = self.folders.pop() {
            self.read(&folder)?;
            if self.folders.is_empty() {
                // As JavaScript would sort the paths, not component by component.
                let files = self.files.make_contiguous();
                files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
            }
            return Ok(Next::Turn);
        }
        self.finish_settled();
        for _ in 0..TURN {
            if self.settling.len() >= MOST_SETTLING {
                break;
            }
            match self.files.pop_front() {
                Some(file) => self.look_at(&file),
                None => break,
            }
        }
        Ok(match self.settling.front() {
            _ if !self.files.is_empty() && self.settling.len() < MOST_SETTLING => Next::Turn,
            Some(first) => Next::At(first.until),
            None => Next::Over,
        })
    }

    /// Notes what is in a folder. Symbolic links to folders aren't followed.
    fn read(&mut self, folder: &Path) -> Result<()> {
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(errno_of(error)).during("scandir", folder),
        };
        for entry in entries {
            let entry = entry.map_err(errno_of).during("scandir", folder)?;
            let name = entry.file_name();
            if is_lock(&name) || self.options.removes_dead && inspection::is_temporary(&name) {
                self.files.push_back(entry.path());
            } else if self.options.recursive && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.folders.push(entry.path());
            }
        }
        Ok(())
    }

    fn look_at(&mut self, file: &Path) {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return;
        };
        if !is_lock(name) {
            // What can't be removed stays for the next takeover, or for a person.
            let _ = inspection::clear_temporary(file);
            return;
        }
        let paths = LockPaths::in_folder(folder.to_owned(), name);
        let inspection =
            if self.options.removes_dead { self.clear(&paths) } else { self.inspect(&paths) };
        self.found.push(inspection);
    }

    /// If it is dead, it is replaced, and settles.
    fn clear(&mut self, paths: &LockPaths) -> Option<Inspection> {
        let measure = self.options.measure;
        match inspection::clear(paths, &measure.claim(paths), measure.now_ms()) {
            Ok(None) => None,
            Ok(Some(Clearing::Kept(inspection))) => Some(inspection),
            Ok(Some(Clearing::Replaced(inspection, ours))) => {
                let (index, until) = (self.found.len(), Instant::now() + SETTLE);
                self.settling.push_back(Settling { index, ours, until });
                Some(inspection)
            }
            Err(cause) => Some(Inspection::unknown(paths, Some(cause))),
        }
    }

    fn inspect(&self, paths: &LockPaths) -> Option<Inspection> {
        let measure = self.options.measure;
        inspection::inspect(paths, &measure.claim(paths), measure.now_ms())
            .unwrap_or_else(|cause| Some(Inspection::unknown(paths, Some(cause))))
    }

    /// Releases what has settled.
    fn finish_settled(&mut self) {
        let now = Instant::now();
        while self.settling.front().is_some_and(|first| first.until <= now) {
            let Some(Settling { index, ours, .. }) = self.settling.pop_front() else {
                return;
            };
            let finished = inspection::finish(&ours);
            let paths = ours.paths();
            registry::look_again(paths);
            match (finished, &mut self.found[index]) {
                (Ok(true), Some(inspection)) => inspection.is_removed = true,
                (Err(cause), Some(inspection)) => inspection.cause = Some(cause),
                // Not ours any more: what is there now?
                _ => self.found[index] = self.inspect(paths),
            }
        }
    }
}

impl Measure {
    /// A sweep has time: it gives the long grace, as a contender does that can wait for it.
    fn claim(self, paths: &LockPaths) -> Claim {
        Claim {
            max_hold_ms: MAX_HOLD_MS,
            patience: Patience::new(self.stale_ms, None),
            is_held_here: registry::is_held_here(paths),
        }
    }

    fn now_ms(self) -> i64 {
        self.now_ms.unwrap_or_else(time::now_ms)
    }
}

fn is_lock(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(LOCK_SUFFIX)
}
