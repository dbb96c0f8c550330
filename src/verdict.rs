//! Is the holder of a lock file alive? The one place that decides.
//!
//! Witness before evidence. A flock proves life and ends the question. A record whose writer promised
//! to keep a flock is dead without one. An open writer proves life where no flock was promised (where
//! one was, it may be somebody who waits to be the next). Only then do the record and
//! `/proc` count, and age counts last and least: it never overrides a witness, nor proof that the
//! very process lives. Where nothing can be known, the holder counts as alive.

use crate::process::{self, Own, Process};
use crate::record::Record;
use crate::time;
use crate::witness::{Testimony, Witness};

/// How long a contender believes in a holder that nothing proves.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A lock older than this is given up, in milliseconds, where only age can tell.
    pub stale_ms: u64,
    /// How old a file must be, in milliseconds, before it counts that no process has it open:
    /// its writer may be between creating it and writing it.
    pub grace_ms: u64,
}

impl Patience {
    /// The grace for contenders with time to wait.
    const LONG_GRACE_MS: u64 = 30_000;
    /// The grace for contenders that give up before the long one is over.
    const SHORT_GRACE_MS: u64 = 5_000;

    /// The patience of a contender that waits for `timeout_ms`, if it has a limit.
    pub fn new(stale_ms: u64, timeout_ms: Option<u64>) -> Self {
        let hurried = timeout_ms.is_some_and(|timeout_ms| timeout_ms < Self::LONG_GRACE_MS);
        let grace_ms = if hurried { Self::SHORT_GRACE_MS } else { Self::LONG_GRACE_MS };
        Self { stale_ms, grace_ms }
    }
}

/// Everything that was seen of a lock file.
#[expect(clippy::struct_excessive_bools, reason = "facts, independent of each other")]
#[derive(Debug, Clone)]
pub struct Sighting {
    /// What it says, if anything.
    pub record: Option<Record>,
    /// When it was last written, in milliseconds since the epoch.
    pub modified_ms: i64,
    /// Whether somebody had the flock.
    pub flocked: bool,
    /// Whether we have the flock, so that nobody else can.
    pub has_flock: bool,
    /// Whether somebody could be proved to have it open.
    pub testimony: Testimony,
    /// Whether the file system is this kernel's own.
    pub is_local: bool,
    /// Whether this very process holds the lock, as far as it knows.
    pub is_held_here: bool,
}

/// What a [`Sighting`] amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the lock has to be respected.
    pub is_alive: bool,
    /// Whether a witness or the record's very process proves the holder.
    pub is_proved: bool,
    /// Whether the process that wrote the record may live, though it may hold nothing.
    pub process_may_live: bool,
    /// What proved it.
    pub witness: Option<Witness>,
    /// What speaks against the holder; a live one can be too old.
    pub reasons: Vec<Reason>,
    /// Since the record was written, in milliseconds; `None` where it doesn't say when.
    pub age_ms: Option<u64>,
    /// In how many milliseconds a live lock would be given up because of its age alone.
    pub matures_in_ms: Option<u64>,
}

/// A [`Verdict`] in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The holder is proved to live.
    Held,
    /// A contender takes it over.
    Dead,
    /// Can't know: counts as alive.
    Unknown,
}

impl Standing {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

impl Verdict {
    /// What it comes to.
    pub fn standing(&self) -> Standing {
        match (self.is_alive, self.is_proved) {
            (false, _) => Standing::Dead,
            (true, true) => Standing::Held,
            (true, false) => Standing::Unknown,
        }
    }
}

/// What speaks against a holder, in the words of the older lock module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The record names no process.
    MissingPid,
    /// No such process exists; or it may, but has lost the flock that it promised.
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

/// What the record and `/proc` say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// The process that wrote the record is no more.
    Gone(Reason),
    /// It lives.
    Same,
    /// Nothing proves or refutes it.
    Maybe,
}

