//! The judgement: facts in, a verdict and its ground out.

use session_write_lock::os::{Executable, Lease, Process, Trust};
use session_write_lock::process::Own;
use session_write_lock::record::{DeclaredWitness, Record, to_iso};
use session_write_lock::verdict::{
    Facts, Flock, Ground, Limits, LookUp, Reason, Report, SharedWith, Verdict, Writer,
};

use super::corpus::verdict::{holds_of_witnesses, promises};

const LIMITS: Limits = Limits { stale_ms: 60_000, grace_ms: 5_000 };
const NOW: i64 = 1_783_000_000_000;
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

fn seen(record: Record) -> Facts {
    Facts {
        is_foreign: false,
        record: Some(record),
        flock: Flock::Ours,
        writer: Lease::Granted,
        trust: Trust::Everything,
        is_held_here: false,
        modified_ms: NOW,
        changed_ms: NOW,
        process: LookUp::NoSuchProcess,
    }
}

fn by(pid: i32) -> Record {
    Record { pid: Some(pid), created_at: Some(to_iso(NOW)), ..Record::default() }
}

fn node_since(start_time: u64) -> Process {
    Process {
        start_time: Some(start_time),
        executable: Executable::Named("node".into()),
        task_name: Some("MainThread".into()),
        in_other_time_namespace: false,
    }
}

fn judged(facts: &Facts) -> (Verdict, Ground) {
    let judgement = facts.judge(&own(), LIMITS, NOW);
    (judgement.verdict, judgement.ground)
}

/// What the record and the process come to, where the kernel can't be asked who has the file open.
fn weigh(facts: &Facts, process: Option<&Process>) -> (Verdict, Ground) {
    let process = process.cloned().map_or(LookUp::NoSuchProcess, LookUp::Found);
    judged(&Facts { process, writer: Lease::Unanswered, ..facts.clone() })
}

const SAME: (Verdict, Ground) = (Verdict::Held, Ground::SameProcess);
const RECYCLED: (Verdict, Ground) = (Verdict::Dead, Ground::OtherProcess);
const MAYBE: (Verdict, Ground) = (Verdict::Unknown, Ground::NoProof);

#[test]
fn a_witness_proves_life_whatever_the_record_says() {
    let dead = Facts { modified_ms: 0, ..seen(by(i32::MAX)) };
    let flocked = Facts { flock: Flock::Theirs, ..dead.clone() };
    assert_eq!(judged(&flocked), (Verdict::Held, Ground::Flock));
    let open = Facts { writer: Lease::Refused, ..dead };
    assert_eq!(judged(&open), (Verdict::Held, Ground::OpenForWriting));
}

#[test]
fn a_flock_holders_record_without_a_flock_is_dead_even_if_its_process_lives() {
    let record = Record {
        starttime: own().start_time,
        witness: Some(DeclaredWitness::Flock),
        ..by(own().pid)
    };
    for writer in [Lease::Granted, Lease::Refused, Lease::Unanswered] {
        let facts = Facts { writer, ..seen(record.clone()) };
        assert_eq!(judged(&facts), (Verdict::Dead, Ground::FlockGone));
    }
    // ... but not where a flock may be another machine's.
    let far = Facts { trust: Trust::Nothing, writer: Lease::Unanswered, ..seen(record.clone()) };
    assert_eq!(judged(&far), (Verdict::Held, Ground::ThisProcess));
    // A file server knows the flocks of all its clients.
    let record = Record { witness: Some(DeclaredWitness::ServerFlock), ..record };
    let served = Facts { trust: Trust::Flocks, ..seen(record.clone()) };
    assert_eq!(judged(&served), (Verdict::Dead, Ground::FlockGone));
    // Its own programs do not see those, and the clients do not see theirs.
    let on_the_server = Facts { writer: Lease::Refused, ..seen(record) };
    assert_eq!(judged(&on_the_server), (Verdict::Held, Ground::OpenForWriting));
    let from_afar = Facts { trust: Trust::Flocks, ..far.clone() };
    assert_eq!(judged(&from_afar), (Verdict::Held, Ground::ThisProcess));
    let unknown = Facts { trust: Trust::Flocks, flock: Flock::Unknown, ..far };
    assert_eq!(judged(&unknown), (Verdict::Held, Ground::ThisProcess));
}

