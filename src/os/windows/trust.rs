//! Which file systems to trust.
//!
//! Sources: `GetVolumeInformationByHandleW`, `GetFileInformationByHandleEx` (`FileRemoteProtocolInfo`).

#![expect(unsafe_code, reason = "the standard library doesn't say on which file system a file is")]

use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Storage::FileSystem::GetVolumeInformationByHandleW;

use super::files::{File, is_local};
use crate::os::{FileId, Trust};

/// The file systems whose locks and file numbers mean what the protocol needs, on a disk of this machine.
const TRUSTED: [&str; 2] = ["NTFS", "ReFS"];

/// What locks on this file prove. A share is not trusted, whatever file system its server has.
pub fn trust(file: &File, _id: FileId) -> Trust {
    let is_known = file_system(file).is_some_and(|name| TRUSTED.contains(&name.as_str()));
    if is_known && is_local(file) { Trust::Everything } else { Trust::Nothing }
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
