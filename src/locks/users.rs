//! Which processes hold a lock and which wait for it, for people. Nothing is decided by it.

use std::collections::{HashMap, HashSet};

use crate::os::{self, Details, FileId, OpenFile};
use crate::process::{self, Own};
use crate::protocol::LockPaths;
use crate::record::Record;
use crate::verdict::{Ground, Writer};

/// The processes of a lock, as far as we may see them; in our own pid numbers.
#[derive(Debug, Clone)]
pub struct Users {
    /// The processes that have the flock, then those that only have the lock file open for writing.
    pub holders: Vec<User>,
    /// The processes that wait, in the order in which they will be served.
    pub waiters: Vec<User>,
    /// What is known of the process in the record.
    pub writer: Writer,
}

/// A process that holds a lock or waits for it.
#[derive(Debug, Clone)]
pub struct User {
    /// Its number here.
    pub pid: i32,
    /// The name of its executable.
    pub name: Option<String>,
    /// Its command line.
    pub command: Option<String>,
    /// Whether it is stopped, by a signal or a debugger: a holder that can't release, or a waiter that can't go on.
    pub is_stopped: bool,
    /// Why it counts as a holder: [`Ground::Flock`] or [`Ground::OpenForWriting`]. `None`: it waits.
    pub ground: Option<Ground>,
    /// Whether it is the process in the record.
    pub is_writer: bool,
}

/// Finds the users of some locks, by one scan of all processes.
pub fn find(locks: &[(LockPaths, Option<Record>)]) -> Vec<Users> {
    let ids = |paths: &LockPaths| {
        let id = |path| os::status_at(path).ok().map(|status| status.id);
        (id(paths.lock()), id(&paths.queue()))
    };
    let files: Vec<_> = locks.iter().map(|(paths, _)| ids(paths)).collect();
    let wanted: HashSet<_> =
        files.iter().flat_map(|(lock, queue)| [*lock, *queue]).flatten().collect();
    let mut scan = Scan::new(&wanted);
    let found = locks.iter().zip(files);
    found.map(|((_, record), (lock, queue))| scan.users(record.as_ref(), lock, queue)).collect()
}

/// All that one scan has found.
struct Scan {
    open_files: HashMap<FileId, Vec<OpenFile>>,
    flock_waiters: Vec<(i32, u64)>,
    /// The processes that were looked up: one of them may hold thousands of locks.
    processes: HashMap<i32, Option<Details>>,
    own: Own,
    now_ms: i64,
}

impl Scan {
    fn new(wanted: &HashSet<FileId>) -> Self {
        let mut open_files: HashMap<_, Vec<_>> = HashMap::new();
        for open in os::open_files(wanted) {
            open_files.entry(open.id).or_default().push(open);
        }
        Self {
            open_files,
            flock_waiters: os::flock_waiters(),
            processes: HashMap::new(),
            own: process::own().into_owned(),
            now_ms: os::wall_ms(),
        }
    }

    fn users(
        &mut self,
        record: Option<&Record>,
        lock: Option<FileId>,
        queue: Option<FileId>,
    ) -> Users {
        let holders = self.holders(lock);
        let waiters = self.waiters(lock, queue, &holders);
        let holders =
            holders.into_iter().filter_map(|(pid, ground)| self.user(pid, Some(ground), record));
        let holders = holders.collect();
        let waiters = waiters.into_iter().filter_map(|pid| self.user(pid, None, record)).collect();
        let own = self.own.clone();
        let writer = Writer::of(record, &own, |pid| {
            let (details, started_ms) = self.look_up(pid)?;
            Some((details.process, started_ms))
        });
        Users { holders, waiters, writer }
    }

    /// The processes that have the flock first.
    fn holders(&self, lock: Option<FileId>) -> Vec<(i32, Ground)> {
        let mut holders: Vec<(i32, Ground)> = Vec::new();
        let with = |wanted: fn(&&OpenFile) -> bool| self.of(lock).iter().filter(wanted);
        let flocked = with(|open| open.has_flock).map(|open| (open.pid, Ground::Flock));
        let open = with(|open| open.is_writable).map(|open| (open.pid, Ground::OpenForWriting));
        for (pid, ground) in flocked.chain(open) {
            if holders.iter().all(|(known, _)| *known != pid) {
                holders.push((pid, ground));
            }
        }
        holders
    }

    /// A process that blocks for the flock gets it before those that queue. A holder keeps its place in the
    /// queue, and does not wait.
    fn waiters(
        &self,
        lock: Option<FileId>,
        queue: Option<FileId>,
        holders: &[(i32, Ground)],
    ) -> Vec<i32> {
        let has_open = |pid| self.of(lock).iter().any(|open| open.pid == pid);
        let blocked = self
            .flock_waiters
            .iter()
            .filter(|&&(pid, inode)| lock.is_some_and(|lock| lock.inode == inode) && has_open(pid));
        let mut places: Vec<_> =
            self.of(queue).iter().filter_map(|open| Some((open.byte?, open.pid))).collect();
        places.sort_unstable();
        let mut waiters = Vec::new();
        for pid in blocked.map(|&(pid, _)| pid).chain(places.into_iter().map(|(_, pid)| pid)) {
            if !waiters.contains(&pid) && holders.iter().all(|(holder, _)| *holder != pid) {
                waiters.push(pid);
            }
        }
        waiters
    }

    fn of(&self, file: Option<FileId>) -> &[OpenFile] {
        file.and_then(|file| self.open_files.get(&file)).map_or(&[], Vec::as_slice)
    }

    /// `None`: it has ended meanwhile.
    fn user(&mut self, pid: i32, ground: Option<Ground>, record: Option<&Record>) -> Option<User> {
        let (details, started_ms) = self.look_up(pid)?;
        let is_writer = ground.is_some()
            && record.is_some_and(|record| {
                let process = (&details.process, started_ms);
                Writer::may_be(record, &self.own, process, details.own_pid, details.pid_namespace)
            });
        let Details { process, command, is_stopped, .. } = details;
        let name = process::name_of(process);
        Some(User { pid, name, command, is_stopped, ground, is_writer })
    }

    /// A process, and when it started, in milliseconds since the epoch.
    fn look_up(&mut self, pid: i32) -> Option<(Details, Option<i64>)> {
        let details =
            self.processes.entry(pid).or_insert_with(|| os::process_details(pid)).clone()?;
        let running_for_ms = details.running_for_ms.and_then(|ms| i64::try_from(ms).ok());
        Some((details, running_for_ms.map(|ms| self.now_ms.saturating_sub(ms))))
    }
}
