//! Which file systems to trust.
//!
//! Sources: statfs(2), sys/mount.h.

use super::files::File;
use crate::os::{FileId, Trust};

/// What locks on this file prove. The kernel marks the file systems that belong to this machine (`MNT_LOCAL`). FUSE
/// file systems don't have that mark unless somebody asks for it.
#[allow(clippy::cast_sign_loss, reason = "a mask")]
pub fn trust(file: &File, _id: FileId) -> Trust {
    match rustix::fs::fstatfs(file) {
        Ok(file_system) if file_system.f_flags & libc::MNT_LOCAL as u32 != 0 => Trust::Everything,
        _ => Trust::Nothing,
    }
}
