//! What can happen next in a world.

use crate::cast::{Role, Start};
use crate::checks::NEEDLESS;
use crate::faults::faults_of;
use crate::kernel::{Call, Name, PROCESSES, Pause};
use crate::machine::Event;
use crate::world::{Act, Kind, Play, Stage, Step, World};

/// More steps than a lead has.
const LONGEST_LEAD: usize = 300;

impl Play<'_> {
    /// The world after the cast's lead, and the choices that lead there. In a lead each pair is a process
    /// and a word: it goes on alone until that is its next call, or until that event can come, which then
    /// does. The words are those of [`tell`](crate::explore::tell).
    pub fn begin(&mut self, start: Start) -> (World, Vec<u8>) {
        let mut world = self.start(start);
        let mut choices = Vec::new();
        for &(who, word) in self.cast.lead {
            loop {
                let mut jobs = 0..self.scripts.node(world.lives[who].node).jobs.len();
                let is_next = |call: Call| format!("{call:?}").starts_with(word);
                if jobs.any(|job| is_next(self.next_call(&world, who, job))) {
                    break;
                }
                let steps = self.steps(&world);
                let is_named = |step: &Step| match step.act {
                    Act::Event(event) => format!("{event:?}") == word,
                    act => format!("{act:?}") == word,
                };
                let find = |is_it: &dyn Fn(&Step) -> bool| {
                    steps.iter().position(|step| step.who == who && is_it(step))
                };
                let event = find(&is_named);
                let call = find(&|step| matches!(step.act, Act::Call));
                let choice = event.or(call).filter(|_| choices.len() < LONGEST_LEAD);
                let choice = choice.unwrap_or_else(|| panic!("the lead never comes to {word}"));
                world = self.take(&world, steps[choice]);
                world.broken = world.broken.filter(|&broken| broken != NEEDLESS);
                choices.push(u8::try_from(choice).expect("fewer choices than that"));
                if event.is_some() {
                    break;
                }
            }
        }
        (world, choices)
    }

    /// Whether somebody has just seen that this name is its own, and is about to take it away. A removal
    /// by hand in between can't be noticed: no system call removes a name by its inode.
    fn is_about_to_replace(&self, world: &World, name: Name) -> bool {
        let acts = |p: usize| {
            self.destinations(world, p).any(|call| match call {
                Call::Unlink(at) => at == name && name == Name::Lock,
                Call::Exchange(..) | Call::Rename(..) => !world.kernel.fs.is_windows,
                _ => false,
            })
        };
        (0..self.cast.roles.len()).any(|p| world.kernel.processes[p].is_alive && acts(p))
    }

    pub fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        let alive = (0..self.cast.roles.len()).filter(|&p| world.kernel.processes[p].is_alive);
        for who in alive {
            for job in 0..self.scripts.node(world.lives[who].node).jobs.len() {
                self.steps_of_job(world, who, job, &mut steps);
            }
            for &event in &self.scripts.node(world.lives[who].node).events {
                if let Some(kind) = self.kind_of_event(world, who, event) {
                    steps.push(Step { who, job: 0, act: Act::Event(event), kind });
                }
            }
            let is_anywhere = world.lives[who].stage != Stage::Idle
                || world.kernel.processes[who].fds.iter().any(|open| open.ino != 0);
            if world.crashes > 0 && is_anywhere {
                steps.push(Step { who, job: 0, act: Act::Crash, kind: Kind::Harm });
            }
        }
        for who in (0..PROCESSES).filter(|&p| world.kernel.processes[p].is_ending) {
            let fds = (0..).zip(world.kernel.processes[who].fds);
            steps.extend(fds.filter(|(_, open)| open.ino != 0).map(|(fd, _)| Step {
                who,
                job: 0,
                act: Act::Close(fd),
                kind: Kind::Work,
            }));
        }
        if world.removals > 0 {
            let names = [Name::Lock, Name::Queue, Name::Temporary];
            let there = names.into_iter().filter(|&name| {
                world.kernel.ino(name) != 0 && !self.is_about_to_replace(world, name)
            });
            steps.extend(there.map(|name| Step {
                who: PROCESSES,
                job: 0,
                act: Act::Remove(name),
                kind: Kind::Harm,
            }));
        }
        // Nobody hangs for so long: whatever time is needed, it passes when there is nothing to do.
        let looks_later = |step: &Step| match step.act {
            Act::Event(event) => event == Event::Alarm,
            _ => self.next_call(world, step.who, step.job) == Call::Pause(Pause::Later),
        };
        let is_busy = |step: &Step| step.kind == Kind::Work && !looks_later(step);
        let are_all_old = world.kernel.inodes.iter().all(|inode| inode.is_old || !inode.is_used);
        let is_later = |step: &Step| step.who < PROCESSES && looks_later(step);
        if !are_all_old && steps.iter().any(is_later) && !steps.iter().any(is_busy) {
            let act = Act::TimePasses;
            steps.push(Step { who: PROCESSES, job: 0, act, kind: Kind::Work });
        }
        steps
    }

    fn steps_of_job(&self, world: &World, who: usize, job: usize, steps: &mut Vec<Step>) {
        let call = self.next_call(world, who, job);
        let mut add = |act, kind| steps.push(Step { who, job, act, kind });
        if let Some(kind) = self.kind_of(world, who, call) {
            add(Act::Call, kind);
        }
        let can_end = match call {
            Call::FlockWait(fd) => world.kernel.is_in_line(who, fd),
            Call::ByteWait(..) | Call::Pause(Pause::Later) => true,
            _ => false,
        };
        let node = self.scripts.node(world.lives[who].node);
        let is_machine = matches!(self.role(who), Role::Machine(_));
        let is_stopped = node.jobs.get(job).is_some_and(|job| job.is_stopped);
        if can_end && (is_stopped || !is_machine) {
            add(Act::GiveUp, if is_stopped { Kind::Work } else { Kind::Choice });
        }
        if world.faults > 0 && !self.role(who).is_older() {
            for &errno in faults_of(call) {
                add(Act::Fault(errno), Kind::Harm);
            }
        }
    }

    /// How an event in a machine comes about; `None`: not now.
    fn kind_of_event(&self, world: &World, p: usize, event: Event) -> Option<Kind> {
        let view = self.scripts.node(world.lives[p].node).view;
        match event {
            Event::Acquire | Event::Release | Event::Cancel => Some(Kind::Choice),
            Event::EndEnvironment => (world.alarms > 0).then_some(Kind::Choice),
            Event::Alarm if view.settles => (world.lives[p].settles_for == 0).then_some(Kind::Work),
            Event::Alarm if view.is_net => (world.alarms > 0).then_some(Kind::Choice),
            Event::Alarm | Event::End => Some(Kind::Work),
        }
    }

    /// How the next call comes about; `None` while it blocks.
    fn kind_of(&self, world: &World, p: usize, call: Call) -> Option<Kind> {
        match call {
            Call::Nothing => None,
            Call::Pause(Pause::Idle | Pause::Hold) => Some(Kind::Choice),
            Call::Pause(Pause::Settle) if world.lives[p].settles_for != 0 => None,
            Call::FlockWait(fd) if world.kernel.is_in_line(p, fd) => {
                let mut kernel = world.kernel;
                kernel.perform(p, call).map(|_| Kind::Work)
            }
            Call::ByteWait(..) => {
                let mut kernel = world.kernel;
                kernel.perform(p, call).map(|_| Kind::Work)
            }
            // Without exchange, nothing keeps an older process from putting a new lock at the path between
            // the last look and the rename (docs/protocol.md, *Mixed operation*).
            Call::CreateNew(Name::Lock)
                if self.role(p).is_older() && self.is_renamed_over(world) =>
            {
                None
            }
            _ => Some(Kind::Work),
        }
    }

    /// Whether somebody is about to rename a file over the lock, where names cannot be exchanged.
    fn is_renamed_over(&self, world: &World) -> bool {
        let renames = |call| matches!(call, Call::Rename(..) | Call::Exchange(..));
        !world.kernel.fs.exchanges
            && !world.kernel.fs.is_windows
            && (0..self.cast.roles.len()).any(|p| {
                world.kernel.processes[p].is_alive && self.destinations(world, p).any(renames)
            })
    }
}
