//! What happens on disk, step by step and in races.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use session_write_lock::error::Error;
use session_write_lock::os::{self, FileKind};
use session_write_lock::protocol::{self, Approach, Attempt, LockPaths, Place, ToldBy};
use session_write_lock::record::{DeclaredWitness, Record};
use session_write_lock::verdict::{Ground, Reason};

use super::support::{NOBODY, Session, claim};

/// Makes a file as old as a holder that has been gone for long.
fn age(path: &std::path::Path, by: Duration) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + now() - by).unwrap();
}

fn now() -> Duration {
    Duration::from_millis(os::wall_ms().try_into().unwrap())
}

#[test]
fn a_lock_file_is_complete_private_and_alone() {
    let session = Session::new();
    let held = session.acquire();
    let record = Record::decode(&fs::read(session.lock()).unwrap()).unwrap();
    assert_eq!(record.pid, Some(session_write_lock::process::own().pid));
    assert_eq!(record.witness, Some(DeclaredWitness::Flock));
    assert_eq!(record.token.map(|token| token.len()), Some(32));
    assert!(record.starttime.is_some() && record.boot_id.is_some());
    assert!(record.pid_namespace.is_some() && record.comm.is_some());
    assert_eq!(fs::metadata(session.lock()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    held.release().0.unwrap();
    assert!(session.listing().is_empty());
}

#[test]
fn a_held_lock_is_respected_and_the_flock_says_so() {
    let session = Session::new();
    let held = session.acquire();
    assert_eq!(session.contended().judgement.unwrap().ground, Ground::Flock);
    held.release().0.unwrap();
    session.acquire().release().0.unwrap();
}

#[test]
fn whatever_is_written_into_a_held_lock_file_it_stays_held() {
    let session = Session::new();
    let _held = session.acquire();
    for text in
        ["", "{}", "garbage", &format!(r#"{{"pid":{NOBODY},"createdAt":"1970-01-01T00:00:00Z"}}"#)]
    {
        fs::write(session.lock(), text).unwrap();
        age(session.lock(), Duration::from_hours(24));
        assert!(session.contended().judgement.unwrap().is_alive(), "{text}");
    }
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "nobody says who has a file open")]
fn a_file_that_somebody_has_open_for_writing_is_held_whatever_it_says() {
    let session = Session::new();
    let writer = File::create(session.lock()).unwrap();
    writer.write_all_at(format!(r#"{{"pid":{NOBODY}}}"#).as_bytes(), 0).unwrap();
    age(session.lock(), Duration::from_hours(24));
    assert_eq!(session.contended().judgement.unwrap().ground, Ground::OpenForWriting);
    drop(writer);
    assert!(matches!(session.attempt(), Attempt::TakenOver(_)));
}

#[test]
fn the_end_of_a_process_that_is_not_here_is_not_waited_for() {
    // A client of this file server has made it: its number means nothing here, and age alone decides.
    let session = Session::new();
    let made_at = session_write_lock::record::to_iso(os::wall_ms());
    let record = format!(
        r#"{{"pid":{NOBODY},"createdAt":"{made_at}","witness":"server-flock","token":"a"}}"#
    );
    fs::write(session.lock(), record).unwrap();
    assert_eq!(session.contended().judgement.unwrap().ground, Ground::NoProof);
    // With an event, the wait would end at once, and the next one, too.
    assert_eq!(session.obstacle().told_by(), ToldBy::Time);
}

#[test]
fn an_older_process_s_dead_lock_is_replaced_at_once_and_nothing_else_stays() {
    let session = Session::new();
    fs::write(session.lock(), format!(r#"{{"pid":{NOBODY}}}"#)).unwrap();
    let dead = fs::metadata(session.lock()).unwrap().ino();
    let held = session.acquire();
    assert_ne!(fs::metadata(session.lock()).unwrap().ino(), dead);
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    held.release().0.unwrap();
    assert!(session.listing().is_empty());
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "every takeover settles")]
fn a_dead_lock_of_ours_is_replaced_at_once_and_need_not_settle_unless_it_was_read() {
    let session = Session::new();
    session.leave_dead_lock();
    let Attempt::Acquired(held) = session.attempt() else { panic!("it settles") };
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    held.release().0.unwrap();
    assert!(session.listing().is_empty());
    session.leave_dead_lock();
    fs::read(session.lock()).unwrap();
    let Attempt::TakenOver(held) = session.attempt() else { panic!("it does not settle") };
    held.release().0.unwrap();
    session.leave_dead_lock();
    let reader = File::open(session.lock()).unwrap();
    let Attempt::TakenOver(held) = session.attempt() else { panic!("it does not settle") };
    drop(reader);
    held.release().0.unwrap();
}

#[test]
fn a_lock_that_is_taken_over_from_an_older_process_has_to_settle() {
    let session = Session::new();
    fs::write(session.lock(), format!(r#"{{"pid":{NOBODY}}}"#)).unwrap();
    let Attempt::TakenOver(held) = session.attempt() else { panic!("not settling") };
    assert!(held.is_at_its_path().unwrap());
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    // The older process was about to remove what it found at the path.
    OpenOptions::new().read(true).open(session.lock()).unwrap();
    session.remove_lock();
    assert!(!held.is_at_its_path().unwrap());
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "nobody says who has a file open")]
fn a_file_that_says_nothing_is_given_time_and_then_taken_over() {
    let session = Session::new();
    for text in ["", "{", "[]", r#"{"pid":"7"}"#] {
        fs::write(session.lock(), text).unwrap();
        let verdict = session.contended().judgement.unwrap();
        assert_eq!(verdict.reasons, [Reason::MissingPid, Reason::InvalidCreatedAt], "{text}");
        age(session.lock(), Duration::from_secs(3));
        let Attempt::TakenOver(held) = session.attempt() else { panic!("{text}: not dead") };
        held.release().0.unwrap();
    }
}

#[test]
fn a_release_leaves_a_file_alone_that_is_no_longer_ours() {
    let session = Session::new();
    let lost = session.acquire();
    let aside = session.lock().with_extension("aside");
    fs::hard_link(session.lock(), &aside).unwrap();
    session.remove_lock();
    let next = session.acquire();
    assert!(!lost.is_at_its_path().unwrap());
    lost.release().0.unwrap();
    assert!(next.is_at_its_path().unwrap());
    next.release().0.unwrap();
}

#[test]
fn what_is_no_file_is_an_error_and_stays_as_it_is() {
    let session = Session::new();
    let kind_of = || match protocol::attempt(&session.paths, &claim(), Approach::Newcomer) {
        Err(Error::NotAFile { kind, path }) => (kind, path),
        other => panic!("{other:?}"),
    };
    fs::create_dir(session.lock()).unwrap();
    assert_eq!(kind_of(), (FileKind::Directory, session.lock().to_owned()));
    fs::remove_dir(session.lock()).unwrap();
    symlink("nowhere", session.lock()).unwrap();
    assert_eq!(kind_of().0, FileKind::Symlink);
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
}

#[test]
fn an_abandoned_temporary_is_swept_by_the_next_takeover() {
    let session = Session::new();
    let temporary = session.file().with_extension("jsonl.lock.new");
    session.leave_dead_lock();
    fs::write(&temporary, "torn").unwrap();
    age(&temporary, Duration::from_secs(31)); // where nobody says who has it open
    session.acquire().release().0.unwrap();
    assert!(session.listing().is_empty());
    // A crash between giving the lock file its name and taking the temporary's away.
    session.leave_dead_lock();
    fs::hard_link(session.lock(), &temporary).unwrap();
    session.acquire().release().0.unwrap();
    assert!(session.listing().is_empty());
}

#[test]
fn a_temporary_in_use_keeps_others_from_taking_over() {
    let session = Session::new();
    session.leave_dead_lock();
    let temporary = session.file().with_extension("jsonl.lock.new");
    let theirs = File::create(&temporary).unwrap();
    assert!(session.is_kept_out());
    drop(theirs);
    age(&temporary, Duration::from_secs(31)); // as above
    session.acquire().release().0.unwrap();
}

#[test]
fn a_fresh_guard_of_an_older_release_is_waited_for_and_an_old_one_ignored() {
    let session = Session::new();
    let guard = session.file().with_extension("jsonl.lock.reclaim");
    fs::create_dir(&guard).unwrap();
    assert!(session.is_kept_out());
    session.leave_older_dead_lock();
    assert!(session.is_kept_out());
    let folder = File::open(&guard).unwrap();
    folder.set_modified(SystemTime::UNIX_EPOCH + now() - Duration::from_secs(31)).unwrap();
    session.acquire().release().0.unwrap();
    assert_eq!(session.listing(), ["chat.jsonl.lock.reclaim"]);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "tmpfs takes any time")]
fn a_time_that_is_no_number_of_milliseconds_is_the_last_there_is() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let last = Duration::from_secs(i64::MAX.cast_unsigned());
    file.as_file().set_modified(SystemTime::UNIX_EPOCH + last).unwrap();
    assert_eq!(os::status_at(file.path()).unwrap().modified_ms, i64::MAX);
}

#[test]
fn a_session_in_a_missing_folder_gets_one_and_links_to_folders_are_followed() {
    let session = Session::new();
    let folder = session.file().parent().unwrap().join("a/b");
    let paths = LockPaths::resolve(&folder.join("chat.jsonl")).unwrap();
    assert!(folder.is_dir());
    symlink("a/b", session.file().with_file_name("link")).unwrap();
    let linked = session.file().with_file_name("link").join("chat.jsonl");
    assert_eq!(LockPaths::resolve(&linked).unwrap(), paths);
}

#[test]
fn the_longest_possible_name_can_be_taken_over_too() {
    let folder = Session::new();
    let file = folder.file().with_file_name("n".repeat(250));
    let paths = LockPaths::resolve(&file).unwrap();
    fs::write(paths.lock(), format!(r#"{{"pid":{NOBODY},"witness":"flock"}}"#)).unwrap();
    let Attempt::TakenOver(held) = protocol::attempt(&paths, &claim(), Approach::Newcomer).unwrap()
    else {
        panic!()
    };
    held.release().0.unwrap();
    assert!(folder.listing().is_empty());
    let too_long = LockPaths::resolve(&file.with_file_name("n".repeat(251))).unwrap();
    let error = protocol::attempt(&too_long, &claim(), Approach::Newcomer).unwrap_err();
    assert!(error.to_string().starts_with("file name too long"), "{error}");
}

/// Runs `contend` in eight threads at once, `rounds` times, over a session that `prepare` set up.
/// `contend` counts the holders; there is never more than one.
fn race(rounds: usize, prepare: impl Fn(&Session)) {
    const THREADS: usize = 8;
    for _ in 0..rounds {
        let session = Arc::new(Session::new());
        prepare(&session);
        let start = Arc::new(Barrier::new(THREADS));
        let holders = Arc::new(AtomicUsize::new(0));
        let turns = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (session, start) = (Arc::clone(&session), Arc::clone(&start));
                let (holders, turns) = (Arc::clone(&holders), Arc::clone(&turns));
                std::thread::spawn(move || {
                    start.wait();
                    loop {
                        let held = match session.attempt() {
                            Attempt::Acquired(held) | Attempt::TakenOver(held) => held,
                            Attempt::Queued(place) => {
                                place.leave();
                                continue;
                            }
                            Attempt::Contended(obstacle) => {
                                obstacle.into_place().into_iter().for_each(Place::leave);
                                continue;
                            }
                        };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                        let (released, place) = held.release();
                        place.into_iter().for_each(Place::leave);
                        return released.unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(turns.load(Ordering::SeqCst), THREADS);
        assert!(session.listing().is_empty(), "{:?}", session.listing());
    }
}

#[test]
fn eight_contenders_for_a_vacant_path_hold_one_after_the_other() {
    race(50, |_| {});
}

#[test]
fn eight_contenders_for_one_dead_lock_hold_one_after_the_other() {
    race(50, Session::leave_dead_lock);
}

#[test]
fn eight_contenders_for_an_older_processs_dead_lock_hold_one_after_the_other() {
    race(50, |session| {
        fs::write(session.lock(), format!(r#"{{"pid":{NOBODY}}}"#)).unwrap();
    });
}
