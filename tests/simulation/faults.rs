//! Of each call: whether others can see it, and by what it can fail.

use crate::kernel::{Call, Held, Kernel, Name, Pause};
use crate::os::Errno;

/// Whether a call neither changes nor asks for anything that another process could see or change.
pub fn is_private(kernel: &Kernel, p: usize, call: Call) -> bool {
    let is_own = |fd| {
        let ino = kernel.open_file(p, fd).ino;
        kernel.name_count(ino) == 0 && kernel.opens(ino).count() == 1
    };
    let is_forgotten = |fd| {
        let ino = kernel.open_file(p, fd).ino;
        let mut others = kernel.processes.iter().enumerate().filter(|&(q, _)| q != p);
        !others.any(|(_, other)| other.ids.contains(&ino))
    };
    match call {
        Call::Close(fd) if kernel.open_file(p, fd).shared > 0 => true,
        Call::Random
        | Call::Finish
        | Call::Share(_)
        | Call::Pause(Pause::Gap | Pause::Releasing | Pause::Here)
        | Call::StatusAt(Name::Guard) => true,
        Call::Flock(fd)
        | Call::Write(fd, _)
        | Call::Read(fd)
        | Call::ForgetReads(fd)
        | Call::StatusOf(fd)
        | Call::SetLease(fd, _)
        | Call::EndLease(fd) => is_own(fd),
        Call::Close(fd) => is_own(fd) && is_forgotten(fd),
        Call::Unlock(fd) => is_own(fd) || kernel.open_file(p, fd).flock == Held::No,
        Call::ByteUnlock(fd) => kernel.open_file(p, fd).bytes() == 0,
        _ => false,
    }
}

/// By what a call can fail that could have succeeded, by its man page.
pub fn faults_of(call: Call) -> &'static [Errno] {
    const OPEN: &[Errno] = &[Errno::MFILE, Errno::NOMEM, Errno::IO, Errno::ACCESS];
    const CREATE: &[Errno] = &[Errno::MFILE, Errno::NOSPC, Errno::ACCESS];
    const LOOK: &[Errno] = &[Errno::IO, Errno::ACCESS];
    const NAME: &[Errno] = &[Errno::IO, Errno::NOSPC, Errno::ACCESS];
    match call {
        Call::Open(_) | Call::Reopen(_) => OPEN,
        Call::CreateOrOpen(_) | Call::CreateNew(_) | Call::CreateUnnamed => CREATE,
        Call::Write(..) => &[Errno::NOSPC, Errno::IO],
        Call::Read(_) | Call::StatusOf(_) | Call::ForgetReads(_) | Call::EndLease(_) => {
            &[Errno::IO]
        }
        Call::StatusAt(name) if name != Name::Guard => LOOK,
        Call::LinkUnnamed(..) | Call::Link(..) | Call::Rename(..) | Call::UnlinkOpen(_) => NAME,
        Call::Exchange(..) => &[Errno::IO, Errno::NOSPC, Errno::INVAL],
        Call::Unlink(_) => LOOK,
        Call::Flock(_) => &[Errno::NOLCK, Errno::INTR],
        Call::FlockWait(_)
        | Call::Unlock(_)
        | Call::FlockShared(_)
        | Call::ByteWait(..)
        | Call::ByteLock(..)
        | Call::ByteLockAll(_)
        | Call::ByteUnlock(_)
        | Call::ByteAsk(..) => &[Errno::NOLCK],
        Call::SetLease(..) => &[Errno::NOMEM, Errno::ACCESS],
        _ => &[],
    }
}