/// For how long a lock has to be respected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// For as long as the proof stands.
    Proved,
    /// For so many milliseconds.
    Left(u64),
    Over,
}

impl Life {
    fn until(age_ms: u64, limit_ms: u64) -> Self {
        // One more: the limit itself is still within it.
        limit_ms.checked_sub(age_ms).map_or(Self::Over, |left_ms| Self::Left(left_ms + 1))
    }
}

impl Sighting {
    /// Whether the record's writer keeps a flock while it holds.
    pub fn is_by_flock_holder(&self) -> bool {
        self.record.as_ref().is_some_and(Record::promises_flock)
    }

    /// Whether its writer would have the flock if it held the lock, and hasn't.
    pub fn has_broken_its_promise(&self) -> bool {
        self.is_by_flock_holder() && self.is_local && self.has_flock
    }

    /// Judges what was seen.
    pub fn judge(&self, patience: Patience) -> Verdict {
        self.judge_at(patience, time::now_ms())
    }

    /// The same for an instant, in milliseconds since the epoch: ages are reckoned from there.
    pub fn judge_at(&self, patience: Patience, now_ms: i64) -> Verdict {
        let age_ms = self.created_at_ms().map(|then| elapsed(then, now_ms));
        let file_age_ms = elapsed(self.modified_ms, now_ms);
        let known_age_ms = age_ms.unwrap_or(file_age_ms);

        let witness = self.witness();
        let evidence = match witness {
            Some(_) => Evidence::Same,
            None => self.evidence(&process::own(), Process::find),
        };
        let no_writer = self.testimony == Testimony::NoWriter;
        let broke_its_promise = self.has_broken_its_promise();
        // How long it is alive: for good, not at all, or until some age.
        let life = match evidence {
            _ if witness.is_some() => Life::Proved,
            _ if broke_its_promise => Life::Over,
            Evidence::Gone(_) => Life::Over,
            // Its release closed the file and then could not remove it.
            Evidence::Same if no_writer => Life::until(known_age_ms, patience.stale_ms),
            Evidence::Same => Life::Proved,
            Evidence::Maybe if no_writer => Life::until(file_age_ms, patience.grace_ms),
            Evidence::Maybe => Life::until(known_age_ms, patience.stale_ms),
        };

        let has_pid = self.record.as_ref().is_some_and(|record| record.pid.is_some());
        let max_hold_ms = self.record.as_ref().and_then(|record| record.max_hold_ms);
        let against_the_process = match evidence {
            Evidence::Gone(reason) => Some(reason),
            _ if !has_pid => Some(Reason::MissingPid),
            Evidence::Maybe if broke_its_promise => Some(Reason::DeadPid),
            _ => None,
        };
        let reasons = [
            against_the_process,
            age_ms.is_none().then_some(Reason::InvalidCreatedAt),
            (known_age_ms > patience.stale_ms).then_some(Reason::TooOld),
            max_hold_ms.is_some_and(|max| known_age_ms > max).then_some(Reason::HoldExceeded),
        ];
        let is_alive = life != Life::Over;
        Verdict {
            is_alive,
            is_proved: evidence == Evidence::Same,
            process_may_live: match against_the_process {
                None => true,
                Some(Reason::MissingPid) => is_alive,
                Some(_) => false,
            },
            witness,
            reasons: reasons.into_iter().flatten().collect(),
            age_ms,
            matures_in_ms: if let Life::Left(ms) = life { Some(ms) } else { None },
        }
    }

    fn witness(&self) -> Option<Witness> {
        if self.flocked {
            Some(Witness::Flock)
        } else if self.has_broken_its_promise() {
            None
        } else if self.testimony == Testimony::Writer {
            Some(Witness::OpenForWriting)
        } else {
            None
        }
    }

    fn created_at_ms(&self) -> Option<i64> {
        let created_at = self.record.as_ref()?.created_at.as_deref()?;
        time::from_iso(created_at)
    }

