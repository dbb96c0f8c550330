//! Worlds that differ in names only are the same: which of the addon's contenders is which, the number
//! of a file, the number of a token.

#![allow(clippy::cast_possible_truncation, reason = "the numbers here are small")]

use std::hash::Hasher;

use crate::world::{Open, Process, Text, Token, World};

/// The ways to name three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// 64 well mixed bits: among ten million states, two would share them in one of 400,000 runs.
pub fn fingerprint(world: &World) -> u64 {
    let orders = [1, 1, 2, 6][world.addons as usize];
    let under = |order: &[usize; 3]| Naming::new(*order, world).mix();
    ORDERS[..orders].iter().map(under).min().unwrap_or(0)
}

/// New names, given out as they are met.
struct Naming<'a> {
    world: &'a World,
    order: [usize; 3],
    files: [u8; 8],
    met_files: u8,
    tokens: [u8; 32],
}

/// All of those that are gone, and all of their tokens.
const GONE: u8 = 31;

impl<'a> Naming<'a> {
    fn new(order: [usize; 3], world: &'a World) -> Self {
        Self { world, order, files: [0; 8], met_files: 0, tokens: [0; 32] }
    }

    fn mix(mut self) -> u64 {
        let mut mixer = Mixer::default();
        let world = self.world;
        let ends = u64::from(world.hands) << 12
            | u64::from(world.crashes) << 8
            | u64::from(world.is_littered);
        let named = u64::from(self.file(world.path)) << 4 | u64::from(self.file(world.temporary));
        mixer.write_u64(ends << 16 | named | u64::from(world.broken.is_some()) << 40);
        let addons = world.addons as usize;
        for place in 0..world.processes.len() {
            let who = if place < addons { self.order[place] } else { place };
            let process = &world.processes[who];
            mixer
                .write_u64(process.open.iter().fold(0, |bits, open| bits << 12 | self.open(*open)));
            mixer.write_u64(self.process(process));
        }
        let mut texts = [0; 8];
        for ino in 1..8 {
            texts[self.files[ino] as usize] =
                if self.files[ino] == 0 { 0 } else { self.text(world.text[ino]) };
        }
        mixer.write_u64(u64::from_le_bytes(texts));
        mixer.finish()
    }

    fn open(&mut self, open: Open) -> u64 {
        let bits = u64::from(open.writes) << 2 | u64::from(open.flock) << 1 | u64::from(open.line);
        u64::from(self.file(open.ino)) << 3 | bits | u64::from(self.token(open.mark)) << 7
    }

    #[rustfmt::skip]
    fn process(&mut self, process: &Process) -> u64 {
        let tokens = [process.left, process.token, process.previous, process.own];
        let tokens = tokens.iter().fold(0, |bits, &token| bits << 5 | u64::from(self.token(token)));
        let more = u64::from(process.handed_on) << 1 | u64::from(process.is_read);
        let stages = (process.place as u64) << 5 | (process.look_back as u64) << 2 | more;
        tokens << 24 | u64::from(process.turns) << 20 | stages << 10 | process.pc as u64
    }

    fn text(&mut self, text: Text) -> u8 {
        match text {
            Text::Empty => 0,
            Text::Spoilt(token) => 1 | self.token(token) << 2,
            Text::Ours { token, promises } => 2 | self.token(token) << 2 | u8::from(promises) << 7,
            Text::Older(who) if self.world.lives(who) => 3 | who << 2,
            Text::Older(_) => 3 | GONE << 2,
        }
    }

    fn file(&mut self, ino: u8) -> u8 {
        if ino != 0 && self.files[ino as usize] == 0 {
            self.met_files += 1;
            self.files[ino as usize] = self.met_files;
        }
        self.files[ino as usize]
    }

    /// Who wrote it is met first by what is open, or else by this: its place.
    fn token(&mut self, token: Token) -> u8 {
        if token == 0 {
            return 0;
        }
        let writer = World::writer_of(token);
        if !self.world.lives(writer) {
            return GONE;
        }
        if self.tokens[token as usize] == 0 {
            let place =
                self.order.iter().position(|&who| who == writer as usize).unwrap_or(0) as u8;
            let same =
                (1..32).filter(|&t| self.tokens[t as usize] != 0 && World::writer_of(t) == writer);
            self.tokens[token as usize] = 1 + place * 6 + same.count() as u8;
        }
        self.tokens[token as usize]
    }
}

#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
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
