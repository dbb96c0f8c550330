//! Processes as Windows shows them.
//!
//! A process that has ended keeps its number for as long as somebody has a handle of it. Waiting for it, without
//! waiting, tells whether it has ended.
//!
//! Sources: `OpenProcess`, `WaitForSingleObject`, `GetProcessTimes`, `QueryFullProcessImageNameW`.

#![expect(unsafe_code, reason = "the standard library looks only at its own children")]

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::PathBuf;

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, WAIT_OBJECT_0};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};
use windows_sys::Win32::System::Threading::{
    GetProcessId, GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE, QueryFullProcessImageNameW, WaitForSingleObject,
};

use super::wide;
use crate::os::{Details, Executable, Process};

/// This process's number.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn own_pid() -> i32 {
    number(std::process::id())
}

/// Every file's owner counts as this user: what a process may open is decided when it opens it.
pub fn own_user() -> u32 {
    super::files::EVERYBODY
}

/// Looks a pid up. `None` proves that no live process has this number.
pub fn find_process(pid: i32) -> Option<Process> {
    match open(pid)? {
        Some(process) => Some(describe(&process)),
        None => Some(Process::default()),
    }
}

/// What people want to know about a process. `None`: it has ended.
pub fn process_details(pid: i32) -> Option<Details> {
    let handle = open(pid)?;
    let started_us = handle.as_ref().and_then(started_us);
    let now_us = u64::try_from(crate::os::wall_ms()).unwrap_or(0) * 1_000;
    Some(Details {
        process: handle.as_ref().map(describe).unwrap_or_default(),
        own_pid: Some(pid),
        pid_namespace: None,
        running_for_ms: started_us.map(|then| now_us.saturating_sub(then) / 1_000),
        command: handle.as_ref().and_then(path_of).map(|path| path.to_string_lossy().into_owned()),
        is_stopped: false,
    })
}

/// This process.
pub fn own_process() -> Process {
    find_process(own_pid()).unwrap_or_default()
}

/// Start times are points in time here, so they are compared across boots. What has to be told apart are machines that
/// share a folder: by the id that the installation has, and by the machine's name, because copies of one disk
/// have one id.
pub fn boot_id() -> Option<String> {
    let id = registry_text(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid")?;
    let name = registry_text(
        r"SYSTEM\CurrentControlSet\Control\ComputerName\ActiveComputerName",
        "ComputerName",
    )?;
    Some(format!("{id}-{name}"))
}

/// There is one: all processes of the machine have a number in it.
pub fn pid_namespace() -> Option<u64> {
    Some(1)
}

/// `None`: there is no such process. `Some(None)`: there is one, and we may not ask about it.
#[expect(clippy::option_option, reason = "three answers, never two")]
fn open(pid: i32) -> Option<Option<OwnedHandle>> {
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    // SAFETY: has no preconditions.
    let handle =
        unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE, 0, pid) };
    if handle.is_null() {
        let code = std::io::Error::last_os_error().raw_os_error();
        let is_unused =
            code.and_then(|code| u32::try_from(code).ok()) == Some(ERROR_INVALID_PARAMETER);
        return if is_unused { None } else { Some(None) };
    }
    // SAFETY: the handle is new, and nobody else's.
    let process = unsafe { OwnedHandle::from_raw_handle(handle) };
    // The system ignores the two lowest bits of a number: 5, 6 and 7 open process 4.
    // SAFETY: the handle is open.
    let is_it = unsafe { GetProcessId(process.as_raw_handle()) } == pid;
    // SAFETY: the handle is open, and allows to wait.
    let has_ended = unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } == WAIT_OBJECT_0;
    (is_it && !has_ended).then_some(Some(process))
}

fn describe(process: &OwnedHandle) -> Process {
    let file = path_of(process).and_then(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Some((path.file_stem()?.to_string_lossy().into_owned(), name))
    });
    let (stem, name) = file.map_or((None, None), |(stem, name)| (Some(stem), name));
    Process {
        start_time: started_us(process),
        // `node`, as on other systems. A record that says `node.exe` means the same.
        executable: stem.map_or(Executable::Unknown, Executable::Named),
        task_name: name,
        in_other_time_namespace: false,
    }
}

/// Microseconds since 1970: those since 1601 are more than JavaScript can count.
fn started_us(process: &OwnedHandle) -> Option<u64> {
    const FROM_1601_TO_1970_US: u64 = 11_644_473_600 * 1_000_000;

    let mut times = [FILETIME::default(); 4];
    let [created, exited, kernel, user] = &mut times;
    // SAFETY: the handle is open, and each time is written to a `FILETIME` of ours.
    let is_known =
        unsafe { GetProcessTimes(process.as_raw_handle(), created, exited, kernel, user) } != 0;
    let ticks = u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime);
    is_known.then(|| (ticks / 10).saturating_sub(FROM_1601_TO_1970_US))
}

/// The path of its executable.
fn path_of(process: &OwnedHandle) -> Option<PathBuf> {
    const MOST: usize = 32 * 1024; // the longest path that there can be

    let mut path = vec![0_u16; MOST];
    let mut length = u32::try_from(MOST).ok()?;
    // SAFETY: the handle is open; at most `length` units are written to `path`.
    let is_known = unsafe {
        QueryFullProcessImageNameW(process.as_raw_handle(), 0, path.as_mut_ptr(), &raw mut length)
    } != 0;
    let path = String::from_utf16_lossy(path.get(..usize::try_from(length).ok()?)?);
    is_known.then(|| path.into())
}

fn registry_text(key: &str, value: &str) -> Option<String> {
    const MOST: usize = 256;

    let mut text = [0_u16; MOST];
    let mut bytes = u32::try_from(size_of_val(&text)).ok()?;
    // SAFETY: both names end with NUL; at most `bytes` are written to `text`.
    let result = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            wide(key.as_ref()).as_ptr(),
            wide(value.as_ref()).as_ptr(),
            RRF_RT_REG_SZ,
            std::ptr::null_mut(),
            text.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let length = text.iter().position(|unit| *unit == 0)?;
    (result == 0 && length > 0).then(|| String::from_utf16_lossy(&text[..length]))
}

/// Numbers are far below 2^31 in practice, and a record has room for 31 bits.
fn number(pid: u32) -> i32 {
    i32::try_from(pid).unwrap_or(i32::MAX)
}
