//! Which file systems to trust.
//!
//! Sources: statfs(2), linux/magic.h, statx(2), nfs(5), flock(2).

use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, StatxFlags};

use super::files::File;
use super::mountinfo::MountKind;
use crate::os::{Errno, FileId, Result, Trust};

/// What locks on this file (`id`) prove.
///
/// On a network or FUSE mount, locks of another machine, or of another mount of the same folder, are invisible.
/// So a file system is trusted only if it is known to belong to one kernel. Over NFS 4 flocks are the server's,
/// which also frees those of a client that is gone (RFC 8881, 8.3 and 8.4; flock(2), *NFS details*). Before
/// that, `local_lock` and `nolock` make them local, and nobody frees them.
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "`f_type` differs by target")]
pub fn trust(file: &File, id: FileId) -> Trust {
    let has_device = rustix::fs::major(id.device) != 0;
    match if has_device { Some(MountKind::Other) } else { mount_kind(file) } {
        Some(MountKind::Nfs4) => Trust::Flocks,
        Some(MountKind::Other) => {
            let file_system = rustix::fs::fstatfs(file);
            let magic = file_system.map(|file_system| file_system.f_type as u64 & 0xffff_ffff);
            let is_trusted = magic.is_ok_and(|magic| TRUSTED.contains(&magic));
            if is_trusted { Trust::Everything } else { Trust::Nothing }
        }
        Some(MountKind::NinePlan) | None => Trust::Nothing,
    }
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

/// Looks the file's mount up in `/proc/self/mountinfo`. `None`: can't know.
///
/// `mountinfo` is long on some machines, so the answer is kept, by the mount's unique id. Before Linux 6.8 there is only one
/// that the kernel gives to the next mount when this one is gone, and the device's number with it. There the answer for
/// NFS 4 is not kept: trusted by mistake, NFS 3 would do harm.
fn mount_kind(file: &File) -> Option<MountKind> {
    static KNOWN: Mutex<Vec<((u64, u64), MountKind)>> = Mutex::new(Vec::new());
    let unique = mount(file, MNT_ID_UNIQUE).ok();
    let key = unique.or_else(|| mount(file, StatxFlags::MNT_ID).ok())?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, kind)) = known.iter().find(|(known, _)| *known == key) {
        return Some(*kind);
    }
    let kind = kind_of(file)?;
    if unique.is_some() || kind != MountKind::Nfs4 {
        known.push((key, kind));
    }
    Some(kind)
}

/// `STATX_MNT_ID_UNIQUE` (linux/stat.h).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The ids of the mount and of the device. Asks no server: over NFS the file may be gone by now.
fn mount(file: &File, which: StatxFlags) -> Result<(u64, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, "", flags, which)?;
    if stat.stx_mask & which.bits() == 0 {
        return Err(Errno::NOSYS); // an older kernel
    }
    Ok((stat.stx_mnt_id, rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}

fn kind_of(file: &File) -> Option<MountKind> {
    let (id, _) = mount(file, StatxFlags::MNT_ID).ok()?;
    MountKind::find(&std::fs::read("/proc/self/mountinfo").ok()?, id)
}
