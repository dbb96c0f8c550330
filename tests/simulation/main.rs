//! The shipped protocol over a simulated kernel: every schedule, crash and fault of a few processes.

#![allow(missing_docs, clippy::disallowed_methods, reason = "a test")]
#![allow(clippy::struct_excessive_bools, reason = "each is a fact that is on or off by itself")]
#![allow(clippy::large_types_passed_by_value, reason = "worlds are made to be copied")]
#![allow(clippy::unnecessary_wraps, reason = "as in the seam")]

mod calls;
mod cast;
mod checks;
#[cfg(target_os = "linux")]
mod conformance;
mod explore;
mod faults;
mod kernel;
mod kernel_locks;
#[cfg(target_os = "linux")]
mod log;
mod machine;
mod os;
#[cfg(target_os = "linux")]
mod paths;
mod replay;
mod request;
mod rules;
mod same;
mod script;
mod steps;
mod texts;
#[cfg(target_os = "linux")]
mod traces;
mod world;

#[allow(dead_code, reason = "not all of it is simulated")]
#[path = "../../src/error.rs"]
mod error;
/// The state machine of a lock, without its driver.
#[allow(dead_code, reason = "as above")]
#[path = "../../src/locks"]
mod locks {
    pub mod lock;
    pub mod order;

    pub use crate::request::{Environment, Handle, Loss, Request, Ticket};
}
#[allow(dead_code, reason = "as above")]
#[path = "../../src/process.rs"]
mod process;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../../src/protocol/mod.rs"]
mod protocol;
#[allow(dead_code, reason = "as above")]
#[path = "../../src/record.rs"]
mod record;
#[allow(dead_code, reason = "as above")]
#[path = "../../src/verdict.rs"]
mod verdict;

use cast::{Cast, DEAD_OURS, EXT4, NOTHING, NTFS, Role, Start, Starts};
use explore::{Exploration, Found, tell, walk};
use kernel::FileSystem;
use os::Trust;

/// How many states of a cast are enough: where there are more, the nearest ones.
fn enough() -> usize {
    setting("SIMULATION_STATES").unwrap_or(300_000)
}

/// A number from the environment.
fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Goes through all schedules of a cast.
fn holds(cast: &Cast) {
    if !replays(cast) {
        report(cast, &Exploration::run(cast, enough()));
    }
}

/// Goes through many, by chance.
fn holds_by_chance(cast: &Cast) {
    let walks = setting("SIMULATION_WALKS").unwrap_or(10_000);
    if !replays(cast) {
        report(cast, &walk(cast, 0..walks as u64));
    }
}

/// Tells the one schedule of which the environment has the number.
fn replays(cast: &Cast) -> bool {
    let Ok(schedule) = std::env::var("SIMULATION_REPLAY") else {
        return false;
    };
    println!("{}\n{}", cast.name, tell(cast, &schedule.parse().expect("a schedule's number")));
    true
}

fn report(cast: &Cast, found: &Found) {
    HEADER.call_once(|| {
        println!(
            "cut short: there are more states; all that can be reached in so many steps were seen"
        );
        let (states, steps) = ("states", "steps");
        println!("{:<44} {states:>9} {steps:>10} longest   lives seconds", "cast");
    });
    println!("{found}");
    if let Some((what, schedule)) = &found.broken {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let told = tell(cast, schedule);
        panic!(
            "{}: {what}\n{told}\nto see it again:\nSIMULATION_REPLAY={schedule} \
             cargo test --profile simulation --test simulation -- --nocapture --exact {test}",
            cast.name
        );
    }
}

static HEADER: std::sync::Once = std::sync::Once::new();

