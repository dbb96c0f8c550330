//! Is the holder of a lock file alive, and on what ground? The one place that decides.
//!
//! Pure: facts in, a judgement out. A *witness* is asked before *evidence*. A taken flock proves that the
//! holder is alive. If the record promises a flock and the flock is free, the holder is dead. If no flock was
//! promised, an open writer proves that the holder is alive. Then the record and `/proc` decide, and age comes
//! last: it never overrides a witness, nor proof that the recorded process is alive. If nothing is known, the
//! holder counts as alive.

use std::fmt::Write as _;

use crate::os::{Lease, Process, Trust};
use crate::process::{Own, may_be_called};
use crate::record::{DeclaredWitness, Record};

/// Everything that was seen of a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether its content is not that of a lock file.
    pub is_foreign: bool,
    /// The record, if there is one.
    pub record: Option<Record>,
    /// Who has its flock.
    pub flock: Flock,
    /// Whether anybody has it open for writing. Not asked where the answer would mean nothing.
    pub writer: Lease,
    /// What locks on this file system prove.
    pub trust: Trust,
    /// Whether this very process holds the lock, as far as it knows.
    pub is_held_here: bool,
    /// When it was last written, by a clock that anybody may set; milliseconds since the epoch.
    pub modified_ms: i64,
    /// When the kernel last noted a change of it; milliseconds since the epoch.
    pub changed_ms: i64,
    /// The process that has the recorded number now.
    pub process: LookUp,
}

/// Who has the flock of a lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flock {
    /// Somebody else.
    Theirs,
    /// We have it, so nobody else has.
    Ours,
    /// The file system has no flocks, or can't tell.
    Unknown,
}

/// The result of looking the recorded pid up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// Not looked up: see [`Facts::pid_to_look_up`].
    NotAsked,
    /// No process has that number.
    NoSuchProcess,
    /// This process has that number.
    Found(Process),
}

/// How old a lock must be before its age counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Where nothing but age decides, a lock older than this is dead, in milliseconds.
    pub stale_ms: u64,
    /// A file that no process has open for writing is dead once it is older than this, in milliseconds. An
    /// older process's release closes the file a moment before it removes it.
    pub grace_ms: u64,
}

impl Limits {
    /// The grace for contenders with time to wait.
    const LONG_GRACE_MS: u64 = 30_000;
    /// The grace for contenders that give up before the long one is over.
    const SHORT_GRACE_MS: u64 = 5_000;
    /// The grace for a file that names no process. Its creator keeps it open until the record is written.
    const UNWRITTEN_GRACE_MS: u64 = 2_000;

    /// The limits of a contender that waits for `timeout_ms`, if it has a limit.
    pub fn new(stale_ms: u64, timeout_ms: Option<u64>) -> Self {
        let hurried = timeout_ms.is_some_and(|timeout_ms| timeout_ms < Self::LONG_GRACE_MS);
        let grace_ms = if hurried { Self::SHORT_GRACE_MS } else { Self::LONG_GRACE_MS };
        Self { stale_ms, grace_ms }
    }
}

/// Whether a lock has to be respected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The holder is proved to live.
    Held,
    /// A contender takes the lock over.
    Dead,
    /// Can't know: counts as alive.
    Unknown,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

/// The ground of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Somebody has the flock. Held.
    Flock,
    /// Somebody has the file open for writing. Held.
    OpenForWriting,
    /// The process that wrote the record lives: same number, same start time. Held.
    SameProcess,
    /// This very process holds it. Held.
    ThisProcess,
    /// Its writer promised to keep a flock, and nobody has it. Dead.
    FlockGone,
    /// No process has the recorded number. Dead.
    NoSuchProcess,
    /// Another process has the recorded number by now. Dead.
    OtherProcess,
    /// The machine was restarted since. Dead.
    OtherBoot,
    /// The record names this process, which doesn't hold the lock. Dead.
    OrphanOfThisProcess,
    /// Nobody has the file open, and it is old enough for that to count. Dead.
    OpenNowhere,
    /// Nothing proves or refutes the holder, and the lock is older than `staleMs`. Dead.
    TooOld,
    /// Nobody has the file open, and it is too young for that to count. Unknown.
    TooYoung,
    /// Nothing proves or refutes the holder. Unknown.
    NoProof,
}

