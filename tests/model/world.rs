//! What the contenders share: two names, a few files, and what each process has open.
//!
//! A lock (flock or mark) belongs to an open file, as in the kernel, and goes when that is closed.
//! A file that nobody names and nobody has open is no more, and its number goes to the next one.

#![allow(clippy::cast_possible_truncation, reason = "the numbers here are small")]

/// A file's number.
pub type Ino = u8;
/// Tells one record from another: 0 is none. See [`World::fresh_token`].
pub type Token = u8;

pub const FILES: usize = 8;
/// As many as one process can have about at a time.
const TOKENS_EACH: u8 = 5;
/// The token of a holder that was dead before it all began.
pub const OF_THE_DEAD: Token = 99;
const DEAD: u8 = 99; // the number of its process

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Text {
    #[default]
    Empty,
    /// A record of the addon's. `promises`: that its writer keeps the flock.
    Ours { token: Token, promises: bool },
    /// First byte spoilt; the rest still has this token, or none that is known.
    Spoilt(Token),
    /// A record of this older process.
    Older(u8),
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// 0: not open.
    pub ino: Ino,
    pub writes: bool,
    pub flock: bool,
    /// The mark of those in line.
    pub line: bool,
    /// The mark of one who has handed on.
    pub mark: Token,
}

/// What a process has open.
pub const CUR: usize = 0; // what it looks at, takes, holds
pub const PLACE: usize = 1; // by which a thread of its stands in line
pub const LEFT: usize = 2; // what it has handed on
pub const TMP: usize = 3; // the temporary, its own or another's

/// Where a process is: the step that it takes next.
#[rustfmt::skip]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pc {
    Idle, Gone, Ending,
    // Looking
    Open, LookFlock, LookNames, LookRead, LookAsk, LookUnlock, Watch, Link,
    // Waiting, coming back
    Prepare, Mark, InLine, Come, ComeNames, ComeRead, TakeBack, Behind,
    // Inheriting
    TakeMarks, MarkBefore, Spoil, Rest, Mend, MarkAfter, Still, LeaveLine,
    // Sweeping the temporary
    SweepOpen, SweepFlock, SweepAsk, SweepNames, SweepUnlink,
    // Taking over by exchange
    TmpCreate, TmpFlock, TmpWrite, TmpNames, DeadNames, Exchange, Out, OutUnlink, Mine,
    Back, BackLink, BackUnlink, Discard, DiscardUnlink,
    // Holding and letting go
    Settling, Hold, HandLine, HandMark, HandNames, HandUnlock, Names, Unlink, Unlock,
    // An older process
    OldIdle, OldTry, OldJudge, OldGap, OldWrite, OldHold, OldRemove,
}

/// What becomes of the place in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    #[default]
    None,
    Wanted,
    /// Nobody waits there any more, and the thread hasn't noticed.
    Abandoned,
    /// The flock came too late.
    Come,
    Named,
}

/// Where a look back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookBack {
    #[default]
    Due,
    Locked,
    Ours,
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pc: Pc,
    pub open: [Open; 4],
    pub place: Place,
    pub look_back: LookBack,
    /// Of the record that it has left in LEFT.
    pub left: Token,
    /// Of its own record.
    pub token: Token,
    /// Of the record that it writes over; whether its writer has handed on, and lives.
    pub previous: Token,
    pub own: Token,
    pub handed_on: bool,
    /// Settling: an older process has read a dead record before, and has not removed anything yet.
    pub is_read: bool,
    /// How often it will come.
    pub turns: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// What the lock file's name and the temporary's name. 0: nothing.
    pub path: Ino,
    pub temporary: Ino,
    pub text: [Text; FILES],
    /// The first so many use the addon, the others the older module.
    pub addons: u8,
    pub processes: [Process; 3],
    /// How many more crashes there may be, and removals by hand.
    pub crashes: u8,
    pub hands: u8,
    /// Whether a crash may have left something behind.
    pub is_littered: bool,
    /// A promise that was broken in the last step.
    pub broken: Option<&'static str>,
}

impl Process {
    pub fn new(pc: Pc, turns: u8) -> Self {
        Self {
            pc,
            open: [Open::default(); 4],
            place: Place::None,
            look_back: LookBack::Due,
            left: 0,
            token: 0,
            previous: 0,
            own: 0,
            handed_on: false,
            is_read: false,
            turns,
        }
    }

    pub fn holds(&self) -> bool {
        matches!(self.pc, Pc::Hold | Pc::OldHold)
    }

    pub fn is_alive(&self) -> bool {
        self.pc != Pc::Gone
    }

    pub fn wants(&self) -> bool {
        use Pc::{Ending, Gone, HandLine, HandMark, HandNames, HandUnlock, Idle, Names, OldIdle};
        !matches!(
            self.pc,
            Idle | Gone | Ending | HandLine | HandMark | HandNames | HandUnlock | Names | OldIdle
        ) && !matches!(self.pc, Pc::Unlink | Pc::Unlock | Pc::OldRemove)
    }

    /// Whether it is about to remove the path, whatever stands there by then: because of what it has
    /// read, or as its release.
    pub fn is_in_gap(&self) -> bool {
        matches!(self.pc, Pc::OldGap | Pc::OldJudge | Pc::OldRemove)
    }
}

impl World {
    pub fn go(&mut self, who: usize, pc: Pc) {
        self.processes[who].pc = pc;
    }

    pub fn file(&self, who: usize, slot: usize) -> Open {
        self.processes[who].open[slot]
    }

