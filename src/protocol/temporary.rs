//! The session's temporary: a finished lock file on its way to its name.
//!
//! A takeover exchanges two names, so the new file needs a name before; so does every new lock file where
//! there are no unnamed files. Each session has one fixed name for that. So a crash leaves at most one file,
//! which the next takeover finds; and on untrusted file systems the exclusive creation of this name keeps a
//! second contender out.

use std::path::Path;

use super::ROUNDS;
use super::claim::Claim;
use super::file::{LockFile, facts_of, names, open_regular, remove};
use super::held::HeldLock;
use super::make::{create_unnamed, finish_or_remove};
use super::paths::LockPaths;
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, Lease};
use crate::process;
use crate::verdict::{Flock, Limits};

/// How old a temporary must be to count as abandoned where the kernel proves nothing. Its maker needs it for
/// milliseconds.
const STALE_MS: u64 = 30_000;

/// The same for a temporary without a record. A maker that is alive notices that the name is gone, and makes
/// another file.
const UNWRITTEN_MS: u64 = 2_000;

/// A finished lock file that was created under the temporary's name. `None` while another contender's
/// is there.
pub fn create(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    create_unless_used(paths, claim, None)
}

/// A finished lock file under the temporary's name, to take the place of `dead`; and whether the file
/// system notes reads. `None` while another contender's is there.
pub fn name(paths: &LockPaths, claim: &Claim, dead: &LockFile) -> Result<Option<(HeldLock, bool)>> {
    let path = &paths.temporary();
    let without_links = || {
        let held = create_unless_used(paths, claim, Some(dead))?;
        Ok(held.map(|held| (held, false)))
    };
    let Some(held) = create_unnamed(paths, claim)? else {
        return without_links();
    };
    let notes_reads = notes_reads(&held.file);
    for _ in 0..ROUNDS {
        match os::link_unnamed(&held.file.file, path) {
            Ok(()) => return Ok(Some((held, notes_reads))),
            Err(Errno::EXIST) if sweep(path, claim, Some(dead))? => {}
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) if has_no_links(errno) => return without_links(),
            Err(errno) => return Err(errno).during("link", path),
        }
    }
    Ok(None)
}

fn create_unless_used(
    paths: &LockPaths,
    claim: &Claim,
    dead: Option<&LockFile>,
) -> Result<Option<HeldLock>> {
    let path = &paths.temporary();
    for _ in 0..ROUNDS {
        match os::create_new(path) {
            // On a mount the name can be gone by now. The caller notices at the end, by what is at the path.
            Ok(file) => {
                let finished = finish_or_remove(path, paths, claim, &file)?;
                if finished.is_some() {
                    return Ok(finished);
                }
            }
            Err(Errno::EXIST) if sweep(path, claim, dead)? => {}
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(errno).during("open", path),
        }
    }
    Ok(None)
}

/// Whether this errno of `link` means that hard links don't work here: no `/proc` for unnamed files, a file
/// system without links, or a security policy (`AppArmor` answers `EACCES`).
pub fn has_no_links(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::PERM
            | Errno::ACCESS
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::MLINK
    )
}

/// Whether the file system notes reads. Finds out by reading our new file once.
fn notes_reads(new: &LockFile) -> bool {
    let is_noted = os::read(&new.file, 1).is_ok()
        && os::status_of(&new.file).is_ok_and(|status| status.was_read);
    is_noted && os::forget_reads(&new.file).is_ok()
}

/// Removes a temporary that a crash left behind. `false` if it may be in use.
///
/// `dead`: a lock file whose flock we have. A crash between `link` and `unlink` can leave the temporary as a
/// second name of that inode; it is removed without being judged.
pub fn sweep(path: &Path, claim: &Claim, dead: Option<&LockFile>) -> Result<bool> {
    let Some((file, status)) = open_regular(path)? else {
        return Ok(true);
    };
    let mut file = LockFile::new(file, status.id);
    let is_dead_one = dead.is_some_and(|dead| dead.id == status.id);
    let is_abandoned = is_dead_one || is_abandoned(path, &mut file, claim)?;
    if is_abandoned && names(path, &file, None)? {
        remove(path)?;
    }
    Ok(is_abandoned)
}

fn is_abandoned(path: &Path, file: &mut LockFile, claim: &Claim) -> Result<bool> {
    let flock = file.try_flock();
    if flock == Flock::Theirs {
        return Ok(false);
    }
    let Some(facts) = facts_of(path, file, flock, false)? else {
        return Ok(true);
    };
    if claim.spares_foreign && facts.is_foreign {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    // The maker keeps the file open for writing until it is done: without a writer it is abandoned.
    Ok(match facts.writer {
        Lease::Refused => false,
        Lease::Granted => true,
        // It can be an earlier one of a process that lives on. The limit holds for that one, too: no maker needs so long.
        Lease::Unanswered => {
            let most = if facts.record.is_some() { STALE_MS } else { UNWRITTEN_MS };
            let limits = Limits { stale_ms: claim.limits.stale_ms.min(most), ..claim.limits };
            let judgement = facts.judge(&process::own(), limits, os::wall_ms());
            !judgement.is_alive() || judgement.age_ms.is_some_and(|age_ms| age_ms > STALE_MS)
        }
    })
}
