//! The paths of a session's lock file and of the files beside it.
//!
//! | name | what |
//! |---|---|
//! | `chat.jsonl.lock` | the lock file |
//! | `chat.jsonl.lock.queue` | the queue file, see [`queue`](super::queue) |
//! | `chat.jsonl.lock.new` | the temporary of a takeover, and where there are no unnamed files |
//! | `chat.jsonl.lock.reclaim` | the guard: a folder that older processes make during a late release |

use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Error, Result};
use crate::os::{self, Errno};

/// The longest file name that common file systems allow, in bytes.
const NAME_MAX: usize = 255;

const TEMPORARY_SUFFIX: &str = ".new";
const QUEUE_SUFFIX: &str = ".queue";
const GUARD_SUFFIX: &str = ".reclaim";

/// Where a session's lock is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LockPaths(Arc<Paths>);

#[derive(Debug)]
struct Paths {
    lock: PathBuf,
    folder: PathBuf,
}

/// Compares the lock file's path only: the other paths follow from it.
impl PartialEq for LockPaths {
    fn eq(&self, other: &Self) -> bool {
        self.0.lock == other.0.lock
    }
}

impl Eq for LockPaths {}

impl Hash for LockPaths {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.lock.as_os_str().hash(state);
    }
}

impl LockPaths {
    /// Finds the lock of `session_file`: `<realpath of its folder>/<its name>.lock`. The folder is
    /// created if it is missing. The session file itself need not exist and isn't followed.
    pub fn resolve(session_file: &Path) -> Result<Self> {
        let (Some(folder), Some(name)) = (session_file.parent(), session_file.file_name()) else {
            return Err(Error::System {
                errno: Errno::INVAL,
                syscall: "open",
                path: session_file.to_owned(),
            });
        };
        let folder = match os::real_path(folder) {
            Err(Errno::NOENT) => {
                os::create_folders(folder).during("mkdir", folder)?;
                os::real_path(folder)
            }
            found => found,
        };
        let folder = folder.during("realpath", session_file)?;
        let lock_name = lock_name(&folder, name);
        Ok(Self::in_folder(folder, &lock_name))
    }

    /// The lock at `path`: a lock file if the name ends in `.lock`, else a session file. Creates nothing.
    /// `None` if the folder is missing.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let is_lock_file = path.extension() == Some(OsStr::new("lock"));
        Ok(real_folder(folder)?.map(|folder| {
            let lock_name = if is_lock_file { name.to_owned() } else { lock_name(&folder, name) };
            Self::in_folder(folder, &lock_name)
        }))
    }

    /// The lock with this name. `folder`: a real path.
    pub fn in_folder(folder: PathBuf, lock_name: &OsStr) -> Self {
        Self(Arc::new(Paths { lock: folder.join(lock_name), folder }))
    }

    /// The lock file.
    pub fn lock(&self) -> &Path {
        &self.0.lock
    }

    /// The folder of the lock file.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Whether `session_file` still leads to this lock's folder. A symbolic link on its path may have changed.
    pub fn is_still_of(&self, session_file: &Path) -> bool {
        let same = |named: &Path| os::real_path(named).is_ok_and(|real| real == self.folder());
        session_file.parent().is_none_or(|named| named == self.folder() || same(named))
    }

    /// Whether the two names differ only in case. Then they may name one file.
    pub fn is_spelled_otherwise(&self, other: &Self) -> bool {
        self != other
            && self.folder() == other.folder()
            && self.letters().zip(other.letters()).is_some_and(|(own, its)| own.eq(its))
    }

    /// The letters of the lock file's name, all in one case. `None`: the name is not Unicode.
    fn letters(&self) -> Option<impl Iterator<Item = char>> {
        Some(self.lock().file_name()?.to_str()?.chars().flat_map(char::to_lowercase))
    }

    /// The temporary.
    pub fn temporary(&self) -> PathBuf {
        self.beside(TEMPORARY_SUFFIX)
    }

    /// The queue file.
    pub fn queue(&self) -> PathBuf {
        self.beside(QUEUE_SUFFIX)
    }

    /// The guard: the folder that an older process makes while it removes a lock late.
    pub fn guard(&self) -> PathBuf {
        self.beside(GUARD_SUFFIX)
    }

    /// The lock file's name with a suffix, or a short name where that would be too long.
    fn beside(&self, suffix: &str) -> PathBuf {
        let name = self.lock().file_name().unwrap_or_default();
        if name.len() + suffix.len() > NAME_MAX {
            return self.folder().join(short_name(name, suffix, os::IGNORES_CASE));
        }
        let mut path = self.lock().to_owned().into_os_string();
        path.push(suffix);
        path.into()
    }
}

