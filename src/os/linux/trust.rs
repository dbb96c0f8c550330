//! Which file systems to trust.
//!
//! Sources: statfs(2), linux/magic.h, `proc_pid_mountinfo(5)`, statx(2).

use std::sync::{Mutex, PoisonError};

use rustix::fs::AtFlags;

use super::files::File;
use crate::os::{Errno, FileId, Result};

/// Whether flocks, leases and inode numbers on this file (`id`) mean what they mean on a local disk.
///
/// On a network or FUSE mount, locks of another machine, or of another mount of the same folder, are invisible.
/// So a file system is trusted only if it is known to belong to one kernel.
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "`f_type` differs by target")]
pub fn is_trusted(file: &File, id: FileId) -> bool {
    let Ok(file_system) = rustix::fs::fstatfs(file) else {
        return false;
    };
    let magic = file_system.f_type as u64 & 0xffff_ffff;
    let has_device = rustix::fs::major(id.device) != 0;
    TRUSTED.contains(&magic) && (has_device || !is_9p(file))
}

/// `f_type` of the file systems that belong to one kernel (statfs(2), linux/magic.h).
const TRUSTED: [u64; 14] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
    0x2011_bab0, // exfat
    0x4d44,      // vfat
    0x2405_1905, // ubifs
    0x7366_746e, // ntfs3
];

/// 9p repeats the host's `f_type`; `/proc/self/mountinfo` has the real one. An error counts as 9p.
///
/// `mountinfo` is long on some machines, so the answer is cached by mount and device. A wrong hit would need
/// both numbers to be reused together.
fn is_9p(file: &File) -> bool {
    static KNOWN: Mutex<Vec<((u64, u64), bool)>> = Mutex::new(Vec::new());
    let Ok(mount) = mount(file) else {
        return true;
    };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, is_9p)) = known.iter().find(|(key, _)| *key == mount) {
        return *is_9p;
    }
    let Some(kind) = mount_type(mount.0) else {
        return true;
    };
    known.push((mount, kind == "9p"));
    kind == "9p"
}

/// The ids of the mount and of the device.
fn mount(file: &File) -> Result<(u64, u64)> {
    use rustix::fs::{StatxFlags, statx};

    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS); // before Linux 5.8
    }
    Ok((stat.stx_mnt_id, rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}

fn mount_type(id: u64) -> Option<String> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    let is_it = |mount: &procfs::process::MountInfo| u64::try_from(mount.mnt_id) == Ok(id);
    mounts.into_iter().find(is_it).map(|mount| mount.fs_type)
}
