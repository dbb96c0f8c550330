//! Who takes part, and what stands in the folder when it begins.

use std::path::{Path, PathBuf};

use crate::kernel::{DEAD, FileSystem, Inode, Kernel, Name, Pause, Text};
use crate::os::blocked::Stop;
use crate::os::{self, Errno, Trust};
use crate::protocol::{
    self, Approach, Attempt, Claim, HeldLock, LockPaths, Obstacle, Place, ToldBy,
};
use crate::record::DeclaredWitness;
use crate::replay::pause;
use crate::texts;
use crate::verdict::{Limits, witness_of};

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Uses this package, and comes so often.
    Ours(u8),
    /// Uses the older TypeScript module, and comes so often.
    Older(u8),
    /// Uses this package, with so many acquires at a time: see [`machine`](crate::machine).
    Machine(u8),
    /// Uses this package on the file server itself, where the clients' folder is on a local disk.
    OnServer(u8),
}

impl Role {
    pub fn is_older(self) -> bool {
        matches!(self, Self::Older(_))
    }

    /// What locks prove to it, where they prove `trust` to the others.
    pub fn trust(self, trust: Trust) -> Trust {
        if matches!(self, Self::OnServer(_)) { Trust::Everything } else { trust }
    }

    /// Its life, made of calls of [`os`].
    pub fn play(self) {
        match self {
            Self::Ours(rounds) | Self::OnServer(rounds) => {
                (0..rounds).rev().for_each(come_for_the_lock);
            }
            Self::Older(rounds) => (0..rounds).rev().for_each(come_as_the_older_module_does),
            Self::Machine(_) => unreachable!("it has no script"),
        }
    }
}

// --- A process with this package ----------------------------------------------------------------

pub fn paths() -> LockPaths {
    LockPaths::in_folder(PathBuf::from("/f"), "s.lock".as_ref())
}

pub fn claim() -> Claim {
    Claim {
        max_hold_ms: Some(1000),
        label: None,
        spares_foreign: false,
        limits: Limits::new(1_800_000, Some(10_000)),
        is_held_here: false,
        may_queue: true,
    }
}

/// One acquire and one release. `left`: how often it will come again.
fn come_for_the_lock(left: u8) {
    pause(Pause::Idle, &left);
    let Some(held) = acquire(left) else {
        return;
    };
    pause(Pause::Hold, &(left, &held));
    let (_, place) = held.release();
    drop(held);
    pause(Pause::Here, &(left, &place));
    if let Some(place) = place {
        place.leave();
    }
}

fn acquire(left: u8) -> Option<HeldLock> {
    let (paths, claim) = (paths(), claim());
    let mut approach = Approach::Newcomer;
    loop {
        pause(Pause::Here, &(left, &approach));
        approach = match protocol::attempt(&paths, &claim, approach) {
            Ok(Attempt::Acquired(held)) => return Some(held),
            Ok(Attempt::TakenOver(held)) => {
                pause(Pause::Settle, &(left, &held));
                if held.is_at_its_path() == Ok(true) {
                    return Some(held);
                }
                let (_, place) = held.release();
                place.map_or(Approach::Newcomer, Approach::Place)
            }
            Ok(Attempt::Queued(place)) => wait_for_turn(place, left)?,
            Ok(Attempt::Contended(obstacle)) => wait_behind(obstacle, left)?,
            Err(_) => return None,
        }
    }
}

/// `None`: it has given up, and left the queue.
fn wait_for_turn(mut place: Place, left: u8) -> Option<Approach> {
    pause(Pause::Here, &(left, &place));
    place.prepare();
    match place.wait(&Stop) {
        Ok(()) => Some(Approach::Place(place)),
        Err(Errno::NOENT) => Some(Approach::Newcomer), // no queue any more
        Err(_) => {
            place.leave();
            None
        }
    }
}

fn wait_behind(mut obstacle: Obstacle, left: u8) -> Option<Approach> {
    let goes_on = match obstacle.told_by() {
        ToldBy::Flock => {
            pause(Pause::Here, &(left, &obstacle));
            obstacle.prepare();
            obstacle.wait(&Stop).is_ok()
        }
        ToldBy::Close | ToldBy::Exit(_) | ToldBy::Time => pause(Pause::Later, &(left, &obstacle)),
    };
    if goes_on && obstacle.told_by() == ToldBy::Flock {
        return Some(Approach::Flock(obstacle));
    }
    let place = obstacle.into_place();
    if goes_on {
        return Some(place.map_or(Approach::Newcomer, Approach::Place));
    }
    place.into_iter().for_each(Place::leave);
    None
}

// --- A process with the older module ------------------------------------------------------------

/// It creates the lock file exclusively, writes into it, keeps it open while it holds, and removes by
/// path: when it releases, and when it has read a record of a process that is dead.
fn come_as_the_older_module_does(left: u8) {
    let lock = Path::new("/f/s.lock");
    pause(Pause::Idle, &left);
    loop {
        match os::create_new(lock) {
            Ok(file) => {
                let _ = os::write(&file, &texts::bytes_of(Text::Older { who: 0 }), 0);
                pause(Pause::Hold, &(left, &file));
                drop(file);
                pause(Pause::Releasing, &left);
                let _ = os::unlink(lock);
                return;
            }
            Err(_) => match os::open_if_dead(lock) {
                Ok(file) => {
                    let _ = os::read(&file, usize::MAX);
                    drop(file);
                    pause(Pause::Gap, &left);
                    let _ = os::unlink(lock);
                }
                Err(Errno::NOENT) => {}
                Err(_) if pause(Pause::Later, &left) => {}
                Err(_) => return,
            },
        }
    }
}