/// The least: two processes that come once to an empty folder, and nothing goes wrong.
const TWO: Cast = Cast {
    name: "two, once",
    roles: &[Role::Ours(1), Role::Ours(1)],
    fs: EXT4,
    starts: Starts::Empty,
    crashes: 0,
    faults: 0,
    removals: 0,
    alarms: 0,
    lead: &[],
    spares: "",
};
const THREE: Cast = Cast { roles: &[Role::Ours(1); 3], ..TWO };
const TWICE: Cast = Cast { roles: &[Role::Ours(2); 2], ..TWO };
const WITH_OLDER: Cast = Cast { roles: &[Role::Ours(1), Role::Ours(1), Role::Older(1)], ..TWO };
const ONE_AND_OLDER: Cast = Cast { roles: &[Role::Ours(2), Role::Older(2)], ..TWO };

#[test]
fn two_processes_that_come_twice() {
    holds(&Cast { name: "two, twice, two crashes", crashes: 2, ..TWICE });
}

#[test]
fn three_processes() {
    holds(&Cast { name: "three, two crashes", crashes: 2, ..THREE });
}

#[test]
fn two_processes_and_a_dead_lock() {
    let starts = Starts::Dead;
    holds(&Cast { name: "two, something dead, two crashes", starts, crashes: 2, ..TWICE });
}

#[test]
fn three_processes_and_a_dead_lock() {
    holds(&Cast { name: "three, something dead", starts: Starts::Dead, ..THREE });
}

#[test]
fn one_process_and_an_older_one() {
    let starts = Starts::Dead;
    holds(&Cast { name: "one and an older, two crashes", starts, crashes: 2, ..ONE_AND_OLDER });
}

#[test]
fn two_processes_and_an_older_one() {
    holds(&Cast { name: "two and an older", starts: Starts::Dead, ..WITH_OLDER });
}

#[test]
fn machines() {
    let cast = Cast { name: "two machines", roles: &[Role::Machine(1), Role::Machine(1)], ..TWO };
    holds(&cast);
}

#[test]
fn machines_with_two_waiters() {
    let roles = &[Role::Machine(2), Role::Machine(2)];
    holds(&Cast { name: "two machines, two waiters", roles, ..TWO });
}

#[test]
fn a_machine_and_alarms() {
    let roles = &[Role::Machine(2), Role::Ours(1)];
    let name = "a machine, two alarms, a crash";
    holds(&Cast { name, roles, alarms: 2, crashes: 1, starts: Starts::Dead, ..TWO });
}

#[test]
fn three_by_chance() {
    let name = "by chance: three, twice, two crashes";
    holds_by_chance(&Cast { name, roles: &[Role::Ours(2); 3], crashes: 2, ..TWO });
}

#[test]
fn two_and_an_older_by_chance() {
    let name = "by chance: two and an older, two crashes";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Ours(2), Role::Ours(1), Role::Older(2)],
        crashes: 2,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn machines_by_chance() {
    let name = "by chance: machines, alarms, a crash";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Machine(3), Role::Machine(2), Role::Ours(2)],
        crashes: 1,
        alarms: 3,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn machines_and_an_older_by_chance() {
    let name = "by chance: machines and an older, alarms";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Machine(2), Role::Machine(2), Role::Older(2)],
        alarms: 2,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn machines_and_a_fault_by_chance() {
    let name = "by chance: machines, a fault";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Machine(2), Role::Machine(2), Role::Ours(2)],
        faults: 1,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn machines_and_a_removal_by_chance() {
    let name = "by chance: machines, a removal";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Machine(2), Role::Machine(2), Role::Ours(2)],
        removals: 1,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn three_and_a_removal_by_chance() {
    let name = "by chance: three, twice, a removal, a crash";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Ours(2); 3],
        removals: 1,
        crashes: 1,
        starts: Starts::Dead,
        ..TWO
    });
}

#[test]
fn links_by_chance() {
    let name = "by chance: machines, hard links";
    holds_by_chance(&Cast {
        name,
        roles: &[Role::Machine(2), Role::Ours(2), Role::Older(1)],
        crashes: 1,
        starts: Starts::Links,
        ..TWO
    });
}

