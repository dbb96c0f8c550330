//! Waiters, deadlines, re-entrancy and the end of environments, within one process.

use std::fs;
use std::time::{Duration, Instant};

use session_write_lock::error::Error;
use session_write_lock::locks::{self, Request};
use session_write_lock::protocol::{Approach, Attempt};

use super::support::{NOBODY, Pending, SOON, Session, environment, release};

#[test]
fn an_environment_shares_its_own_lock_and_the_file_goes_with_the_last_release() {
    let session = Session::new();
    let us = environment();
    let first = Pending::of(session.request(us)).grant();
    let second = Pending::of(session.request(us)).grant();
    release(&first).unwrap();
    assert!(session.lock().exists());
    release(&first).unwrap();
    assert!(session.lock().exists(), "a second release of one handle dropped another's hold");
    release(&second).unwrap();
    assert!(!session.lock().exists());
}

#[test]
fn re_entrancy_ends_where_another_environment_or_a_refusal_of_it_begins() {
    let session = Session::new();
    let us = environment();
    let held = Pending::of(session.request(us)).grant();
    let strict = Pending::of(Request { allow_reentrant: false, ..session.request(us) });
    let stranger = Pending::of(session.request(environment()));
    let shared = Pending::of(session.request(us)).grant();
    assert!(strict.is_waiting() && stranger.is_waiting());
    release(&shared).unwrap();
    release(&held).unwrap();
    release(&strict.grant()).unwrap();
    release(&stranger.grant()).unwrap();
}

#[test]
fn waiters_of_one_process_are_served_in_the_order_in_which_they_came() {
    let session = Session::new();
    let held = Pending::of(session.request(environment())).grant();
    let waiting: Vec<_> = (0..50).map(|_| Pending::of(session.request(environment()))).collect();
    release(&held).unwrap();
    for (place, pending) in waiting.iter().enumerate() {
        let grant = pending.grant();
        assert!(waiting[place + 1..].iter().all(Pending::is_waiting), "{place} was overtaken");
        release(&grant).unwrap();
    }
}

#[test]
fn every_waiter_has_its_own_deadline() {
    let session = Session::new();
    let held = Pending::of(session.request(environment())).grant();
    let patient = Pending::of(session.request(environment()));
    let hurried = Pending::of(Request { timeout_ms: Some(30), ..session.request(environment()) });
    let started = Instant::now();
    match hurried.result() {
        Err(Error::Timeout { timeout_ms: 30, report, .. }) => {
            assert_eq!(report.record.unwrap().pid, Some(session_write_lock::process::own().pid));
        }
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(patient.is_waiting());
    release(&held).unwrap();
    release(&patient.grant()).unwrap();
}

#[test]
fn a_deadline_in_the_past_still_leaves_one_attempt() {
    let session = Session::new();
    session.leave_dead_lock();
    let request = Request { timeout_ms: Some(0), ..session.request(environment()) };
    release(&Pending::of(request).grant()).unwrap();
}

/// Its thread may still block then, with a place in the queue.
#[test]
fn who_comes_after_a_wait_was_given_up_makes_an_attempt_at_once() {
    let session = Session::new();
    release(&Pending::of(session.request(environment())).grant()).unwrap();
    for round in 0..50 {
        let Attempt::Acquired(held) = session.attempt_by(Approach::PastTheQueue) else {
            panic!("it is not free")
        };
        for _ in 0..=round % 3 {
            let request = session.request(environment());
            let (its, ticket) = (request.environment, request.ticket);
            let waiting = Pending::of(request); // in a folder that is known: its attempt is over, and it waits
            locks::cancel(its, ticket);
            assert!(waiting.is_dropped());
        }
        held.release().0.unwrap();
        let request = Request { timeout_ms: Some(0), ..session.request(environment()) };
        if round % 2 == 0 {
            release(&locks::try_acquire(&request).unwrap().expect("it is free")).unwrap();
        } else {
            release(&Pending::of(request).grant()).unwrap();
        }
        // The threads are back, and have left the queue.
        let since = Instant::now();
        while !session.listing().is_empty() {
            assert!(since.elapsed() < SOON, "{:?}", session.listing());
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_takeover_of_an_older_processs_lock_settles_before_it_is_granted() {
    let session = Session::new();
    fs::write(session.lock(), format!(r#"{{"pid":{NOBODY}}}"#)).unwrap();
    let started = Instant::now();
    let grant = Pending::of(session.request(environment())).grant();
    assert!(started.elapsed() >= session_write_lock::protocol::SETTLE);
    release(&grant).unwrap();
}

#[test]
fn the_end_of_an_environment_drops_its_waits_and_frees_its_locks() {
    let session = Session::new();
    let (theirs, ours) = (environment(), environment());
    let held = Pending::of(session.request(theirs)).grant();
    let dropped = Pending::of(Request { allow_reentrant: false, ..session.request(theirs) });
    let next = Pending::of(session.request(ours));
    assert!(dropped.is_waiting());
    locks::end(theirs);
    assert!(dropped.is_dropped());
    assert!(!locks::is_held(held.handle));
    release(&next.grant()).unwrap();
}

#[test]
fn releasing_all_counts_locks_and_not_acquisitions() {
    let (session, other) = (Session::new(), Session::new());
    let us = environment();
    let grants: Vec<_> = [&session, &session, &other]
        .map(|session| Pending::of(session.request(us)).grant())
        .into_iter()
        .collect();
    assert_eq!(locks::release_all(us), 2);
    assert!(!session.lock().exists() && !other.lock().exists());
    assert_eq!(locks::release_all(us), 0);
    for grant in grants {
        release(&grant).unwrap();
    }
}

#[test]
fn a_lock_whose_file_was_removed_is_not_shared() {
    let session = Session::new();
    let us = environment();
    let lost = Pending::of(session.request(us)).grant();
    session.remove_lock();
    let whole = Pending::of(session.request(us)).grant();
    assert!(session.lock().exists());
    release(&lost).unwrap();
    assert!(session.lock().exists(), "the lost lock's release removed its successor");
    release(&whole).unwrap();
}

#[test]
fn a_failed_acquire_does_not_hold_up_the_next() {
    let session = Session::new();
    fs::create_dir(session.lock()).unwrap();
    let refused = Pending::of(session.request(environment()));
    assert!(matches!(refused.result(), Err(Error::NotAFile { .. })));
    fs::remove_dir(session.lock()).unwrap();
    release(&Pending::of(session.request(environment())).grant()).unwrap();
}
