//! What real processes asked of the real kernel, as `scripts/storm/calls.mjs` writes it.

use crate::calls::{Byte, Call, Fd, Name, Text};
use crate::os::Errno;

/// A call, or another thing that a thread did.
pub struct Line {
    /// The lines of strace's log between which it took effect,
    pub begin: u32,
    pub end: u32,
    /// and when strace wrote them, in microseconds.
    pub began: u64,
    pub ended: u64,
    pub process: usize,
    pub thread: u32,
    pub words: Vec<String>,
    /// `None`: its process was killed in it, so it took effect or not.
    pub answer: Option<String>,
}

pub fn parse(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let (call, answer) = line.rsplit_once(" = ").expect("an answer");
        let mut words = call.split(' ').map(str::to_owned);
        let mut number =
            || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
        let mut small = || u32::try_from(number()).expect("a small number");
        let (begin, end) = (small(), small());
        Line {
            begin,
            end,
            began: number(),
            ended: number(),
            process: usize::try_from(number()).expect("a small number"),
            thread: u32::try_from(number()).expect("a small number"),
            words: words.collect(),
            answer: (answer != "?").then(|| answer.to_owned()),
        }
    };
    text.lines().map(line).collect()
}

/// The trace that the environment names.
pub fn read() -> Vec<Line> {
    let path = std::env::var("SIMULATION_TRACE").expect("the path of a trace");
    parse(&std::fs::read_to_string(path).expect("a trace"))
}

impl Line {
    pub fn word(&self, place: usize) -> &str {
        &self.words[place]
    }

    /// A call on names only. `None`: it is on an open file, or none.
    pub fn call_on_names(&self) -> Option<Call> {
        let name = |place| name(self.word(place));
        Some(match self.word(0) {
            "open" => Call::Open(name(1)),
            "create-or-open" => Call::CreateOrOpen(name(1)),
            "create-new" => Call::CreateNew(name(1)),
            "create-unnamed" => Call::CreateUnnamed,
            "status-at" => Call::StatusAt(name(1)),
            "unlink" => Call::Unlink(name(1)),
            "link" => Call::Link(name(1), name(2)),
            "rename" => Call::Rename(name(1), name(2)),
            "exchange" => Call::Exchange(name(1), name(2)),
            _ => return None,
        })
    }

    /// Whether a call is on one byte, which it names.
    pub fn is_on_a_byte(&self) -> bool {
        matches!(self.word(0), "byte-lock" | "byte-wait")
    }

    /// A call on the open file `fd`. `byte`: the one that it is on; `text`: for the text of what it writes.
    pub fn call_on_file(&self, fd: Fd, byte: Byte, text: impl FnOnce(&str) -> Text) -> Call {
        match self.word(0) {
            "reopen" => Call::Reopen(fd),
            "status-of" => Call::StatusOf(fd),
            "read" => Call::Read(fd),
            "write" => Call::Write(fd, text(self.word(2))),
            "forget-reads" => Call::ForgetReads(fd),
            "flock" => Call::Flock(fd),
            "flock-wait" => Call::FlockWait(fd),
            "flock-shared" => Call::FlockShared(fd),
            "unlock" => Call::Unlock(fd),
            "byte-lock" => Call::ByteLock(fd, byte),
            "byte-wait" => Call::ByteWait(fd, byte),
            "byte-lock-all" => Call::ByteLockAll(fd),
            "byte-unlock" => Call::ByteUnlock(fd),
            "link-unnamed" => Call::LinkUnnamed(fd, name(self.word(2))),
            "lease" => Call::SetLease(fd, self.word(2) == "exclusive"),
            "end-lease" => Call::EndLease(fd),
            "close" => Call::Close(fd),
            other => panic!("an unknown call: {other}"),
        }
    }
}

fn name(word: &str) -> Name {
    match word {
        "lock" => Name::Lock,
        "queue" => Name::Queue,
        "temporary" => Name::Temporary,
        "guard" => Name::Guard,
        other => panic!("an unknown file: {other}"),
    }
}

pub fn errno_named(name: &str) -> Option<Errno> {
    (1..200).map(Errno::from_raw).find(|errno| errno.name() == Some(name))
}