    pub fn open_mut(&mut self, who: usize, slot: usize) -> &mut Open {
        &mut self.processes[who].open[slot]
    }

    pub fn open(&mut self, who: usize, slot: usize, ino: Ino) -> &mut Open {
        let open = self.open_mut(who, slot);
        *open = Open { ino, ..Open::default() };
        open
    }

    pub fn close(&mut self, who: usize, slot: usize) {
        *self.open_mut(who, slot) = Open::default();
    }

    pub fn shift(&mut self, who: usize, from: usize, to: usize) {
        *self.open_mut(who, to) = std::mem::take(self.open_mut(who, from));
    }

    pub fn text(&self, who: usize, slot: usize) -> Text {
        self.text[self.file(who, slot).ino as usize]
    }

    pub fn write(&mut self, who: usize, slot: usize, text: Text) {
        let ino = self.file(who, slot).ino;
        self.accuse(who, ino, "writes into a live lock");
        self.text[ino as usize] = text;
    }

    /// A new file with no name, open for writing.
    pub fn create(&mut self, who: usize, slot: usize) -> Ino {
        let is_used = |ino: Ino| ino == self.path || ino == self.temporary || self.is_open(ino);
        let ino =
            (1..FILES as Ino).find(|&ino| !is_used(ino)).expect("more files than the model has");
        self.text[ino as usize] = Text::Empty;
        self.open(who, slot, ino).writes = true;
        ino
    }

    pub fn unlink_path(&mut self, who: usize) {
        self.accuse(who, self.path, "removes a live lock");
        self.path = 0;
    }

    fn accuse(&mut self, who: usize, ino: Ino, what: &'static str) {
        let is_held = |(other, process): (usize, &Process)| {
            other != who && process.holds() && process.open[CUR].ino == ino
        };
        if ino != 0 && self.processes.iter().enumerate().any(is_held) {
            self.broken = Some(what);
        }
    }

    fn others(&self, who: usize, slot: usize) -> impl Iterator<Item = Open> {
        let ino = self.file(who, slot).ino;
        let all = self.processes.iter().enumerate();
        let all = all
            .flat_map(|(p, process)| process.open.iter().enumerate().map(move |(s, o)| (p, s, *o)));
        all.filter(move |&(p, s, open)| open.ino == ino && (p, s) != (who, slot))
            .map(|(_, _, open)| open)
    }

    fn is_open(&self, ino: Ino) -> bool {
        self.processes.iter().flat_map(|process| process.open).any(|open| open.ino == ino)
    }

    pub fn is_flocked(&self, who: usize, slot: usize) -> bool {
        self.others(who, slot).any(|open| open.flock)
    }

    pub fn is_written(&self, who: usize, slot: usize) -> bool {
        self.others(who, slot).any(|open| open.writes)
    }

    pub fn has_line(&self, who: usize, slot: usize) -> bool {
        self.others(who, slot).any(|open| open.line)
    }

    pub fn is_marked(&self, who: usize, slot: usize, token: Token) -> bool {
        token != 0 && self.others(who, slot).any(|open| open.mark == token)
    }

    pub fn names(&self, who: usize, slot: usize) -> bool {
        self.path == self.file(who, slot).ino
    }

    pub fn writer_of(token: Token) -> u8 {
        if token == OF_THE_DEAD { DEAD } else { (token - 1) / TOKENS_EACH }
    }

    pub fn older_dead() -> Text {
        Text::Older(DEAD)
    }

    pub fn lives(&self, number: u8) -> bool {
        self.processes.get(number as usize).is_some_and(Process::is_alive)
    }

    /// One that stands nowhere. (They are random: no two are the same.)
    pub fn fresh_token(&self, who: usize) -> Token {
        let is_in_use = |token: Token| {
            let says = |text: &Text| {
                *text == Text::Spoilt(token)
                    || matches!(text, Text::Ours { token: t, .. } if *t == token)
            };
            self.text.iter().any(says)
                || self.processes.iter().any(|process| {
                    [process.left, process.token, process.previous, process.own].contains(&token)
                        || process.open.iter().any(|open| open.mark == token)
                })
        };
        let first = 1 + who as Token * TOKENS_EACH;
        (first..first + TOKENS_EACH)
            .find(|&token| !is_in_use(token))
            .expect("more tokens than the model has")
    }

    /// Its open files are closed, and with them go flocks and marks. Its number means nothing any more.
    pub fn end(&mut self, who: usize) {
        self.leave_gap(who);
        self.processes[who] = Process::new(Pc::Gone, 0);
    }

    /// It has removed what it wanted to, or will not.
    pub fn leave_gap(&mut self, who: usize) {
        let is_last = |(other, process): (usize, &Process)| other == who || !process.is_in_gap();
        if self.processes.iter().enumerate().all(is_last) {
            self.processes.iter_mut().for_each(|process| process.is_read = false);
        }
    }

    /// Whether somebody has the flock of what is at the path.
    pub fn is_taken(&self) -> bool {
        let mut all = self.processes.iter().flat_map(|process| process.open);
        all.any(|open| open.ino == self.path && open.flock)
    }

    pub fn is_gap_open(&self) -> bool {
        self.processes.iter().any(Process::is_in_gap)
    }

    /// What nobody can reach is forgotten.
    pub fn forget(&mut self) {
        for ino in 0..FILES as Ino {
            if ino == 0 || ino != self.path && ino != self.temporary && !self.is_open(ino) {
                self.text[ino as usize] = Text::Empty;
            }
        }
    }
}
