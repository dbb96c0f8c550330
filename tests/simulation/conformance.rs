//! The simulated kernel against the real one: the same calls by chance, and the answers compared.
//!
//! Several open files stand for several processes: a lock belongs to an open file. What blocks is left
//! out, and so are inode numbers but for which of them are equal.

use std::path::{Path, PathBuf};

use crate::cast::EXT4;
use crate::explore::Chance;
use crate::kernel::{ALL_BYTES, Answer, Call, Fd, Kernel, Name, Text};
use crate::os::{Errno, FileId, Lease, Result, Status};

/// What the shipped code calls on Linux.
#[allow(dead_code, unused_imports, clippy::pedantic, reason = "not all of it is compared")]
#[path = "../../src/os/linux/files.rs"]
mod real;

/// An open file in both kernels.
struct Open {
    p: usize,
    fd: Fd,
    file: real::File,
}

struct Pair {
    folder: tempfile::TempDir,
    kernel: Kernel,
    opens: Vec<Open>,
    notes_reads: bool,
    told: Vec<String>,
}

const NAMES: [Name; 3] = [Name::Lock, Name::Queue, Name::Temporary];

/// Compares so many sequences in a folder of this file system.
fn compare(folder: &Path, sequences: u64) {
    let notes_reads = notes_reads(folder);
    for seed in 1..=sequences {
        let mut chance = Chance::new(seed);
        let mut pair = Pair {
            folder: tempfile::tempdir_in(folder).unwrap(),
            kernel: Kernel::new(EXT4),
            opens: Vec::new(),
            notes_reads,
            told: Vec::new(),
        };
        pair.kernel.processes.iter_mut().for_each(|process| process.is_alive = true);
        for _ in 0..60 {
            pair.step(&mut chance);
        }
    }
    let name = folder.display();
    println!(
        "{sequences} sequences in {name}, reads are {}noted",
        if notes_reads { "" } else { "not " }
    );
}

/// A mount may leave reads out.
fn notes_reads(folder: &Path) -> bool {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let file = real::create_new(&folder.path().join("f")).unwrap();
    real::write(&file, b"x", 0).unwrap();
    real::forget_reads(&file).unwrap();
    real::read(&file, 1).unwrap();
    real::status_of(&file).unwrap().was_read
}

impl Pair {
    fn path(&self, name: Name) -> PathBuf {
        self.folder.path().join(format!("{name:?}"))
    }

    fn step(&mut self, chance: &mut Chance) {
        let name = NAMES[chance.below(NAMES.len())];
        let other = NAMES[chance.below(NAMES.len())];
        let p = chance.below(3);
        let is_full = self.kernel.processes[p].fds.iter().filter(|open| open.ino != 0).count() > 4;
        let opening = [
            Call::Open(name),
            Call::CreateOrOpen(name),
            Call::CreateNew(name),
            Call::CreateUnnamed,
        ];
        let naming = [
            Call::StatusAt(name),
            Call::Link(name, other),
            Call::Rename(name, other),
            Call::Exchange(name, other),
            Call::Unlink(name),
        ];
        if self.opens.is_empty() || chance.below(3) == 0 {
            if chance.below(2) == 0 && !is_full {
                self.open(p, opening[chance.below(opening.len())]);
            } else {
                self.name(naming[chance.below(naming.len())]);
            }
            return;
        }
        let open = chance.below(self.opens.len());
        let fd = self.opens[open].fd;
        let (byte, end) = ([0, 1, 2][chance.below(3)], [1, 2, ALL_BYTES][chance.below(3)]);
        let calls = [
            Call::Reopen(fd),
            Call::Write(fd, Text::Torn),
            Call::Read(fd),
            Call::ForgetReads(fd),
            Call::StatusOf(fd),
            Call::LinkUnnamed(fd, name),
            Call::Flock(fd),
            Call::Flock(fd),
            Call::FlockShared(fd),
            Call::Unlock(fd),
            Call::ByteLock(fd, byte),
            Call::ByteLock(fd, byte),
            Call::ByteLockAll(fd),
            Call::ByteWait(fd, byte),
            Call::ByteUnlock(fd),
            Call::ByteAsk(fd, byte, end),
            Call::SetLease(fd, false),
            Call::SetLease(fd, true),
            Call::Close(fd),
        ];
        let call = calls[chance.below(calls.len())];
        let p = self.opens[open].p;
        match call {
            Call::Reopen(_) if self.kernel.processes[p].fds.iter().all(|open| open.ino != 0) => {}
            Call::Reopen(_) => self.open_again(open),
            // It would block.
            Call::ByteWait(..) if self.kernel.clone().perform(p, call).is_none() => {}
            // An open file for reading can't be written into, and no code of ours tries.
            Call::Write(..) if !self.kernel.open_file(p, fd).writes => {}
            Call::Close(_) => {
                self.kernel.perform(p, call);
                self.opens.swap_remove(open);
            }
            call => self.use_file(open, call),
        }
    }

    fn simulated(&mut self, p: usize, call: Call) -> Answer {
        let answer = self.kernel.perform(p, call).expect("a call that doesn't block");
        // Ids are compared by themselves, and the simulation remembers only a few.
        self.kernel.processes[p].ids = Default::default();
        self.kernel.forget_numbers();
        self.told.push(format!("{p}: {call:?} = {answer:?}"));
        answer
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, simulated: &T, real: &T) {
        assert_eq!(simulated, real, "(simulated, real)\n{}", self.told.join("\n"));
    }

