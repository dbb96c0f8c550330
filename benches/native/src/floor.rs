//! `floor <session file> <pairs>`: an acquire and a release as nothing but the system calls that
//! the addon makes for them, one pair after the other. Prints how long each took, in milliseconds,
//! as a JSON array.
//!
//! No thread, no promise, no JavaScript; the record is always the same text.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::{Errno, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// As long as the addon's.
const RECORD: [u8; 276] = [b'x'; 276];

/// Pairs before the first that counts: the others are measured in processes that run already.
const WARM_UP: usize = 200;

/// As the addon marks a file that nobody has read.
const NEVER_READ: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
};

struct Held {
    lock: PathBuf,
    file: OwnedFd,
    inode: u64,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let session_file = PathBuf::from(arguments.next().expect("a session file"));
    let pairs: usize = arguments.next().and_then(|n| n.parse().ok()).expect("a number of pairs");
    for _ in 0..WARM_UP {
        pair(&session_file).expect("a free lock");
    }
    let mut took = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let started = Instant::now();
        pair(&session_file).expect("a free lock");
        took.push(format!("{:.6}", started.elapsed().as_secs_f64() * 1_000.0));
    }
    println!("[{}]", took.join(","));
}

fn pair(session_file: &Path) -> Result<()> {
    release(&acquire(session_file)?)
}

/// Finds the folder, looks for a lock, a queue and a guard, publishes.
fn acquire(session_file: &Path) -> Result<Held> {
    let folder = session_file.parent().expect("a folder").canonicalize().expect("a real path");
    let name = session_file.file_name().expect("a name").to_str().expect("UTF-8");
    let lock = folder.join(format!("{name}.lock"));
    must_be_missing(&lock)?;
    must_be_missing(&folder.join(format!("{name}.lock.queue")))?;
    must_be_missing(&folder.join(format!("{name}.lock.reclaim")))?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&folder, flags, Mode::RUSR | Mode::WUSR)?;
    let inode = rustix::fs::fstat(&file)?.st_ino;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::fstatfs(&file)?;
    getrandom(&mut [0_u8; 16], GetRandomFlags::empty())?;
    rustix::io::pwrite(&file, &RECORD, 0)?;
    rustix::fs::futimens(&file, &NEVER_READ)?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed.as_str(), CWD, &lock, AtFlags::SYMLINK_FOLLOW)?;
    Ok(Held { lock, file, inode })
}

/// Asks whether the file is still ours, removes it, unlocks. The caller closes.
fn release(held: &Held) -> Result<()> {
    assert_eq!(rustix::fs::lstat(&held.lock)?.st_ino, held.inode);
    rustix::fs::unlink(&held.lock)?;
    rustix::fs::flock(&held.file, FlockOperation::Unlock)
}

fn must_be_missing(path: &Path) -> Result<()> {
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(_) => Err(Errno::EXIST),
    }
}
