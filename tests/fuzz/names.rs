//! What holds of any names in a folder, and of any names of sessions.

#![cfg_attr(fuzzing, no_main)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use session_write_lock::protocol::{LockPaths, Named};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds_of(bytes));

/// The longest name of a file.
const NAME_MAX: usize = 255;

/// The names in `bytes`, with `/` between them, as a path has them.
pub fn holds_of(bytes: &[u8]) {
    let is_name = |name: &&[u8]| {
        !matches!(*name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.contains(&0)
    };
    let names: Vec<_> = bytes.split(|&byte| byte == b'/').filter(is_name).take(2).collect();
    for name in &names {
        holds_of_an_entry(name);
        holds_of_a_session(name);
    }
    if let [one, other] = names[..] {
        holds_of_two_sessions(one, other);
    }
}

/// What stands in a folder is ours only if it has the name of a lock file of a session, or the very name that a lock has for
/// the file beside it.
fn holds_of_an_entry(name: &[u8]) {
    let path = at(name);
    let is_beside = |suffix: &str, beside: fn(&LockPaths) -> PathBuf| {
        let lock_name = name.strip_suffix(suffix.as_bytes()).unwrap();
        assert!(is_lock_of_a_session(lock_name) || is_short(lock_name));
        assert_eq!(beside(&lock(lock_name)), path);
    };
    match Named::of(OsStr::from_bytes(name)) {
        Named::Lock => {
            assert!(is_lock_of_a_session(name));
            // An inspection of this path means the same lock as a sweep that finds it.
            assert_eq!(LockPaths::find(&path).unwrap(), Some(lock(name)));
        }
        Named::Temporary => is_beside(".new", LockPaths::temporary),
        Named::Queue => is_beside(".queue", LockPaths::queue),
        Named::Other => assert!(!is_lock_of_a_session(name)),
    }
}

/// A session's files are beside each other, have names that a disk can take, and are told for what they are.
fn holds_of_a_session(name: &[u8]) {
    let lock_name = [name, b".lock"].concat();
    if lock_name.len() > NAME_MAX {
        return;
    }
    let paths = LockPaths::resolve(&at(name)).unwrap();
    assert_eq!(paths, lock(&lock_name));
    // Named by its lock file, or by its session file if that does not look like a lock file.
    assert_eq!(LockPaths::find(paths.lock()).unwrap().as_ref(), Some(&paths));
    let looks_like_a_lock = at(name).extension() == Some(OsStr::new("lock"));
    assert!(looks_like_a_lock || LockPaths::find(&at(name)).unwrap() == Some(paths.clone()));

    let is_of_a_session = name.ends_with(b".jsonl");
    for (path, suffix, kind) in files_of(&paths) {
        assert_eq!(path.parent(), Some(paths.folder()));
        let its_name = path.file_name().unwrap().as_bytes();
        let fits = lock_name.len() + suffix.len() <= NAME_MAX;
        if fits {
            assert_eq!(its_name, [&lock_name, suffix.as_bytes()].concat());
        } else {
            assert!(is_short(its_name.strip_suffix(suffix.as_bytes()).unwrap()));
        }
        let told = Named::of(path.file_name().unwrap());
        // A file with a hash for a name is taken for ours whatever it locks, and no other lock of a plain file.
        let is_hashed = !fits || is_short(&lock_name) && !suffix.is_empty();
        let is_told = is_of_a_session || is_hashed;
        assert_eq!(told, if is_told { kind } else { Named::Other });
    }
}

/// Two sessions share no file, but for names that are too long and have the same hash.
fn holds_of_two_sessions(one: &[u8], other: &[u8]) {
    let [one, other] = [one, other].map(|name| lock(&[name, b".lock"].concat()));
    for (path, suffix, _) in files_of(&one) {
        if let Some((its, ..)) = files_of(&other).into_iter().find(|(its, ..)| *its == path) {
            let hash = its.file_name().unwrap().as_bytes().strip_suffix(suffix.as_bytes());
            assert!(one == other || hash.is_some_and(is_short));
        }
    }
    // Two spellings are one for both of them.
    assert_eq!(one.is_spelled_otherwise(&other), other.is_spelled_otherwise(&one));
    assert!(!one.is_spelled_otherwise(&one));
}

/// The files of a lock: each with its suffix, and what it is told for.
fn files_of(paths: &LockPaths) -> [(PathBuf, &'static str, Named); 4] {
    [
        (paths.lock().to_owned(), "", Named::Lock),
        (paths.temporary(), ".new", Named::Temporary),
        (paths.queue(), ".queue", Named::Queue),
        (paths.guard(), ".reclaim", Named::Other),
    ]
}

fn is_lock_of_a_session(name: &[u8]) -> bool {
    name.ends_with(b".jsonl.lock")
}

/// Whether it stands for the name of a lock file that is too long for a suffix: a hash, as 16 digits.
fn is_short(lock_name: &[u8]) -> bool {
    str::from_utf8(lock_name).ok().and_then(|name| name.strip_suffix(".lock")).is_some_and(|hash| {
        u64::from_str_radix(hash, 16).is_ok_and(|number| format!("{number:016x}") == hash)
    })
}

fn lock(name: &[u8]) -> LockPaths {
    LockPaths::in_folder(folder().to_owned(), OsStr::from_bytes(name))
}

fn at(name: &[u8]) -> PathBuf {
    folder().join(OsStr::from_bytes(name))
}

/// It is everywhere, and its own real path.
fn folder() -> &'static Path {
    Path::new("/")
}