    fn evidence(&self, own: &Own, find: impl Fn(i32) -> Option<Process>) -> Evidence {
        let Some(record) = &self.record else {
            return Evidence::Maybe;
        };
        let Some(pid) = record.pid else {
            return Evidence::Maybe;
        };
        if differ(record.boot_id.as_ref(), own.boot_id.as_ref()) {
            // Another boot of this machine, or, where a folder is shared, another machine.
            return if self.is_local { Evidence::Gone(Reason::DeadPid) } else { Evidence::Maybe };
        }
        if differ(record.pid_namespace.as_ref(), own.pid_namespace.as_ref()) {
            return Evidence::Maybe;
        }
        if pid == own.pid {
            return self.evidence_about_ourselves(record, own);
        }
        find(pid).map_or(Evidence::Gone(Reason::DeadPid), |process| compare(record, &process))
    }

    /// The record has our number. Either it is ours, or a predecessor's with the same one, which
    /// in a container is the rule.
    fn evidence_about_ourselves(&self, record: &Record, own: &Own) -> Evidence {
        if self.is_held_here {
            return Evidence::Same;
        }
        match (record.starttime, own.start_time) {
            (Some(theirs), Some(ours)) if theirs != ours => Evidence::Gone(Reason::RecycledPid),
            // Another lock module in this process may hold it, and nothing can prove that it
            // doesn't.
            (Some(_), Some(_)) if self.testimony == Testimony::None => Evidence::Same,
            _ => Evidence::Gone(Reason::OrphanSelfPid),
        }
    }
}

/// Whether the process that has the number now is the one that wrote the record.
fn compare(record: &Record, process: &Process) -> Evidence {
    match (record.starttime, process.start_time) {
        (Some(theirs), Some(found)) if !process.in_other_time_namespace => {
            if theirs == found {
                Evidence::Same
            } else {
                Evidence::Gone(Reason::RecycledPid)
            }
        }
        _ => match &record.comm {
            Some(comm) if !process.may_be_called(comm) => Evidence::Gone(Reason::RecycledPid),
            _ => Evidence::Maybe,
        },
    }
}

/// Both known, and not the same.
fn differ<T: PartialEq>(theirs: Option<&T>, ours: Option<&T>) -> bool {
    theirs.is_some() && ours.is_some() && theirs != ours
}