impl Ground {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flock => "flock",
            Self::OpenForWriting => "open-for-writing",
            Self::SameProcess => "same-process",
            Self::ThisProcess => "this-process",
            Self::FlockGone => "flock-gone",
            Self::NoSuchProcess => "no-such-process",
            Self::OtherProcess => "other-process",
            Self::OtherBoot => "other-boot",
            Self::OrphanOfThisProcess => "orphan-of-this-process",
            Self::OpenNowhere => "open-nowhere",
            Self::TooOld => "too-old",
            Self::TooYoung => "too-young",
            Self::NoProof => "no-proof",
        }
    }
}

/// What is known of the process that wrote a record, whether or not it still holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The record names no process.
    Unnamed,
    /// It runs.
    Running,
    /// No process has its number.
    Ended,
    /// Another process has its number.
    OtherProcess,
    /// The process that has its number started after `createdAt`: another one, unless a clock was set.
    StartedLater,
    /// A process has its number. Nothing proves or refutes that it is the writer.
    Unproved,
    /// It belongs to another boot of this machine, or to another machine.
    OtherBoot,
    /// It belongs to another pid namespace, and can't be looked up by its number.
    OtherNamespace,
}

impl Writer {
    /// By how much the clocks of `createdAt` and of a process's start may differ, in milliseconds.
    const CLOCK_SLACK_MS: i64 = 1_000;

    /// `look_up` returns the process that has this number here, and the time of its start.
    pub fn of(
        record: Option<&Record>,
        own: &Own,
        look_up: impl FnOnce(i32) -> Option<(Process, Option<i64>)>,
    ) -> Self {
        let Some((record, pid)) = record.and_then(|record| Some((record, record.pid?))) else {
            return Self::Unnamed;
        };
        if differ(record.boot_id.as_ref(), own.boot_id.as_ref()) {
            return Self::OtherBoot;
        }
        if differ(record.pid_namespace.as_ref(), own.pid_namespace.as_ref()) {
            return Self::OtherNamespace;
        }
        let Some((process, started_ms)) = look_up(pid) else {
            return Self::Ended;
        };
        match compare(record, &process) {
            Evidence::Gone(..) => Self::OtherProcess,
            Evidence::Same(_) => Self::Running,
            Evidence::Maybe if starts_after(record, started_ms) => Self::StartedLater,
            Evidence::Maybe => Self::Unproved,
        }
    }

    /// Whether a process that has the lock file open may be the one that wrote the record. `own_pid` and
    /// `pid_namespace` are those of the process.
    pub fn may_be(
        record: &Record,
        own: &Own,
        (process, started_ms): (&Process, Option<i64>),
        own_pid: Option<i32>,
        pid_namespace: Option<u64>,
    ) -> bool {
        record.pid.is_some()
            && record.pid == own_pid
            && !differ(record.boot_id.as_ref(), own.boot_id.as_ref())
            && !differ(record.pid_namespace.as_ref(), pid_namespace.as_ref())
            && !matches!(compare(record, process), Evidence::Gone(..))
            && (record.starttime.is_some() || !starts_after(record, started_ms))
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unnamed => "unnamed",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::OtherProcess => "other-process",
            Self::StartedLater => "started-later",
            Self::Unproved => "unproved",
            Self::OtherBoot => "other-boot",
            Self::OtherNamespace => "other-namespace",
        }
    }
}

/// Whether a process started after the record was written, by clocks that anybody may set.
fn starts_after(record: &Record, started_ms: Option<i64>) -> bool {
    let created_ms = record.created_at_ms();
    started_ms.zip(created_ms).is_some_and(|(started_ms, created_ms)| {
        started_ms.saturating_sub(Writer::CLOCK_SLACK_MS) > created_ms
    })
}

/// What [`Facts`] amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the lock has to be respected.
    pub verdict: Verdict,
    /// Why.
    pub ground: Ground,
    /// What speaks against the holder, in the words of the older module. A live holder can have reasons, too.
    pub reasons: Vec<Reason>,
    /// The age by the record's `createdAt`, in milliseconds; `None` without one.
    pub age_ms: Option<u64>,
    /// In how many milliseconds a lock that counts as alive becomes dead by age.
    pub matures_in_ms: Option<u64>,
}

impl Judgement {
    /// Whether the lock has to be respected.
    pub fn is_alive(&self) -> bool {
        self.verdict != Verdict::Dead
    }

    /// Whether the process that wrote the record may live, though it may hold nothing.
    pub fn process_may_live(&self) -> bool {
        let dead = [Reason::DeadPid, Reason::RecycledPid, Reason::OrphanSelfPid];
        let is_named = !self.reasons.contains(&Reason::MissingPid);
        !self.reasons.iter().any(|reason| dead.contains(reason)) && (is_named || self.is_alive())
    }
}

