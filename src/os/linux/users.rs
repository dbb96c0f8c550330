//! Which processes have a file open, which locks they have on it, and which of them wait for its flock.
//!
//! Best effort: the kernel shows the open files of another user's processes only to root. `/proc/locks` alone
//! would not do: on overlayfs and btrfs its device numbers differ from those of stat(2), and for locks of an
//! open file description it shows no pid. So each open file is compared by `stat`, and its locks are read from
//! `fdinfo`.
//!
//! Sources: `proc_pid_fd(5)`, `proc_pid_fdinfo(5)`, `proc_locks(5)`, `proc_pid_status(5)`,
//! `proc_pid_stat(5)`.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use procfs::process::Process as ProcEntry;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, StatxFlags, openat, statx};
use rustix::time::{ClockId, clock_gettime};

use super::process::{find_process, namespace, proc_is_ours, status_line};
use crate::os::{Details, FileId, OpenFile};

/// More of a command line is not read, in bytes.
const LONGEST_COMMAND: u64 = 4096;

/// Finds the processes that have one of `wanted` open. One scan of `/proc`, whatever the number of files.
/// Empty if `/proc` is another pid namespace's: its numbers mean nothing here.
#[expect(clippy::implicit_hasher, reason = "it has one caller")]
pub fn open_files(wanted: &HashSet<FileId>) -> Vec<OpenFile> {
    let mut found = Vec::new();
    if !wanted.is_empty() && proc_is_ours() {
        for pid in pids() {
            // A process that has ended meanwhile, or is another user's, has nothing to show.
            let _ = open_files_of(pid, wanted, &mut found);
        }
    }
    found
}

/// The processes that block for a flock, each with the file's inode number, in the order in which the kernel
/// will serve them.
pub fn flock_waiters() -> Vec<(i32, u64)> {
    let locks = if proc_is_ours() { read("/proc/locks") } else { None };
    locks.as_deref().unwrap_or_default().lines().filter_map(flock_waiter).collect()
}

/// What people want to know about a process. `None`: it has ended.
pub fn process_details(pid: i32) -> Option<Details> {
    let process = find_process(pid)?;
    let entry = ProcEntry::new(pid).ok();
    // From the namespace of `/proc`'s mount inward: the last number is the process's own.
    let numbers = entry.as_ref().and_then(|entry| status_line(entry, b"NSpid:"));
    let state = entry.as_ref().and_then(|entry| entry.stat().ok()).map(|stat| stat.state);
    Some(Details {
        own_pid: numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok()),
        pid_namespace: namespace(&pid.to_string(), "pid"),
        running_for_ms: process.start_time.and_then(elapsed_since),
        command: command(pid),
        is_stopped: matches!(state, Some('T' | 't')),
        process,
    })
}

fn pids() -> Vec<i32> {
    let names = super::files::list("/proc".as_ref()).unwrap_or_default();
    names.iter().filter_map(|entry| entry.name.to_str()?.parse().ok()).collect()
}

fn open_files_of(
    pid: i32,
    wanted: &HashSet<FileId>,
    found: &mut Vec<OpenFile>,
) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        // A network file system must not be asked: its server may be gone.
        let Ok(stat) = statx(&folder, entry.file_name(), AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
        else {
            continue; // closed meanwhile
        };
        let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let id = FileId { device, inode: stat.stx_ino };
        if wanted.contains(&id) {
            let name = entry.file_name().to_string_lossy();
            let info = read(&format!("/proc/{pid}/fdinfo/{name}")).unwrap_or_default();
            found.push(open_file(pid, id, &info));
        }
    }
    Ok(())
}

/// Reads `fdinfo`: the open flags, in octal, and the locks of this open file.
fn open_file(pid: i32, id: FileId, info: &str) -> OpenFile {
    let mut open = OpenFile { pid, id, is_writable: false, has_flock: false, byte: None };
    for line in info.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["flags:", flags] => {
                let flags = u32::from_str_radix(flags, 8).unwrap_or(0);
                open.is_writable = flags & 0o3 != 0; // O_WRONLY or O_RDWR
            }
            ["lock:", _, "FLOCK", ..] => open.has_flock = true,
            ["lock:", _, "OFDLCK", _, "WRITE", _, _, start, end] if start == end => {
                open.byte = start.parse().ok();
            }
            _ => {}
        }
    }
    open
}

