//! The queue, step by step. Open files stand in for processes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use session_write_lock::os::{self, blocked};
use session_write_lock::protocol::{Approach, Attempt, HeldLock, Obstacle, Place, ToldBy, Turn};

use super::support::Session;

fn queue_file(session: &Session) -> PathBuf {
    session.file().with_extension("jsonl.lock.queue")
}

/// Comes while others wait or hold, and finds them before itself.
fn queued(session: &Session) -> Place {
    match session.attempt() {
        Attempt::Queued(place) => place,
        other => panic!("{other:?}"),
    }
}

/// What a thread does that waits for its turn.
fn wait_for_turn(mut place: Place) -> Place {
    let (sender, receiver) = std::sync::mpsc::channel();
    let wait = blocked::start(move |stop| {
        place.wait(stop).unwrap();
        sender.send(place).unwrap();
    });
    let place = receiver.recv_timeout(super::support::SOON).expect("its turn never came");
    drop(wait);
    place
}

fn flock_came(obstacle: Obstacle) -> Obstacle {
    assert_eq!(obstacle.told_by(), ToldBy::Flock);
    let (sender, receiver) = std::sync::mpsc::channel();
    let wait = blocked::start(move |stop| {
        obstacle.wait(stop).unwrap();
        sender.send(obstacle).unwrap();
    });
    let obstacle = receiver.recv_timeout(super::support::SOON).expect("the flock never came");
    drop(wait);
    obstacle
}