// --- Casts --------------------------------------------------------------------------------------

/// Who takes part, and how much may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    pub name: &'static str,
    pub roles: &'static [Role],
    pub fs: FileSystem,
    pub starts: Starts,
    pub crashes: u8,
    pub faults: u8,
    pub removals: u8,
    /// Alarms of a machine that nothing rests on, and ends of environments.
    pub alarms: u8,
    /// How it begins, see [`Play::begin`](crate::world::Play::begin).
    pub lead: &'static [(usize, &'static str)],
    /// A call that nobody has to make after that, or a part of its words.
    pub spares: &'static str,
}

/// What stands in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// Nothing.
    Empty,
    /// Every kind of dead lock file, with and without an abandoned temporary and queue file.
    Dead,
    /// A hard link to a file of the user's, at each of the paths.
    Links,
    /// These.
    Only(&'static [Start]),
}

pub const EXT4: FileSystem = FileSystem {
    trust: Trust::Everything,
    excludes: true,
    has_unnamed: true,
    exchanges: true,
    reuses_numbers: true,
    is_windows: false,
    on_server: 0,
};

/// Windows's: no unnamed files, and no exchange.
pub const NTFS: FileSystem =
    FileSystem { has_unnamed: false, exchanges: false, is_windows: true, ..EXT4 };

/// One start: what is at each path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub lock: Option<Text>,
    pub temporary: Option<Text>,
    /// The temporary's name is a second name of the lock file.
    pub has_twin: bool,
    pub queue: bool,
    /// The queue file is the user's own, and is not empty.
    pub foreign_queue: bool,
    /// The victim has this second name.
    pub link: Option<Name>,
    /// What is in the victim.
    pub victim: Text,
}

/// The record of a process that has ended: this package's, and the older module's.
pub const DEAD_OURS: Text =
    Text::Ours { who: DEAD, token: 0, promises: Some(DeclaredWitness::Flock) };
pub const DEAD_OLDER: Text = Text::Older { who: DEAD };

/// An empty folder.
pub const NOTHING: Start = Start {
    lock: None,
    temporary: None,
    has_twin: false,
    queue: false,
    foreign_queue: false,
    link: None,
    victim: Text::Foreign,
};

impl Starts {
    pub fn all(self) -> Vec<Start> {
        match self {
            Self::Only(starts) => starts.to_vec(),
            Self::Empty => vec![NOTHING],
            Self::Links => [Name::Lock, Name::Queue, Name::Temporary]
                .into_iter()
                .flat_map(|name| {
                    let link = Start { link: Some(name), ..NOTHING };
                    let dead = (name != Name::Lock).then_some(DEAD_OURS);
                    [link, Start { lock: dead, ..link }]
                })
                .collect(),
            Self::Dead => {
                let dead = Start { lock: Some(DEAD_OURS), ..NOTHING };
                let older = Start { lock: Some(DEAD_OLDER), ..NOTHING };
                let torn = Start { lock: Some(Text::Torn), ..NOTHING };
                let with_temporary = |start| Start { temporary: Some(DEAD_OURS), ..start };
                let with_queue = |start| Start { queue: true, ..start };
                let alone = [dead, older, torn];
                let more = [with_temporary(dead), with_temporary(older), with_queue(dead)];
                [&alone[..], &more, &[with_temporary(NOTHING), with_queue(NOTHING)]].concat()
            }
        }
    }
}

impl Start {
    pub fn kernel(self, fs: FileSystem, processes: usize) -> Kernel {
        let mut kernel = Kernel::new(fs);
        let mut put = |name: Name, text: Text| {
            let text = match text {
                // By a process that this file system has promised as much as those that come now.
                Text::Ours { who, token, promises } => {
                    Text::Ours { who, token, promises: witness_of(fs.trust).or(promises) }
                }
                other => other,
            };
            let ino = kernel.new_number();
            let is_foreign = name == Name::Victim || text == Text::Foreign;
            kernel.inodes[ino as usize] =
                Inode { is_used: true, is_old: true, text, is_foreign, ..Inode::default() };
            kernel.names[name as usize] = ino;
            ino
        };
        self.lock.map(|text| put(Name::Lock, text));
        self.temporary.map(|text| put(Name::Temporary, text));
        self.queue.then(|| put(Name::Queue, Text::Empty));
        self.foreign_queue.then(|| put(Name::Queue, Text::Foreign));
        if let Some(name) = self.link {
            let victim = put(Name::Victim, self.victim);
            kernel.names[name as usize] = victim;
        }
        if self.has_twin {
            kernel.names[Name::Temporary as usize] = kernel.ino(Name::Lock);
        }
        kernel.processes.iter_mut().take(processes).for_each(|process| process.is_alive = true);
        kernel
    }

    pub fn is_littered(self) -> bool {
        self != NOTHING
    }
}
