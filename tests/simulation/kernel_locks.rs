//! What the kernel keeps for open files: flocks, locks of bytes, leases.

use crate::kernel::{ALL_BYTES, Answer, Byte, Fd, Held, Kernel, PROCESSES};
use crate::os::{Errno, Trust};

type Result<T> = std::result::Result<T, Errno>;

impl Kernel {
    fn is_flocked(&self, p: usize, fd: Fd, how: Held) -> bool {
        let ino = self.open_file(p, fd).ino;
        self.others(p, fd, ino).any(|open| conflict(open.flock, how))
    }

    /// To change a lock into one of the other kind is to give it back and ask anew (flock(2)).
    pub fn flock(&mut self, p: usize, fd: Fd, how: Held) -> Result<Answer> {
        let is_open_for_this = how == Held::Shared || self.fd(p, fd).writes;
        if self.fs.trust == Trust::Flocks && !self.is_on_server(p) && !is_open_for_this {
            return Err(Errno::BADF);
        }
        if self.fd(p, fd).flock != how {
            self.fd(p, fd).flock = Held::No;
        }
        if self.is_flocked(p, fd, how) {
            return Err(Errno::WOULDBLOCK);
        }
        self.fd(p, fd).flock = how;
        Ok(Answer::Done)
    }

    /// The first call stands in line where it has to. The lock is not handed over: a waiter is woken
    /// and asks again, and somebody else may be faster.
    pub fn flock_wait(&mut self, p: usize, fd: Fd) -> Option<Answer> {
        let me = waiter(p, fd);
        let ino = self.open_file(p, fd).ino as usize;
        let place = self.inodes[ino].waiters.iter().position(|&waiter| waiter == me);
        let is_flocked = self.is_flocked(p, fd, Held::Exclusive);
        if place.is_none() && is_flocked {
            let waiters = &mut self.inodes[ino].waiters;
            let end = waiters.iter().position(|&waiter| waiter == 0);
            waiters[end.expect("one thread of each process waits")] = me;
        }
        if is_flocked || place.is_some_and(|place| place > 0) {
            return None;
        }
        self.leave_line(p, fd);
        self.fd(p, fd).flock = Held::Exclusive;
        Some(Answer::Done)
    }

    pub fn is_in_line(&self, p: usize, fd: Fd) -> bool {
        self.inodes[self.open_file(p, fd).ino as usize].waiters.contains(&waiter(p, fd))
    }

    pub fn leave_line(&mut self, p: usize, fd: Fd) {
        let ino = self.open_file(p, fd).ino as usize;
        let me = waiter(p, fd);
        let mut kept = [0; PROCESSES];
        let others = self.inodes[ino].waiters.iter().filter(|&&waiter| waiter != me);
        kept.iter_mut().zip(others).for_each(|(kept, &waiter)| *kept = waiter);
        self.inodes[ino].waiters = kept;
    }

    /// Descriptors of process `p` get other numbers.
    pub fn rename_waiters(&mut self, p: usize, fds: &[(Fd, Fd)]) {
        for number in self.inodes.iter_mut().flat_map(|inode| &mut inode.waiters) {
            if let Some((_, to)) = fds.iter().find(|(from, _)| *number == waiter(p, *from)) {
                *number = waiter(p, *to);
            }
        }
    }

    /// Whether another open file has a lock in the way.
    pub fn has_byte(&self, p: usize, fd: Fd, bytes: u32, exclusive: bool) -> bool {
        let ino = self.open_file(p, fd).ino;
        self.others(p, fd, ino).any(|open| {
            let theirs = if exclusive { open.bytes() } else { open.exclusive_bytes };
            theirs & bytes != 0
        })
    }

    pub fn lock_bytes(&mut self, p: usize, fd: Fd, bytes: u32, exclusive: bool) -> Result<Answer> {
        if exclusive && !self.open_file(p, fd).writes {
            return Err(Errno::BADF);
        }
        if self.has_byte(p, fd, bytes, exclusive) {
            return Err(Errno::WOULDBLOCK);
        }
        let open = self.fd(p, fd);
        open.exclusive_bytes &= !bytes;
        open.shared_bytes &= !bytes;
        *(if exclusive { &mut open.exclusive_bytes } else { &mut open.shared_bytes }) |= bytes;
        Ok(Answer::Done)
    }

    /// The lowest one. A lock on all bytes begins at the first, wherever the question begins.
    pub fn locked_byte(&self, p: usize, fd: Fd, from: Byte, end: Byte) -> Option<Byte> {
        let asked = u32::MAX.checked_shl(from.into()).unwrap_or(0)
            & u32::MAX.checked_shr(u32::from(ALL_BYTES - end.min(ALL_BYTES))).unwrap_or(0);
        let ino = self.open_file(p, fd).ino;
        let found = self.others(p, fd, ino).map(|open| open.exclusive_bytes);
        let first =
            |bytes: u32| if bytes == u32::MAX { 0 } else { (bytes & asked).trailing_zeros() };
        let first = found.filter(|bytes| bytes & asked != 0).map(first).min();
        first.and_then(|byte| Byte::try_from(byte).ok())
    }

    /// fs/locks.c, `check_conflicting_open` and `generic_add_lease`.
    pub fn set_lease(&mut self, p: usize, fd: Fd, exclusive: bool) -> Result<Answer> {
        let open = self.open_file(p, fd);
        let is_refused = if exclusive {
            self.others(p, fd, open.ino).next().is_some()
        } else {
            open.writes
                || self
                    .others(p, fd, open.ino)
                    .any(|other| other.writes || other.lease == Held::Exclusive)
        };
        if is_refused {
            return Err(Errno::AGAIN);
        }
        self.fd(p, fd).lease = if exclusive { Held::Exclusive } else { Held::Shared };
        Ok(Answer::Done)
    }
}

fn conflict(theirs: Held, ours: Held) -> bool {
    theirs == Held::Exclusive || theirs == Held::Shared && ours == Held::Exclusive
}

/// A process and its descriptor, in one number that isn't 0.
fn waiter(p: usize, fd: Fd) -> u8 {
    u8::try_from((p + 1) * 16).unwrap_or(0) + fd
}