/// What speaks against a holder, in the words of the older lock module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The record names no process.
    MissingPid,
    /// The process does not exist, or has lost the flock that its record promised.
    DeadPid,
    /// The number belongs to another process by now.
    RecycledPid,
    /// The record names this process, which doesn't hold the lock.
    OrphanSelfPid,
    /// The record doesn't say when it was written.
    InvalidCreatedAt,
    /// Older than the contender's `staleMs`.
    TooOld,
    /// Held for longer than its own `maxHoldMs`.
    HoldExceeded,
}

impl Reason {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingPid => "missing-pid",
            Self::DeadPid => "dead-pid",
            Self::RecycledPid => "recycled-pid",
            Self::OrphanSelfPid => "orphan-self-pid",
            Self::InvalidCreatedAt => "invalid-createdAt",
            Self::TooOld => "too-old",
            Self::HoldExceeded => "hold-exceeded",
        }
    }
}

/// Who else uses a folder whose file system proves less than a local disk, as a live lock there shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedWith {
    /// Another machine: it has the flock. If it crashes, nothing will tell.
    OtherMachine,
    /// A process of this machine whose flock does not meet ours: it reaches the folder by another mount.
    OtherMount,
}

impl SharedWith {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherMachine => "other-machine",
            Self::OtherMount => "other-mount",
        }
    }
}

/// What a time-out error or an inspection says about a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The record.
    pub record: Option<Record>,
    /// The judgement; `None` if the file could not be read, or changed too often.
    pub judgement: Option<Judgement>,
    /// Who else uses the folder, where that costs safety or time.
    pub shared_with: Option<SharedWith>,
}

impl Report {
    /// Judges `facts` as of `now_ms`, in milliseconds since the epoch.
    pub fn new(facts: &Facts, own: &Own, limits: Limits, now_ms: i64) -> Self {
        let judgement = Some(facts.judge(own, limits, now_ms));
        Self { record: facts.record.clone(), judgement, shared_with: facts.shared_with(own) }
    }

    /// The holder in the words of the older lock module: `pid=7 alive=true ageMs=1200`.
    pub fn owner(&self) -> String {
        let judgement = self.judgement.as_ref();
        let mut owner = match self.record.as_ref().and_then(|record| record.pid) {
            Some(pid) => {
                format!("pid={pid} alive={}", judgement.is_none_or(Judgement::is_alive))
            }
            None => "owner=unknown".to_owned(),
        };
        if let Some(age_ms) = judgement.and_then(|judgement| judgement.age_ms) {
            owner.push_str(" ageMs=");
            owner.push_str(&age_ms.to_string());
        }
        if let Some(label) = self.record.as_ref().and_then(|record| record.label.as_deref()) {
            // `Debug` escapes what could be an order to a terminal.
            let _ = write!(owner, " label={label:?}");
        }
        owner
    }
}

/// What the record and `/proc` say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// The process that wrote the record is no more.
    Gone(Ground, Reason),
    /// It lives.
    Same(Ground),
    /// Nothing proves or refutes it.
    Maybe,
}

/// The witness that a record may promise on such a file system, and that everybody who trusts it as much can see.
pub fn witness_of(trust: Trust) -> Option<DeclaredWitness> {
    match trust {
        Trust::Nothing => None,
        Trust::Flocks => Some(DeclaredWitness::ServerFlock),
        Trust::Everything => Some(DeclaredWitness::Flock),
    }
}

impl Facts {
    /// The pid whose process has to be looked up for the verdict.
    pub fn pid_to_look_up(&self, own: &Own) -> Option<i32> {
        self.pid_for_reasons(own).filter(|_| !self.has_lost_its_flock())
    }

    /// The pid whose process has to be looked up for the reasons, also where the verdict is clear without it.
    pub fn pid_for_reasons(&self, own: &Own) -> Option<i32> {
        let record = self.record.as_ref()?;
        let is_ours = !differ(record.boot_id.as_ref(), own.boot_id.as_ref())
            && !differ(record.pid_namespace.as_ref(), own.pid_namespace.as_ref());
        record.pid.filter(|&pid| self.witness().is_none() && is_ours && pid != own.pid)
    }

    /// Whether the record promises a flock and nobody has it: the writer does not hold the lock any more.
    pub fn has_lost_its_flock(&self) -> bool {
        self.promises_a_flock() && self.flock == Flock::Ours
    }

