//! Files of others at our paths. Whatever stands there: it is never written into, truncated or
//! chmodded. All that may happen to it is that it loses the name.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use session_write_lock::locks::{self, sweep};
use session_write_lock::os;
use session_write_lock::protocol::inspect::{self, Clearing};
use session_write_lock::protocol::{Approach, Attempt};

use super::support::{NOBODY, Pending, Session, claim, environment, release};

/// A file of somebody else's, and everything about it that must stay as it is.
struct Victim {
    path: PathBuf,
    content: String,
}

impl Victim {
    fn new(session: &Session, content: &str) -> Self {
        let path = session.file().with_extension("victim");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        Self { path, content: content.to_owned() }
    }

    fn assert_untouched(&self, how: &str) {
        let metadata = fs::metadata(&self.path).unwrap();
        assert_eq!(fs::read_to_string(&self.path).unwrap(), self.content, "{how}");
        assert_eq!(metadata.mode() & 0o777, 0o666, "{how}");
        assert_eq!(metadata.mtime(), 1, "{how}");
    }
}

/// Contents by which a file looks like a lock of ours, or of the older module, whose holder is dead.
fn contents() -> Vec<String> {
    vec![
        String::new(),
        "precious".into(),
        "!precious".into(),
        r#"{"witness":"flock"}"#.into(),
        format!(
            r#"{{"pid":{NOBODY},"witness":"flock","token":"0123456789abcdef0123456789abcdef"}}"#
        ),
        format!(r#"{{"pid":{NOBODY}}}"#),
    ]
}

fn finish(clearing: Option<Clearing>) {
    if let Some(Clearing::Replaced { held, .. }) = clearing {
        held.release().0.unwrap();
    }
}

type Way = fn(&Session);

/// Every way to a lock at a path where a hard link of the victim stands.
fn ways() -> Vec<(&'static str, Way)> {
    vec![
        ("acquire", |session| {
            let grant = Pending::of(session.request(environment())).grant();
            let metadata = fs::metadata(session.lock()).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600, "a lock in somebody else's file");
            release(&grant).unwrap();
        }),
        ("tryAcquire", |session| {
            let grant = locks::try_acquire(&session.request(environment())).unwrap().unwrap();
            release(&grant).unwrap();
        }),
        ("sweep", |session| {
            let claim = claim();
            finish(inspect::clear(&session.paths, &claim, os::wall_ms()).unwrap());
        }),
        ("hand-over", |session| {
            let held = session.acquire();
            let waiting = session.obstacle();
            held.release().0.unwrap();
            match session.attempt_by(Approach::Flock(waiting)) {
                Attempt::Acquired(held) => assert!(held.release().0.unwrap()),
                other => panic!("{other:?}"),
            }
        }),
    ]
}

#[test]
fn a_hard_link_at_the_lock_path_is_never_written_into() {
    for content in contents() {
        for (how, way) in ways() {
            let session = Session::new();
            let victim = Victim::new(&session, &content);
            fs::hard_link(&victim.path, session.lock()).unwrap();
            way(&session);
            victim.assert_untouched(&format!("{how}: {content}"));
            assert!(!session.lock().exists(), "{how}: {content}");
        }
    }
}

#[test]
fn a_hard_link_at_the_temporarys_path_is_never_written_into() {
    for content in contents() {
        for (how, way) in ways() {
            let session = Session::new();
            let victim = Victim::new(&session, &content);
            session.leave_older_dead_lock();
            fs::hard_link(&victim.path, beside(&session, "new")).unwrap();
            way(&session);
            victim.assert_untouched(&format!("{how}: {content}"));
        }
    }
}

#[test]
fn a_hard_link_at_the_queues_path_is_never_written_into() {
    for content in contents() {
        for (how, way) in ways() {
            let session = Session::new();
            let victim = Victim::new(&session, &content);
            fs::hard_link(&victim.path, beside(&session, "queue")).unwrap();
            way(&session);
            victim.assert_untouched(&format!("{how}: {content}"));
        }
    }
}

#[test]
fn links_at_our_paths_lead_nowhere() {
    for suffix in ["new", "queue"] {
        let session = Session::new();
        let victim = Victim::new(&session, "precious");
        symlink(&victim.path, beside(&session, suffix)).unwrap();
        session.leave_older_dead_lock();
        let _ = locks::try_acquire(&session.request(environment()));
        victim.assert_untouched(suffix);
    }
}

#[test]
#[cfg_attr(any(restricted_os, target_os = "macos"), ignore = "there is no queue")]
fn a_sweep_removes_a_queue_file_that_nobody_uses_and_no_other() {
    let session = Session::new();
    let victim = Victim::new(&session, "");
    fs::hard_link(&victim.path, beside(&session, "queue")).unwrap();
    let other = session.file().with_extension("other.jsonl.lock.queue");
    fs::write(&other, "").unwrap();
    sweep_all(session.file().parent().unwrap());
    victim.assert_untouched("sweep");
    assert!(beside(&session, "queue").exists() && !other.exists());
}

fn sweep_all(folder: &Path) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let options = sweep::Options {
        folder: folder.to_owned(),
        recursive: false,
        removes_dead: true,
        names: sweep::Names::Sessions,
        with_users: false,
        measure: sweep::Measure { stale_ms: 60_000, now_ms: None, spares_foreign: false },
        progress: std::sync::Arc::default(),
    };
    sweep::start(options, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(super::support::SOON).unwrap().unwrap();
}

fn beside(session: &Session, suffix: &str) -> PathBuf {
    session.file().with_extension(format!("jsonl.lock.{suffix}"))
}
