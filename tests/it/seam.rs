//! Above `src/os`, no module asks the system for anything by itself.

use std::fs;
use std::path::{Path, PathBuf};

/// What only `src/os` may name.
const SYSTEM: [&str; 10] = [
    "rustix",
    "windows_sys",
    "libc::",
    "procfs::",
    "target_os",
    "std::fs",
    "std::net",
    "std::os::",
    "std::thread",
    "Instant::now",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

#[test]
fn only_the_seam_names_the_system() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let seam = root.join("os");
    let mut looked_at = 0;
    for file in sources(&root).into_iter().filter(|file| !file.starts_with(&seam)) {
        looked_at += 1;
        let text = fs::read_to_string(&file).unwrap();
        // Tests of a module may set up what they need.
        let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = shipped.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = SYSTEM.iter().find(|word| line.contains(**word));
            assert_eq!(found, None, "{}: {line}", file.display());
        }
    }
    assert!(looked_at > 10);
}

/// `lower` knows nothing of `upper`: knowledge flows down.
#[test]
fn knowledge_flows_down() {
    const ROOMS: [&str; 8] =
        ["node", "locks", "protocol", "error", "verdict", "process", "record", "os"];
    let sources_of = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&sources_of) {
        let inside = file.strip_prefix(&sources_of).unwrap().to_str().unwrap();
        let name = inside.split(['/', '.']).next().unwrap();
        let Some(height) = ROOMS.iter().position(|room| *room == name) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for upper in &ROOMS[..height] {
                assert!(!line.contains(&format!("crate::{upper}")), "{inside} knows {upper}");
            }
        }
    }
}