    /// What the record promises.
    fn promised(&self) -> Option<DeclaredWitness> {
        self.record.as_ref()?.witness
    }

    /// Whether the record promises a flock that we would see.
    fn promises_a_flock(&self) -> bool {
        self.promised().is_some() && self.promised() == witness_of(self.trust)
    }

    /// Whether a client of a file server has made the lock, and this is the server itself. Another client could be taking it
    /// over at this moment by its flock, which is not seen here.
    fn is_of_a_client(&self) -> bool {
        self.promised() == Some(DeclaredWitness::ServerFlock) && self.trust == Trust::Everything
    }

    /// Who else uses the folder, as this lock shows, where that costs safety or time.
    pub fn shared_with(&self, own: &Own) -> Option<SharedWith> {
        let record = self.record.as_ref()?;
        match self.flock {
            Flock::Theirs if self.trust == Trust::Nothing => {
                let is_far = differ(record.boot_id.as_ref(), own.boot_id.as_ref());
                is_far.then_some(SharedWith::OtherMachine)
            }
            // Whoever writes a token takes a flock, too.
            Flock::Ours if self.trust == Trust::Nothing && record.token.is_some() => {
                let is_alive = matches!(self.evidence(own), Evidence::Same(_));
                is_alive.then_some(SharedWith::OtherMount)
            }
            _ => None,
        }
    }

    /// Judges what was seen, as of an instant in milliseconds since the epoch.
    pub fn judge(&self, own: &Own, limits: Limits, now_ms: i64) -> Judgement {
        let created_ms = self.record.as_ref().and_then(Record::created_at_ms);
        let age_ms = created_ms.map(|then| elapsed(then, now_ms));
        let file_age_ms = file_age_ms(self.modified_ms, self.changed_ms, now_ms);
        // If `createdAt` is in the future, the file's own times count.
        let known_age_ms =
            created_ms.filter(|then| *then <= now_ms).and(age_ms).unwrap_or(file_age_ms);

        let evidence = match self.witness() {
            Some(ground) => Evidence::Same(ground),
            None => self.evidence(own),
        };
        let is_open_nowhere = self.writer == Lease::Granted;
        let (verdict, ground, matures_in_ms) = match evidence {
            Evidence::Same(ground @ (Ground::Flock | Ground::OpenForWriting)) => {
                (Verdict::Held, ground, None)
            }
            _ if self.has_lost_its_flock() => (Verdict::Dead, Ground::FlockGone, None),
            // The server did not answer; the next look asks again. Until then nothing outweighs the promise.
            _ if self.trust == Trust::Flocks
                && self.promises_a_flock()
                && self.flock == Flock::Unknown =>
            {
                (Verdict::Unknown, Ground::NoProof, None)
            }
            Evidence::Gone(ground, _) => (Verdict::Dead, ground, None),
            // A release of the older module closed the file and then could not remove it.
            Evidence::Same(ground) if is_open_nowhere => {
                match time_left(known_age_ms, limits.stale_ms) {
                    None => (Verdict::Dead, Ground::OpenNowhere, None),
                    left => (Verdict::Held, ground, left),
                }
            }
            Evidence::Same(ground) => (Verdict::Held, ground, None),
            Evidence::Maybe if is_open_nowhere && !self.is_of_a_client() => {
                let has_pid = self.record.as_ref().is_some_and(|record| record.pid.is_some());
                let grace_ms = if has_pid {
                    limits.grace_ms
                } else {
                    limits.grace_ms.min(Limits::UNWRITTEN_GRACE_MS)
                };
                match time_left(file_age_ms, grace_ms) {
                    None => (Verdict::Dead, Ground::OpenNowhere, None),
                    left => (Verdict::Unknown, Ground::TooYoung, left),
                }
            }
            Evidence::Maybe => match time_left(known_age_ms, limits.stale_ms) {
                None => (Verdict::Dead, Ground::TooOld, None),
                left => (Verdict::Unknown, Ground::NoProof, left),
            },
        };

        let has_pid = self.record.as_ref().is_some_and(|record| record.pid.is_some());
        let max_hold_ms = self.record.as_ref().and_then(|record| record.max_hold_ms);
        let against_the_process = match evidence {
            Evidence::Gone(_, reason) => Some(reason),
            _ if !has_pid => Some(Reason::MissingPid),
            Evidence::Maybe if ground == Ground::FlockGone => Some(Reason::DeadPid),
            _ => None,
        };
        let reasons = [
            against_the_process,
            age_ms.is_none().then_some(Reason::InvalidCreatedAt),
            (known_age_ms > limits.stale_ms).then_some(Reason::TooOld),
            max_hold_ms.is_some_and(|max| known_age_ms > max).then_some(Reason::HoldExceeded),
        ];
        let reasons = reasons.into_iter().flatten().collect();
        Judgement { verdict, ground, reasons, age_ms, matures_in_ms }
    }