/// A time in the future is no age at all.
fn elapsed(then_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Executable;
    use crate::record::DeclaredWitness;

    const PATIENCE: Patience = Patience { stale_ms: 60_000, grace_ms: 5_000 };
    const THEM: i32 = 77;

    fn own() -> Own {
        Own {
            pid: 42,
            start_time: Some(1_000),
            comm: "node".into(),
            boot_id: Some("this boot".into()),
            pid_namespace: Some(1),
        }
    }

    fn seen(record: Record) -> Sighting {
        Sighting {
            record: Some(record),
            modified_ms: time::now_ms(),
            flocked: false,
            has_flock: true,
            testimony: Testimony::NoWriter,
            is_local: true,
            is_held_here: false,
        }
    }

    fn by(pid: i32) -> Record {
        Record {
            pid: Some(pid),
            created_at: Some(time::to_iso(time::now_ms())),
            ..Record::default()
        }
    }

    fn node_since(start_time: u64) -> Process {
        Process {
            start_time: Some(start_time),
            executable: Executable::Named("node".into()),
            task_name: Some("MainThread".into()),
            in_other_time_namespace: false,
        }
    }

    fn weigh(sighting: &Sighting, process: Option<&Process>) -> Evidence {
        sighting.evidence(&own(), |_| process.cloned())
    }

    #[test]
    fn a_witness_proves_life_whatever_the_record_says() {
        let dead = Record { pid: Some(i32::MAX), ..Record::default() };
        for (flocked, testimony) in [(true, Testimony::None), (false, Testimony::Writer)] {
            let sighting = Sighting { flocked, testimony, modified_ms: 0, ..seen(dead.clone()) };
            let verdict = sighting.judge(Patience { stale_ms: 1, grace_ms: 1 });
            assert!(verdict.is_alive && verdict.witness.is_some());
        }
    }

    #[test]
    fn a_flock_holders_record_without_a_flock_is_dead_even_if_its_process_lives() {
        let own = process::own();
        let record = Record {
            starttime: own.start_time,
            witness: Some(DeclaredWitness::Flock),
            ..by(own.pid)
        };
        assert!(!seen(record.clone()).judge(PATIENCE).is_alive);
        // ... but not where a flock may be another machine's.
        let far = Sighting { is_local: false, testimony: Testimony::None, ..seen(record) };
        assert!(far.judge(PATIENCE).is_alive);
    }

    #[test]
    fn a_flock_holders_record_without_a_flock_is_dead_even_if_somebody_has_it_open_for_writing() {
        let record = Record { witness: Some(DeclaredWitness::Flock), ..by(THEM) };
        let waited_for = Sighting { testimony: Testimony::Writer, ..seen(record) };
        assert!(!waited_for.judge(PATIENCE).is_alive);
    }

    #[test]
    fn no_such_process_is_gone() {
        assert_eq!(weigh(&seen(by(THEM)), None), Evidence::Gone(Reason::DeadPid));
    }

    #[test]
    fn the_start_time_decides_before_any_name() {
        let record = Record { starttime: Some(500), comm: Some("openclaw".into()), ..by(THEM) };
        assert_eq!(weigh(&seen(record.clone()), Some(&node_since(500))), Evidence::Same);
        assert_eq!(
            weigh(&seen(record), Some(&node_since(501))),
            Evidence::Gone(Reason::RecycledPid)
        );
    }

    #[test]
    fn without_a_start_time_another_name_is_gone_and_the_same_name_is_no_proof() {
        let named = |comm: &str| seen(Record { comm: Some(comm.into()), ..by(THEM) });
        let them = node_since(500);
        let them = Some(&them);
        assert_eq!(weigh(&named("sshd"), them), Evidence::Gone(Reason::RecycledPid));
        assert_eq!(weigh(&named("node"), them), Evidence::Maybe);
        assert_eq!(weigh(&named("MainThread"), them), Evidence::Maybe);
        assert_eq!(weigh(&seen(by(THEM)), them), Evidence::Maybe);
    }

    #[test]
    fn start_times_of_another_time_namespace_prove_nothing() {
        let record = Record { starttime: Some(500), ..by(THEM) };
        let shifted = Process { in_other_time_namespace: true, ..node_since(900) };
        assert_eq!(weigh(&seen(record), Some(&shifted)), Evidence::Maybe);
    }

    #[test]
    fn another_boot_is_gone_on_a_local_file_system_only() {
        let record = Record { boot_id: Some("another".into()), ..by(THEM) };
        let local = seen(record.clone());
        assert_eq!(weigh(&local, Some(&node_since(1))), Evidence::Gone(Reason::DeadPid));
        let shared = Sighting { is_local: false, ..seen(record) };
        assert_eq!(weigh(&shared, None), Evidence::Maybe);
    }

    #[test]
    fn a_pid_of_another_namespace_proves_nothing() {
        let record = Record { pid_namespace: Some(2), starttime: Some(1), ..by(THEM) };
        assert_eq!(weigh(&seen(record), None), Evidence::Maybe);
    }

    #[test]
    fn our_own_pid_is_an_orphan_unless_we_may_hold_it() {
        let orphan = Evidence::Gone(Reason::OrphanSelfPid);
        assert_eq!(weigh(&seen(by(42)), None), orphan);
        let same_start = Record { starttime: Some(1_000), ..by(42) };
        assert_eq!(weigh(&seen(same_start.clone()), None), orphan);
        let unasked = Sighting { testimony: Testimony::None, ..seen(same_start.clone()) };
        assert_eq!(weigh(&unasked, None), Evidence::Same);
        let held = Sighting { is_held_here: true, ..seen(same_start) };
        assert_eq!(weigh(&held, None), Evidence::Same);
        let earlier = Record { starttime: Some(999), ..by(42) };
        assert_eq!(weigh(&seen(earlier), None), Evidence::Gone(Reason::RecycledPid));
    }

    #[test]
    fn an_unreadable_file_is_given_its_grace_and_no_more() {
        let now_ms = time::now_ms();
        let torn = |age_ms: i64, testimony| Sighting {
            record: None,
            modified_ms: now_ms - age_ms,
            testimony,
            ..seen(Record::default())
        };
        assert!(torn(1_000, Testimony::NoWriter).judge(PATIENCE).is_alive);
        assert!(!torn(6_000, Testimony::NoWriter).judge(PATIENCE).is_alive);
        assert!(torn(6_000, Testimony::None).judge(PATIENCE).is_alive);
        let verdict = torn(61_000, Testimony::None).judge(PATIENCE);
        assert!(!verdict.is_alive);
        assert_eq!(verdict.reasons, [Reason::MissingPid, Reason::InvalidCreatedAt, Reason::TooOld]);
    }

    #[test]
    fn a_verdict_in_a_word() {
        let record = |pid, witness| Record {
            created_at: Some(time::to_iso(time::now_ms())),
            witness,
            ..by(pid)
        };
        let elsewhere = Record { pid_namespace: Some(2), ..record(THEM, None) };
        let broken = Record { witness: Some(DeclaredWitness::Flock), ..elsewhere.clone() };
        let word = |sighting: Sighting| {
            let verdict = sighting.judge(PATIENCE);
            (verdict.standing(), verdict.process_may_live, verdict.reasons)
        };
        let flocked = Sighting { flocked: true, ..seen(record(THEM, None)) };
        assert_eq!(word(flocked), (Standing::Held, true, vec![]));
        let own = Sighting { is_held_here: true, ..seen(record(process::own().pid, None)) };
        assert_eq!(word(own), (Standing::Held, true, vec![]));
        let doubtful = Sighting { modified_ms: i64::MAX, ..seen(elsewhere) };
        assert_eq!(word(doubtful), (Standing::Unknown, true, vec![]));
        let promised = Sighting { has_flock: true, ..seen(broken) };
        assert_eq!(word(promised), (Standing::Dead, false, vec![Reason::DeadPid]));
    }

    #[test]
    fn ages_are_reckoned_from_the_instant_that_is_given() {
        let sighting = seen(Record {
            created_at: Some("2026-01-01T00:00:00Z".into()),
            max_hold_ms: Some(1_000),
            ..by(THEM)
        });
        let then_ms = sighting.created_at_ms().unwrap();
        let at = |ms| sighting.judge_at(PATIENCE, then_ms + ms);
        assert_eq!(at(1_000).age_ms, Some(1_000));
        assert!(!at(1_000).reasons.contains(&Reason::HoldExceeded));
        assert!(at(1_001).reasons.contains(&Reason::HoldExceeded));
    }

    #[test]
    fn a_file_from_the_future_has_no_age() {
        let mut sighting =
            seen(Record { created_at: Some("2999-01-01T00:00:00Z".into()), ..by(1) });
        sighting.modified_ms = i64::MAX;
        let verdict = sighting.judge(PATIENCE);
        assert_eq!((verdict.is_alive, verdict.age_ms), (true, Some(0)));
    }

    #[test]
    fn grace_is_short_for_who_cannot_wait_for_the_long_one() {
        assert_eq!(Patience::new(1, Some(29_999)).grace_ms, 5_000);
        assert_eq!(Patience::new(1, Some(30_000)).grace_ms, 30_000);
        assert_eq!(Patience::new(1, None).grace_ms, 30_000);
    }
}
