//! Running the shipped code with a recorded history.
//!
//! It runs on this thread. Each call takes the next answer of the history; the first call that has none
//! ends the run by unwinding, and is what the process does next. So a process is a deterministic
//! function of the answers that it has had, and needs neither a thread nor a snapshot.

use std::cell::RefCell;
use std::fmt::{Debug, Write};

use crate::kernel::{Answer, Call, Fd, Pause, Stat};
use crate::os::{Instant, Trust};

/// Gives the answer to a call; `None`: the run ends here.
type Answerer = Box<dyn FnMut(Call) -> Option<Answer>>;

/// What a run is told, and what it tells.
#[derive(Default)]
pub struct Run {
    /// Instead of a history.
    answerer: Option<Answerer>,
    history: Vec<Answer>,
    used: usize,
    trust: Trust,
    fresh_tokens: bool,
    randoms: u8,
    /// Whether what runs is to leave no traces any more.
    is_over: bool,
    /// What was done with files since the last answer.
    changes: Vec<Call>,
    /// The call that the history has no answer for.
    call: Option<Call>,
    memory: String,
    pub fds: Vec<Fd>,
    pub ids: Vec<u8>,
    is_canonical: bool,
    now: Instant,
}

/// How a script stands.
pub struct Script {
    /// Files that it closes before the call.
    pub before: Vec<Call>,
    pub call: Call,
    /// At a pause: all that it remembers, in canonical names,
    pub memory: String,
    /// the descriptors in it and the names of inode numbers, in the order of their appearance.
    pub fds: Vec<Fd>,
    pub ids: Vec<u8>,
}

/// Unwinds what has come to the end of its history.
struct Stopped;

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
}

/// Begins a process anew.
pub fn begin(trust: Trust) {
    RUN.set(Run { trust, fresh_tokens: trust < Trust::Everything, ..Run::default() });
}

/// What is dropped from now on was never closed.
pub fn end() {
    RUN.with_borrow_mut(|run| run.is_over = true);
}

/// Runs a script with a history up to its next call.
pub fn replay(script: impl FnOnce(), history: Vec<Answer>, trust: Trust) -> Script {
    begin(trust);
    let (before, call) = run_to_call(history, || {
        script();
        call(Call::End);
    });
    let run = RUN.take();
    Script { before, call, memory: run.memory, fds: run.fds, ids: run.ids }
}

/// Runs what has all its answers.
pub fn run_to_end<T>(answers: Vec<Answer>, job: impl FnOnce() -> T) -> T {
    RUN.with_borrow_mut(|run| (run.history, run.used, run.call) = (answers, 0, None));
    let report = job();
    assert_eq!(call(Call::Finish), Answer::Finished, "an order ends as it did before");
    report
}

/// Runs something up to its next call: what it does with files before, and the call.
pub fn run_to_call<T>(answers: Vec<Answer>, job: impl FnOnce() -> T) -> (Vec<Call>, Call) {
    RUN.with_borrow_mut(|run| {
        (run.history, run.used, run.call) = (answers, 0, None);
        run.changes.clear();
    });
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // Kept until it is asked for: dropping it would close files.
        let _report = job();
        call(Call::Finish);
    }));
    if let Err(payload) = ended
        && !payload.is::<Stopped>()
    {
        std::panic::resume_unwind(payload);
    }
    RUN.with_borrow_mut(|run| {
        let call = run.call.take().expect("a run ends with a call");
        (std::mem::take(&mut run.changes), call)
    })
}

