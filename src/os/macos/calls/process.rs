//! Processes as macOS shows them: signal 0 for existence, libproc for the rest.
//!
//! The crate `libproc` needs libclang to be built, so its two calls that are wanted here are made directly.
//!
//! Sources: kill(2), `sys/proc_info.h`, `bsd/kern/proc_info.c`, sysctl(3).

#![expect(unsafe_code, reason = "no safe crate reaches libproc and sysctl without libclang")]

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::os::{Details, Executable, Process};

#[path = "../../unix/process.rs"]
mod unix;
pub use unix::{own_pid, own_user};

/// Looks a pid up. `None` proves that no live process has this number: it is unused, or a zombie's.
pub fn find_process(pid: i32) -> Option<Process> {
    look_up(pid).map(|(process, _)| process)
}

/// What people want to know about a process. `None`: it has ended.
pub fn process_details(pid: i32) -> Option<Details> {
    let (process, info) = look_up(pid)?;
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

fn look_up(pid: i32) -> Option<(Process, Option<libc::proc_bsdinfo>)> {
    if !unix::answers(pid) {
        return None;
    }
    let info = info(pid);
    let is_zombie = info.is_some_and(|info| info.pbi_status == libc::SZOMB);
    (!is_zombie).then(|| (describe(pid, info), info))
}

/// This process.
pub fn own_process() -> Process {
    describe(own_pid(), info(own_pid()))
}

/// One value for as long as the machine runs.
pub fn boot_id() -> Option<String> {
    let mut text = [0_u8; 64];
    let mut length = text.len();
    // SAFETY: the name ends with NUL; at most `length` bytes are written to `text`; nothing is set.
    let result = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            text.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    let id = CStr::from_bytes_until_nul(&text).ok()?.to_str().ok()?;
    (result == 0 && !id.is_empty()).then(|| id.to_owned())
}

/// There is one: all processes of the machine have a number in it.
pub fn pid_namespace() -> Option<u64> {
    Some(1)
}

fn describe(pid: i32, info: Option<libc::proc_bsdinfo>) -> Process {
    Process {
        start_time: info.map(|info| started_us(&info)),
        executable: path_of(pid).map_or(Executable::Unknown, |path| {
            let name = path.file_name().map(OsStr::to_string_lossy);
            name.map_or(Executable::Unknown, |name| Executable::Named(name.into_owned()))
        }),
        task_name: info.and_then(|info| {
            let bytes = info.pbi_comm.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()));
            let name = CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned();
            Some(name).filter(|name| !name.is_empty())
        }),
        in_other_time_namespace: false,
    }
}

/// Microseconds since the epoch, as the clock was set then.
fn started_us(info: &libc::proc_bsdinfo) -> u64 {
    info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec
}

/// `None`: another user's process, or none at all.
fn info(pid: i32) -> Option<libc::proc_bsdinfo> {
    let size = size_of::<libc::proc_bsdinfo>();
    // SAFETY: all-zero bytes are a valid `proc_bsdinfo`: it has numbers only.
    let mut info: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    // SAFETY: this flavour writes one `proc_bsdinfo`, or nothing, and the size says how much room there is.
    let written = unsafe {
        libc::proc_pidinfo(
            pid,
            libc::PROC_PIDTBSDINFO,
            0,
            (&raw mut info).cast(),
            libc::c_int::try_from(size).ok()?,
        )
    };
    (usize::try_from(written) == Ok(size)).then_some(info)
}

/// The path of its executable.
fn path_of(pid: i32) -> Option<PathBuf> {
    const MAX_BYTES: usize = 4 * 1024; // PROC_PIDPATHINFO_MAXSIZE

    let mut path = [0_u8; MAX_BYTES];
    // SAFETY: at most as many bytes are written as the last argument says.
    let length = unsafe {
        libc::proc_pidpath(pid, path.as_mut_ptr().cast(), u32::try_from(MAX_BYTES).ok()?)
    };
    let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
    Some(Path::new(OsStr::from_bytes(&path[..length])).to_owned())
}
