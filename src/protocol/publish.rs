//! Giving a finished lock file its name.
//!
//! `link` fails if the name exists, so one of several contenders wins. On a file system without unnamed
//! files the file is created under the temporary's name first. Without hard links it is created at the path;
//! its open descriptor is the witness until it has the flock.

use super::blank::Blank;
use super::claim::Claim;
use super::file::discard;
use super::held::HeldLock;
use super::make::{create_unnamed, finish_or_remove, write_record};
use super::paths::LockPaths;
use super::temporary::{self, has_no_links};
use crate::error::{Context, Result};
use crate::os::{self, Errno};

/// Puts a new lock file at a vacant path, made from `blank` if there is one. `None`: another contender was
/// faster.
pub fn publish(paths: &LockPaths, claim: &Claim, blank: Option<Blank>) -> Result<Option<HeldLock>> {
    let was_prepared = blank.is_some();
    let finished = match blank {
        Some(blank) => Some(write_record(paths, claim, blank)?),
        None => create_unnamed(paths, claim)?,
    };
    let Some(held) = finished else {
        return publish_from_temporary(paths, claim);
    };
    match os::link_unnamed(&held.file.file, paths.lock()) {
        Ok(()) => Ok(Some(held)),
        Err(Errno::EXIST) => Ok(None),
        // Another file system was mounted over the folder since.
        Err(Errno::XDEV) if was_prepared => publish(paths, claim, None),
        Err(errno) if has_no_links(errno) => publish_from_temporary(paths, claim),
        Err(errno) => Err(errno).during("link", paths.lock()),
    }
}

fn publish_from_temporary(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    let Some(held) = temporary::create(paths, claim)? else {
        return Ok(None);
    };
    let in_place = match os::link(&paths.temporary(), paths.lock()) {
        Ok(()) | Err(Errno::EXIST | Errno::NOENT) => None,
        // The temporary's name stays until the new file is there: it keeps takeovers away.
        Err(errno) if has_no_links(errno) => Some(publish_in_place(paths, claim)),
        Err(errno) => Some(Err(errno).during("link", paths.lock())),
    };
    discard(&paths.temporary(), &held.file);
    // Where flocks prove nothing, another contender may have taken the temporary's name away from us or
    // we from it, so that one has linked the other's file. The lock belongs to the one whose file it is.
    in_place.unwrap_or_else(|| held.confirmed())
}

/// Without hard links: the file is visible before its record is written.
fn publish_in_place(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    let file = match os::create_new(paths.lock()) {
        Ok(file) => file,
        Err(Errno::EXIST) => return Ok(None),
        Err(errno) => return Err(errno).during("open", paths.lock()),
    };
    let finished = finish_or_remove(paths.lock(), paths, claim, &file)?;
    finished.map_or(Ok(None), HeldLock::confirmed)
}