/// Runs something whose calls are answered one by one. `None`: it came to a call without an answer.
#[cfg(target_os = "linux")]
pub fn follow<T>(
    answerer: impl FnMut(Call) -> Option<Answer> + 'static,
    job: impl FnOnce() -> T,
) -> Option<T> {
    RUN.with_borrow_mut(|run| run.answerer = Some(Box::new(answerer)));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    RUN.with_borrow_mut(|run| run.answerer = None);
    match ended {
        Ok(report) => Some(report),
        Err(payload) if payload.is::<Stopped>() => None,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Whether the calls are those of a log.
pub fn follows() -> bool {
    RUN.with_borrow(|run| run.answerer.is_some())
}

/// What was done with files outside of any order.
pub fn take_changes() -> Vec<Call> {
    RUN.with_borrow_mut(|run| std::mem::take(&mut run.changes))
}

pub fn call(call: Call) -> Answer {
    let answer = RUN.with_borrow_mut(|run| {
        if let Some(answerer) = &mut run.answerer {
            return answerer(call);
        }
        let answer = run.history.get(run.used).copied();
        if answer.is_some() {
            run.used += 1;
            run.changes.clear();
        } else if run.call.is_none() {
            run.call = Some(call);
        }
        answer
    });
    answer.unwrap_or_else(|| std::panic::resume_unwind(Box::new(Stopped)))
}

/// From here on `Debug` gives canonical names.
pub fn begin_memory(now: Instant) {
    RUN.with_borrow_mut(|run| {
        run.is_canonical = true;
        run.now = now;
        run.fds.clear();
        run.ids.clear();
    });
}

pub fn end_memory() -> (Vec<Fd>, Vec<u8>) {
    RUN.with_borrow_mut(|run| {
        run.is_canonical = false;
        (std::mem::take(&mut run.fds), std::mem::take(&mut run.ids))
    })
}

/// An answer in canonical names.
pub fn write_answer(memory: &mut String, answer: Answer) {
    let _ = match answer {
        Answer::Fd(fd) => write!(memory, "fd {}", canonical(|run| &mut run.fds, fd)),
        Answer::Status(stat) => {
            let id = u8::try_from(canonical(|run| &mut run.ids, stat.id)).unwrap_or(0);
            write!(memory, "{:?}", Stat { id, ..stat })
        }
        answer => write!(memory, "{answer:?}"),
    };
}

/// A script pauses. `memory` is everything that it still has: two processes that pause with equal
/// memories go on equally. `true`: it goes on; `false`: it gives up.
pub fn pause(pause: Pause, memory: &dyn Debug) -> bool {
    if RUN.with_borrow(|run| run.used == run.history.len()) {
        begin_memory(Instant::START);
        let mut memory = format!("{pause:?} {memory:?}");
        let (fds, ids) = end_memory();
        RUN.with_borrow_mut(|run| {
            memory.push_str(&if run.fresh_tokens { run.randoms } else { 0 }.to_string());
            (run.memory, run.fds, run.ids) = (memory, fds, ids);
        });
    }
    match call(Call::Pause(pause)) {
        Answer::Go(goes_on) => goes_on,
        other => panic!("a pause is answered by {other:?}"),
    }
}

/// The place of `of` in the list, which is its canonical name.
pub fn canonical(list: impl Fn(&mut Run) -> &mut Vec<u8>, of: u8) -> usize {
    RUN.with_borrow_mut(|run| {
        if !run.is_canonical {
            return usize::from(of);
        }
        let list = list(run);
        list.iter().position(|&known| known == of).unwrap_or_else(|| {
            list.push(of);
            list.len() - 1
        })
    })
}

/// A process copies or drops an open file.
pub fn note_change(change: Call) {
    let _ = RUN.try_with(|run| {
        let mut run = run.borrow_mut();
        if run.call.is_none() && !run.is_over {
            run.changes.push(change);
        }
    });
}

/// From which instant on times are told.
pub fn now() -> Instant {
    RUN.with_borrow(|run| run.now)
}

pub fn trust() -> Trust {
    RUN.with_borrow(|run| run.trust)
}

/// The number of the next token. All of a process's are the same on a trusted file system, where
/// nothing is asked of them.
pub fn next_token() -> u8 {
    RUN.with_borrow_mut(|run| {
        run.randoms = (run.randoms + 1) % 16;
        if run.fresh_tokens { run.randoms } else { 0 }
    })
}
