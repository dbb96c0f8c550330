//! What each real process did, as a path of the shipped state machine.
//!
//! The calls of a process are given to the machine of its lock and to the shipped protocol, with the answers that the
//! real kernel gave ([`lives`]). The protocol runs on the log: each call that it makes has to be the next one of the
//! thread that carries out the order ([`follow`]). So the log must hold every call that the shipped code makes, in its
//! order, and no other.
//!
//! An *event* is what the machine is told: that JavaScript asks for something, what came of an order, an alarm. The
//! log shows between which two lines a thread brings an event, not when. Mostly the windows of two events don't
//! overlap. Where they do, or where the clock is near to a deadline, there is a *choice*; a process is explained if
//! some choices lead to its end.

mod asks;
mod follow;
mod lives;
mod threads;

use std::rc::Rc;

use follow::Path;
use lives::{Asked, Entry, Life, Step};
use threads::Wrong;

use crate::calls::{Answer, Call, Name};
use crate::log;
use crate::os::{Errno, Trust};
use crate::replay;

/// The choices of one path. A process is followed again and again, each time with the next choices.
#[derive(Default)]
struct Choices {
    /// Which was taken, and of how many.
    made: Vec<(usize, usize)>,
    used: usize,
}

impl Choices {
    fn of<T: Copy>(&mut self, options: &[T]) -> T {
        if let [only] = options {
            return *only;
        }
        if self.used == self.made.len() {
            self.made.push((0, options.len()));
        }
        self.used += 1;
        options[self.made[self.used - 1].0]
    }

    /// Makes the last one otherwise that has another option. `false`: there is none.
    fn change(&mut self) -> bool {
        self.used = 0;
        while let Some((taken, options)) = self.made.pop() {
            if taken + 1 < options {
                self.made.push((taken + 1, options));
                return true;
            }
        }
        false
    }
}

/// How many paths are tried for one process. A few are enough, but where the machine has stood still.
const PATIENCE: usize = 3_000;

/// How many paths it took; or why the one that came furthest could not go on.
fn explain(life: &Life, patience: usize) -> Result<usize, Wrong> {
    let mut choices = Choices::default();
    let mut furthest: Option<Wrong> = None;
    for tried in 1..=patience {
        replay::begin(Trust::Everything);
        replay::end(); // nobody counts the owners of files here
        let Err(wrong) = Path::new(life, &mut choices).follow() else { return Ok(tried) };
        if furthest.as_ref().is_none_or(|furthest| wrong.line > furthest.line) {
            furthest = Some(wrong);
        }
        if !choices.change() {
            break;
        }
    }
    Err(furthest.expect("at least one path"))
}

#[test]
#[ignore = "scripts/traces.mjs runs it, with a trace"]
fn a_trace_of_real_processes_is_a_path_of_the_state_machine() {
    let lives = Life::all(&log::read());
    let mut paths = 0;
    for life in &lives {
        match explain(life, PATIENCE) {
            Ok(tried) => paths += tried,
            Err(Wrong { line, why }) => panic!("{}, line {line}: {why}", life.name),
        }
    }
    let steps: usize = lives.iter().map(Life::length).sum();
    println!("{steps} steps of {} processes explained, {paths} paths tried", lives.len());
    for (what, step, change) in CHANGES {
        refutes(&lives, what, step, change);
    }
}

/// A change of a thread's log, at an entry. `None`: this entry can't be changed so.
type Change = fn(&[Entry], usize) -> Option<Vec<Entry>>;

/// Each is tried at one entry of so many.
const CHANGES: [(&str, usize, Change); 5] = [
    ("a call is left out", 17, |log, at| {
        let is_call = matches!(&log[at].step, Step::Call(asked, _) if !asked.is_unclear());
        is_call.then(|| [&log[..at], &log[at + 1..]].concat())
    }),
    ("a call is made twice", 17, |log, at| {
        let is_call = matches!(log[at].step, Step::Call(..));
        is_call.then(|| [&log[..=at], &log[at..]].concat())
    }),
    ("two calls are swapped", 17, |log, at| {
        let (one, other) = (&log[at], &log[at + 1]);
        let are_calls = [one, other].iter().all(|it| matches!(it.step, Step::Call(..)));
        (are_calls && one.step != other.step).then(|| {
            let mut log = log.to_vec();
            (log[at].step, log[at + 1].step) = (other.step.clone(), one.step.clone());
            log
        })
    }),
    ("an attempt is made twice", 1, |log, at| {
        let end = attempt(&log[at..]).map(|length| at + length)?;
        Some([&log[..end], &log[at..]].concat())
    }),
    ("nobody has asked", 1, |log, at| {
        let is_end = |it: &Entry| matches!(it.step, Step::Ends(_));
        let length = log[at..].iter().position(is_end)?;
        let is_begin = matches!(&log[at].step, Step::Begins(words) if words[0] == "acquire");
        // Something has come of it at once.
        (is_begin && length > 2)
            .then(|| [&log[..at], &log[at + 1..at + length], &log[at + length + 1..]].concat())
    }),
];

/// How long it is, if a lock is made here: from the guard to the link.
fn attempt(log: &[Entry]) -> Option<usize> {
    let is_link = |it: &Entry| matches!(it.step, Step::Call(Asked::Call(Call::LinkUnnamed(..)), _));
    let begin = Step::Call(Asked::Call(Call::StatusAt(Name::Guard)), VACANT);
    let end = log.iter().take(8).position(is_link).filter(|_| log[0].step == begin);
    Some(end? + 1)
}

const VACANT: Answer = Answer::Refused(Errno::NOENT);

/// With a change in a log, no path is left, or hardly ever: the change may have made another story.
fn refutes(lives: &[Life], what: &str, step: usize, change: Change) {
    /// So many changes, and so many paths with each.
    const TRIED: usize = 8;
    const PATIENCE: usize = 300;

    let mut lives: Vec<_> = lives.iter().collect();
    lives.sort_by_key(|life| life.length());
    let changed = lives.iter().flat_map(|life| {
        // What was done just before the end may as well not have been done.
        let ends = life.threads.iter().map(|log| log.len().saturating_sub(20)).enumerate();
        let places = ends.flat_map(|(t, end)| (0..end).map(move |at| (t, at)));
        places.step_by(step).filter_map(|(t, at)| {
            let mut threads = life.threads.clone();
            threads[t] = Rc::new(change(&threads[t], at)?);
            Some(Life { threads, name: life.name.clone(), ..**life })
        })
    });
    let refuted = changed.take(TRIED).map(|life| explain(&life, PATIENCE).is_err());
    let refuted: Vec<_> = refuted.collect();
    let count = refuted.iter().filter(|is_refuted| **is_refuted).count();
    println!("{what}: {count} of {} refuted", refuted.len());
    assert!(count * 10 >= refuted.len() * 8, "{what}, and the machine explains it");
}
