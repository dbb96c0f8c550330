//! What holds of `/proc/self/mountinfo`, in which any user's mounts stand by their names.

#![cfg_attr(fuzzing, no_main)]

#[allow(clippy::duplicate_mod, reason = "in src/os it is hidden, and one system's")]
#[path = "../../src/os/linux/mountinfo.rs"]
mod mountinfo;

use mountinfo::MountKind;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds_of(bytes));

/// Of any bytes reading ends. Of what the kernel writes, whatever the names are: each mount is found, and as what it is.
pub fn holds_of(bytes: &[u8]) {
    let _ = MountKind::find(bytes, 1);
    let mounts = bytes.split(|&byte| byte == 0).filter_map(<[u8]>::split_first);
    let mut mountinfo = Vec::new();
    let mut kinds = Vec::new();
    for (id, (choice, name)) in IDS.into_iter().zip(mounts) {
        let (line, kind) = mount(id, usize::from(*choice), &escaped(name));
        mountinfo.extend(line);
        kinds.push((id, kind));
    }
    for (id, kind) in kinds {
        assert_eq!(MountKind::find(&mountinfo, id), Some(kind), "{id}");
    }
    assert_eq!(MountKind::find(&mountinfo, 2), None);
}

/// Each begins like those before it.
const IDS: [u64; 5] = [10_000, 1_000, 100, 10, 1];

/// The line of a mount, with `name` wherever a user may have chosen a name.
fn mount(id: u64, choice: usize, name: &[u8]) -> (Vec<u8>, MountKind) {
    let systems = [
        ("fuse", "rw,user_id=1000", MountKind::Other),
        ("tmpfs", "rw,vers=4.2", MountKind::Other),
        ("9p", "rw,vers=4", MountKind::NinePlan),
        ("nfs", "rw,vers=3,minorversion=4", MountKind::Other),
        ("nfs", "rw,vers=4.0", MountKind::Nfs4),
        ("nfs4", "rw,relatime,vers=4.2,rsize=1", MountKind::Nfs4),
    ];
    let fields = ["", "shared:1 ", "shared:1 master:2 ", "unbindable "];
    let (system, options, kind) = systems[choice % systems.len()];
    let fields = fields[choice / systems.len() % fields.len()];
    // FUSE has a subtype.
    let (dot, subtype) = if system == "fuse" { (".", name) } else { ("", &b""[..]) };
    let start = format!("{id} 1 0:{id} /");
    let end = format!(" {options}\n");
    let parts = [
        start.as_bytes(),
        name,
        b" /",
        name,
        b" rw,noatime ",
        fields.as_bytes(),
        b"- ",
        system.as_bytes(),
        dot.as_bytes(),
        subtype,
        b" ",
        name,
        end.as_bytes(),
    ];
    (parts.concat(), kind)
}

/// As the kernel writes a name.
fn escaped(name: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![byte],
    };
    name.iter().flat_map(escape).collect()
}
