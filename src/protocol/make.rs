//! Making a lock file: complete before anybody can see it.
//!
//! A contender that saw the file empty, half written or without its flock would judge it dead. So the file is
//! made without a name, flocked and written; a crash before it gets its name leaves no file. This package
//! writes into no other files, and only here (and one byte in `blank`).

use std::path::Path;

use super::blank::Blank;
use super::claim::Claim;
use super::file::{LockFile, discard};
use super::held::HeldLock;
use super::paths::LockPaths;
use crate::error::{Context, Error, Result};
use crate::os::{self, Errno, File};
use crate::process;
use crate::record::{Record, to_iso};

/// A finished lock file without a name. `None` where the file system has no unnamed files.
pub fn create_unnamed(paths: &LockPaths, claim: &Claim) -> Result<Option<HeldLock>> {
    Blank::create(paths)?.map(|blank| write_record(paths, claim, blank)).transpose()
}

/// Finishes a file that was created under the name `path`. On failure removes that name. `None`: a contender that judges
/// the file has its flock, where that must not be.
pub fn finish_or_remove(
    path: &Path,
    paths: &LockPaths,
    claim: &Claim,
    file: &File,
) -> Result<Option<HeldLock>> {
    let finished = Blank::of(paths, file).and_then(|blank| write_record(paths, claim, blank));
    if finished.is_err()
        && let Ok(status) = os::status_of(file)
    {
        discard(path, &LockFile::new(file.clone(), status.id));
    }
    match finished {
        Err(Error::System { errno: Errno::WOULDBLOCK, syscall: "flock", .. }) => Ok(None),
        finished => finished.map(Some),
    }
}

/// Writes the record into a new file.
pub fn write_record(paths: &LockPaths, claim: &Claim, blank: Blank) -> Result<HeldLock> {
    let Blank { file, witness, token } = blank;
    let own = process::own();
    let record = Record {
        pid: Some(own.pid),
        created_at: Some(to_iso(os::wall_ms())),
        starttime: own.start_time,
        comm: Some(own.comm.clone()).filter(|name| name != process::UNKNOWN),
        max_hold_ms: claim.max_hold_ms,
        boot_id: own.boot_id.clone(),
        pid_namespace: own.pid_namespace,
        witness,
        label: claim.label.as_deref().map(str::to_owned),
        token: Some(token.clone()),
    };
    os::write(&file.file, record.encode().as_bytes(), 0).during("write", paths.lock())?;
    // On failure the next takeover of this file has to settle.
    let _ = os::forget_reads(&file.file);
    Ok(HeldLock::new(paths, file, token))
}
