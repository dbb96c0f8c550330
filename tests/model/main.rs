//! Every schedule of a few processes, gone through one by one.
//!
//! The steps in [`steps`] are those of docs/protocol.md and src/protocol.rs, one system call each. After
//! every one of them, any process may be the next, crash, or give up. Promised, and checked, is:
//!
//! - never two holders;
//! - nobody removes the path of a live lock, or writes into it;
//! - whatever has happened: if those who live go on, somebody who wants the lock gets it;
//! - when all have ended and nobody has crashed, nothing is left.
//!
//! Time stands still in it: who waits for a grace or a settling has waited as soon as nobody is in the
//! middle of what that time is meant for. An older process removes what it thinks dead before a
//! settling that began after its look is over.
//!
//! A check that can't fail is none, so each rule of the protocol is left out once.

mod explore;
mod same;
mod steps;
mod world;

use explore::{Found, explore};
use steps::{Decline, PROTOCOL, Rules};
use world::{CUR, FILES, OF_THE_DEAD, Pc, Process, Text, World};

/// Who takes part: how often each comes, how many crashes there are, and removals by hand.
struct Cast {
    addons: &'static [u8],
    older: &'static [u8],
    crashes: u8,
    hands: u8,
}

const THREE: Cast = Cast { addons: &[1, 1, 1], older: &[], crashes: 2, hands: 1 };
const THREE_AND_BACK: Cast = Cast { addons: &[2, 1, 1], older: &[], crashes: 2, hands: 0 };
const TWO_AND_BACK: Cast = Cast { addons: &[2, 2], older: &[], crashes: 2, hands: 1 };
const TWO_AND_OLDER: Cast = Cast { addons: &[1, 1], older: &[2], crashes: 2, hands: 0 };
const BACK_AND_OLDER: Cast = Cast { addons: &[2, 1], older: &[2], crashes: 2, hands: 0 };

impl Cast {
    /// All that may be there when it begins, with or without an abandoned temporary.
    fn starts(&self) -> Vec<World> {
        let by_the_dead = Text::Ours { token: OF_THE_DEAD, promises: true };
        let paths = [None, Some(by_the_dead), Some(World::older_dead()), Some(Text::Spoilt(0))];
        let temporaries = [None, Some(by_the_dead)];
        let both = paths.iter().flat_map(|path| temporaries.map(|temporary| (*path, temporary)));
        both.map(|(path, temporary)| self.start(path, temporary)).collect()
    }

    fn start(&self, path: Option<Text>, temporary: Option<Text>) -> World {
        let mut processes = [Process::new(Pc::Gone, 0); 3];
        let addons = self.addons.iter().map(|&turns| Process::new(Pc::Idle, turns));
        let all = addons.chain(self.older.iter().map(|&turns| Process::new(Pc::OldIdle, turns)));
        processes.iter_mut().zip(all).for_each(|(process, new)| *process = new);
        let mut text = [Text::Empty; FILES];
        text[1] = path.unwrap_or_default();
        text[2] = temporary.unwrap_or_default();
        World {
            path: u8::from(path.is_some()),
            temporary: 2 * u8::from(temporary.is_some()),
            text,
            addons: self.addons.len().try_into().unwrap(),
            processes,
            crashes: self.crashes,
            hands: self.hands,
            is_littered: path.is_some() || temporary.is_some(),
            broken: None,
        }
    }

    fn explore(&self, rules: &Rules) -> Found {
        explore(&self.starts(), rules)
    }

    /// Without a counterexample.
    fn holds(&self, rules: &Rules) {
        let found = self.explore(rules);
        println!("{found}");
        assert!(found.broken.is_none(), "{found}");
    }

    /// With one, and it is told.
    fn fails(&self, rules: &Rules, what: &str) {
        let found = self.explore(rules);
        println!("{found}\n");
        assert_eq!(found.broken.as_ref().map(|(broken, _)| broken.as_str()), Some(what));
    }
}

