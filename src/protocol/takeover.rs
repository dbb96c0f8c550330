//! Two contenders, one dead lock.
//!
//! A and B both find the dead file. A removes it and creates its own. B, which judged the dead file before
//! that, removes A's. Comparing inodes just before the removal only narrows the gap. This package closes the
//! gap: a contender *keeps* the flock by which it judged the file dead. Only the process that has the flock
//! of the dead inode, and has checked *after* taking it that the path still names that inode, may replace
//! the file. Every other contender finds the flock taken, and waits. A finished, flocked file replaces the
//! dead one in one step: the path is never vacant, and a crash before or after that step leaves a lock that
//! the next contender can judge.
//!
//! **Older processes** know nothing of flocks. They remove a lock that they judge dead by its path, without
//! checking the inode, and may put their own new lock there between our check and our rename. So we
//! *exchange* the dead file and ours, and then check which file the exchange brought out. If it is not the
//! dead inode, we exchange back.
//!
//! **Settling.** An older process that has read the dead record may be just about to remove the path. So a
//! takeover counts only if the path still names our file [`SETTLE`](super::SETTLE) later, unless no older
//! process can have read the dead record ([`is_unread`]).

use super::claim::Claim;
use super::file::{LockFile, discard, names, remove};
use super::held::HeldLock;
use super::paths::LockPaths;
use super::temporary::{self, has_no_links};
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, Lease, Trust};
use crate::verdict::{Ground, file_age_ms};

/// The result of a takeover.
#[derive(Debug)]
pub enum Takeover {
    /// The lock is ours.
    Done(HeldLock),
    /// The lock is ours if the path still names our file after [`SETTLE`](super::SETTLE).
    Unsettled(HeldLock),
    /// Another contender uses the temporary, or (with the error) another program keeps the dead file where it is.
    Occupied(Option<Error>),
    /// The path names another file by now.
    Lost,
}

/// Replaces a dead lock whose flock we have. `ground`: why it is dead.
///
/// `dead` stays open to the end: once it is closed its inode number may be given to another file.
pub fn take_over(
    paths: &LockPaths,
    claim: &Claim,
    dead: &LockFile,
    ground: Ground,
) -> Result<Takeover> {
    let Some((held, notes_reads)) = temporary::name(paths, claim, dead)? else {
        return Ok(Takeover::Occupied(None));
    };
    let is_by_age = ground == Ground::TooOld && !dead.is_trusted();
    if is_by_age && !is_old(paths, dead, &held.file, claim.limits.stale_ms)? {
        discard(&paths.temporary(), &held.file);
        return Ok(Takeover::Occupied(None));
    }
    let held = held.by_takeover();
    let replaced = match names(paths.lock(), dead, None) {
        Ok(true) if dead.trust == Trust::Flocks => remove_and_link(paths, &held),
        Ok(true) => exchange(paths, dead),
        Ok(false) => Ok(false),
        Err(error) => Err(error),
    };
    let is_replaced = matches!(replaced, Ok(true));
    if !is_replaced {
        discard(&paths.temporary(), &held.file);
        match replaced {
            Err(cause @ Error::System { errno: Errno::BUSY, .. }) => {
                return Ok(Takeover::Occupied(Some(cause)));
            }
            replaced => _ = replaced?,
        }
    }
    // Where flocks prove nothing, another contender may have used the temporary's name meanwhile, so that one
    // has moved the other's file. The lock belongs to the one whose file it is.
    Ok(match held.confirmed()? {
        // This package has made it, for its record promised a flock.
        Some(held) if ground == Ground::FlockGone && notes_reads && is_unread(dead) => {
            Takeover::Done(held)
        }
        Some(held) => Takeover::Unsettled(held),
        None => Takeover::Lost,
    })
}

/// Whether the file is older than that by the file system's own clock, which has just given our new file its time. The
/// machine that wrote the record may have another clock than we.
fn is_old(paths: &LockPaths, dead: &LockFile, new: &LockFile, stale_ms: u64) -> Result<bool> {
    let dead = os::status_of(&dead.file).during("fstat", paths.lock())?;
    let now = os::status_of(&new.file).during("fstat", paths.lock())?.modified_ms;
    Ok(file_age_ms(dead.modified_ms, dead.changed_ms, now) > stale_ms)
}

/// Whether no older process can have read the dead record. The file was made by this package and has no path
/// any more.
///
/// A reader has the file open, and the file system notes the read before the reader closes it. So first ask
/// whether the file is open elsewhere, then whether a read was noted. The first question catches a reader that
/// has not read yet; the second one a reader that has closed the file. One reader is not seen: whose `open` has found the file before the
/// exchange and is interrupted inside of the kernel before it counts as an open file
/// (fs/open.c, `do_dentry_open`), for as long as an exchange and two questions take.
fn is_unread(dead: &LockFile) -> bool {
    os::is_open_elsewhere(&dead.file) == Lease::Granted
        && os::status_of(&dead.file).is_ok_and(|status| !status.was_read)
}

/// Exchanges the temporary and the lock file, and exchanges back if the path did not name `dead`. `false`: the
/// path names another file.
fn exchange(paths: &LockPaths, dead: &LockFile) -> Result<bool> {
    match os::exchange(&paths.temporary(), paths.lock()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false), // an older process has removed the dead lock
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return replace(paths, dead),
        Err(errno) => return Err(errno).during("rename", paths.lock()),
    }
    // An error counts as another file: exchange back.
    if names(&paths.temporary(), dead, None).unwrap_or(false) {
        let _ = os::unlink(&paths.temporary()); // else the next takeover sweeps it
        return Ok(true);
    }
    // It is an older process's new lock: put it back. If the path is vacant by now, somebody has removed our
    // file there, and meant that lock: it is released, or as lost as without us.
    match os::exchange(&paths.temporary(), paths.lock()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).during("rename", paths.lock()),
    }
}

/// The same over NFS 4, by two calls. A rename is no single step there either: NFS first gives a file that is open another
/// name (fs/nfs/dir.c, `nfs_rename`). In between, a program on the server, which does not see the flock of the dead file,
/// can publish its lock; a rename would replace that lock, and `link` fails.
fn remove_and_link(paths: &LockPaths, held: &HeldLock) -> Result<bool> {
    remove(paths.lock())?;
    match os::link(&paths.temporary(), paths.lock()) {
        Ok(()) => {
            discard(&paths.temporary(), &held.file);
            Ok(true)
        }
        // Another contender was faster, or this file system has no links: the next round publishes.
        Err(errno) if errno == Errno::EXIST || has_no_links(errno) => Ok(false),
        Err(errno) => Err(errno).during("link", paths.lock()),
    }
}

/// Moves the temporary over the lock file. `false` if the temporary is gone; where this takes two steps (on Windows, and
/// on NFS 3, which gives a file that is open another name first), also if the dead file is gone (`TXTBSY`), or another
/// contender came between them. `BUSY`: another program has the dead file open and lets nobody remove it, or it is being
/// removed.
fn replace(paths: &LockPaths, dead: &LockFile) -> Result<bool> {
    match os::replace(&paths.temporary(), paths.lock(), &dead.file) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::EXIST | Errno::TXTBSY) => Ok(false),
        Err(errno) => Err(errno).during("rename", paths.lock()),
    }
}