/// The name of a session file's lock file. Of the two names that a file can have on Windows the long one counts.
fn lock_name(folder: &Path, name: &OsStr) -> OsString {
    let mut lock_name = os::long_name(&folder.join(name)).unwrap_or_else(|| name.to_owned());
    lock_name.push(".lock");
    lock_name
}

/// FNV-1a: every process, of every version, must compute the same name. Windows compares names in capitals, so there
/// all spellings lead to one name.
fn short_name(lock_name: &OsStr, suffix: &str, ignores_case: bool) -> String {
    let capitals = ignores_case.then(|| lock_name.to_string_lossy().to_uppercase());
    let name = capitals.as_deref().map_or(lock_name, OsStr::new).as_encoded_bytes();
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}.lock{suffix}")
}

/// The real path of a folder; `None` if it is missing.
pub fn real_folder(folder: &Path) -> Result<Option<PathBuf>> {
    match os::real_path(folder) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).during("realpath", folder),
    }
}

/// The kind of a file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A lock file.
    Lock,
    /// A takeover's temporary.
    Temporary,
    /// A queue file.
    Queue,
    /// None of ours.
    Other,
}

impl Named {
    /// Of the file with this name.
    pub fn of(name: &OsStr) -> Self {
        let name = name.as_encoded_bytes();
        let is_short = |hash: &[u8]| {
            hash.len() == 16 && hash.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_beside_a_lock = |name: &[u8]| {
            name.ends_with(b".jsonl.lock") || name.strip_suffix(b".lock").is_some_and(is_short)
        };
        let has = |suffix: &str| name.strip_suffix(suffix.as_bytes()).is_some_and(is_beside_a_lock);
        if name.ends_with(b".jsonl.lock") {
            Self::Lock
        } else if has(TEMPORARY_SUFFIX) {
            Self::Temporary
        } else if has(QUEUE_SUFFIX) {
            Self::Queue
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_beside_a_lock_is_told_by_its_name() {
        for length in [1, 237, 238, 239, 240, 241, 244] {
            let lock_name = format!("{}.jsonl.lock", "x".repeat(length));
            let paths = LockPaths::in_folder("/f".into(), OsStr::new(&lock_name));
            let name = |path: &Path| Named::of(path.file_name().unwrap());
            assert_eq!(name(paths.lock()), Named::Lock, "{length}");
            assert_eq!(name(&paths.temporary()), Named::Temporary, "{length}");
            assert_eq!(name(&paths.queue()), Named::Queue, "{length}");
            assert!(paths.queue().file_name().unwrap().len() <= NAME_MAX);
        }
        for name in ["a.lock.new", "a.jsonl.lock.new.new", "0123456789ABCDEF.lock.new", ".queue"] {
            assert_eq!(Named::of(OsStr::new(name)), Named::Other, "{name}");
        }
    }

    #[test]
    fn a_short_name_is_the_same_for_all_spellings_where_case_is_ignored() {
        let short = |name: &str, ignores| short_name(OsStr::new(name), ".new", ignores);
        assert_eq!(short("Straße É.lock", true), short("straße é.LOCK", true));
        assert_ne!(short("Straße É.lock", false), short("straße é.LOCK", false));
        // What other versions compute, too.
        assert_eq!(short("chat.jsonl.lock", false), "460c20d896a63560.lock.new");
        assert_eq!(short("chat.jsonl.lock", true), "b79255db45237380.lock.new");
    }

    #[test]
    fn a_spelling_differs_in_case_only() {
        let paths = |folder: &str, name| LockPaths::in_folder(folder.into(), OsStr::new(name));
        let chat = paths("/f", "chat É.lock");
        assert!(chat.is_spelled_otherwise(&paths("/f", "CHAT é.lock")));
        for (folder, name) in [("/f", "chat É.lock"), ("/f", "chat E.lock"), ("/g", "CHAT É.lock")]
        {
            assert!(!chat.is_spelled_otherwise(&paths(folder, name)), "{folder} {name}");
        }
    }

    #[test]
    fn a_lock_is_found_by_its_session_and_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.jsonl");
        let paths = LockPaths::resolve(&file).unwrap();
        assert_eq!(LockPaths::find(&file).unwrap().unwrap(), paths);
        assert_eq!(LockPaths::find(paths.lock()).unwrap().unwrap(), paths);
        assert_eq!(LockPaths::find(&folder.path().join("none/chat.jsonl")).unwrap(), None);
        assert_eq!(os::status_at(&folder.path().join("none")).err(), Some(Errno::NOENT));
    }
}