fn release(held: &HeldLock) {
    let (released, place) = held.release();
    released.unwrap();
    place.into_iter().for_each(Place::leave);
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn waiters_are_served_in_order_and_the_last_removes_the_queue_file() {
    let session = Session::new();
    let held = session.acquire();
    assert_eq!(session.listing(), ["chat.jsonl.lock"]);
    // It is the turn of the first, who waits for the holder; the others wait for the one before them.
    let first = session.obstacle();
    let second = queued(&session);
    let third = queued(&session);
    assert_eq!(session.listing(), ["chat.jsonl.lock", "chat.jsonl.lock.queue"]);
    release(&held);
    let Attempt::Acquired(held) = session.attempt_by(Approach::Flock(flock_came(first))) else {
        panic!("the path is vacant and it is our turn");
    };
    assert!(matches!(second.clone().try_turn(), Turn::Later(_)), "the turn stays with the holder");
    release(&held);
    assert_eq!(session.listing(), ["chat.jsonl.lock.queue"]);
    let second = wait_for_turn(second);
    let Attempt::Acquired(held) = session.attempt_by(Approach::Place(second)) else {
        panic!("it is our turn");
    };
    release(&held);
    let third = wait_for_turn(third);
    third.leave();
    assert!(session.listing().is_empty());
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn a_process_that_comes_again_is_behind_those_who_wait_however_slow_they_wake_up() {
    let session = Session::new();
    let held = session.acquire();
    let first = session.obstacle();
    let second = queued(&session);
    release(&held);
    let Attempt::Acquired(held) = session.attempt_by(Approach::Flock(flock_came(first))) else {
        panic!("the path is vacant and it is our turn");
    };
    let (released, place) = held.release();
    released.unwrap();
    // The path is vacant, and the next one is still asleep.
    let again = session.attempt_by(Approach::Place(place.expect("others wait")));
    assert!(matches!(again, Attempt::Queued(_)), "{again:?}");
    assert!(matches!(session.attempt(), Attempt::Queued(_)), "a newcomer has passed the queue");
    wait_for_turn(second).leave();
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn a_waiter_that_gives_up_lets_no_one_pass() {
    let session = Session::new();
    let held = session.acquire();
    let first = session.obstacle().into_place().unwrap();
    let second = queued(&session);
    let third = queued(&session);
    second.leave();
    assert!(matches!(third.clone().try_turn(), Turn::Later(_)));
    first.leave();
    assert!(matches!(third.clone().try_turn(), Turn::Ours(_)));
    drop(third);
    release(&held);
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn what_a_crash_leaves_behind_is_used_and_removed_by_the_next_that_comes() {
    let session = Session::new();
    let held = session.acquire();
    drop(session.obstacle()); // what the kernel does
    release(&held);
    assert_eq!(session.listing(), ["chat.jsonl.lock.queue"]);
    release(&session.acquire());
    assert!(session.listing().is_empty());
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn a_queue_file_that_somebody_uses_is_not_removed() {
    let session = Session::new();
    let held = session.acquire();
    let one = session.obstacle().into_place().unwrap();
    let other = queued(&session);
    one.leave();
    assert!(queue_file(&session).exists());
    // ... nor one that has taken its place.
    fs::rename(queue_file(&session), session.file().with_extension("aside")).unwrap();
    fs::write(queue_file(&session), "").unwrap();
    other.leave();
    assert!(queue_file(&session).exists());
    release(&held);
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn those_who_wait_at_a_queue_file_that_was_removed_join_the_one_that_is_there() {
    let session = Session::new();
    let held = session.acquire();
    let first = session.obstacle().into_place().unwrap();
    let second = queued(&session);
    session.remove_queue();
    let newcomer = session.obstacle();
    first.leave();
    let Turn::Later(second) = second.try_turn() else {
        panic!("somebody is in the new queue");
    };
    newcomer.into_place().unwrap().leave();
    wait_for_turn(second).leave();
    release(&held);
    assert!(session.listing().is_empty());
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn a_stuck_queue_is_abandoned_and_nobody_is_held_up_by_it_any_more() {
    let session = Session::new();
    let held = session.acquire();
    let stopped = session.obstacle(); // its turn comes, and it does nothing
    let waiting = queued(&session);
    release(&held);
    let Attempt::Acquired(held) = session.attempt_by(Approach::PastAStuckQueue) else {
        panic!("the lock is free");
    };
    waiting.leave();
    release(&held);
    release(&session.acquire());
    // When it goes on, it finds that out.
    let Attempt::Acquired(held) = session.attempt_by(Approach::Flock(flock_came(stopped))) else {
        panic!("the lock is free");
    };
    release(&held);
}

#[test]
fn what_can_be_no_queue_file_of_ours_is_left_alone_and_waits_go_without_a_queue() {
    let session = Session::new();
    let held = session.acquire();
    let victim = session.file().with_extension("victim");
    fs::write(&victim, "precious").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o666)).unwrap();
    let prepare: [&dyn Fn(); 4] = [
        &|| fs::hard_link(&victim, queue_file(&session)).unwrap(),
        &|| symlink(&victim, queue_file(&session)).unwrap(),
        &|| fs::create_dir(queue_file(&session)).unwrap(),
        &|| fs::write(queue_file(&session), "!").unwrap(),
    ];
    for prepare in prepare {
        prepare();
        let obstacle = session.obstacle();
        assert!(obstacle.place().is_none());
        let metadata = fs::metadata(&victim).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        if fs::remove_dir(queue_file(&session)).is_err() {
            session.remove_queue();
        }
    }
    release(&held);
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn those_who_join_while_the_file_is_being_removed_wait_for_that_and_get_in() {
    let session = Session::new();
    let held = session.acquire();
    let place = session.obstacle().into_place().unwrap();
    drop(place);
    // What a process does that removes the file, and is stopped just then.
    let file = os::reopen_for_writing(&os::open(&queue_file(&session)).unwrap()).unwrap();
    os::lock_all_bytes(&file).unwrap();
    let joining: Vec<_> = (0..2).map(|_| queued(&session)).collect();
    let threads: Vec<_> = joining
        .into_iter()
        .map(|place| std::thread::spawn(move || wait_for_turn(place).leave()))
        .collect();
    os::unlock_bytes(&file).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(file);
    release(&held);
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn everybody_leaves_a_queue_that_was_abandoned_not_just_the_next() {
    let session = Session::new();
    let held = session.acquire();
    let stopped = session.obstacle();
    let (next, last) = (queued(&session), queued(&session));
    release(&held);
    let Attempt::Acquired(held) = session.attempt_by(Approach::PastAStuckQueue) else {
        panic!("the lock is free");
    };
    next.leave();
    // The one in front of it still has its place in the old file.
    let Turn::Ours(last) = last.try_turn() else { panic!("nobody is in the new queue") };
    last.leave();
    release(&held);
    stopped.into_place().unwrap().leave();
}
