//! Goes through every schedule, breadth first, so that the first one to break a promise is a shortest.

#![allow(clippy::cast_possible_truncation, reason = "there are fewer states than u32 has numbers")]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;

use crate::same::{Mixer, fingerprint};
use crate::steps::{Kind, Rules, steps};
use crate::world::{Pc, Process, World};

/// What is kept of a world: enough to find the way back to it.
struct Seen {
    from: u32,
    step: u8,
    /// Somebody holds, or nobody wants to.
    is_content: bool,
}

/// What was found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    pub longest: usize,
    /// The first broken promise, and a shortest schedule that breaks it.
    pub broken: Option<(String, Vec<String>)>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} states, {} steps, {} deep", self.states, self.steps, self.longest)?;
        if let Some((what, schedule)) = &self.broken {
            write!(f, ": {what}")?;
            for (number, step) in schedule.iter().enumerate() {
                write!(f, "\n{:4}. {step}", number + 1)?;
            }
        }
        Ok(())
    }
}

pub fn explore(starts: &[World], rules: &Rules) -> Found {
    let mut numbers: HashMap<u64, u32, BuildHasherDefault<Mixer>> = HashMap::default();
    let mut seen: Vec<Seen> = Vec::new();
    // Pairs of neighbours on a way that comes without anybody's choice.
    let mut ways: Vec<(u32, u32)> = Vec::new();
    let (mut count, mut depth) = (0, 0);
    let mut layer: Vec<(u32, World)> = Vec::new();
    for (start, world) in starts.iter().enumerate() {
        numbers.insert(fingerprint(world), start as u32);
        seen.push(Seen { from: u32::MAX, step: 0, is_content: is_content(world) });
        layer.push((start as u32, *world));
    }
    let report = |seen: &[Seen], count, depth, last: u32, what: &str| Found {
        states: seen.len(),
        steps: count,
        longest: depth,
        broken: Some((what.to_owned(), schedule(starts, rules, seen, last))),
    };
    while !layer.is_empty() {
        depth += 1;
        let mut next_layer = Vec::new();
        for (number, world) in &layer {
            let steps = steps(world, rules);
            if let Some(what) = litter(world) {
                return report(&seen, count, depth, *number, what);
            }
            for (index, step) in steps.iter().enumerate() {
                count += 1;
                let to = match numbers.entry(fingerprint(&step.next)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        let to = *new.insert(seen.len() as u32);
                        let is_content = is_content(&step.next);
                        seen.push(Seen { from: *number, step: index as u8, is_content });
                        if let Some(what) = breach(&step.next) {
                            return report(&seen, count, depth, to, what);
                        }
                        next_layer.push((to, step.next));
                        to
                    }
                };
                if step.kind == Kind::Work {
                    ways.push((to, *number));
                }
            }
        }
        layer = next_layer;
    }
    let broken = wedged(&seen, ways).map(|number| {
        ("nobody gets the lock any more".to_owned(), schedule(starts, rules, &seen, number))
    });
    Found { states: seen.len(), steps: count, longest: depth, broken }
}

/// A promise that is broken in this very state.
fn breach(world: &World) -> Option<&'static str> {
    let holders = world.processes.iter().filter(|process| process.holds()).count();
    world.broken.or((holders > 1).then_some("two holders"))
}

/// When all is over, nothing is left.
fn litter(world: &World) -> Option<&'static str> {
    let is_over = world.processes.iter().all(|process| matches!(process.pc, Pc::Gone));
    let is_litter = is_over && !world.is_littered && (world.path != 0 || world.temporary != 0);
    is_litter.then_some("something is left behind")
}

fn is_content(world: &World) -> bool {
    let mut processes = world.processes.iter();
    processes.clone().any(Process::holds) || !processes.any(Process::wants)
}

/// The first state from which no way leads to a content one.
fn wedged(seen: &[Seen], mut ways: Vec<(u32, u32)>) -> Option<u32> {
    ways.sort_unstable();
    let mut is_good: Vec<bool> = seen.iter().map(|seen| seen.is_content).collect();
    let mut todo: Vec<u32> = (0..seen.len() as u32).filter(|&n| is_good[n as usize]).collect();
    while let Some(number) = todo.pop() {
        let start = ways.partition_point(|&(to, _)| to < number);
        for &(_, from) in ways[start..].iter().take_while(|&&(to, _)| to == number) {
            if !std::mem::replace(&mut is_good[from as usize], true) {
                todo.push(from);
            }
        }
    }
    is_good.iter().position(|&is_good| !is_good).map(|number| number as u32)
}

/// Goes the way to a state again, and tells it.
fn schedule(starts: &[World], rules: &Rules, seen: &[Seen], last: u32) -> Vec<String> {
    let mut way = Vec::new();
    let mut number = last;
    while seen[number as usize].from != u32::MAX {
        way.push(seen[number as usize].step);
        number = seen[number as usize].from;
    }
    let mut world = starts[number as usize];
    let mut told = vec![format!(
        "at first: path {:?}, temporary {:?}",
        world.text[world.path as usize], world.text[world.temporary as usize]
    )];
    for step in way.iter().rev() {
        let step = steps(&world, rules).swap_remove(*step as usize);
        told.push(format!("{} {}", step.who, step.what));
        world = step.next;
    }
    told
}
