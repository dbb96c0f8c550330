//! What real processes asked of the real kernel, explained by the simulated one.
//!
//! `scripts/traces.mjs` runs a small storm under strace, and writes a line for each call on the lock's files
//! ([`log`](crate::log)). A line says between which two moments the call took effect, not when. So this looks for an order of all calls, each between its two moments, in which the simulated
//! kernel gives every answer that the real one gave. If there is none, the simulation doesn't know the kernel.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::cast::EXT4;
use crate::kernel::{Answer, Byte, Call, Fd, INODES, Ino, Kernel, Text};
use crate::log::{self, Line, errno_named};
use crate::record::DeclaredWitness;

/// The simulated kernel, and what leads from the log's names to its own.
#[derive(Clone, Hash)]
struct State {
    kernel: Kernel,
    /// Process, its descriptor, and the simulation's.
    files: Vec<(usize, u32, Fd)>,
    /// The real number of each inode.
    inodes: [u64; INODES],
    /// Inode, real byte, and the simulation's: those that are locked. The simulated kernel has few bytes; a queue in use
    /// goes on and on.
    bytes: Vec<(Ino, u64, Byte)>,
}

/// Why a call can't have had its answer here.
type Refuted = String;

impl State {
    fn new() -> Self {
        let kernel = Kernel::new(EXT4);
        Self { kernel, files: Vec::new(), inodes: [0; INODES], bytes: Vec::new() }
    }

    /// Makes a call, and compares the answers.
    fn explain(&mut self, line: &Line, tokens: &HashMap<String, u8>) -> Result<(), Refuted> {
        let (p, answer) = (line.process, line.answer.as_deref());
        let own_fd = |state: &Self| {
            let fd = line.word(1).parse().ok();
            let file = state.files.iter().find(|file| file.0 == p && Some(file.1) == fd);
            file.map(|file| file.2)
                .ok_or_else(|| format!("descriptor {} is not open", line.word(1)))
        };
        self.kernel.processes[p].is_alive = true;
        let call = match (line.word(0), line.call_on_names()) {
            ("end", _) => {
                self.kernel.end(p);
                self.files.retain(|file| file.0 != p);
                return Ok(());
            }
            ("byte-ask", _) => return self.explain_question(p, own_fd(self)?, answer),
            (_, Some(call)) => call,
            (_, None) => {
                let fd = own_fd(self)?;
                let on_a_byte = line.is_on_a_byte();
                let byte = if on_a_byte { self.byte(p, fd, line.word(2))? } else { 0 };
                match line.call_on_file(fd, byte, |word| text(word, tokens)) {
                    Call::FlockWait(fd) => Call::Flock(fd), // it has its answer
                    call => call,
                }
            }
        };
        let simulated = self.kernel.perform(p, call).ok_or("it blocks")?;
        // The simulation remembers only a few.
        self.kernel.processes[p].ids = Default::default();
        self.kernel.forget_numbers();
        self.note_files(p, call, simulated, answer)?;
        self.forget_unlocked_bytes();
        self.compare(p, call, simulated, answer, tokens)?;
        for (ino, real) in self.inodes.iter_mut().enumerate() {
            if !self.kernel.inodes[ino].is_used {
                *real = 0;
            }
        }
        Ok(())
    }

    /// What leads from the process's descriptors to the simulation's.
    fn note_files(
        &mut self,
        p: usize,
        call: Call,
        simulated: Answer,
        answer: Option<&str>,
    ) -> Result<(), Refuted> {
        if let (Answer::Fd(fd), Some(answer)) = (simulated, answer) {
            let real = answer.parse().map_err(|_| format!("a file, not {answer}"))?;
            self.files.push((p, real, fd));
        }
        if let Call::Close(fd) = call {
            self.files.retain(|file| (file.0, file.2) != (p, fd));
        }
        Ok(())
    }

    fn compare(
        &mut self,
        p: usize,
        call: Call,
        simulated: Answer,
        answer: Option<&str>,
        tokens: &HashMap<String, u8>,
    ) -> Result<(), Refuted> {
        let Some(answer) = answer else { return Ok(()) };
        let is_same = match simulated {
            Answer::Refused(errno) => errno_named(answer) == Some(errno),
            Answer::Status(_) => {
                let ino = match call {
                    Call::StatusAt(name) => self.kernel.ino(name),
                    Call::StatusOf(fd) => self.kernel.open_file(p, fd).ino,
                    _ => 0,
                };
                self.is_status(ino, answer, matches!(call, Call::StatusAt(_)))
            }
            Answer::Text(text) if answer == "part" => text != Text::Empty,
            Answer::Text(Text::Ours { token, .. }) => tokens.get(answer) == Some(&token),
            Answer::Text(Text::Empty) => answer == "empty",
            Answer::Text(_) => answer == "torn",
            _ => !answer.starts_with('E'),
        };
        if is_same { Ok(()) } else { Err(format!("{simulated:?}, not {answer}")) }
    }