#[test]
fn a_mount_by_chance() {
    let name = "by chance: three on a mount, a crash";
    let roles = &[Role::Ours(2); 3];
    holds_by_chance(&Cast { name, roles, fs: MOUNT, starts: Starts::Dead, crashes: 1, ..TWO });
}

#[test]
fn unnamed_files_missing_by_chance() {
    let name = "by chance: no unnamed files, older, a crash";
    let roles = &[Role::Ours(2), Role::Ours(2), Role::Older(2)];
    let fs = FileSystem { has_unnamed: false, ..EXT4 };
    holds_by_chance(&Cast { name, roles, fs, starts: Starts::Dead, crashes: 1, ..TWO });
}

/// On a network or FUSE mount: no unnamed files, no exchange, and locks that prove nothing.
const MOUNT: FileSystem = FileSystem {
    trust: Trust::Nothing,
    excludes: false,
    has_unnamed: false,
    exchanges: false,
    reuses_numbers: false,
    is_windows: false,
    on_server: 0,
};

#[test]
fn two_processes_on_a_mount() {
    let name = "two, twice, on a mount";
    holds(&Cast { name, fs: MOUNT, starts: Starts::Dead, ..TWICE });
}

/// NFS 4: the server keeps the locks of all.
const SERVER: FileSystem = FileSystem { trust: Trust::Flocks, excludes: true, ..MOUNT };

#[test]
fn two_processes_on_a_file_server() {
    let name = "two, twice, on a file server, a crash";
    holds(&Cast { name, fs: SERVER, starts: Starts::Dead, crashes: 1, ..TWICE });
}

#[test]
fn a_file_server_by_chance() {
    let name = "by chance: three on a file server, two crashes";
    let roles = &[Role::Ours(2); 3];
    holds_by_chance(&Cast { name, roles, fs: SERVER, starts: Starts::Dead, crashes: 2, ..TWO });
}

/// Nobody is killed: the two sides do not exclude each other from what is left then.
const BESIDE_SERVER: Cast = Cast { roles: &[Role::Ours(2), Role::OnServer(2)], fs: SERVER, ..TWO };

#[test]
fn a_client_and_a_program_on_the_file_server() {
    holds(&Cast { name: "a client and the server itself, twice", ..BESIDE_SERVER });
}

#[test]
fn clients_and_a_program_on_the_file_server_by_chance() {
    let name = "by chance: two clients and the server itself";
    let roles = &[Role::Ours(2), Role::Ours(2), Role::OnServer(2)];
    let starts = Starts::Only(&[NOTHING, Start { lock: Some(DEAD_OURS), ..NOTHING }]);
    holds_by_chance(&Cast { name, roles, starts, ..BESIDE_SERVER });
}

#[test]
fn two_processes_without_unnamed_files() {
    let fs = FileSystem { has_unnamed: false, exchanges: false, ..EXT4 };
    let name = "two, neither unnamed files nor exchange";
    holds(&Cast { name, fs, starts: Starts::Dead, crashes: 1, ..TWO });
}

#[test]
fn two_processes_on_windows() {
    let name = "two, on Windows";
    holds(&Cast { name, fs: NTFS, starts: Starts::Dead, crashes: 1, ..TWO });
}

#[test]
fn windows_by_chance() {
    let name = "by chance: Windows, older, a crash";
    let roles = &[Role::Ours(2), Role::Ours(2), Role::Older(2)];
    holds_by_chance(&Cast { name, roles, fs: NTFS, starts: Starts::Dead, crashes: 1, ..TWO });
}

#[test]
fn hard_links() {
    holds(&Cast { name: "two, hard links, a crash", starts: Starts::Links, crashes: 1, ..TWO });
}

#[test]
fn removals() {
    holds(&Cast { name: "two, twice, a removal", removals: 1, ..TWICE });
}

#[test]
fn faults() {
    holds(&Cast { name: "two, a fault", faults: 1, ..TWO });
}

#[test]
fn faults_beside_a_dead_lock() {
    holds(&Cast { name: "two, something dead, a fault", starts: Starts::Dead, faults: 1, ..TWO });
}