/// `12: -> FLOCK  ADVISORY  WRITE 3377 08:01:1234 0 EOF`
fn flock_waiter(line: &str) -> Option<(i32, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        [_, "->", "FLOCK", _, _, pid, file, ..] => {
            Some((pid.parse().ok()?, file.rsplit(':').next()?.parse().ok()?))
        }
        _ => None,
    }
}

/// How long ago that was, in milliseconds; `start_time` in clock ticks since boot.
fn elapsed_since(start_time: u64) -> Option<u64> {
    let now = clock_gettime(ClockId::Boottime);
    let now_ms =
        u64::try_from(now.tv_sec).ok()? * 1_000 + u64::try_from(now.tv_nsec).ok()? / 1_000_000;
    Some(now_ms.saturating_sub(start_time * 1_000 / procfs::ticks_per_second()))
}

/// The words that it was started with, joined by spaces.
fn command(pid: i32) -> Option<String> {
    let words = read_bytes(&format!("/proc/{pid}/cmdline"))?;
    let words = words.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let line = words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    Some(line).filter(|line| !line.is_empty())
}

fn read(path: &str) -> Option<String> {
    read_bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn read_bytes(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit(path)).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn limit(path: &str) -> u64 {
    if path.ends_with("cmdline") { LONGEST_COMMAND } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = FileId { device: 1, inode: 2 };

    #[test]
    fn an_open_file_shows_its_mode_and_its_locks() {
        let info = "pos:\t0\nflags:\t02100002\nmnt_id:\t30\nino:\t2\n\
                    lock:\t1: FLOCK  ADVISORY  WRITE 1234 00:2a:2 0 EOF\n";
        let open = open_file(7, ID, info);
        assert!(open.is_writable && open.has_flock);
        assert_eq!(open.byte, None);
        let info = "flags:\t02100000\nlock:\t1: OFDLCK ADVISORY  WRITE -1 00:2e:2 5 5\n\
                    lock:\t2: OFDLCK ADVISORY  READ -1 00:2e:2 4 4\n";
        let open = open_file(7, ID, info);
        assert!(!open.is_writable && !open.has_flock);
        assert_eq!(open.byte, Some(5));
        // All bytes: a process that removes the queue file.
        let info = "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2e:2 0 EOF\n";
        assert_eq!(open_file(7, ID, info).byte, None);
    }

    #[test]
    fn only_a_process_that_blocks_for_a_flock_waits_for_it() {
        let line = "12: -> FLOCK  ADVISORY  WRITE 3377 08:01:1234 0 EOF";
        assert_eq!(flock_waiter(line), Some((3377, 1234)));
        assert_eq!(flock_waiter("12: FLOCK  ADVISORY  WRITE 3377 08:01:1234 0 EOF"), None);
        assert_eq!(flock_waiter("12: -> POSIX  ADVISORY  WRITE 3377 08:01:1234 0 0"), None);
    }

    #[test]
    fn this_process_is_found_by_its_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = crate::os::create_new(&folder.path().join("file")).unwrap();
        crate::os::flock(&file).unwrap();
        let id = crate::os::status_of(&file).unwrap().id;
        let own = crate::os::own_pid();
        let found = open_files(&HashSet::from([id]));
        let expected = OpenFile { pid: own, id, is_writable: true, has_flock: true, byte: None };
        assert_eq!(found, [expected]);
        let details = process_details(own).unwrap();
        assert_eq!(details.own_pid, Some(own));
        assert!(details.command.unwrap().contains("session_write_lock"));
        assert!(details.running_for_ms.unwrap() < 3_600_000);
        assert!(!details.is_stopped);
    }
}
