//! Every schedule, gone through breadth first: the first counterexample is a shortest one.
//!
//! The clock stands still. A process that waits for time goes on when nobody is in the middle of what
//! the time is meant for: a takeover settles until no older process is between its read and its
//! removal, and files grow old when nobody has anything to do.

use std::collections::HashMap;
use std::fmt::{Display, Formatter, Write};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::cast::Cast;
use crate::kernel::{Answer, Call, PROCESSES};
use crate::same::{fingerprint, orders};
use crate::world::{Act, Kind, Play, Stage, Step, World};

/// What an exploration has found.
#[derive(Default)]
pub struct Found {
    pub name: &'static str,
    pub states: usize,
    pub steps: usize,
    pub longest: usize,
    /// Nodes of the processes' lives: so often the shipped code ran.
    pub lives: usize,
    pub time: Duration,
    /// A broken promise, and the schedule that leads to it.
    pub broken: Option<(String, Schedule)>,
    /// Whether it stopped early for the number of states.
    pub is_cut: bool,
}

/// Which start, and which of the possible steps each time.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    pub start: usize,
    pub choices: Vec<u8>,
}

struct Seen {
    from: u32,
    choice: u8,
    is_content: bool,
}

/// Marks a start: its number is in the choice.
const START: u32 = u32::MAX;

/// Fingerprints are mixed already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// No way leads to a state in which all is well.
pub const WEDGED: &str = "nobody gets the lock any more";

pub struct Exploration<'a> {
    play: Play<'a>,
    orders: Vec<[usize; PROCESSES]>,
    numbers: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    seen: Vec<Seen>,
    /// Steps that come by themselves, backwards.
    ways: Vec<(u32, u32)>,
    layer: Vec<(u32, World)>,
    steps: usize,
}

impl<'a> Exploration<'a> {
    fn new(cast: &'a Cast) -> Self {
        Self {
            play: Play::new(cast),
            orders: orders(cast.roles),
            numbers: HashMap::default(),
            seen: Vec::new(),
            ways: Vec::new(),
            layer: Vec::new(),
            steps: 0,
        }
    }

    /// Goes through all schedules that begin with the lead, or until there are more states than `most`.
    pub fn run(cast: &'a Cast, most: usize) -> Found {
        let begun = Instant::now();
        let mut all = Self::new(cast);
        let mut longest = 0;
        let mut broken = None;
        for (number, start) in cast.starts.all().into_iter().enumerate() {
            let (world, _) = all.play.begin(start);
            all.visit(world, START, u8::try_from(number).unwrap_or(0));
        }
        while broken.is_none() && !all.layer.is_empty() && all.seen.len() < most {
            longest += 1;
            broken = all.next_layer();
        }
        let is_cut = broken.is_none() && !all.layer.is_empty();
        if broken.is_none() {
            broken = all.wedged().map(|number| (WEDGED, number));
        }
        Found {
            name: cast.name,
            states: all.seen.len(),
            steps: all.steps,
            longest,
            lives: all.play.scripts.nodes.len(),
            time: begun.elapsed(),
            broken: broken.map(|(what, number)| (what.to_owned(), all.schedule(number))),
            is_cut,
        }
    }

    fn next_layer(&mut self) -> Option<(&'static str, u32)> {
        for (from, world) in std::mem::take(&mut self.layer) {
            for (choice, step) in self.play.steps(&world).into_iter().enumerate() {
                self.steps += 1;
                let next = self.play.take(&world, step);
                let choice = u8::try_from(choice).expect("fewer choices than that");
                let broken = next.broken;
                let to = self.visit(next, from, choice);
                if let Some(broken) = broken {
                    return Some((broken, to));
                }
                if step.kind == Kind::Work {
                    self.ways.push((to, from));
                }
            }
        }
        None
    }

    fn visit(&mut self, world: World, from: u32, choice: u8) -> u32 {
        let new = u32::try_from(self.seen.len()).expect("fewer states than that");
        let number = *self.numbers.entry(fingerprint(&world, &self.orders)).or_insert(new);
        if number == new {
            self.seen.push(Seen { from, choice, is_content: is_content(&world) });
            self.layer.push((new, world));
        }
        number
    }

    /// The first state from which no way leads to a content one, nor to one that was not gone into.
    fn wedged(&mut self) -> Option<u32> {
        self.ways.sort_unstable();
        let mut is_good: Vec<bool> = self.seen.iter().map(|seen| seen.is_content).collect();
        self.layer.iter().for_each(|(number, _)| is_good[*number as usize] = true);
        let mut todo: Vec<_> = (0..)
            .zip(&is_good)
            .filter(|(_, is_good)| **is_good)
            .map(|(number, _)| number)
            .collect();
        while let Some(number) = todo.pop() {
            let start = self.ways.partition_point(|&(to, _)| to < number);
            for &(_, from) in self.ways[start..].iter().take_while(|&&(to, _)| to == number) {
                if !std::mem::replace(&mut is_good[from as usize], true) {
                    todo.push(from);
                }
            }
        }
        (0..).zip(is_good).find(|(_, is_good)| !is_good).map(|(number, _)| number)
    }

