//! The words between a process and the kernel: system calls, their answers, and what is in a file.

use crate::os::Errno;
use crate::record::DeclaredWitness;

/// An inode number. 0: none.
pub type Ino = u8;
/// A descriptor, as its process numbers it.
pub type Fd = u8;

/// The number of a byte in a queue file. A simulated file has few; a real one, in a trace, has more.
pub type Byte = u16;

/// The names that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    Lock,
    Queue,
    Temporary,
    /// Another file of the user's. Nobody here may touch it.
    Victim,
    /// The folder of late releases of the older module. It never exists here.
    Guard,
}

/// What is in a file. `who` is a process, or [`DEAD`] where that one has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Text {
    #[default]
    Empty,
    /// A record of this package's.
    Ours { who: u8, token: u8, promises: Option<DeclaredWitness> },
    /// A record of the older module's.
    Older { who: u8 },
    /// No record.
    Torn,
    /// The user's own.
    Foreign,
}

/// A process that has ended. All of them look the same.
pub const DEAD: u8 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// For reading.
    Open(Name),
    /// The older module opens a lock file to read it, if it is going to think it dead. It asks for the
    /// process later, and may find that one gone which was there when it read. Nothing can close that
    /// gap (docs/protocol.md, *Mixed operation*), so it is left out: here it asks when it opens the file.
    OpenIfDead(Name),
    CreateOrOpen(Name),
    CreateNew(Name),
    CreateUnnamed,
    Reopen(Fd),
    Write(Fd, Text),
    Read(Fd),
    ForgetReads(Fd),
    StatusAt(Name),
    StatusOf(Fd),
    LinkUnnamed(Fd, Name),
    Link(Name, Name),
    Rename(Name, Name),
    Exchange(Name, Name),
    /// Windows: removes the name of an open file, and of no other.
    UnlinkOpen(Fd),
    Unlink(Name),
    Flock(Fd),
    FlockShared(Fd),
    FlockWait(Fd),
    Unlock(Fd),
    /// An exclusive lock on one byte.
    ByteLock(Fd, Byte),
    /// On all bytes.
    ByteLockAll(Fd),
    /// A shared lock on a byte, waited for.
    ByteWait(Fd, Byte),
    ByteUnlock(Fd),
    /// `F_OFD_GETLK`: an exclusive lock of another open file on a byte from the one on and before the
    /// other, and where that lock begins.
    ByteAsk(Fd, Byte, Byte),
    /// `F_SETLEASE`; the flag: `F_WRLCK` rather than `F_RDLCK`.
    SetLease(Fd, bool),
    EndLease(Fd),
    FindProcess(u8),
    Random,
    /// One more owner of an open file in its process.
    Share(Fd),
    /// One owner less; the file is closed with the last.
    Close(Fd),
    /// A point at which a script waits for something that is no system call.
    Pause(Pause),
    /// An order of a machine is done.
    Finish,
    /// No job is there.
    Nothing,
    End,
}

/// Where a script pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pause {
    /// It will come, or not.
    Idle,
    /// It holds the lock.
    Hold,
    /// It has taken a lock over, and waits.
    Settle,
    /// It looks again later.
    Later,
    /// It waits for nothing. All that remember the same here go on as one.
    Here,
    /// The older module has read a dead record and is about to remove the path.
    Gap,
    /// The older module has closed its lock file and is about to remove the path.
    Releasing,
}

/// What a call answers. Numbers of files and processes are the caller's own names for them, so that
/// equal histories of two processes are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Done,
    Refused(Errno),
    Fd(Fd),
    Text(Text),
    Status(Stat),
    Is(bool),
    /// Where a lock begins.
    Byte(Option<Byte>),
    /// A pause is over; `false`: give up.
    Go(bool),
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    pub id: u8,
    pub names: u8,
    pub is_empty: bool,
    pub is_old: bool,
    pub was_read: bool,
}

impl Stat {
    /// Of the lock file and the temporary, a look at the path is only to tell which file it is. The rest
    /// would tell histories apart that go on equally; it is nonsense here, so that its use would show.
    pub fn which_only(self) -> Self {
        Self { names: 99, is_empty: true, is_old: true, was_read: true, ..self }
    }
}
