//! What people want to know about processes. Which of them have a file open is not asked here.

use std::collections::HashSet;

use super::process::{find_process, info, path_of, started_us};
use crate::os::{Details, FileId, OpenFile};

/// Not known on macOS.
#[expect(clippy::implicit_hasher, reason = "it has one caller")]
pub fn open_files(_wanted: &HashSet<FileId>) -> Vec<OpenFile> {
    Vec::new()
}

/// Not known on macOS.
pub fn flock_waiters() -> Vec<(i32, u64)> {
    Vec::new()
}

/// `None`: it has ended.
pub fn process_details(pid: i32) -> Option<Details> {
    let process = find_process(pid)?;
    let info = info(pid);
    let started_ms = info.and_then(|info| i64::try_from(started_us(&info) / 1_000).ok());
    Some(Details {
        process,
        own_pid: Some(pid),
        pid_namespace: None,
        running_for_ms: started_ms.map(|ms| u64::try_from(crate::os::wall_ms() - ms).unwrap_or(0)),
        command: path_of(pid).map(|path| path.to_string_lossy().into_owned()),
        is_stopped: info.is_some_and(|info| info.pbi_status == libc::SSTOP),
    })
}
