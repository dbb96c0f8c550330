//! What the kernel can prove about a lock file, without asking who the holder is.
//!
//! Two things prove that a holder lives, in any container on this kernel: its flock, and an open
//! descriptor for writing. Neither can be faked by a reused pid, and both end with the process
//! however it dies. Whether their *absence* proves anything depends on the file system: on a
//! network or FUSE mount another machine, or another mount of the same folder, has locks that we
//! don't see. So a file system counts as local only if it is known to be.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::sys::{self, Lease};

/// What proved that a holder lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Somebody has the exclusive flock.
    Flock,
    /// Somebody has the file open for writing.
    OpenForWriting,
}

/// What the kernel answered about a file whose flock is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Testimony {
    /// A process has it open for writing.
    Writer,
    /// None has.
    NoWriter,
    /// It can't be asked.
    None,
}

/// Asks for a writer. On a file system that isn't local, a refused lease means nothing either:
/// NFS refuses one whenever the server gave no delegation.
pub fn writer(file: &File, is_local: bool) -> Testimony {
    if !is_local {
        return Testimony::None;
    }
    match sys::lease(file) {
        Lease::Refused => Testimony::Writer,
        Lease::Granted => Testimony::NoWriter,
        Lease::Unanswered => Testimony::None,
    }
}

/// Whether flock, leases and inode numbers on this file mean what they mean on a local disk.
#[cfg(target_os = "linux")]
pub fn is_local(file: &File) -> bool {
    let Ok((magic, has_device)) = sys::file_system(file) else {
        return false;
    };
    LOCAL.contains(&magic) && (has_device || !is_9p(file))
}

/// Elsewhere the record and the pid have to do.
#[cfg(not(target_os = "linux"))]
pub fn is_local(_file: &File) -> bool {
    false
}

/// The same for the folder that lock files are made in.
pub fn is_local_folder(folder: &Path) -> bool {
    sys::open(folder).is_ok_and(|folder| is_local(&folder))
}

/// `f_type` of the file systems that one kernel has for itself (statfs(2), linux/magic.h).
#[cfg(target_os = "linux")]
const LOCAL: [u64; 14] = [
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

/// 9p repeats the host's `f_type`; `/proc/self/mountinfo` has the truth. Can't know: yes.
///
/// That text is long on some machines, so the answer is kept by mount and device: for another file
/// system to inherit it, both numbers would have to be given again together.
#[cfg(target_os = "linux")]
fn is_9p(file: &File) -> bool {
    static KNOWN: Mutex<Vec<((u64, u64), bool)>> = Mutex::new(Vec::new());
    let Ok(mount) = sys::mount(file) else {
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

#[cfg(target_os = "linux")]
fn mount_type(id: u64) -> Option<String> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    let is_it = |mount: &procfs::process::MountInfo| u64::try_from(mount.mnt_id) == Ok(id);
    mounts.into_iter().find(is_it).map(|mount| mount.fs_type)
}