#[test]
fn a_promised_flock_that_could_not_be_asked_for_outweighs_age_and_evidence() {
    let old = Record { created_at: Some(to_iso(NOW - 3_600_000)), ..by(THEM) };
    let by_another_boot = Record { boot_id: Some("another".into()), ..old.clone() };
    for record in [old, by_another_boot] {
        let (witness, trust) = (Some(DeclaredWitness::ServerFlock), Trust::Flocks);
        let record = Record { witness, ..record };
        let unasked = Facts { trust, flock: Flock::Unknown, ..seen(record) };
        assert_eq!(judged(&unasked), MAYBE);
        assert_eq!(judged(&Facts { flock: Flock::Ours, ..unasked }).0, Verdict::Dead);
    }
}

#[test]
fn a_file_server_itself_leaves_a_clients_lock_to_the_clients_until_it_is_old() {
    let record = Record { witness: Some(DeclaredWitness::ServerFlock), ..by(THEM) };
    let closed = Facts { modified_ms: 0, ..seen(record) };
    assert_eq!(judged(&closed), MAYBE);
    let created_at = Some(to_iso(NOW - 60_001));
    let old = Record { created_at, ..closed.record.clone().unwrap() };
    assert_eq!(judged(&Facts { record: Some(old), ..closed }), (Verdict::Dead, Ground::TooOld));
}

#[test]
fn a_live_lock_of_another_machine_or_mount_shows_who_shares_an_untrusted_folder() {
    let record = Record { token: Some("t".into()), boot_id: Some("another".into()), ..by(THEM) };
    let far = Facts { trust: Trust::Nothing, flock: Flock::Theirs, ..seen(record.clone()) };
    assert_eq!(far.shared_with(&own()), Some(SharedWith::OtherMachine));
    for trust in [Trust::Flocks, Trust::Everything] {
        assert_eq!(Facts { trust, ..far.clone() }.shared_with(&own()), None);
    }
    // It may be a dead one of an earlier boot.
    assert_eq!(Facts { flock: Flock::Ours, ..far }.shared_with(&own()), None);

    let record = Record { starttime: own().start_time, boot_id: None, ..record };
    let near = Facts {
        trust: Trust::Nothing,
        writer: Lease::Unanswered,
        ..seen(Record { pid: Some(own().pid), ..record })
    };
    assert_eq!(near.shared_with(&own()), Some(SharedWith::OtherMount));
    assert_eq!(Facts { trust: Trust::Everything, ..near.clone() }.shared_with(&own()), None);
    assert_eq!(Facts { flock: Flock::Theirs, ..near }.shared_with(&own()), None);
}

#[test]
fn no_such_process_is_gone() {
    assert_eq!(judged(&seen(by(THEM))), (Verdict::Dead, Ground::NoSuchProcess));
}

#[test]
fn the_start_time_decides_before_any_name() {
    let record = Record { starttime: Some(500), comm: Some("openclaw".into()), ..by(THEM) };
    let facts = seen(record);
    assert_eq!(weigh(&facts, Some(&node_since(500))), SAME);
    assert_eq!(weigh(&facts, Some(&node_since(501))), RECYCLED);
}

#[test]
fn without_a_start_time_another_name_is_gone_and_the_same_name_is_no_proof() {
    let named = |comm: &str| seen(Record { comm: Some(comm.into()), ..by(THEM) });
    let them = node_since(500);
    let them = Some(&them);
    assert_eq!(weigh(&named("sshd"), them), RECYCLED);
    assert_eq!(weigh(&named("node"), them), MAYBE);
    assert_eq!(weigh(&named("MainThread"), them), MAYBE);
    assert_eq!(weigh(&seen(by(THEM)), them), MAYBE);
}

#[test]
fn start_times_of_another_time_namespace_prove_nothing() {
    let record = Record { starttime: Some(500), ..by(THEM) };
    let shifted = Process { in_other_time_namespace: true, ..node_since(900) };
    assert_eq!(weigh(&seen(record), Some(&shifted)), MAYBE);
}

#[test]
fn another_boot_is_gone_on_a_trusted_file_system_where_nobody_has_the_file_open() {
    let record = Record { boot_id: Some("another".into()), ..by(THEM) };
    let local = Facts { process: LookUp::NotAsked, ..seen(record) };
    assert_eq!(judged(&local), (Verdict::Dead, Ground::OtherBoot));
    let unasked = Facts { writer: Lease::Unanswered, ..local.clone() };
    assert_eq!(judged(&unasked), (Verdict::Unknown, Ground::NoProof));
    let shared = Facts { trust: Trust::Nothing, writer: Lease::Unanswered, ..local };
    assert_eq!(judged(&shared), (Verdict::Unknown, Ground::NoProof));
}