    /// `inode:names:size:was it read`. By a path, the kernel first finds the inode and then reads the rest,
    /// which can have changed in between. The shipped code asks only for the inode there.
    fn is_status(&mut self, ino: Ino, answer: &str, is_by_path: bool) -> bool {
        let mut parts = answer.split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
        let (real, names, size) = (number(), number(), number());
        let was_read = parts.next() == Some("true");
        let ino = usize::from(ino);
        if real == 0 || self.inodes.iter().enumerate().any(|(at, it)| *it == real && at != ino) {
            return false;
        }
        let known = std::mem::replace(&mut self.inodes[ino], real);
        let inode = self.kernel.inodes[ino];
        let is_same = known == 0 || known == real;
        is_same && is_by_path
            || is_same
                && u64::from(self.kernel.name_count(u8::try_from(ino).unwrap_or(0))) == names
                && (inode.text == Text::Empty) == (size == 0)
                && inode.was_read == was_read
    }

    /// A lock in the way: the kernel may tell of any one, and writes over what was asked.
    fn explain_question(&mut self, p: usize, fd: Fd, answer: Option<&str>) -> Result<(), Refuted> {
        let Some(answer) = answer else { return Ok(()) };
        let ino = self.kernel.open_file(p, fd).ino;
        let others: Vec<u32> =
            self.kernel.others(p, fd, ino).map(|open| open.exclusive_bytes).collect();
        let mut parts = answer.split(':');
        let none = answer.starts_with("none");
        if none {
            parts.next();
        }
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
        let (start, length) = (number(), number());
        let is_in = |real: u64| real >= start && (length == 0 || real < start + length);
        let is_locked = |byte: Byte| others.iter().any(|bytes| bytes >> byte & 1 == 1);
        let mut its = self.bytes.iter().filter(|(its, ..)| *its == ino);
        let is_so = if none {
            !others.contains(&u32::MAX)
                && !its.any(|&(_, real, byte)| is_in(real) && is_locked(byte))
        } else if length == 0 {
            others.contains(&u32::MAX)
        } else {
            !others.contains(&u32::MAX)
                && its.any(|&(_, real, byte)| real == start && is_locked(byte))
        };
        if is_so { Ok(()) } else { Err(format!("others have {others:x?}, not {answer}")) }
    }

    /// The simulation's number of a byte that is to be locked.
    fn byte(&mut self, p: usize, fd: Fd, word: &str) -> Result<Byte, Refuted> {
        let real: u64 = word.parse().expect("a byte");
        let ino = self.kernel.open_file(p, fd).ino;
        if let Some(&(_, _, byte)) = self.bytes.iter().find(|it| (it.0, it.1) == (ino, real)) {
            return Ok(byte);
        }
        let is_free = |byte: &Byte| !self.bytes.iter().any(|it| (it.0, it.2) == (ino, *byte));
        let byte = (0..31).find(is_free).ok_or_else(|| format!("too many: {:?}", self.bytes))?;
        self.bytes.push((ino, real, byte));
        self.bytes.sort_unstable();
        Ok(byte)
    }

    fn forget_unlocked_bytes(&mut self) {
        let opens = self.kernel.processes.iter().flat_map(|process| &process.fds);
        self.bytes.retain(|&(ino, _, byte)| {
            let of_one = |bytes: u32| bytes != u32::MAX && bytes >> byte & 1 == 1;
            let mut its = opens.clone().filter(|open| open.ino == ino);
            its.any(|open| of_one(open.exclusive_bytes) || of_one(open.shared_bytes))
        });
    }
}

fn text(word: &str, tokens: &HashMap<String, u8>) -> Text {
    let promises = Some(DeclaredWitness::Flock);
    tokens.get(word).map_or(Text::Torn, |&token| Text::Ours { who: 0, token, promises })
}

/// Not what is written down for other reasons.
fn is_of_the_kernel(line: &Line) -> bool {
    let is_call = !matches!(line.words[0].as_str(), "note" | "resolve" | "wake");
    is_call && line.answer.as_deref() != Some("EINTR")
}

/// The simulation's numbers of the records. They repeat, long after a record has gone.
fn tokens(calls: &[Line]) -> HashMap<String, u8> {
    let written = calls.iter().filter(|call| call.words[0] == "write").map(|call| &call.words[2]);
    let records = written.filter(|word| *word != "torn").enumerate();
    records.map(|(at, word)| (word.clone(), u8::try_from(at % 251).unwrap_or(0))).collect()
}