    /// What the kernel proves.
    fn witness(&self) -> Option<Ground> {
        if self.flock == Flock::Theirs {
            Some(Ground::Flock)
        } else if self.writer == Lease::Refused && !self.has_lost_its_flock() {
            Some(Ground::OpenForWriting)
        } else {
            None
        }
    }

    fn evidence(&self, own: &Own) -> Evidence {
        let Some((record, pid)) = self.record.as_ref().and_then(|r| Some((r, r.pid?))) else {
            return Evidence::Maybe;
        };
        if self.is_of_a_client() {
            return Evidence::Maybe;
        }
        if differ(record.boot_id.as_ref(), own.boot_id.as_ref()) {
            // Another boot of this machine, or, where a folder is shared, another machine. A disk of ours can
            // be shared with a virtual machine: then this machine has the file open in its name.
            return if self.trust == Trust::Everything && self.writer == Lease::Granted {
                Evidence::Gone(Ground::OtherBoot, Reason::DeadPid)
            } else {
                Evidence::Maybe
            };
        }
        if differ(record.pid_namespace.as_ref(), own.pid_namespace.as_ref()) {
            return Evidence::Maybe;
        }
        if pid == own.pid {
            return self.evidence_about_ourselves(record, own);
        }
        match &self.process {
            LookUp::Found(process) => compare(record, process),
            LookUp::NoSuchProcess => Evidence::Gone(Ground::NoSuchProcess, Reason::DeadPid),
            LookUp::NotAsked => Evidence::Maybe,
        }
    }

    /// The record has our pid. Either this process wrote it, or an earlier one with the same pid: in a
    /// container the pid is the same after every restart.
    fn evidence_about_ourselves(&self, record: &Record, own: &Own) -> Evidence {
        if self.is_held_here {
            return Evidence::Same(Ground::ThisProcess);
        }
        match (record.starttime, own.start_time) {
            (Some(theirs), Some(ours)) if theirs != ours => RECYCLED,
            // Another lock module in this process may hold it, and nothing can prove that it
            // doesn't.
            (Some(_), Some(_)) if self.writer == Lease::Unanswered => {
                Evidence::Same(Ground::ThisProcess)
            }
            _ => Evidence::Gone(Ground::OrphanOfThisProcess, Reason::OrphanSelfPid),
        }
    }
}

const RECYCLED: Evidence = Evidence::Gone(Ground::OtherProcess, Reason::RecycledPid);

/// Whether the process that has the number now is the one that wrote the record.
fn compare(record: &Record, process: &Process) -> Evidence {
    match (record.starttime, process.start_time) {
        (Some(theirs), Some(found)) if !process.in_other_time_namespace => {
            if theirs == found {
                Evidence::Same(Ground::SameProcess)
            } else {
                RECYCLED
            }
        }
        _ => match &record.comm {
            Some(comm) if !may_be_called(process, comm) => RECYCLED,
            _ => Evidence::Maybe,
        },
    }
}

/// Whether both are known and differ.
fn differ<T: PartialEq>(theirs: Option<&T>, ours: Option<&T>) -> bool {
    theirs.is_some() && ours.is_some() && theirs != ours
}

/// The time since the last write of a file. If that is in the future, somebody has set it: then the kernel's
/// `ctime` counts.
pub fn file_age_ms(modified_ms: i64, changed_ms: i64, now_ms: i64) -> u64 {
    elapsed(if modified_ms > now_ms { changed_ms } else { modified_ms }, now_ms)
}

/// A time in the future is no age at all.
fn elapsed(then_ms: i64, now_ms: i64) -> u64 {
    if then_ms < now_ms { now_ms.abs_diff(then_ms) } else { 0 }
}

/// How long until the limit is over; `None` if it is.
fn time_left(age_ms: u64, limit_ms: u64) -> Option<u64> {
    // One more: at exactly `limit_ms` the limit is not over yet.
    limit_ms.checked_sub(age_ms).map(|left_ms| left_ms.saturating_add(1))
}