#[test]
fn a_pid_of_another_namespace_proves_nothing_and_is_not_looked_up() {
    let facts = seen(Record { pid_namespace: Some(2), starttime: Some(1), ..by(THEM) });
    assert_eq!(weigh(&facts, None), MAYBE);
    assert_eq!(facts.pid_to_look_up(&own()), None);
    assert_eq!(seen(by(THEM)).pid_to_look_up(&own()), Some(THEM));
}

#[test]
fn our_own_pid_is_an_orphan_unless_we_may_hold_it() {
    let orphan = (Verdict::Dead, Ground::OrphanOfThisProcess);
    let ours = (Verdict::Held, Ground::ThisProcess);
    assert_eq!(judged(&seen(by(42))), orphan);
    let same_start = seen(Record { starttime: Some(1_000), ..by(42) });
    assert_eq!(judged(&same_start), orphan);
    let unasked = Facts { writer: Lease::Unanswered, ..same_start.clone() };
    assert_eq!(judged(&unasked), ours);
    let held = Facts { is_held_here: true, ..same_start };
    assert_eq!(judged(&held), ours);
    let earlier = Record { starttime: Some(999), ..by(42) };
    assert_eq!(judged(&seen(earlier)), RECYCLED);
}

#[test]
fn a_file_without_a_record_is_given_two_seconds_if_nobody_has_it_open() {
    let torn = |age_ms: i64, writer| {
        let facts = Facts { record: None, writer, ..seen(Record::default()) };
        judged(&Facts { modified_ms: NOW - age_ms, ..facts })
    };
    assert_eq!(torn(2_000, Lease::Granted), (Verdict::Unknown, Ground::TooYoung));
    assert_eq!(torn(2_001, Lease::Granted), (Verdict::Dead, Ground::OpenNowhere));
    assert_eq!(torn(6_000, Lease::Unanswered), (Verdict::Unknown, Ground::NoProof));
    assert_eq!(torn(60_001, Lease::Unanswered), (Verdict::Dead, Ground::TooOld));
    assert_eq!(torn(60_001, Lease::Refused), (Verdict::Held, Ground::OpenForWriting));
}

#[test]
fn a_record_that_nothing_proves_is_given_its_grace_if_nobody_has_it_open() {
    let other_namespace = Record { pid_namespace: Some(2), ..by(THEM) };
    let aged =
        |age_ms: i64| judged(&Facts { modified_ms: NOW - age_ms, ..seen(other_namespace.clone()) });
    assert_eq!(aged(5_000), (Verdict::Unknown, Ground::TooYoung));
    assert_eq!(aged(5_001), (Verdict::Dead, Ground::OpenNowhere));
}

#[test]
fn the_very_process_is_believed_unless_nobody_has_its_file_open_for_too_long() {
    let record =
        Record { starttime: Some(500), created_at: Some(to_iso(NOW - 60_001)), ..by(THEM) };
    let lives = Facts { process: LookUp::Found(node_since(500)), ..seen(record) };
    assert_eq!(judged(&lives), (Verdict::Dead, Ground::OpenNowhere));
    let unasked = Facts { writer: Lease::Unanswered, ..lives };
    assert_eq!(judged(&unasked), (Verdict::Held, Ground::SameProcess));
}

#[test]
fn a_time_ahead_of_the_clock_is_judged_by_the_kernels_note() {
    let ahead = NOW + 1_000_000;
    let torn = Facts { record: None, modified_ms: ahead, ..seen(Record::default()) };
    assert_eq!(judged(&torn), (Verdict::Unknown, Ground::TooYoung));
    let old = Facts { changed_ms: NOW - 2_001, ..torn };
    assert_eq!(judged(&old), (Verdict::Dead, Ground::OpenNowhere));
    let record = Record { created_at: Some(to_iso(ahead)), pid: None, ..Record::default() };
    let old = Facts { writer: Lease::Unanswered, modified_ms: NOW - 60_001, ..seen(record) };
    assert_eq!(judged(&old), (Verdict::Dead, Ground::TooOld));
    assert_eq!(old.judge(&own(), LIMITS, NOW).age_ms, Some(0));
}

