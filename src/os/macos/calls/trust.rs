//! Which file systems to trust.
//!
//! Sources: statfs(2), sys/mount.h.

use super::files::File;
use crate::os::FileId;

/// Whether flocks and inode numbers on this file mean what they mean on a local disk: the kernel marks the file systems
/// that belong to this machine (`MNT_LOCAL`). FUSE file systems don't have that mark unless somebody asks for it.
#[allow(clippy::cast_sign_loss, reason = "a mask")]
pub fn is_trusted(file: &File, _id: FileId) -> bool {
    rustix::fs::fstatfs(file)
        .is_ok_and(|file_system| file_system.f_flags & libc::MNT_LOCAL as u32 != 0)
}
