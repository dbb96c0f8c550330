//! The simulated kernel: names, files, open files with their locks, and processes, as one plain value.
//!
//! [`Kernel::perform`] is one system call. It either gives the call's answer or says that the caller
//! blocks. Which call comes next, and when, is decided elsewhere.
//!
//! Sources for what a call does: the man pages that `src/os/linux/files.rs` lists, and fs/locks.c.
//! `conformance.rs` compares this file with the real kernel.

pub use crate::calls::{Answer, Byte, Call, DEAD, Fd, Ino, Name, Pause, Stat, Text};
use crate::os::{Errno, Trust};

pub const PROCESSES: usize = 3;
pub const INODES: usize = 14;
pub const FDS: usize = 8;
pub const IDS: usize = 12;
pub const PATHS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Inode {
    pub text: Text,
    pub was_read: bool,
    /// Last written long ago.
    pub is_old: bool,
    /// Who blocks in flock, in order: 0, or process and descriptor.
    pub waiters: [u8; PROCESSES],
    pub is_used: bool,
    /// It was created without a name and never had one. A file that has lost its last name gets none
    /// any more (fs/namei.c, `vfs_link`).
    pub is_linkable: bool,
    /// The user's own.
    pub is_foreign: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Held {
    #[default]
    No,
    Shared,
    Exclusive,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Open {
    /// 0: not open.
    pub ino: Ino,
    /// How many owners it has beside the first.
    pub shared: u8,
    pub writes: bool,
    pub notes_reads: bool,
    pub flock: Held,
    /// Bytes with an exclusive lock, and with a shared one.
    pub exclusive_bytes: u32,
    pub shared_bytes: u32,
    pub lease: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Process {
    pub is_alive: bool,
    /// It was killed, and runs no more; the kernel still closes its files, one after the other.
    pub is_ending: bool,
    pub fds: [Open; FDS],
    /// Its own names for inode numbers: those that it may remember.
    pub ids: [Ino; IDS],
    /// Its own names for other processes.
    pub peers: [u8; PROCESSES],
}

impl Open {
    /// As the other side of a file server sees it.
    fn without_locks(self) -> Self {
        Self { flock: Held::No, exclusive_bytes: 0, shared_bytes: 0, ..self }
    }

    pub fn bytes(&self) -> u32 {
        self.exclusive_bytes | self.shared_bytes
    }
}

/// There are 32 here. As an end: all of them.
pub const ALL_BYTES: Byte = 32;

/// What kind of file system it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileSystem {
    /// What its locks prove, as far as the package knows. A file server's need a descriptor that is open for writing.
    pub trust: Trust,
    /// A process's locks and leases meet those of the others. `false`: every process has a mount of its own.
    pub excludes: bool,
    /// It has unnamed files.
    pub has_unnamed: bool,
    /// It can exchange two names.
    pub exchanges: bool,
    /// A number that has come free is given to the next file, as on ext4.
    pub reuses_numbers: bool,
    /// A link takes the old name away, and a file that is replaced is removed first, by its handle.
    pub is_windows: bool,
    /// The processes, as a mask, that run on the file server itself. For them it is a local disk. Their flocks and those
    /// of its clients don't meet; but the server has open what a client has open.
    pub on_server: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub fs: FileSystem,
    pub names: [Ino; PATHS],
    pub inodes: [Inode; INODES],
    /// Numbers that are free and that somebody remembers; the last came free last.
    pub freed: [Ino; INODES],
    pub processes: [Process; PROCESSES],
}

type Result<T> = std::result::Result<T, Errno>;

impl Kernel {
    pub fn new(fs: FileSystem) -> Self {
        Self {
            fs,
            names: [0; PATHS],
            inodes: [Inode::default(); INODES],
            freed: [0; INODES],
            processes: [Process::default(); PROCESSES],
        }
    }

    /// One system call of process `p`. `None`: it blocks; asked again, it goes on if it can.
    pub fn perform(&mut self, p: usize, call: Call) -> Option<Answer> {
        let answer = match call {
            Call::FlockWait(fd) => return self.flock_wait(p, fd),
            Call::ByteWait(fd, byte) if self.has_byte(p, fd, 1 << byte, false) => return None,
            Call::ByteWait(fd, byte) => self.lock_bytes(p, fd, 1 << byte, false),
            Call::ByteLock(fd, byte) => self.lock_bytes(p, fd, 1 << byte, true),
            Call::ByteLockAll(fd) => self.lock_bytes(p, fd, u32::MAX, true),
            Call::ByteAsk(fd, from, end) => Ok(Answer::Byte(self.locked_byte(p, fd, from, end))),
            Call::Open(name) => self.open(p, name, false),
            Call::OpenIfDead(name) => self.open_if_dead(p, name),
            Call::CreateOrOpen(name) if self.ino(name) == 0 => self.create(p, Some(name), false),
            Call::CreateOrOpen(name) => self.open_inode(p, self.ino(name), false, true),
            Call::CreateNew(name) if self.ino(name) == 0 => self.create(p, Some(name), true),
            Call::CreateNew(_) => Err(Errno::EXIST),
            Call::CreateUnnamed if self.fs.has_unnamed || self.is_on_server(p) => {
                self.create(p, None, true)
            }
            Call::CreateUnnamed => Err(Errno::OPNOTSUPP),
            Call::Reopen(fd) => {
                let ino = self.open_file(p, fd).ino;
                self.open_inode(p, ino, true, true)
            }
            Call::StatusAt(name) if self.ino(name) == 0 => Err(Errno::NOENT),
            Call::StatusAt(name) => {
                let stat = self.status(p, self.ino(name));
                Ok(Answer::Status(if name == Name::Queue { stat } else { stat.which_only() }))
            }
            Call::StatusOf(fd) => Ok(Answer::Status(self.status(p, self.open_file(p, fd).ino))),
            Call::Read(fd) => Ok(self.read(p, fd)),
            Call::LinkUnnamed(fd, name) => self.link(self.open_file(p, fd).ino, name),
            Call::Link(from, name) => {
                let linked = self.link(self.ino(from), name);
                if linked.is_ok() && self.fs.is_windows {
                    self.names[from as usize] = 0;
                }
                linked
            }
            Call::UnlinkOpen(fd) => self.unlink_open(self.open_file(p, fd).ino),
            Call::Rename(from, to) => self.rename(from, to),
            Call::Exchange(..) if !self.fs.exchanges && !self.is_on_server(p) => Err(Errno::INVAL),
            Call::Exchange(one, other) => self.exchange(one, other),
            Call::Unlink(name) => self.unlink(name),
            Call::Flock(fd) => self.flock(p, fd, Held::Exclusive),
            Call::FlockShared(fd) => self.flock(p, fd, Held::Shared),
            Call::SetLease(fd, exclusive) => self.set_lease(p, fd, exclusive),
            Call::FindProcess(peer) => Ok(Answer::Is(self.exists(p, peer))),
            Call::Finish => Ok(Answer::Finished),
            Call::Random | Call::Pause(_) | Call::End | Call::Nothing => Ok(Answer::Done),
            Call::Write(..)
            | Call::ForgetReads(_)
            | Call::Unlock(_)
            | Call::ByteUnlock(_)
            | Call::EndLease(_)
            | Call::Share(_)
            | Call::Close(_) => {
                self.change(p, call);
                Ok(Answer::Done)
            }
        };
        Some(answer.unwrap_or_else(Answer::Refused))
    }

    /// The calls that can't fail.
    fn change(&mut self, p: usize, call: Call) {
        match call {
            Call::Write(fd, text) => {
                let ino = self.open_file(p, fd).ino as usize;
                let who = u8::try_from(p).unwrap_or(DEAD);
                let text = match text {
                    Text::Ours { token, promises, .. } => Text::Ours { who, token, promises },
                    Text::Older { .. } => Text::Older { who },
                    other => other,
                };
                self.inodes[ino] = Inode { text, is_old: false, ..self.inodes[ino] };
            }
            Call::ForgetReads(fd) => {
                self.inodes[self.open_file(p, fd).ino as usize].was_read = false;
            }
            Call::Unlock(fd) => self.fd(p, fd).flock = Held::No,
            Call::ByteUnlock(fd) => {
                let open = self.fd(p, fd);
                (open.exclusive_bytes, open.shared_bytes) = (0, 0);
            }
            Call::EndLease(fd) => self.fd(p, fd).lease = Held::No,
            Call::Share(fd) => self.fd(p, fd).shared += 1,
            Call::Close(fd) if self.fd(p, fd).shared > 0 => self.fd(p, fd).shared -= 1,
            Call::Close(fd) => {
                self.leave_line(p, fd);
                let ino = std::mem::take(self.fd(p, fd)).ino;
                self.forget_unused(ino);
            }
            _ => {}
        }
    }

    pub fn ino(&self, name: Name) -> Ino {
        self.names.get(name as usize).copied().unwrap_or(0)
    }

    pub fn open_file(&self, p: usize, fd: Fd) -> Open {
        self.processes[p].fds[fd as usize]
    }

    pub fn fd(&mut self, p: usize, fd: Fd) -> &mut Open {
        &mut self.processes[p].fds[fd as usize]
    }

    /// All open files of this inode but this one, as far as its locks and leases meet theirs.
    pub fn others(&self, p: usize, fd: Fd, ino: Ino) -> impl Iterator<Item = Open> {
        let processes = self.processes.iter().enumerate();
        processes.filter(move |&(q, _)| self.fs.excludes || q == p).flat_map(move |(q, process)| {
            let is_far = self.is_on_server(p) != self.is_on_server(q);
            let fds = process.fds.iter().enumerate();
            fds.filter(move |&(other, open)| open.ino == ino && (q, other) != (p, fd as usize))
                .map(move |(_, open)| if is_far { open.without_locks() } else { *open })
        })
    }

    pub fn is_on_server(&self, p: usize) -> bool {
        self.fs.on_server >> p & 1 == 1
    }

    pub fn opens(&self, ino: Ino) -> impl Iterator<Item = &Open> {
        self.processes.iter().flat_map(|process| &process.fds).filter(move |open| open.ino == ino)
    }

    pub fn name_count(&self, ino: Ino) -> u8 {
        self.names.iter().map(|&named| u8::from(named == ino)).sum()
    }

    // --- Opening, creating, names ---------------------------------------------------------------

    fn open(&mut self, p: usize, name: Name, notes_reads: bool) -> Result<Answer> {
        match self.ino(name) {
            0 => Err(Errno::NOENT),
            ino => self.open_inode(p, ino, false, notes_reads),
        }
    }

    fn open_if_dead(&mut self, p: usize, name: Name) -> Result<Answer> {
        let inode = &mut self.inodes[self.names[name as usize] as usize];
        let is_dead = match inode.text {
            Text::Ours { who, .. } | Text::Older { who } => who == DEAD || usize::from(who) == p,
            // It leaves a file alone that may be about to be written.
            Text::Empty | Text::Torn | Text::Foreign => inode.is_old,
        };
        if inode.is_used && !is_dead {
            inode.was_read = true;
            return Err(Errno::BUSY);
        }
        self.open(p, name, true)
    }

    /// Every open here is non-blocking: a lease in the way refuses it.
    fn open_inode(&mut self, p: usize, ino: Ino, writes: bool, notes: bool) -> Result<Answer> {
        let conflicts = |open: &Open| match open.lease {
            Held::No => false,
            Held::Shared => writes,
            Held::Exclusive => true,
        };
        if self.opens(ino).any(conflicts) {
            return Err(Errno::AGAIN);
        }
        let fd = self.processes[p].fds.iter().position(|open| open.ino == 0);
        let fd = fd.expect("more descriptors than the simulation has");
        self.processes[p].fds[fd] = Open { ino, writes, notes_reads: notes, ..Open::default() };
        Ok(Answer::Fd(u8::try_from(fd).unwrap_or(u8::MAX)))
    }

    fn create(&mut self, p: usize, name: Option<Name>, writes: bool) -> Result<Answer> {
        let ino = self.new_number();
        let is_linkable = name.is_none();
        self.inodes[ino as usize] =
            Inode { is_used: true, was_read: true, is_linkable, ..Inode::default() };
        if let Some(name) = name {
            self.names[name as usize] = ino;
        }
        self.open_inode(p, ino, writes, true)
    }

    pub fn new_number(&mut self) -> Ino {
        if self.fs.reuses_numbers
            && let Some(last) = self.freed.iter().rposition(|&ino| ino != 0)
        {
            return std::mem::take(&mut self.freed[last]);
        }
        let is_free = |ino: &usize| {
            let number = u8::try_from(*ino).unwrap_or(0);
            !self.inodes[*ino].is_used && !self.is_remembered(number)
        };
        let ino = (1..INODES).find(is_free).expect("more inodes than the simulation has");
        u8::try_from(ino).unwrap_or(0)
    }

    pub fn is_remembered(&self, ino: Ino) -> bool {
        self.processes.iter().any(|process| process.ids.contains(&ino))
    }

    /// Notes that an inode is no more, if nothing leads to it.
    fn forget_unused(&mut self, ino: Ino) {
        if ino != 0 && self.name_count(ino) == 0 && self.opens(ino).next().is_none() {
            self.inodes[ino as usize] = Inode::default();
            let free = self.freed.iter().rposition(|&ino| ino != 0).map_or(0, |last| last + 1);
            self.freed[free] = ino;
            self.forget_numbers();
        }
    }

    /// Of free numbers only those are kept that somebody remembers.
    pub fn forget_numbers(&mut self) {
        let mut kept = [0; INODES];
        let freed = self.freed.iter().filter(|&&ino| ino != 0 && self.is_remembered(ino));
        kept.iter_mut().zip(freed).for_each(|(kept, &ino)| *kept = ino);
        self.freed = kept;
    }

    fn status(&mut self, p: usize, ino: Ino) -> Stat {
        let inode = self.inodes[ino as usize];
        let names = self.name_count(ino);
        let ids = &mut self.processes[p].ids;
        let known = ids.iter().position(|&known| known == ino);
        let id = known.or_else(|| ids.iter().position(|&known| known == 0));
        let id = id.expect("more remembered numbers than the simulation has");
        ids[id] = ino;
        Stat {
            id: u8::try_from(id).unwrap_or(0),
            names,
            is_empty: inode.text == Text::Empty,
            is_old: inode.is_old,
            was_read: inode.was_read,
        }
    }

    fn read(&mut self, p: usize, fd: Fd) -> Answer {
        let open = self.open_file(p, fd);
        let inode = &mut self.inodes[open.ino as usize];
        inode.was_read |= open.notes_reads;
        Answer::Text(match inode.text {
            Text::Ours { who, token, promises } => {
                Text::Ours { who: self.name_of_peer(p, who), token, promises }
            }
            Text::Older { who } => Text::Older { who: self.name_of_peer(p, who) },
            other => other,
        })
    }

    /// By which process `p` knows another: [`DEAD`], 0 for itself, or the place among its peers.
    fn name_of_peer(&mut self, p: usize, who: u8) -> u8 {
        if who == DEAD || usize::from(who) == p {
            return if who == DEAD { DEAD } else { 0 };
        }
        let peers = &mut self.processes[p].peers;
        let place = peers.iter().position(|&peer| peer == who + 1);
        let place = place.or_else(|| peers.iter().position(|&peer| peer == 0)).unwrap_or(0);
        peers[place] = who + 1;
        u8::try_from(place + 1).unwrap_or(DEAD)
    }

    fn exists(&self, p: usize, peer: u8) -> bool {
        match peer {
            0 => true,
            DEAD => false,
            peer => match self.processes[p].peers[usize::from(peer) - 1] {
                0 | DEAD => false,
                who => {
                    let process = &self.processes[usize::from(who) - 1];
                    process.is_alive || process.is_ending
                }
            },
        }
    }

    fn link(&mut self, ino: Ino, to: Name) -> Result<Answer> {
        if ino == 0 {
            return Err(Errno::NOENT);
        }
        if self.ino(to) != 0 {
            return Err(Errno::EXIST);
        }
        let is_linkable = std::mem::take(&mut self.inodes[ino as usize].is_linkable);
        if !is_linkable && self.name_count(ino) == 0 {
            return Err(Errno::NOENT);
        }
        self.names[to as usize] = ino;
        Ok(Answer::Done)
    }

    fn rename(&mut self, from: Name, to: Name) -> Result<Answer> {
        if self.fs.is_windows {
            return Err(Errno::NOSYS);
        }
        let (ino, over) = (self.ino(from), self.ino(to));
        if ino == 0 {
            return Err(Errno::NOENT);
        }
        // Two names of one file: nothing happens (rename(2)).
        if ino != over {
            self.names[from as usize] = 0;
            self.names[to as usize] = ino;
            self.forget_unused(over);
        }
        Ok(Answer::Done)
    }

    fn exchange(&mut self, one: Name, other: Name) -> Result<Answer> {
        if self.ino(one) == 0 || self.ino(other) == 0 {
            return Err(Errno::NOENT);
        }
        self.names.swap(one as usize, other as usize);
        Ok(Answer::Done)
    }

    pub fn unlink(&mut self, name: Name) -> Result<Answer> {
        let ino = std::mem::take(&mut self.names[name as usize]);
        self.forget_unused(ino);
        if ino == 0 { Err(Errno::NOENT) } else { Ok(Answer::Done) }
    }

    fn unlink_open(&mut self, ino: Ino) -> Result<Answer> {
        let name = self.names.iter().position(|&it| it == ino).ok_or(Errno::NOENT)?;
        self.names[name] = 0;
        self.forget_unused(ino);
        Ok(Answer::Done)
    }

    // --- Processes ------------------------------------------------------------------------------

    /// A process is killed. Its files are closed one after the other, in any order, while others go on; those
    /// at once that nobody else can see.
    pub fn kill(&mut self, p: usize) {
        self.processes[p].is_alive = false;
        self.processes[p].is_ending = true;
        for (fd, open) in (0..).zip(self.processes[p].fds) {
            let is_plain = open.flock == Held::No && open.bytes() == 0 && open.lease == Held::No;
            if open.ino != 0 && is_plain && self.name_count(open.ino) == 0 {
                self.close_of_killed(p, fd);
            }
        }
    }

    /// One file of a killed process is closed.
    pub fn close_of_killed(&mut self, p: usize, fd: Fd) {
        self.fd(p, fd).shared = 0;
        self.change(p, Call::Close(fd));
    }

    /// A process ends, for whatever reason: its files are closed.
    pub fn end(&mut self, p: usize) {
        for fd in 0..FDS {
            if self.processes[p].fds[fd].ino != 0 {
                self.close_of_killed(p, u8::try_from(fd).unwrap_or(0));
            }
        }
        self.processes[p] = Process::default();
        self.forget_numbers();
        let it = u8::try_from(p).unwrap_or(DEAD);
        for inode in &mut self.inodes {
            match &mut inode.text {
                Text::Ours { who, .. } | Text::Older { who } if *who == it => *who = DEAD,
                _ => {}
            }
        }
        for peer in self.processes.iter_mut().flat_map(|process| &mut process.peers) {
            if *peer == it + 1 {
                *peer = DEAD;
            }
        }
    }
}
