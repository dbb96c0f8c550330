//! In which folders any thread may make system calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::Instant;

/// How long a folder is slow after a slow call.
const SLOW_FOR: Duration = Duration::from_mins(1);

/// How many folders are remembered; a gateway has a few.
pub const MOST_FOLDERS: usize = 1024;

/// The *quick* folders: on trusted file systems, and not slow. Elsewhere a system call may hang, so only workers make it.
#[derive(Default)]
pub struct QuickFolders {
    /// By the name in use and by real path: the real path.
    quick: HashMap<PathBuf, PathBuf>,
    /// By real path: slow until this instant.
    slow: HashMap<PathBuf, Instant>,
}

impl QuickFolders {
    /// Whether a folder of that name, or with that real path, is quick.
    pub fn is_quick(&self, folder: &Path) -> bool {
        self.quick.contains_key(folder)
    }

    /// Whether there is nothing to learn about the folder to which this name leads now.
    pub fn is_known(&self, named: &Path, real: &Path, now: Instant) -> bool {
        self.quick.get(named).map_or_else(|| self.is_slow(real, now), |its| its == real)
    }

    /// The folder of that name is, or is not, on a trusted file system.
    pub fn learn(&mut self, named: &Path, real: &Path, is_trusted: bool, now: Instant) {
        self.quick.remove(named);
        if !is_trusted {
            self.forget(real); // it may have been, before something was mounted over it
        } else if !self.is_slow(real, now) {
            if self.quick.len() >= MOST_FOLDERS {
                self.quick.clear();
            }
            self.quick.extend([named, real].map(|name| (name.to_owned(), real.to_owned())));
        }
    }

    /// A call in this folder was slow.
    pub fn note_slow(&mut self, real: &Path, now: Instant) {
        self.slow.retain(|_, until| *until > now);
        self.slow.insert(real.to_owned(), now + SLOW_FOR);
        self.forget(real);
    }

    fn forget(&mut self, real: &Path) {
        self.quick.retain(|name, its| name != real && its != real);
    }

    fn is_slow(&self, real: &Path, now: Instant) -> bool {
        self.slow.get(real).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os;

    const A: [&str; 2] = ["/named/a", "/real/a"];
    const B: [&str; 2] = ["/named/b", "/real/b"];

    fn learn(folders: &mut QuickFolders, [named, real]: [&str; 2], now: Instant) {
        folders.learn(Path::new(named), Path::new(real), true, now);
    }

    fn are_quick(folders: &QuickFolders, [named, real]: [&str; 2]) -> bool {
        let is_quick = folders.is_quick(Path::new(named));
        assert_eq!(folders.is_quick(Path::new(real)), is_quick);
        is_quick
    }

    #[test]
    fn a_folder_is_quick_once_it_is_known_to_be_trusted() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        assert!(!are_quick(&folders, A));
        learn(&mut folders, A, now);
        assert!(are_quick(&folders, A));
        assert!(!are_quick(&folders, B));
    }

    #[test]
    fn a_slow_folder_that_is_not_trusted_is_never_quick() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        folders.note_slow(Path::new(A[1]), now);
        assert!(!folders.is_known(Path::new(A[0]), Path::new(A[1]), now + SLOW_FOR));
        folders.learn(Path::new(A[0]), Path::new(A[1]), false, now + SLOW_FOR);
        assert!(!are_quick(&folders, A));
    }

    #[test]
    fn a_slow_folder_is_slow_for_a_minute_whatever_others_are() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        learn(&mut folders, A, now);
        learn(&mut folders, B, now);
        folders.note_slow(Path::new(A[1]), now);
        assert!(!are_quick(&folders, A));
        folders.note_slow(Path::new(B[1]), now + SLOW_FOR / 2);
        for soon in [now, now + SLOW_FOR / 2] {
            learn(&mut folders, A, soon);
            assert!(!are_quick(&folders, A));
        }
        learn(&mut folders, A, now + SLOW_FOR);
        assert!(are_quick(&folders, A));
        learn(&mut folders, B, now + SLOW_FOR);
        assert!(!are_quick(&folders, B));
    }

    #[test]
    fn a_folder_that_is_not_trusted_any_more_is_quick_by_no_name() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        learn(&mut folders, A, now);
        folders.learn(Path::new(B[0]), Path::new(A[1]), false, now);
        assert!(!are_quick(&folders, A));
    }

    #[test]
    fn another_slow_folder_leaves_quick_ones_quick() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        learn(&mut folders, A, now);
        folders.note_slow(Path::new(B[1]), now);
        assert!(are_quick(&folders, A));
    }

    #[test]
    fn a_name_that_leads_to_another_folder_is_as_quick_as_that() {
        let (mut folders, now) = (QuickFolders::default(), os::now());
        let (name, other) = (Path::new(A[0]), Path::new(B[1]));
        for (is_trusted, is_slow) in [(false, false), (true, true)] {
            learn(&mut folders, A, now);
            if is_slow {
                folders.note_slow(other, now);
            }
            assert!(!folders.is_known(name, other, now));
            folders.learn(name, other, is_trusted, now);
            assert!(!folders.is_quick(name));
            assert!(folders.is_quick(Path::new(A[1])));
        }
    }
}