    fn open(&mut self, p: usize, call: Call) {
        let simulated = self.simulated(p, call);
        let file = match call {
            Call::Open(name) => real::open(&self.path(name)),
            Call::CreateOrOpen(name) => real::create_or_open(&self.path(name)),
            Call::CreateNew(name) => real::create_new(&self.path(name)),
            _ => real::create_unnamed(self.folder.path()),
        };
        self.keep(p, simulated, file);
    }

    fn open_again(&mut self, open: usize) {
        let Open { p, fd, .. } = self.opens[open];
        let simulated = self.simulated(p, Call::Reopen(fd));
        let file = real::reopen_for_writing(&self.opens[open].file);
        self.keep(p, simulated, file);
    }

    fn keep(&mut self, p: usize, simulated: Answer, file: Result<real::File>) {
        let errno = if let Answer::Refused(errno) = simulated { Some(errno) } else { None };
        self.same(&errno, &file.as_ref().err().copied());
        if let (Answer::Fd(fd), Ok(file)) = (simulated, file) {
            self.opens.push(Open { p, fd, file });
        }
    }

    fn name(&mut self, call: Call) {
        let simulated = self.simulated(0, call);
        let real = match call {
            Call::StatusAt(name) => {
                let real = real::status_at(&self.path(name));
                let ino = self.kernel.ino(name);
                if let Ok(status) = &real {
                    self.same_inodes(ino, status.id);
                }
                real.map(drop)
            }
            Call::Link(from, to) => real::link(&self.path(from), &self.path(to)),
            // Only Windows asks for the file that is replaced.
            Call::Rename(from, to) => real::open(self.folder.path())
                .and_then(|any| real::replace(&self.path(from), &self.path(to), &any)),
            Call::Exchange(one, other) => real::exchange(&self.path(one), &self.path(other)),
            Call::Unlink(name) => real::unlink(&self.path(name)),
            _ => Ok(()),
        };
        self.same(&refusal(simulated), &real.err());
    }

    fn use_file(&mut self, open: usize, call: Call) {
        let Open { p, fd, .. } = self.opens[open];
        let simulated = self.simulated(p, call);
        let file = self.opens[open].file.clone();
        let real = match call {
            Call::Write(..) => real::write(&file, b"{", 0),
            Call::Read(_) => real::read(&file, 9).map(|bytes| {
                self.same(&(simulated == Answer::Text(Text::Empty)), &bytes.is_empty());
            }),
            Call::ForgetReads(_) => real::forget_reads(&file),
            Call::StatusOf(_) => real::status_of(&file).map(|status| {
                self.same_inodes(self.kernel.open_file(p, fd).ino, status.id);
                self.same_status(simulated, &status);
            }),
            Call::LinkUnnamed(_, name) => real::link_unnamed(&file, &self.path(name)),
            Call::Flock(_) => real::flock(&file),
            Call::FlockShared(_) => real::flock_shared(&file),
            Call::Unlock(_) => real::unlock(&file),
            Call::ByteLock(_, byte) => real::lock_byte(&file, byte.into()),
            Call::ByteLockAll(_) => real::lock_all_bytes(&file),
            Call::ByteWait(_, byte) => real::byte_wait(&file, byte.into()),
            Call::ByteUnlock(_) => real::unlock_bytes(&file),
            // Of several the kernel may tell of any one.
            Call::ByteAsk(_, from, end) => {
                let end = if end == ALL_BYTES { u64::MAX } else { end.into() };
                real::locked_byte(&file, from.into(), end).map(|byte| {
                    let is_any = matches!(simulated, Answer::Byte(Some(_)));
                    self.same(&is_any, &byte.is_some());
                })
            }
            Call::SetLease(_, exclusive) => {
                self.simulated(p, Call::EndLease(fd));
                let ask = if exclusive { real::is_open_elsewhere } else { real::lease };
                match ask(&file) {
                    Lease::Granted => Ok(()),
                    Lease::Refused => Err(Errno::AGAIN),
                    Lease::Unanswered => Err(Errno::INVAL),
                }
            }
            _ => Ok(()),
        };
        self.same(&refusal(simulated), &real.err());
    }

    fn same_status(&self, simulated: Answer, real: &Status) {
        let Answer::Status(stat) = simulated else {
            return;
        };
        let was_read = |it: bool| it || !self.notes_reads;
        self.same(
            &(u64::from(stat.names), stat.is_empty, was_read(stat.was_read)),
            &(real.names, real.length == 0, was_read(real.was_read)),
        );
    }

    /// An inode is the same as that of each open file in both kernels, or in none.
    fn same_inodes(&self, simulated: u8, real: FileId) {
        for open in &self.opens {
            let id = real::status_of(&open.file).unwrap().id;
            self.same(&(self.kernel.open_file(open.p, open.fd).ino == simulated), &(id == real));
        }
    }
}

fn refusal(answer: Answer) -> Option<Errno> {
    if let Answer::Refused(errno) = answer { Some(errno) } else { None }
}

#[test]
fn the_simulated_kernel_answers_as_the_real_one() {
    const SEQUENCES: u64 = 2_000;

    // More of them can be mounted by whoever wants to know: `SIMULATION_FOLDERS=/mnt/xfs:/mnt/btrfs`.
    let more = std::env::var("SIMULATION_FOLDERS").unwrap_or_default();
    let more = more.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let here = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    for folder in here.into_iter().chain(more) {
        if tempfile::tempdir_in(&folder).is_ok() {
            compare(&folder, SEQUENCES);
        } else {
            println!("skipped: {} can't be written into", folder.display());
        }
    }
}