// --- The protocol -------------------------------------------------------------------------------

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn three_contenders_keep_every_promise() {
    THREE.holds(&PROTOCOL);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn two_contenders_that_come_back_keep_every_promise() {
    TWO_AND_BACK.holds(&PROTOCOL);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn three_contenders_one_of_which_comes_back_keep_every_promise() {
    THREE_AND_BACK.holds(&PROTOCOL);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn two_contenders_and_an_older_process_keep_every_promise() {
    TWO_AND_OLDER.holds(&PROTOCOL);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn one_that_comes_back_another_and_an_older_process_keep_every_promise() {
    BACK_AND_OLDER.holds(&PROTOCOL);
}

// --- What each rule is for ----------------------------------------------------------------------

const LIVE_LOCK_REMOVED: &str = "removes a live lock";
const TWO_HOLDERS: &str = "two holders";
const NOBODY: &str = "nobody gets the lock any more";

#[test]
fn who_inherits_has_to_check_the_path_after_writing() {
    THREE.fails(&Rules { inherit_checks_path: false, ..PROTOCOL }, TWO_HOLDERS);
}

#[test]
fn the_mark_has_to_be_asked_for_after_writing() {
    TWO_AND_OLDER.fails(&Rules { marks_are_asked_after: false, ..PROTOCOL }, LIVE_LOCK_REMOVED);
}

#[test]
fn a_takeover_has_to_settle() {
    TWO_AND_OLDER.fails(&Rules { settles: false, ..PROTOCOL }, LIVE_LOCK_REMOVED);
}

#[test]
fn a_look_back_needs_the_flock() {
    TWO_AND_BACK.fails(&Rules { look_back_with_flock: false, ..PROTOCOL }, LIVE_LOCK_REMOVED);
}

#[test]
fn a_look_back_removes_its_own_record_only() {
    TWO_AND_OLDER.fails(&Rules { look_back_says: false, ..PROTOCOL }, LIVE_LOCK_REMOVED);
}

#[test]
fn who_gets_the_flock_too_late_must_not_remove_the_file() {
    let declining = |decline| Rules { decline, ..PROTOCOL };
    TWO_AND_BACK.fails(&declining(Decline::RemovesBlindly), LIVE_LOCK_REMOVED);
    TWO_AND_OLDER.fails(&declining(Decline::Removes), LIVE_LOCK_REMOVED);
    TWO_AND_OLDER.fails(&declining(Decline::RemovesWhatWasHandedOn), LIVE_LOCK_REMOVED);
}

#[test]
fn who_inherits_from_the_dead_has_to_look_for_the_temporary_of_an_exchange() {
    let cast = Cast { addons: &[1, 1], older: &[1], crashes: 1, hands: 0 };
    // Its maker died when it had brought out the lock that the older process still holds.
    let by_the_dead = Text::Ours { token: OF_THE_DEAD, promises: true };
    let mut start = cast.start(Some(by_the_dead), Some(Text::Older(2)));
    start.processes[2].pc = Pc::OldHold;
    let temporary = start.temporary;
    start.open(2, CUR, temporary).writes = true;
    let found = explore(&[start], &PROTOCOL);
    assert!(found.broken.is_none(), "{found}");
    let found = explore(&[start], &Rules { temporary_is_asked: false, ..PROTOCOL });
    println!("{found}\n");
    assert!(found.broken.is_some_and(|(what, _)| what == TWO_HOLDERS));
}

/// Checks that spare work. Nothing rests on them.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes, if not optimised: cargo test --release --test model"
)]
fn nothing_rests_on_the_check_of_the_path_before_writing_nor_on_the_mark_before_it() {
    for cast in [THREE, TWO_AND_BACK, TWO_AND_OLDER] {
        cast.holds(&Rules { look_checks_path: false, ..PROTOCOL });
        cast.holds(&Rules { marks_are_asked_before: false, ..PROTOCOL });
    }
}

// --- What is not promised: docs/protocol.md, *Mixed operation* -----------------------------------

#[test]
fn gap_an_older_process_asks_for_the_pid_after_a_holder_has_let_go_and_ended() {
    TWO_AND_OLDER.fails(&Rules { older_judges_late: true, ..PROTOCOL }, LIVE_LOCK_REMOVED);
}

#[test]
fn gap_of_two_older_processes_one_removes_what_comes_after_the_other_s_removal() {
    let cast = Cast { addons: &[1], older: &[1, 1], crashes: 0, hands: 0 };
    cast.fails(&PROTOCOL, LIVE_LOCK_REMOVED);
}

#[test]
fn gap_an_exchange_is_undone_after_the_older_process_has_released() {
    let alone = Cast { addons: &[1], older: &[1], crashes: 0, hands: 0 };
    let exchange = Rules { older_is_inherited: false, ..PROTOCOL };
    alone.fails(&exchange, NOBODY);
    let cast = Cast { addons: &[1, 1], older: &[2], crashes: 0, hands: 0 };
    cast.fails(&exchange, TWO_HOLDERS);
}
