//! What is promised, asked of every state and every call.

use crate::cast::Role;
use crate::kernel::{Call, Fd, Held, Ino, Kernel, Name, Open, Text};
use crate::world::{Life, Play, Stage, World};

/// The lock file of a holder: it is flocked by one of ours, and open for writing by an older process.
fn held_file(play: &Play, world: &World, p: usize) -> Option<Ino> {
    if world.lives[p].stage != Stage::Holds {
        return None;
    }
    let is_it = |open: &&Open| {
        let is_locked = play.role(p).is_older() || open.flock == Held::Exclusive;
        let is_queue = open.ino == world.kernel.ino(Name::Queue);
        open.ino != 0 && open.writes && is_locked && !is_queue
    };
    world.kernel.processes[p].fds.iter().find(is_it).map(|open| open.ino)
}

/// A promise that is broken in this very state.
pub fn breach(play: &Play, world: &World) -> Option<&'static str> {
    let counts = |&p: &usize| {
        let is_at_path = || held_file(play, world, p) == Some(world.kernel.ino(Name::Lock));
        world.lives[p].stage == Stage::Holds && (!world.is_robbed || is_at_path())
    };
    let holders = (0..play.cast.roles.len()).filter(counts);
    if holders.count() > 1 {
        return Some("two holders");
    }
    let is_as_it_was = |text| matches!(text, Text::Foreign | Text::Empty);
    if world.kernel.inodes.iter().any(|inode| inode.is_foreign && !is_as_it_was(inode.text)) {
        return Some("a file of the user's was written into");
    }
    if is_out_of_turn(play, world) {
        return Some("served out of turn");
    }
    if makes_spared_call(play, world) {
        return Some(NEEDLESS);
    }
    let is_over = world.lives.iter().all(|life| life.stage == Stage::Gone);
    let names = [Name::Lock, Name::Queue, Name::Temporary];
    let is_left = names.iter().any(|&name| world.kernel.ino(name) != 0);
    (is_over && !world.is_littered && is_left).then_some("something is left behind")
}

/// It costs time, and nothing else.
pub const NEEDLESS: &str = "somebody makes a call that was to be spared";

fn makes_spared_call(play: &Play, world: &World) -> bool {
    let spared = play.cast.spares;
    let alive = (0..play.cast.roles.len()).filter(|&p| world.kernel.processes[p].is_alive);
    let mut calls = alive.flat_map(|p| play.destinations(world, p));
    !spared.is_empty() && calls.any(|call| format!("{call:?}").contains(spared))
}

/// A promise that was broken by this call.
pub fn call(
    play: &Play,
    before: &Kernel,
    world: &World,
    p: usize,
    call: Call,
) -> Option<&'static str> {
    let is_foreign = |fd| before.inodes[before.open_file(p, fd).ino as usize].is_foreign;
    match call {
        Call::Reopen(fd) | Call::Write(fd, _) if is_foreign(fd) => {
            return Some("a file of the user's is opened for writing");
        }
        Call::Unlink(Name::Queue) if !world.is_disturbed => {
            let queue = before.ino(Name::Queue);
            let has_place = |q: usize| {
                let mut fds = before.processes[q].fds.iter();
                q != p && fds.any(|open| open.ino == queue && open.exclusive_bytes != 0)
            };
            let is_used = (0..play.cast.roles.len()).any(has_place);
            return (is_used && queue != 0).then_some("a queue in use is removed");
        }
        // Where every process has a mount of its own, two can use the temporary's name at once.
        Call::Link(_, Name::Lock) | Call::Rename(_, Name::Lock)
            if before.fs.excludes && !world.is_robbed && is_unfinished(before, &world.kernel) =>
        {
            return Some("an unfinished file becomes the lock file");
        }
        Call::Unlink(_) | Call::UnlinkOpen(_) | Call::Rename(..) => {}
        _ => return None,
    }
    let robbed = before.ino(Name::Lock);
    let is_robbed = robbed != world.kernel.ino(Name::Lock);
    let mut others = (0..play.cast.roles.len()).filter(|&q| q != p);
    let removes = is_robbed && others.any(|q| held_file(play, world, q) == Some(robbed));
    removes.then_some("removes a live lock")
}

fn is_unfinished(before: &Kernel, after: &Kernel) -> bool {
    let lock = after.ino(Name::Lock);
    lock != before.ino(Name::Lock) && after.inodes[lock as usize].text == Text::Empty
}

// --- Order --------------------------------------------------------------------------------------

/// Who has a place in the queue and wants the lock, as a mask. In a queue file that has lost its name
/// only those count who wait there: the others are going to notice.
fn in_queue(play: &Play, world: &World) -> u8 {
    let queue = world.kernel.ino(Name::Queue);
    let is_in_it = |p: &usize| {
        let mut calls = play.destinations(world, *p);
        let waits = calls.any(|call| matches!(call, Call::ByteWait(..) | Call::FlockWait(_)));
        let fds = &world.kernel.processes[*p].fds;
        // Who has locked all bytes removes the file; a machine may be about to leave for one that has gone.
        let is_left = |fd| play.destinations(world, *p).any(|call| call == Call::ByteUnlock(fd));
        let is_place = |(fd, open): (Fd, &Open)| {
            let is_one = !matches!(open.exclusive_bytes, 0 | u32::MAX);
            is_one && (waits || open.ino == queue) && !is_left(fd)
        };
        world.lives[*p].stage == Stage::Wants && (0..).zip(fds).any(is_place)
    };
    (0..play.cast.roles.len()).filter(is_in_it).fold(0, |mask, p| mask | 1 << p)
}

/// A process begins to want the lock: those who wait in the queue now are before it.
pub fn note_arrival(play: &Play, world: &mut World, p: usize) {
    world.lives[p].behind = in_queue(play, world) & !(1 << p);
}

/// A process that has left the queue's line is before nobody any more. Nor is one that has just given a place up, and has
/// only a later one left: it had come again before the thread of its first wait was back.
pub fn note_line(play: &Play, before: &World, world: &mut World) {
    let line = in_queue(play, world);
    for p in 0..play.cast.roles.len() {
        let is_later = |&q: &usize| {
            let places = (places_of(before, q), places_of(world, q), places_of(world, p));
            matches!(places, (Some(earlier), Some(its), Some(ours))
                if earlier & !its != 0 && its.trailing_zeros() > ours.ilog2())
        };
        let later = (0..play.cast.roles.len()).filter(is_later).fold(0, |mask, q| mask | 1 << q);
        world.lives[p].behind &= line & !later;
    }
}

/// The bytes of the queue file that a process has locked. One that removes the file has locked all of them.
fn places_of(world: &World, p: usize) -> Option<u32> {
    let queue = world.kernel.ino(Name::Queue);
    let places = world.kernel.processes[p].fds.iter().filter(|open| open.ino == queue);
    let bytes = places.fold(0, |bytes, open| bytes | open.exclusive_bytes);
    (queue != 0 && !matches!(bytes, 0 | u32::MAX)).then_some(bytes)
}

/// A process has the lock although another waited in the queue when it came, and waits there still. The older module knows
/// no queue, nor does a client of a file server.
fn is_out_of_turn(play: &Play, world: &World) -> bool {
    let is_beside = |role: &Role| role.is_older() || matches!(role, Role::OnServer(_));
    let has_others = play.cast.roles.iter().any(is_beside);
    let overtakes = |life: &Life| life.stage == Stage::Holds && life.behind != 0;
    !world.is_disturbed && !has_others && world.lives.iter().any(overtakes)
}
