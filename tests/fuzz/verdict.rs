//! What holds of the verdict on any lock file, whatever stands in it, whatever was seen of it, and whatever the clocks say.

#![cfg_attr(fuzzing, no_main)]

use session_write_lock::os::{Executable, Lease, Process, Trust};
use session_write_lock::process::{Own, may_be_called};
use session_write_lock::record::{DeclaredWitness, Record};
use session_write_lock::verdict::{
    Facts, Flock, Ground, Judgement, Limits, LookUp, Reason, Report, Verdict,
};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds_of(bytes));

/// The first bytes say what was seen, the rest stands in the lock file.
pub fn holds_of(bytes: &[u8]) {
    let Some((case, passed_ms)) = Case::read(bytes) else {
        return;
    };
    let judgement = case.judge();
    holds_of_witnesses(&case.facts, &judgement);
    assert!(case.bears_out(judgement.ground), "{case:?} {judgement:?}");
    assert_eq!(judgement.verdict, verdict_of(judgement.ground));
    holds_of_what_is_said(&case, &judgement);
    holds_as_time_passes(&case, &judgement, passed_ms);
    holds_of_look_ups(&case, &judgement);
}

/// No witness is outweighed, nor the absence of one that was promised.
pub fn holds_of_witnesses(facts: &Facts, judgement: &Judgement) {
    let is_lost = promises(facts) && facts.flock == Flock::Ours;
    if facts.flock == Flock::Theirs || facts.writer == Lease::Refused && !is_lost {
        assert_eq!(judgement.verdict, Verdict::Held, "{facts:?}");
    } else if is_lost {
        assert_eq!(judgement.ground, Ground::FlockGone, "{facts:?}");
    } else if promises(facts) && facts.trust == Trust::Flocks {
        assert!(facts.flock == Flock::Unknown && judgement.is_alive(), "{facts:?}");
    }
}

/// Whether the record promises a flock, and the file system keeps such a promise.
pub fn promises(facts: &Facts) -> bool {
    let promised = facts.record.as_ref().and_then(|record| record.witness);
    match facts.trust {
        Trust::Nothing => false,
        Trust::Flocks => promised == Some(DeclaredWitness::ServerFlock),
        Trust::Everything => promised == Some(DeclaredWitness::Flock),
    }
}

fn verdict_of(ground: Ground) -> Verdict {
    match ground {
        Ground::Flock | Ground::OpenForWriting | Ground::SameProcess | Ground::ThisProcess => {
            Verdict::Held
        }
        Ground::TooYoung | Ground::NoProof => Verdict::Unknown,
        _ => Verdict::Dead,
    }
}

/// The ages are right, whatever the clocks say, and what is told to people is one line of plain text.
fn holds_of_what_is_said(case: &Case, judgement: &Judgement) {
    let says = |reason| judgement.reasons.contains(&reason);
    let record = case.facts.record.as_ref();
    let known = case.known_age();
    assert_eq!(judgement.age_ms.map(i128::from), case.created().map(|then| case.age(then)));
    assert_eq!(says(Reason::InvalidCreatedAt), case.created().is_none());
    assert_eq!(says(Reason::TooOld), known > case.limits.stale_ms.into());
    let max_hold = record.and_then(|record| record.max_hold_ms);
    assert_eq!(says(Reason::HoldExceeded), max_hold.is_some_and(|max| known > max.into()));
    let owner = Report::new(&case.facts, &case.own, case.limits, case.now_ms).owner();
    assert!(!owner.contains(char::is_control), "{owner:?}");
}

