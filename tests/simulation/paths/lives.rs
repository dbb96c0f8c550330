//! A trace, taken apart into what each thread of each process did, in the words of the simulation.
//!
//! Descriptors, inode numbers and tokens get small numbers. A descriptor's number is new with each file that is opened
//! under it, so a use after the file was closed is another call.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use crate::calls::{Answer, Byte, Call, Fd, Stat, Text};
use crate::log::{Line, errno_named};
use crate::record::DeclaredWitness;

/// One process.
pub struct Life {
    pub name: String,
    /// By thread.
    pub threads: Vec<Rc<Vec<Entry>>>,
    /// When it ended.
    pub ended: u64,
}

/// What a thread did.
#[derive(Clone)]
pub struct Entry {
    pub begin: u32,
    pub end: u32,
    pub began: u64,
    pub ended: u64,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Call(Asked, Answer),
    /// The process was killed in a call. What strace says of that one is not to be relied on.
    Killed,
    /// JavaScript asks for something.
    Begins(Vec<String>),
    /// It has its answer.
    Ends(String),
    /// A file's real path is found.
    Resolves,
    /// The timers' thread wakes up.
    Wakes,
}

/// A call; where the kernel has written its answer over the question, what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Call(Call),
    /// Whether there is a lock on bytes of this file: there is one from here to there.
    Byte(Fd, u64, u64),
}

impl Asked {
    pub fn may_be(&self, call: Call) -> bool {
        match (self, call) {
            (Self::Byte(file, start, end), Call::ByteAsk(fd, from, to)) => {
                *file == fd && *start < to.into() && *end > from.into()
            }
            (Self::Call(asked), call) => *asked == call,
            (Self::Byte(..), _) => false,
        }
    }

    /// Where the kernel has written over what was asked, one question may stand for two.
    pub fn is_unclear(&self) -> bool {
        matches!(self, Self::Byte(..))
    }

    /// Whether a wait can begin with it: a file is prepared, or somebody is before us, or has the flock.
    pub fn begins_a_wait(&self) -> bool {
        use Call::{ByteAsk, CreateUnnamed, FlockWait};
        matches!(self, Self::Byte(..) | Self::Call(ByteAsk(..) | CreateUnnamed | FlockWait(_)))
    }
}

impl Life {
    /// Takes the lives out of a trace.
    pub fn all(trace: &[Line]) -> Vec<Self> {
        let ends: Vec<_> = trace.iter().filter(|line| line.words[0] == "end").collect();
        let end_of = |line: &Line| {
            let is_its = |end: &&&Line| end.process == line.process && end.end >= line.begin;
            ends.iter().filter(is_its).map(|end| (end.end, end.ended)).min()
        };
        let mut by_end = BTreeMap::<_, Vec<&Line>>::new();
        for line in trace.iter().filter(|line| line.words[0] != "end") {
            let (end, ended) = end_of(line).expect("each process ends");
            by_end.entry((end, line.process, ended)).or_default().push(line);
        }
        let life = |((end, process, ended), lines): (_, Vec<_>)| {
            let name = format!("process {process} until line {end}");
            Self { name, threads: Names::default().threads(&lines), ended }
        };
        by_end.into_iter().map(life).collect()
    }

    /// How many entries there are.
    pub fn length(&self) -> usize {
        self.threads.iter().map(|log| log.len()).sum()
    }
}

/// What leads from the log's names to those of the simulation.
struct Names {
    /// By descriptor.
    files: HashMap<u32, Fd>,
    /// Those that nobody has had for longest come first.
    free: VecDeque<Fd>,
    /// The real numbers; who was seen last is the last.
    inodes: VecDeque<(u64, u8)>,
}

impl Default for Names {
    fn default() -> Self {
        let inodes = (0..=250).map(|number| (0, number)).collect();
        Self { files: HashMap::new(), free: (0..=250).collect(), inodes }
    }
}

impl Names {
    fn threads(mut self, lines: &[&Line]) -> Vec<Rc<Vec<Entry>>> {
        // A file is there from the end of its opening to the beginning of its closing.
        let begins = lines.iter().enumerate().map(|(at, line)| (line.begin, at, false));
        let ends = lines.iter().enumerate().map(|(at, line)| (line.end, at, true));
        let mut moments: Vec<_> = begins.chain(ends).collect();
        moments.sort_unstable();
        let mut steps: Vec<Option<Step>> = lines.iter().map(|_| None).collect();
        for (_, at, is_end) in moments {
            let (line, step) = (lines[at], &mut steps[at]);
            match (&step, line.answer.as_deref()) {
                (_, None) => *step = Some(Step::Killed),
                (_, Some(_)) if !is_end => *step = self.step(line),
                (Some(Step::Call(asked, _)), Some(answer)) => {
                    *step = Some(Step::Call(asked.clone(), self.answer(asked, answer)));
                }
                _ => {}
            }
        }
        let mut threads = BTreeMap::<_, Vec<_>>::new();
        for (line, step) in lines.iter().zip(steps) {
            let Line { begin, end, began, ended, .. } = **line;
            let entry = step.map(|step| Entry { begin, end, began, ended, step });
            threads.entry(line.thread).or_default().extend(entry);
        }
        threads.into_values().map(Rc::new).collect()
    }

