//! Worlds that differ in names only are the same: which of several equal processes is which, the number
//! of an inode.

use std::hash::Hasher;

use crate::cast::Role;
use crate::kernel::{DEAD, INODES, Ino, Open, PROCESSES, Text};
use crate::world::World;

const ORDERS: [[usize; PROCESSES]; 6] =
    [[0, 1, 2], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The ways to number the processes that change no process's role.
pub fn orders(roles: &[Role]) -> Vec<[usize; PROCESSES]> {
    let keeps_roles = |order: &&[usize; PROCESSES]| {
        order.iter().enumerate().all(|(place, &who)| roles.get(place) == roles.get(who))
    };
    ORDERS.iter().filter(keeps_roles).copied().collect()
}

/// 64 well mixed bits: among ten million states, two would share them in one of 400,000 runs.
pub fn fingerprint(world: &World, orders: &[[usize; PROCESSES]]) -> u64 {
    let under = |order: &[usize; PROCESSES]| Naming::new(world, *order).mix();
    orders.iter().map(under).min().unwrap_or(0)
}

/// New names, given out as they are met.
struct Naming<'a> {
    world: &'a World,
    order: [usize; PROCESSES],
    /// Where each process is in the order.
    places: [u8; PROCESSES],
    inodes: [u8; INODES],
    met: Vec<Ino>,
}

impl<'a> Naming<'a> {
    fn new(world: &'a World, order: [usize; PROCESSES]) -> Self {
        let mut places = [0; PROCESSES];
        order.iter().zip(0..).for_each(|(&who, place)| places[who] = place);
        Self { world, order, places, inodes: [0; INODES], met: Vec::with_capacity(INODES) }
    }

    fn mix(mut self) -> u64 {
        let mut mixer = Mixer::default();
        let world = self.world;
        let ends = [
            world.crashes,
            world.faults,
            world.removals,
            u8::from(world.is_littered),
            u8::from(world.is_disturbed),
            u8::from(world.is_robbed),
            u8::from(world.broken.is_some()),
        ];
        mixer.write(&ends);
        for name in world.kernel.names {
            mixer.write_u8(self.inode(name));
        }
        for who in self.order {
            self.process(&mut mixer, who);
        }
        for ino in world.kernel.freed {
            mixer.write_u8(self.inode(ino));
        }
        for met in 0..self.met.len() {
            let inode = world.kernel.inodes[self.met[met] as usize];
            let flags = u8::from(inode.was_read)
                | u8::from(inode.is_old) << 1
                | u8::from(inode.is_used) << 2
                | u8::from(inode.is_foreign) << 3
                | u8::from(inode.is_linkable) << 4;
            mixer.write(&[flags]);
            mixer.write_u64(self.text(inode.text));
            let waiters = inode.waiters.map(|waiter| match waiter {
                0 => 0,
                waiter => (self.places[usize::from(waiter / 16) - 1] + 1) * 16 + waiter % 16,
            });
            mixer.write(&waiters);
        }
        mixer.finish()
    }

    fn process(&mut self, mixer: &mut Mixer, who: usize) {
        let (life, process) = (&self.world.lives[who], &self.world.kernel.processes[who]);
        let masked = |mask: u8| {
            let named = (0..PROCESSES).filter(|&q| mask & 1 << q != 0);
            named.fold(0, |mask, q| mask | 1 << self.places[q])
        };
        mixer.write_u64(u64::from(life.node));
        mixer.write(&life.done);
        mixer.write(&[
            u8::from(process.is_alive) | u8::from(process.is_ending) << 1,
            life.stage as u8,
            masked(life.settles_for),
            masked(life.behind),
        ]);
        for open in process.fds {
            mixer.write_u8(self.inode(open.ino));
            mixer.write_u8(bits(open));
            mixer.write_u8(open.shared);
            mixer.write_u64(u64::from(open.exclusive_bytes) << 32 | u64::from(open.shared_bytes));
        }
        for ino in process.ids {
            mixer.write_u8(self.inode(ino));
        }
        for peer in process.peers {
            mixer.write_u8(match peer {
                0 | DEAD => peer,
                peer => self.places[usize::from(peer) - 1] + 1,
            });
        }
    }

    fn inode(&mut self, ino: Ino) -> u8 {
        if ino != 0 && self.inodes[ino as usize] == 0 {
            self.met.push(ino);
            self.inodes[ino as usize] = u8::try_from(self.met.len()).unwrap_or(u8::MAX);
        }
        self.inodes[ino as usize]
    }

    fn text(&self, text: Text) -> u64 {
        let place = |who: u8| match who {
            DEAD => DEAD,
            who => self.places[usize::from(who)],
        };
        u64::from(match text {
            Text::Empty => 0,
            Text::Torn => 1,
            Text::Foreign => 2,
            Text::Older { who } => 3 | u32::from(place(who)) << 8,
            Text::Ours { who, token, promises } => {
                4 | promises.map_or(0, |promise| promise as u32 + 1) << 3
                    | u32::from(place(who)) << 8
                    | u32::from(token) << 16
            }
        })
    }
}

fn bits(open: Open) -> u8 {
    u8::from(open.writes)
        | u8::from(open.notes_reads) << 1
        | (open.flock as u8) << 2
        | (open.lease as u8) << 4
}

#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }
}
