//! How a lock file is left to those in line, and how the next makes it its own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use session_write_lock::protocol::{self, Attempt, Cleared, Contended, HeldLock, Line, Recheck};
use session_write_lock::record::Record;

use crate::support::{Session, claim};

/// Somebody who stands in line.
fn in_line(session: &Session) -> Contended {
    let Attempt::Contended(mut contended) = session.attempt() else { panic!("it is free") };
    contended.prepare_for_line();
    contended
}

/// Its turn has come.
fn its_turn(session: &Session, waiting: Contended) -> Recheck {
    waiting.file().unwrap().try_lock().expect("the flock is free");
    protocol::recheck(&session.paths, &claim(), waiting, Line::HasCome).unwrap()
}

fn inherited(recheck: Recheck) -> HeldLock {
    match recheck {
        Recheck::Ended(Attempt::Acquired(held)) => held,
        other => panic!("{other:?}"),
    }
}

fn record(session: &Session) -> Record {
    Record::decode(&fs::read(session.lock()).unwrap()).unwrap()
}

#[test]
fn a_release_with_somebody_in_line_leaves_the_file_and_the_next_writes_its_record_into_it() {
    let session = Session::new();
    let held = session.acquire();
    let (inode, before) = (fs::metadata(session.lock()).unwrap().ino(), record(&session));
    let waiting = in_line(&session);
    let left = held.hand_on().unwrap().expect("somebody is in line");
    assert_eq!(record(&session), before);
    let next = inherited(its_turn(&session, waiting));
    assert_eq!(fs::metadata(session.lock()).unwrap().ino(), inode);
    assert!(record(&session).token.is_some() && record(&session).token != before.token);
    assert!(next.is_at_its_path().unwrap());
    // Whoever has it now: it is not there to be cleared.
    assert_eq!(left.clear(), Cleared::Yes);
    assert!(matches!(session.attempt(), Attempt::Contended(_)));
    next.release().unwrap();
    assert!(session.listing().is_empty());
}

#[test]
fn a_release_with_nobody_in_line_removes_the_file() {
    let session = Session::new();
    assert!(session.acquire().hand_on().unwrap().is_none());
    assert!(session.listing().is_empty());
    // ... nor with somebody who has left the line.
    let held = session.acquire();
    in_line(&session).waited_for().unwrap().leave();
    assert!(held.hand_on().unwrap().is_none());
    assert!(session.listing().is_empty());
}

#[test]
fn what_nobody_comes_for_is_removed_by_who_has_left_it() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let left = held.hand_on().unwrap().unwrap();
    assert_eq!(left.clear(), Cleared::NotYet, "somebody is still in line");
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    drop(waiting);
    assert_eq!(left.clear(), Cleared::Yes);
    assert!(session.listing().is_empty());
}

#[test]
fn a_flock_that_comes_too_late_is_given_up_and_the_file_removed() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let _left = held.hand_on().unwrap().unwrap();
    let waited_for = waiting.waited_for().unwrap();
    waited_for.leave();
    waiting.file().unwrap().try_lock().unwrap();
    waited_for.decline(&session.paths);
    assert!(session.listing().is_empty());
}

#[test]
fn what_was_handed_on_need_not_settle_and_what_a_dead_process_has_left_does() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let left = held.hand_on().unwrap().unwrap();
    let next = inherited(its_turn(&session, waiting));
    // As if that process had died: its marks go with its files.
    let waiting = in_line(&session);
    drop(next);
    drop(left);
    let Recheck::Ended(Attempt::TakenOver(held)) = its_turn(&session, waiting) else {
        panic!("not settling")
    };
    held.release().unwrap();
    assert!(session.listing().is_empty());
}

#[test]
fn a_passer_by_inherits_what_was_handed_on_and_those_in_line_wait_on() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let _left = held.hand_on().unwrap().unwrap();
    let Attempt::Acquired(passer_by) = session.attempt() else { panic!("not handed on") };
    let still = protocol::recheck(&session.paths, &claim(), waiting, Line::Waiting).unwrap();
    let Recheck::Still(waiting) = still else { panic!("{still:?}") };
    let _left = passer_by.hand_on().unwrap().unwrap();
    inherited(its_turn(&session, waiting)).release().unwrap();
    assert!(session.listing().is_empty());
}

#[test]
fn who_comes_back_is_first_if_nobody_has_been_faster() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let left = held.hand_on().unwrap().unwrap();
    let Some(Attempt::Acquired(again)) = left.take_back(&claim()).unwrap() else {
        panic!("it was free")
    };
    let left = again.hand_on().unwrap().unwrap();
    let next = inherited(its_turn(&session, waiting));
    assert!(matches!(left.take_back(&claim()).unwrap(), Some(Attempt::Contended(_))));
    next.release().unwrap();
    assert!(left.take_back(&claim()).unwrap().is_none(), "the file is gone");
}

#[test]
fn a_path_that_goes_to_another_file_is_nobody_s_inheritance() {
    let session = Session::new();
    let held = session.acquire();
    let waiting = in_line(&session);
    let _left = held.hand_on().unwrap().unwrap();
    session.remove_lock();
    fs::write(session.lock(), "an older process's").unwrap();
    assert!(matches!(its_turn(&session, waiting), Recheck::Gone));
    assert_eq!(fs::read_to_string(session.lock()).unwrap(), "an older process's");
}

#[test]
fn a_record_that_was_half_written_is_a_dead_one() {
    let session = Session::new();
    for text in ["!", "!\n  \"pid\": 7,\n  \"createdAt\": \"20", "!}}}{"] {
        fs::write(session.lock(), text).unwrap();
        let Attempt::TakenOver(held) = session.attempt() else { panic!("{text}: not dead") };
        assert!(record(&session).pid.is_some(), "{text}");
        held.release().unwrap();
    }
}

#[test]
fn a_shorter_record_leaves_nothing_of_a_longer_one() {
    let session = Session::new();
    for blanks in [100, 5_000] {
        let filler = "#".repeat(blanks);
        fs::write(session.lock(), format!(r#"{{"witness":"flock","filler":"{filler}"}}"#)).unwrap();
        let held = session.acquire();
        let text = fs::read_to_string(session.lock()).unwrap();
        assert!(!text.contains('#') && text.trim_end().ends_with('}'), "{text}");
        assert!(record(&session).token.is_some());
        held.release().unwrap();
    }
}