/// A dead lock stays dead, and one that counts as alive becomes dead when it was said. Not so with times in the future: one is
/// not believed until it is reached, and where all are such, the age does not begin to grow before.
fn holds_as_time_passes(case: &Case, judgement: &Judgement, passed_ms: u64) {
    let left_ms = judgement.matures_in_ms;
    let Facts { modified_ms, changed_ms, .. } = case.facts;
    let is_ageless = modified_ms.min(changed_ms) > case.now_ms;
    assert!(left_ms != Some(0) && (left_ms.is_none() || judgement.is_alive()));
    let last_before = left_ms.and_then(|left_ms| left_ms.checked_sub(1));
    for passed_ms in [Some(passed_ms), left_ms, last_before].into_iter().flatten() {
        let Some(now_ms) = case.now_ms.checked_add_unsigned(passed_ms) else { continue };
        let is_reached = |then: i64| then > case.now_ms && then <= now_ms;
        if is_ageless || is_reached(modified_ms) || case.created().is_some_and(is_reached) {
            continue;
        }
        let later = Case { now_ms, ..case.clone() }.judge();
        let is_over = left_ms.is_some_and(|left_ms| left_ms <= passed_ms);
        assert_eq!(later.is_alive(), judgement.is_alive() && !is_over, "{case:?} {passed_ms}");
    }
}

/// Where a process is not looked up, it would not matter who it is.
fn holds_of_look_ups(case: &Case, judgement: &Judgement) {
    for process in [LookUp::NotAsked, LookUp::NoSuchProcess, LookUp::Found(Process::default())] {
        let facts = Facts { process, ..case.facts.clone() };
        let other = Case { facts, ..case.clone() }.judge();
        if case.facts.pid_for_reasons(&case.own).is_none() {
            assert_eq!(&other, judgement, "{case:?}");
        }
        if case.facts.pid_to_look_up(&case.own).is_none() {
            assert_eq!((other.verdict, other.ground), (judgement.verdict, judgement.ground));
        }
    }
}

/// A lock file, who looks at it, and when.
#[derive(Debug, Clone)]
struct Case {
    facts: Facts,
    own: Own,
    limits: Limits,
    now_ms: i64,
}

impl Case {
    /// The case, and how long until another look. `None`: too few bytes.
    fn read(bytes: &[u8]) -> Option<(Self, u64)> {
        let mut bytes = Bytes(bytes);
        let [now_ms, modified_ms, changed_ms] = [bytes.time()?, bytes.time()?, bytes.time()?];
        let passed_ms = bytes.number()?;
        let limits = Limits { stale_ms: bytes.number()?, grace_ms: bytes.number()? };
        let choices: [u8; 14] = bytes.next()?;
        // What the record says is often the truth: by chance it would never be.
        let record = Record::decode(bytes.0);
        let said = record.clone().unwrap_or_default();
        let mut choices = Choices(&choices);
        let own = Own {
            pid: choices.of([said.pid.unwrap_or(7), 7]),
            start_time: choices.of([said.starttime, None, Some(7)]),
            comm: "node".to_owned(),
            boot_id: choices.of([said.boot_id, None, Some("this boot".to_owned())]),
            pid_namespace: choices.of([said.pid_namespace, None, Some(7)]),
        };
        let named = said.comm.clone().map_or(Executable::Unknown, Executable::Named);
        let process = Process {
            start_time: choices.of([said.starttime, None, Some(7)]),
            executable: choices.of([named, Executable::Named("node".into()), Executable::Absent]),
            task_name: choices.of([said.comm, None, Some("MainThread".to_owned())]),
            in_other_time_namespace: choices.of([false, true]),
        };
        let facts = Facts {
            is_foreign: choices.of([false, true]),
            record,
            flock: choices.of([Flock::Ours, Flock::Unknown, Flock::Theirs]),
            writer: choices.of([Lease::Granted, Lease::Unanswered, Lease::Refused]),
            trust: choices.of([Trust::Everything, Trust::Flocks, Trust::Nothing]),
            is_held_here: choices.of([false, true]),
            modified_ms,
            changed_ms,
            process: choices.of([LookUp::Found(process), LookUp::NoSuchProcess, LookUp::NotAsked]),
        };
        Some((Self { facts, own, limits, now_ms }, passed_ms))
    }

    fn judge(&self) -> Judgement {
        self.facts.judge(&self.own, self.limits, self.now_ms)
    }

