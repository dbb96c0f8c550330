//! The threads of a real process: what each has done by its log, and what it brings next.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::asks::Ask;
use super::lives::{Entry, Step};
use crate::calls::{Answer, Call};
use crate::error;
use crate::locks::order::Order;
use crate::locks::{Handle, Request};
use crate::machine::Report;
use crate::os::Errno;
use crate::protocol::HeldLock;
use crate::replay;

/// A line of strace's log, and when it was written, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub line: u32,
    pub us: u64,
}

pub const NEVER: Moment = Moment { line: u32::MAX, us: u64::MAX };

/// Why a path can't go on.
#[derive(Debug)]
pub struct Wrong {
    pub line: u32,
    pub why: String,
}

impl Wrong {
    pub fn at(entry: &Entry, why: &str) -> Self {
        Self { line: entry.begin, why: format!("{:?}: {why}", entry.step) }
    }
}

/// An event that a thread brings to the machine.
pub struct Due {
    pub event: Event,
    /// Between these two.
    pub from: Moment,
    pub until: Moment,
    pub is_late: bool,
    /// Not before this wait was ended.
    pub after_end_of: Option<u64>,
    /// The order before it took so long that the folder counts as slow.
    pub is_slow: bool,
}

pub enum Event {
    Ask(Ask),
    Report(Report),
    /// The attempt of a `tryLock` is over.
    Tried(Request, error::Result<Option<HeldLock>>),
    Alarm,
}

/// What a thread is for. Of the binary's own threads it shows with the first thing that they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    JavaScript,
    /// That of the timers.
    Times,
    /// It waits for the turn or for a flock.
    Blocks,
    /// A worker.
    Works,
    Unknown,
}

/// Which orders a thread leaves to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandsOver {
    Nothing,
    /// Those that change the disk, and what comes with them.
    Changes,
    All,
}

pub struct Thread {
    pub log: Rc<Vec<Entry>>,
    /// The next entry.
    pub at: usize,
    pub kind: Kind,
    /// When the last one was over.
    pub since: Moment,
    /// The call of JavaScript that runs,
    pub call: Option<Handle>,
    /// what is left of what it asks for,
    pub asks: VecDeque<Ask>,
    /// what it asks for with each path that is found,
    pub with_path: Option<Ask>,
    /// and what it will be told. `None`: it asks for nothing, or the outcome says nothing.
    pub outcome: Option<&'static str>,
    pub todo: VecDeque<Order<()>>,
    pub hands_over: HandsOver,
    pub due: Option<Due>,
    pub is_slow: bool,
    /// A thread of JavaScript has ended.
    pub is_over: bool,
    /// Its log ends within an order.
    pub is_stuck: bool,
}

impl Thread {
    pub fn new(log: &Rc<Vec<Entry>>) -> Self {
        let is_asked = log.iter().any(|entry| matches!(entry.step, Step::Begins(_)));
        Self {
            log: Rc::clone(log),
            at: 0,
            kind: if is_asked { Kind::JavaScript } else { Kind::Unknown },
            since: Moment::default(),
            call: None,
            asks: VecDeque::new(),
            with_path: None,
            outcome: None,
            todo: VecDeque::new(),
            hands_over: HandsOver::Nothing,
            due: None,
            is_slow: false,
            is_over: false,
            is_stuck: false,
        }
    }

    pub fn next(&self) -> Option<&Entry> {
        self.log.get(self.at)
    }

    /// Whether JavaScript asks for more.
    pub fn asks_again(&self) -> bool {
        self.log[self.at..].iter().any(|entry| matches!(entry.step, Step::Begins(_)))
    }

    /// The next entry, if it is something that the thread does.
    pub fn rest(&self) -> Option<&Entry> {
        self.next().filter(|entry| entry.step != Step::Killed && !self.is_stuck)
    }

    /// It makes a call, and has no order.
    pub fn unexplained(&self) -> Option<&Entry> {
        self.rest().filter(|_| self.due.is_none())
    }

    /// The thread brings an event between its last entry and its next one.
    pub fn bring(&mut self, event: Event, after_end_of: Option<u64>) {
        let next = self.next().map(|next| Moment { line: next.begin, us: next.began });
        let (from, until) = (self.since, next.unwrap_or(NEVER));
        let is_slow = std::mem::take(&mut self.is_slow);
        self.due = Some(Due { event, from, until, is_late: false, after_end_of, is_slow });
    }

    /// Runs something on the log. `None`: the log ends in it.
    pub fn run<T>(&mut self, job: impl FnOnce() -> T) -> Result<Option<T>, Wrong> {
        let reader = Reader { log: Rc::clone(&self.log), at: self.at, wrong: None };
        let reader = Rc::new(RefCell::new(reader));
        let its = Rc::clone(&reader);
        let report = replay::follow(move |call| its.borrow_mut().answer(call), job);
        let mut reader = reader.borrow_mut();
        if let Some(wrong) = reader.wrong.take() {
            return Err(wrong);
        }
        self.go_to(reader.at);
        self.is_stuck = report.is_none();
        Ok(report)
    }

    pub fn go_to(&mut self, at: usize) {
        if at > self.at {
            let last = &self.log[at - 1];
            self.since = Moment { line: last.end, us: last.ended };
            self.at = at;
        }
    }
}

/// Gives the answers of a log, as long as the calls are those of the log.
struct Reader {
    log: Rc<Vec<Entry>>,
    at: usize,
    wrong: Option<Wrong>,
}

impl Reader {
    fn answer(&mut self, call: Call) -> Option<Answer> {
        match call {
            Call::Random => return Some(Answer::Done), // not in the log
            Call::FindProcess(_) => return Some(Answer::Is(false)), // the same; only reports ask
            Call::ByteWait(..) | Call::FlockWait(_) => return self.answer_wait(call),
            _ => {}
        }
        let entry = self.log.get(self.at)?;
        match &entry.step {
            Step::Call(asked, answer) if asked.may_be(call) => {
                self.at += 1;
                Some(*answer)
            }
            Step::Killed => None,
            _ => {
                self.wrong = Some(Wrong::at(entry, &format!("the shipped code makes {call:?}")));
                None
            }
        }
    }

    /// A wait can have been ended before the call. A signal can come twice, or late; then the call is made again.
    fn answer_wait(&mut self, call: Call) -> Option<Answer> {
        while let Some(Step::Call(asked, answer)) = self.log.get(self.at).map(|it| &it.step)
            && asked.may_be(call)
        {
            self.at += 1;
            if *answer != Answer::Refused(Errno::INTR) {
                return Some(*answer);
            }
        }
        if self.log.get(self.at).is_some_and(|entry| entry.step == Step::Killed) {
            return None;
        }
        Some(Answer::Refused(Errno::INTR))
    }
}