    fn schedule(&mut self, last: u32) -> Schedule {
        let mut schedule = Schedule::default();
        let mut seen = &self.seen[last as usize];
        while seen.from != START {
            schedule.choices.push(seen.choice);
            seen = &self.seen[seen.from as usize];
        }
        schedule.start = usize::from(seen.choice);
        let starts = self.play.cast.starts.all();
        let (_, lead) = self.play.begin(starts[schedule.start]);
        schedule.choices.extend(lead.iter().rev());
        schedule.choices.reverse();
        schedule
    }
}

// --- Deep schedules, by chance ------------------------------------------------------------------

/// Walks that begin at a start and take steps by chance, until nothing can happen. For what is too deep
/// to go through all of it.
pub fn walk(cast: &Cast, seeds: std::ops::Range<u64>) -> Found {
    let begun = Instant::now();
    let mut play = Play::new(cast);
    let starts = cast.starts.all();
    let mut found = Found { name: cast.name, ..Found::default() };
    for seed in seeds {
        let mut chance = Chance::new(seed);
        let start = chance.below(starts.len());
        let (mut world, choices) = play.begin(starts[start]);
        let mut schedule = Schedule { start, choices };
        found.states += 1;
        let broken = loop {
            let steps = play.steps(&world);
            if let Some(broken) = world.broken {
                break Some(broken);
            }
            if steps.is_empty() {
                let is_stuck = world.lives.iter().any(|life| life.stage == Stage::Wants);
                break is_stuck.then_some("nobody gets the lock any more");
            }
            if schedule.choices.len() > LONGEST_WALK {
                break Some("it never ends");
            }
            // Harm is rare, or little would come after it.
            let mut choice = chance.below(steps.len());
            while steps[choice].kind == Kind::Harm && chance.below(8) > 0 {
                choice = chance.below(steps.len());
                if steps.iter().all(|step| step.kind == Kind::Harm) {
                    break;
                }
            }
            world = play.take(&world, steps[choice]);
            schedule.choices.push(u8::try_from(choice).expect("fewer choices than that"));
        };
        found.steps += schedule.choices.len();
        found.longest = found.longest.max(schedule.choices.len());
        if let Some(broken) = broken {
            found.broken = Some((format!("seed {seed}: {broken}"), schedule));
            break;
        }
    }
    found.lives = play.scripts.nodes.len();
    found.time = begun.elapsed();
    found
}

/// Far longer than any schedule in which everybody gets on by chance.
const LONGEST_WALK: usize = 20_000;

/// xorshift64.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap_or(1)).unwrap_or(0)
    }
}

/// Somebody has the lock, or nobody wants it.
fn is_content(world: &World) -> bool {
    let mut lives = world.lives.iter();
    lives.clone().any(|life| life.stage == Stage::Holds)
        || !lives.any(|life| life.stage == Stage::Wants)
}

// --- Telling ------------------------------------------------------------------------------------

/// `0:1.0.12`: the start, then the choices.
impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let choices: Vec<_> = self.choices.iter().map(u8::to_string).collect();
        write!(f, "{}:{}", self.start, choices.join("."))
    }
}

impl std::str::FromStr for Schedule {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (start, choices) = text.split_once(':').unwrap_or((text, ""));
        let choices = choices.split('.').filter(|choice| !choice.is_empty());
        Ok(Self {
            start: start.parse()?,
            choices: choices.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

/// A schedule step by step, in words.
pub fn tell(cast: &Cast, schedule: &Schedule) -> String {
    let mut play = Play::new(cast);
    let start = cast.starts.all()[schedule.start];
    let mut told = format!("  at first: {start:?}\n");
    let mut world = play.start(start);
    for &choice in &schedule.choices {
        let Some(&step) = play.steps(&world).get(usize::from(choice)) else {
            told.push_str("  no such step\n");
            break;
        };
        let next = play.take(&world, step);
        let _ = writeln!(told, "  {}", describe(&play, &world, step));
        world = next;
    }
    if let Some(broken) = world.broken {
        let _ = writeln!(told, "  >>> {broken}");
    }
    told
}

fn describe(play: &Play, world: &World, step: Step) -> String {
    let who = ["A", "B", "C", "Somebody"][step.who];
    if step.who == PROCESSES {
        return format!("{who}: {:?}", step.act);
    }
    let call = play.next_call(world, step.who, step.job);
    let who = if step.job == 0 { who.to_owned() } else { format!("{who}/{}", step.job) };
    match step.act {
        Act::Event(event) => format!("{who}: {event:?}"),
        Act::Call => {
            let mut kernel = world.kernel;
            let answer = match call {
                Call::Pause(_) | Call::End | Call::Close(_) => String::new(),
                call => match kernel.perform(step.who, call) {
                    Some(Answer::Refused(errno)) => format!(" = {errno:?}"),
                    Some(answer) => format!(" = {answer:?}"),
                    None => " blocks".into(),
                },
            };
            format!("{who}: {call:?}{answer}")
        }
        act => format!("{who}: {act:?} at {call:?}"),
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { name, states, steps, longest, lives, .. } = self;
        let seconds = self.time.as_secs_f32();
        write!(f, "{name:<44} {states:>9} {steps:>10} {longest:>7} {lives:>7} {seconds:>7.1}")?;
        if self.is_cut {
            write!(f, "  cut short")?;
        }
        match &self.broken {
            Some((what, _)) => write!(f, "  {what}"),
            None => Ok(()),
        }
    }
}