    /// Whether what was seen is what the ground claims.
    fn bears_out(&self, ground: Ground) -> bool {
        let Self { facts, own, limits, .. } = self;
        let nobody = Record::default();
        let record = facts.record.as_ref().unwrap_or(&nobody);
        let is_open_nowhere = facts.writer == Lease::Granted;
        // Its process number means something here, and is ours.
        let is_near = record.pid.is_some()
            && !differ(record.boot_id.as_ref(), own.boot_id.as_ref())
            && !differ(record.pid_namespace, own.pid_namespace);
        let is_self = is_near && record.pid == Some(own.pid);
        let is_other = is_near && !is_self;
        let is_stale = self.known_age() > limits.stale_ms.into();
        let grace_ms =
            if record.pid.is_some() { limits.grace_ms } else { limits.grace_ms.min(2_000) };
        let is_past_grace = self.file_age() > grace_ms.into();
        match ground {
            Ground::Flock => facts.flock == Flock::Theirs,
            Ground::OpenForWriting => facts.writer == Lease::Refused,
            Ground::FlockGone => promises(facts) && facts.flock == Flock::Ours,
            Ground::SameProcess => {
                is_other
                    && matches!(&facts.process, LookUp::Found(process)
                        if process.start_time.is_some() && process.start_time == record.starttime)
            }
            Ground::ThisProcess => {
                is_self && (facts.is_held_here || !differ(record.starttime, own.start_time))
            }
            Ground::NoSuchProcess => is_other && facts.process == LookUp::NoSuchProcess,
            Ground::OtherProcess if is_self => differ(record.starttime, own.start_time),
            Ground::OtherProcess => {
                is_other
                    && matches!(&facts.process, LookUp::Found(process) if is_another(record, process))
            }
            Ground::OtherBoot => {
                differ(record.boot_id.as_ref(), own.boot_id.as_ref())
                    && facts.trust == Trust::Everything
                    && is_open_nowhere
            }
            Ground::OrphanOfThisProcess => is_self && !facts.is_held_here,
            Ground::OpenNowhere => {
                is_open_nowhere && (is_past_grace || record.pid.is_some() && is_stale)
            }
            Ground::TooOld => is_stale,
            Ground::TooYoung => is_open_nowhere && !is_past_grace,
            Ground::NoProof => !is_stale || promises(facts) && facts.trust == Trust::Flocks,
        }
    }

    /// How long ago something was; nothing if that lies in the future.
    fn age(&self, then_ms: i64) -> i128 {
        (i128::from(self.now_ms) - i128::from(then_ms)).max(0)
    }

    fn file_age(&self) -> i128 {
        let Facts { modified_ms, changed_ms, .. } = self.facts;
        self.age(if modified_ms > self.now_ms { changed_ms } else { modified_ms })
    }

    fn known_age(&self) -> i128 {
        let is_past = |then: &i64| *then <= self.now_ms;
        self.created().filter(is_past).map_or_else(|| self.file_age(), |then| self.age(then))
    }

    fn created(&self) -> Option<i64> {
        self.facts.record.as_ref()?.created_at_ms()
    }
}

/// Whether a process is proved not to have written the record: by its start, else by its name.
fn is_another(record: &Record, process: &Process) -> bool {
    let knows_starts = record.starttime.is_some() && process.start_time.is_some();
    if knows_starts && !process.in_other_time_namespace {
        record.starttime != process.start_time
    } else {
        record.comm.as_ref().is_some_and(|comm| !may_be_called(process, comm))
    }
}

/// Whether both are known, and not the same.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// What is left of the bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.next().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<i64> {
        self.next().map(i64::from_be_bytes)
    }
}

/// A byte for each choice.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn of<T, const COUNT: usize>(&mut self, all: [T; COUNT]) -> T {
        let (first, rest) = self.0.split_first().expect("a byte for each choice");
        self.0 = rest;
        all.into_iter().nth(usize::from(*first) % COUNT).expect("it is one of them")
    }
}