#[test]
fn a_limit_without_end_never_wraps() {
    let limits = Limits { stale_ms: u64::MAX, grace_ms: u64::MAX };
    let facts = Facts { writer: Lease::Unanswered, ..seen(Record::default()) };
    assert_eq!(facts.judge(&own(), limits, NOW).matures_in_ms, Some(u64::MAX));
}

#[test]
fn an_age_may_be_longer_than_a_time() {
    let limits = Limits { stale_ms: i64::MAX as u64, ..LIMITS };
    let ancient = Facts {
        writer: Lease::Unanswered,
        modified_ms: i64::MIN,
        record: None,
        ..seen(Record::default())
    };
    assert_eq!(ancient.judge(&own(), limits, -1).matures_in_ms, Some(1));
    assert_eq!(ancient.judge(&own(), limits, 0).ground, Ground::TooOld);
}

#[test]
fn a_live_lock_can_be_too_old() {
    let record =
        Record { created_at: Some(to_iso(NOW - 60_001)), max_hold_ms: Some(1_000), ..by(THEM) };
    let held = Facts { flock: Flock::Theirs, ..seen(record) };
    let judgement = held.judge(&own(), LIMITS, NOW);
    assert_eq!(judgement.reasons, [Reason::TooOld, Reason::HoldExceeded]);
    assert!(judgement.is_alive() && judgement.process_may_live());
}

#[test]
fn the_owner_is_told_in_the_older_modules_words() {
    let facts = Facts { flock: Flock::Theirs, ..seen(by(THEM)) };
    let judgement = facts.judge(&own(), LIMITS, NOW + 1_200);
    let report = Report { record: facts.record, judgement: Some(judgement), shared_with: None };
    assert_eq!(report.owner(), "pid=77 alive=true ageMs=1200");
    assert_eq!(Report::default().owner(), "owner=unknown");
}

#[test]
fn the_writer_is_looked_up_only_where_its_number_means_something() {
    let never = |_| panic!("looked up");
    assert_eq!(Writer::of(None, &own(), never), Writer::Unnamed);
    assert_eq!(Writer::of(Some(&Record::default()), &own(), never), Writer::Unnamed);
    let other_boot = Record { boot_id: Some("another".into()), ..by(THEM) };
    assert_eq!(Writer::of(Some(&other_boot), &own(), never), Writer::OtherBoot);
    let other_namespace = Record { pid_namespace: Some(2), ..by(THEM) };
    assert_eq!(Writer::of(Some(&other_namespace), &own(), never), Writer::OtherNamespace);
}

#[test]
fn the_writer_is_known_by_its_start() {
    let with = |starttime, started_ms| {
        let record = Record { starttime, ..by(THEM) };
        Writer::of(Some(&record), &own(), |pid| {
            assert_eq!(pid, THEM);
            Some((node_since(500), started_ms))
        })
    };
    assert_eq!(Writer::of(Some(&by(THEM)), &own(), |_| None), Writer::Ended);
    assert_eq!(with(Some(500), Some(NOW)), Writer::Running);
    assert_eq!(with(Some(501), Some(NOW)), Writer::OtherProcess);
    assert_eq!(with(None, None), Writer::Unproved);
    // Clocks differ a little.
    assert_eq!(with(None, Some(NOW + 1_000)), Writer::Unproved);
    assert_eq!(with(None, Some(NOW + 1_001)), Writer::StartedLater);
    // The start times in ticks decide before any clock.
    assert_eq!(with(Some(500), Some(NOW + 9_999)), Writer::Running);
}

#[test]
fn a_holder_is_the_writer_by_its_number_in_its_own_namespace() {
    let may_be = |record: &Record, own_pid, namespace, started_ms| {
        Writer::may_be(record, &own(), (&node_since(500), started_ms), own_pid, namespace)
    };
    let record = Record { pid_namespace: Some(2), ..by(THEM) };
    assert!(may_be(&record, Some(THEM), Some(2), Some(NOW)));
    assert!(!may_be(&record, Some(THEM + 1), Some(2), Some(NOW)));
    assert!(!may_be(&record, Some(THEM), Some(1), Some(NOW)));
    assert!(!may_be(&record, Some(THEM), Some(2), Some(NOW + 1_001)));
    assert!(!may_be(&Record::default(), None, None, None));
    // The older module records neither a namespace nor a start time.
    assert!(may_be(&by(THEM), Some(THEM), Some(2), None));
    let other_boot = Record { boot_id: Some("another".into()), ..by(THEM) };
    assert!(!may_be(&other_boot, Some(THEM), Some(1), None));
    let restarted = Record { starttime: Some(501), ..by(THEM) };
    assert!(!may_be(&restarted, Some(THEM), Some(1), None));
    let the_same = Record { starttime: Some(500), ..by(THEM) };
    assert!(may_be(&the_same, Some(THEM), Some(1), Some(NOW + 9_999)));
}