    /// `None`: nothing that is compared. The answer comes later.
    fn step(&mut self, line: &Line) -> Option<Step> {
        let call = match (line.word(0), line.call_on_names()) {
            ("note", _) if line.word(1) == "begin" => {
                return Some(Step::Begins(line.words[2..].to_vec()));
            }
            ("note", _) => return Some(Step::Ends(line.word(2).to_owned())),
            ("resolve", _) => return Some(Step::Resolves),
            ("wake", _) => return Some(Step::Wakes),
            ("close", _) => {
                // When a file is closed is not compared: its last owner may be on any thread.
                self.free.extend(self.files.remove(&number(line.word(1))));
                return None;
            }
            ("byte-ask", _) => {
                return Some(Step::Call(question(self.fd(line), line), Answer::Done));
            }
            (_, Some(call)) => call,
            (_, None) => {
                let byte = if line.is_on_a_byte() { number(line.word(2)) } else { 0 };
                line.call_on_file(self.fd(line), byte, |word| text(word, 0))
            }
        };
        Some(Step::Call(Asked::Call(call), Answer::Done))
    }

    fn fd(&self, line: &Line) -> Fd {
        self.files.get(&number(line.word(1))).copied().unwrap_or(NO_FILE)
    }

    fn answer(&mut self, asked: &Asked, answer: &str) -> Answer {
        if answer.starts_with('E') {
            return Answer::Refused(errno_named(answer).expect("a known errno"));
        }
        let call = match *asked {
            Asked::Byte(_, start, _) => return Answer::Byte(Byte::try_from(start).ok()),
            Asked::Call(call) => call,
        };
        match call {
            Call::Open(_)
            | Call::CreateOrOpen(_)
            | Call::CreateNew(_)
            | Call::CreateUnnamed
            | Call::Reopen(_) => {
                let fd = self.free.pop_front().expect("a free number");
                let open = self.files.insert(number(answer), fd);
                assert!(open.is_none(), "descriptor {answer} is open already");
                Answer::Fd(fd)
            }
            Call::StatusAt(_) | Call::StatusOf(_) => Answer::Status(self.status(answer)),
            Call::Read(_) => Answer::Text(text(answer, 1)),
            Call::ByteAsk(..) => Answer::Byte(None),
            _ => Answer::Done,
        }
    }

    /// `inode:names:size:was it read`
    fn status(&mut self, answer: &str) -> Stat {
        let parts: Vec<_> = answer.split(':').collect();
        let real = number(parts[0]);
        let place = self.inodes.iter().position(|(known, _)| *known == real);
        let (_, id) = self.inodes.remove(place.unwrap_or(0)).expect("as above");
        self.inodes.push_back((real, id));
        Stat {
            id,
            names: number(parts[1]),
            is_empty: parts[2] == "0",
            is_old: false,
            was_read: parts[3] == "true",
        }
    }
}

/// What a call names that is on no file.
const NO_FILE: Fd = Fd::MAX;

/// What is left of a question about bytes: all of it if there was no lock.
fn question(fd: Fd, line: &Line) -> Asked {
    let answer = line.answer.as_deref().unwrap_or("none:0:0");
    let range = answer.strip_prefix("none:");
    let (start, length) = range.unwrap_or(answer).split_once(':').unwrap_or(("0", "0"));
    let (start, length): (u64, u64) = (number(start), number(length));
    let end = if length == 0 { u64::MAX } else { start + length };
    if range.is_none() {
        return Asked::Byte(fd, start, end);
    }
    let small = |byte: u64| Byte::try_from(byte).unwrap_or(Byte::MAX);
    Asked::Call(Call::ByteAsk(fd, small(start), small(end)))
}

/// All records of others are the same here, and so are all of its own.
fn text(word: &str, who: u8) -> Text {
    match word {
        "empty" => Text::Empty,
        "torn" => Text::Torn,
        _ => Text::Ours { who, token: 0, promises: Some(DeclaredWitness::Flock) },
    }
}

fn number<T: TryFrom<u64>>(word: &str) -> T {
    let number = word.parse::<u64>().ok().and_then(|number| T::try_from(number).ok());
    number.unwrap_or_else(|| panic!("a number: {word}"))
}
