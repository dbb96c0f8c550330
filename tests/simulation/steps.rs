//! What can happen next in a world.

use crate::cast::Role;
use crate::faults::faults_of;
use crate::kernel::{Call, Name, PROCESSES, Pause};
use crate::machine::Event;
use crate::world::{Act, Kind, Play, Stage, Step, World};

impl Play<'_> {
    /// Whether somebody has just seen that this name is its own, and is about to take it away. A removal
    /// by hand in between can't be noticed: no system call removes a name by its inode.
    fn is_about_to_replace(&self, world: &World, name: Name) -> bool {
        let acts = |p: usize| {
            self.destinations(world, p).any(|call| match call {
                Call::Unlink(at) => at == name && name == Name::Lock,
                Call::Exchange(..) | Call::Rename(..) => true,
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
        if let Some(kind) = Self::kind_of(world, who, call) {
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
    fn kind_of(world: &World, p: usize, call: Call) -> Option<Kind> {
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
            _ => Some(Kind::Work),
        }
    }
}