// --- All facts ----------------------------------------------------------------------------------

/// All combinations of what can be seen of a lock file that matter to a verdict, some 300,000.
fn for_all_facts(mut check: impl FnMut(&Facts)) {
    let witnesses = [None, Some(DeclaredWitness::Flock), Some(DeclaredWitness::ServerFlock)];
    let boots = [None, Some("this boot"), Some("another")];
    let mut records = vec![None, Some(Record::default())];
    for pid in [own().pid, THEM] {
        for witness in witnesses {
            for boot_id in boots.map(|boot| boot.map(str::to_owned)) {
                for pid_namespace in [None, Some(1), Some(2)] {
                    for starttime in [None, Some(1_000), Some(7)] {
                        for created_at in [None, Some(to_iso(NOW)), Some(to_iso(NOW + 1_000_000))] {
                            let boot_id = boot_id.clone();
                            let record =
                                Record { starttime, boot_id, pid_namespace, witness, ..by(pid) };
                            records.push(Some(Record {
                                created_at,
                                comm: Some("node".into()),
                                ..record
                            }));
                        }
                    }
                }
            }
        }
    }
    let named =
        |name: &str| Process { executable: Executable::Named(name.into()), ..node_since(7) };
    let processes =
        [LookUp::NoSuchProcess, LookUp::Found(node_since(7)), LookUp::Found(named("other"))];
    for record in records {
        for flock in [Flock::Theirs, Flock::Ours, Flock::Unknown] {
            for writer in [Lease::Refused, Lease::Granted, Lease::Unanswered] {
                for trust in [Trust::Nothing, Trust::Flocks, Trust::Everything] {
                    for is_held_here in [false, true] {
                        for process in &processes {
                            let (record, process) = (record.clone(), process.clone());
                            let seen = seen(Record::default());
                            let facts = Facts {
                                record,
                                flock,
                                writer,
                                trust,
                                is_held_here,
                                process,
                                ..seen
                            };
                            check(&facts);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_witness_outweighs_all_else_and_without_one_only_proof_or_age_makes_a_lock_dead() {
    for_all_facts(|facts| {
        let later = NOW + 100_000_000;
        let [young, old] = [NOW, later].map(|now_ms| facts.judge(&own(), LIMITS, now_ms));
        holds_of_witnesses(facts, &young);
        holds_of_witnesses(facts, &old);
        let is_lost = promises(facts) && facts.flock == Flock::Ours;
        // Of another machine nothing but age is known where the file system is not of this kernel.
        let record = facts.record.as_ref();
        let is_far = record.is_some_and(|record| record.boot_id.as_deref() == Some("another"));
        if is_far && facts.trust < Trust::Everything && !is_lost {
            assert!(young.is_alive(), "{facts:?}");
        }
        if facts.is_held_here
            && record.is_some_and(|record| record.pid == Some(own().pid))
            && !is_lost
        {
            let is_ours = !is_far && record.is_some_and(|record| record.pid_namespace != Some(2));
            assert!(young.is_alive() || !is_ours, "{facts:?}");
        }
    });
}

#[test]
fn a_lock_does_not_come_to_life_again_and_becomes_dead_when_it_was_said() {
    for_all_facts(|facts| {
        let judged = |now_ms| facts.judge(&own(), LIMITS, now_ms);
        let young = judged(NOW);
        assert_eq!(
            young.matures_in_ms.is_some(),
            young.is_alive() && !judged(NOW + 100_000_000).is_alive(),
            "{facts:?}"
        );
        match young.matures_in_ms.and_then(|ms| i64::try_from(ms).ok()) {
            Some(ms) => {
                assert!(
                    judged(NOW + ms - 1).is_alive() && !judged(NOW + ms).is_alive(),
                    "{facts:?}"
                );
            }
            None => assert_eq!(judged(NOW + 100_000_000).verdict, young.verdict, "{facts:?}"),
        }
    });
}