/// An order that explains all calls, or how far one gets.
fn explain(calls: &[Line]) -> Result<usize, String> {
    struct Node {
        state: State,
        done: Vec<usize>,
        /// The first call that is not done.
        first: usize,
        /// The last is tried first.
        candidates: Vec<Next>,
    }

    /// A call; or a file of a process that is being ended is closed.
    enum Next {
        Call(usize),
        Close(usize, Fd),
    }

    let tokens = tokens(calls);
    // Calls that may come next: those that began before any of the others ended.
    let candidates = |state: &State, first: usize, done: &[usize]| {
        let is_open = |at: &usize| !done.contains(at);
        let mut limit = u32::MAX;
        let mut found = Vec::new();
        for at in (first..calls.len()).filter(is_open) {
            if calls[at].begin > limit {
                break;
            }
            limit = limit.min(calls[at].end);
            found.push(at);
        }
        found.retain(|&at| calls[at].begin <= limit);
        found.sort_by_key(|&at| std::cmp::Reverse(calls[at].end));
        let ending = found.iter().map(|&at| &calls[at]).filter(|call| call.words[0] == "end");
        let closes = ending.flat_map(|Line { process, .. }| {
            let fds = (0..).zip(state.kernel.processes[*process].fds);
            fds.filter(|(_, open)| open.ino != 0).map(|(fd, _)| Next::Close(*process, fd))
        });
        closes.chain(found.iter().map(|&at| Next::Call(at))).collect::<Vec<_>>()
    };
    let state = State::new();
    let all = candidates(&state, 0, &[]);
    let mut stack = vec![Node { state, done: Vec::new(), first: 0, candidates: all }];
    let mut seen = HashSet::new();
    let (mut furthest, mut why) = (0, Vec::new());
    let mut steps = 0;
    while let Some(node) = stack.last_mut() {
        if node.first == calls.len() {
            return Ok(steps);
        }
        let Some(next) = node.candidates.pop() else {
            stack.pop();
            continue;
        };
        let mut state = node.state.clone();
        steps += 1;
        let at = match next {
            Next::Call(at) => at,
            Next::Close(process, fd) => {
                state.kernel.close_of_killed(process, fd);
                let (first, done) = (node.first, node.done.clone());
                if seen.insert(fingerprint(first, &done, &state)) {
                    let candidates = candidates(&state, first, &done);
                    stack.push(Node { state, done, first, candidates });
                }
                continue;
            }
        };
        if let Err(refuted) = state.explain(&calls[at], &tokens) {
            if node.first >= furthest {
                if node.first > furthest {
                    why.clear();
                }
                furthest = node.first;
                let Line { begin, end, process, words, answer, .. } = &calls[at];
                let call = words.join(" ");
                why.push(format!("{begin} {end} {process}: {call} = {answer:?}: {refuted}"));
            }
            continue;
        }
        let (mut first, mut done) = (node.first, node.done.clone());
        done.push(at);
        if calls[at].words[0] == "end" {
            // What it was killed in didn't happen, if it hasn't yet.
            let process = calls[at].process;
            let open = |&it: &usize| calls[it].answer.is_none() && calls[it].process == process;
            done.extend(
                (first..at)
                    .chain(at + 1..calls.len())
                    .take_while(|&it| calls[it].begin <= calls[at].end)
                    .filter(open),
            );
        }
        while let Some(place) = done.iter().position(|&it| it == first) {
            done.swap_remove(place);
            first += 1;
        }
        done.retain(|&it| it >= first);
        done.sort_unstable();
        done.dedup();
        if seen.insert(fingerprint(first, &done, &state)) {
            let candidates = candidates(&state, first, &done);
            stack.push(Node { state, done, first, candidates });
        }
    }
    why.sort();
    why.dedup();
    Err(format!("{} of {} calls explained\n{}", furthest, calls.len(), why.join("\n")))
}

fn fingerprint(first: usize, done: &[usize], state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    (first, done, state).hash(&mut hasher);
    hasher.finish()
}

#[test]
#[ignore = "scripts/traces.mjs runs it, with a trace"]
fn a_trace_of_real_processes_is_a_path_of_the_simulated_kernel() {
    let mut calls = log::read();
    calls.retain(is_of_the_kernel);
    match explain(&calls) {
        Ok(steps) => println!("{} calls explained, {steps} tried", calls.len()),
        Err(why) => panic!("{why}"),
    }
    // With one false answer there is no such order.
    for (call, from, to) in [
        ("link-unnamed", "EEXIST", "0"),
        ("flock", "EAGAIN", "0"),
        ("byte-lock-all", "EAGAIN", "0"),
        ("unlink", "0", "ENOENT"),
        ("status-at", "ENOENT", "7:1:250:false"),
    ] {
        // Some may be explained by chance: a lock that came free in that moment.
        let is_it = |it: &Line| it.words[0] == call && it.answer.as_deref() == Some(from);
        let places = (0..calls.len()).filter(|&at| is_it(&calls[at])).take(10).collect::<Vec<_>>();
        let is_there = !places.is_empty();
        let is_refuted = places.into_iter().any(|at| {
            calls[at].answer = Some(to.to_owned());
            let is_refuted = explain(&calls).is_err();
            calls[at].answer = Some(from.to_owned());
            is_refuted
        });
        assert!(is_refuted || !is_there, "every {call} may as well be answered by {to}");
        if !is_there {
            println!("no {call} was answered by {from}");
        }
    }
}
