//! What `/proc/self/mountinfo` says of a mount.
//!
//! Read as bytes: any user can mount something (FUSE), and in such names the kernel escapes only white space, `#` and `\`. A
//! name that is no text must not hide the other mounts.
//!
//! Sources: `proc_pid_mountinfo(5)`, `fs/proc_namespace.c`.

/// What `f_type` does not tell: 9p repeats the host's, and all versions of NFS share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A folder of a virtual machine's host.
    NinePlan,
    /// NFS 4.
    Nfs4,
    /// All else.
    Other,
}

impl MountKind {
    /// Of the mount with this id. `None`: it is not there.
    pub fn find(mountinfo: &[u8], id: u64) -> Option<Self> {
        let id = format!("{id} ");
        let mut lines = mountinfo.split(|&byte| byte == b'\n');
        Self::of(lines.find_map(|line| line.strip_prefix(id.as_bytes()))?)
    }

    /// `35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw`
    fn of(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ');
        // No field before it is a mere `-`: the names there are paths.
        words.find(|word| *word == b"-")?;
        let (file_system, _source, options) = (words.next()?, words.next()?, words.next()?);
        let version = options.split(|&byte| byte == b',').find_map(|it| it.strip_prefix(b"vers="));
        Some(match file_system {
            b"9p" => Self::NinePlan,
            b"nfs" | b"nfs4" if version.is_some_and(|version| version.starts_with(b"4")) => {
                Self::Nfs4
            }
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_id_beside_one_whose_name_is_no_text() {
        let mountinfo = b"20 1 0:19 / /a\xff rw shared:1 - fuse.x \xfe\\040 rw,user_id=7\n\
            2 1 0:20 / /- rw,noatime - nfs4 server:/ rw,vers=4.2,rsize=1\n\
            3 1 0:21 / /b rw shared:1 master:2 - nfs server:/ rw,vers=3\n\
            4 1 0:22 / /c rw\n\
            5 1 0:22 / /c rw - 9p  rw,vers=4\n\
            6 1 0:23 / /d rw - tmpfs tmpfs rw,vers=4\n";
        let found = [2, 3, 4, 5, 6, 20, 0].map(|id| MountKind::find(mountinfo, id));
        let other = Some(MountKind::Other);
        let nine_plan = Some(MountKind::NinePlan);
        assert_eq!(found, [Some(MountKind::Nfs4), other, None, nine_plan, other, other, None]);
    }
}
