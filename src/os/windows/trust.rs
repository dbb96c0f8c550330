//! Which file systems to trust.
//!
//! Sources: `GetVolumeInformationByHandleW`, `GetFileInformationByHandleEx` (`FileRemoteProtocolInfo`).

#![expect(unsafe_code, reason = "the standard library doesn't say on which file system a file is")]

use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Storage::FileSystem::GetVolumeInformationByHandleW;

use super::files::{File, is_local};
use crate::os::FileId;

/// The file systems whose locks and file numbers mean what the protocol needs, on a disk of this machine.
const TRUSTED: [&str; 2] = ["NTFS", "ReFS"];

/// Whether locks and file numbers on this file mean what they mean on a local disk. A share is not one, whatever
/// file system its server has.
pub fn is_trusted(file: &File, _id: FileId) -> bool {
    file_system(file).is_some_and(|name| TRUSTED.contains(&name.as_str())) && is_local(file)
}

fn file_system(file: &File) -> Option<String> {
    const MOST: usize = 32;

    let mut name = [0_u16; MOST];
    // SAFETY: `file` is open; at most `MOST` units are written to `name`; nothing else is asked for.
    let is_known = unsafe {
        GetVolumeInformationByHandleW(
            file.as_raw_handle(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            name.as_mut_ptr(),
            u32::try_from(MOST).ok()?,
        )
    } != 0;
    let length = name.iter().position(|unit| *unit == 0)?;
    is_known.then(|| String::from_utf16_lossy(&name[..length]))
}
