//! One state of everything, and what can happen next in it.

use crate::cast::{Cast, Role, Start};
use crate::checks;
use crate::faults::{faults_of, is_private};
use crate::kernel::{Answer, Call, Fd, FileSystem, Kernel, Name, PROCESSES, Pause};
use crate::machine::{Event, Input, View};
use crate::os::Errno;
use crate::script::{NodeId, Scripts};

/// What a process is about, as far as the checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stage {
    #[default]
    Gone,
    /// It will come, or has come and gone.
    Idle,
    /// It wants the lock.
    Wants,
    Holds,
    /// It releases, or has given up.
    Leaves,
}

/// As many jobs as a machine has at a time.
pub const JOBS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Life {
    pub node: NodeId,
    /// Of what each job does before its call, how much is done.
    pub done: [u8; JOBS],
    pub stage: Stage,
    /// Settling: the older processes that were about to remove the path when that began.
    pub settles_for: u8,
    /// Those who waited in the queue when it came, and still do.
    pub behind: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub kernel: Kernel,
    pub lives: [Life; PROCESSES],
    pub crashes: u8,
    pub faults: u8,
    pub removals: u8,
    pub alarms: u8,
    /// Whether something may be left in the end.
    pub is_littered: bool,
    /// Whether order may be lost.
    pub is_disturbed: bool,
    /// Whether a holder's lock file may be gone.
    pub is_robbed: bool,
    /// A promise that was broken in the last step.
    pub broken: Option<&'static str>,
}

/// What kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It comes if nothing prevents it.
    Work,
    /// It may never come: somebody arrives, gives up, releases.
    Choice,
    /// It should not happen.
    Harm,
}

#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// The job's next call is made.
    Call,
    /// Something else happens in a machine.
    Event(Event),
    GiveUp,
    Crash,
    /// The kernel closes this file of a process that was killed.
    Close(Fd),
    Fault(Errno),
    /// Somebody removes a name by hand.
    Remove(Name),
    /// Nobody does anything for a long time.
    TimePasses,
}

#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub who: usize,
    pub job: usize,
    pub act: Act,
    pub kind: Kind,
}

/// The cast's processes, and all that they can do.
pub struct Play<'a> {
    pub cast: &'a Cast,
    pub scripts: Scripts,
}

impl<'a> Play<'a> {
    pub fn new(cast: &'a Cast) -> Self {
        Self { cast, scripts: Scripts::new(cast.fs.trust) }
    }

    pub fn start(&mut self, start: Start) -> World {
        let roles = self.cast.roles;
        let is_on_server = |p: &usize| matches!(roles[*p], Role::OnServer(_));
        let on_server = (0..roles.len()).filter(is_on_server).fold(0, |mask, p| mask | 1 << p);
        let kernel = start.kernel(FileSystem { on_server, ..self.cast.fs }, roles.len());
        let mut world = World {
            kernel,
            lives: [Life::default(); PROCESSES],
            crashes: self.cast.crashes,
            faults: self.cast.faults,
            removals: self.cast.removals,
            alarms: self.cast.alarms,
            // A client that sees the server's queue may make one anew, and then not use it.
            is_littered: start.is_littered() || on_server != 0,
            is_disturbed: start.lock.is_some(), // a dead lock never blocks

            is_robbed: false,
            broken: None,
        };
        for (p, role) in roles.iter().enumerate() {
            let node = self.scripts.root(*role);
            world.lives[p] = Life { node, stage: Stage::Idle, ..Life::default() };
            self.settle_down(&mut world, p);
        }
        world
    }

    pub fn role(&self, p: usize) -> Role {
        self.cast.roles[p]
    }

    /// What a job does next: something with a file, or the call of its node.
    pub fn next_call(&self, world: &World, p: usize, job: usize) -> Call {
        let life = &world.lives[p];
        match self.scripts.node(life.node).jobs.get(job) {
            None => Call::Nothing,
            Some(stand) => *stand.before.get(usize::from(life.done[job])).unwrap_or(&stand.call),
        }
    }

    /// What its script comes to, whatever it closes before.
    pub fn destination(&self, world: &World, p: usize) -> Call {
        self.scripts.node(world.lives[p].node).jobs.first().map_or(Call::Nothing, |job| job.call)
    }

    pub fn destinations(&self, world: &World, p: usize) -> impl Iterator<Item = Call> {
        self.scripts.node(world.lives[p].node).jobs.iter().map(|job| job.call)
    }

    /// An older process that is about to remove the path, whatever stands there by then.
    pub fn is_in_gap(&self, world: &World, p: usize) -> bool {
        let is_alive = world.kernel.processes[p].is_alive;
        is_alive
            && self.role(p).is_older()
            && matches!(
                self.destination(world, p),
                Call::Read(_)
                    | Call::Pause(Pause::Gap | Pause::Releasing)
                    | Call::Unlink(Name::Lock)
            )
    }

    // --- What happens then ----------------------------------------------------------------------

    pub fn take(&mut self, world: &World, step: Step) -> World {
        let mut next = *world;
        let (p, job) = (step.who, step.job);
        match step.act {
            Act::Call => self.make_call(&mut next, p, job),
            Act::Event(Event::End) => self.end(&mut next, p),
            Act::Event(event) => {
                let view = self.scripts.node(world.lives[p].node).view;
                let is_counted = event == Event::EndEnvironment
                    || event == Event::Alarm && view.is_net && !view.settles;
                next.alarms -= u8::from(is_counted);
                next.is_disturbed |= is_counted;
                if event == Event::Acquire && world.lives[p].stage == Stage::Idle {
                    checks::note_arrival(self, &mut next, p);
                }
                self.go(&mut next, p, Input::Event(event));
            }
            Act::GiveUp => {
                let call = self.next_call(world, p, job);
                if let Call::FlockWait(fd) = call {
                    next.kernel.leave_line(p, fd);
                }
                next.lives[p].stage = Stage::Leaves;
                next.lives[p].behind = 0;
                let answer = match call {
                    Call::Pause(_) => Answer::Go(false),
                    _ => Answer::Refused(Errno::INTR),
                };
                self.answer(&mut next, p, job, answer);
            }
            Act::Crash => {
                next.crashes -= 1;
                next.is_littered = true;
                next.is_disturbed = true;
                next.lives[p] = Life::default();
                next.kernel.kill(p);
                self.end_if_closed(&mut next, p);
            }
            Act::Close(fd) => {
                next.kernel.close_of_killed(p, fd);
                self.end_if_closed(&mut next, p);
            }
            Act::Fault(errno) => {
                next.faults -= 1;
                next.is_littered = true;
                next.is_disturbed = true;
                self.answer(&mut next, p, job, Answer::Refused(errno));
            }
            Act::Remove(name) => {
                next.removals -= 1;
                next.is_littered = true;
                next.is_disturbed = true;
                next.is_robbed |= name != Name::Queue;
                let _ = next.kernel.unlink(name);
            }
            Act::TimePasses => {
                next.kernel.inodes.iter_mut().for_each(|inode| inode.is_old = inode.is_used);
            }
        }
        if p < PROCESSES && next.kernel.processes[p].is_alive {
            self.settle_down(&mut next, p);
        }
        self.note_gaps(&mut next);
        checks::note_line(self, world, &mut next);
        next.broken = next.broken.or_else(|| checks::breach(self, &next));
        next
    }

    fn make_call(&mut self, world: &mut World, p: usize, job: usize) {
        let call = self.next_call(world, p, job);
        match call {
            Call::End => return self.end(world, p),
            Call::Close(_) | Call::Share(_) => {
                world.kernel.perform(p, call);
                world.lives[p].done[job] += 1;
                return;
            }
            Call::Pause(pause) => {
                let life = &mut world.lives[p];
                life.stage = match pause {
                    Pause::Idle => Stage::Wants,
                    Pause::Hold => Stage::Leaves,
                    _ => life.stage,
                };
                if pause == Pause::Idle {
                    checks::note_arrival(self, world, p);
                }
                return self.answer(world, p, job, Answer::Go(true));
            }
            _ => {}
        }
        let before = world.kernel;
        let answer = world.kernel.perform(p, call);
        world.broken = world.broken.or_else(|| checks::call(self, &before, world, p, call));
        if let Some(answer) = answer {
            self.answer(world, p, job, answer);
        }
    }

    fn answer(&mut self, world: &mut World, p: usize, job: usize, answer: Answer) {
        world.lives[p].done[job] = 0;
        self.go(world, p, Input::Answer(u8::try_from(job).unwrap_or(0), answer));
    }

    fn go(&mut self, world: &mut World, p: usize, input: Input) {
        let settled = self.scripts.node(world.lives[p].node).view.settles;
        world.lives[p].node = self.scripts.next(world.lives[p].node, input);
        let node = self.scripts.node(world.lives[p].node);
        for &change in &node.changes {
            if let Call::Close(fd) = change
                && let open = world.kernel.open_file(p, fd)
                && open.shared == 0
                && world.kernel.name_count(open.ino) > 0
                && !world.is_disturbed
            {
                world.broken = Some("a file is closed inside of the state machine");
            }
            world.kernel.perform(p, change);
        }
        self.arrive(world, p, settled);
    }

    /// Notes where the process has come to.
    fn arrive(&self, world: &mut World, p: usize, settled: bool) {
        let destination = self.destination(world, p);
        let gaps = (0..self.cast.roles.len()).filter(|&q| self.is_in_gap(world, q));
        let gaps = gaps.fold(0, |gaps, q| gaps | 1 << q);
        let node = self.scripts.node(world.lives[p].node);
        let life = &mut world.lives[p];
        let held = life.stage == Stage::Holds;
        if matches!(self.role(p), Role::Machine(_)) {
            let is_busy = node.jobs.iter().any(|job| job.call != Call::Nothing);
            life.stage = match node.view {
                View { holds: true, .. } => Stage::Holds,
                View { wants: true, .. } => Stage::Wants,
                _ if is_busy => Stage::Leaves,
                _ => Stage::Idle,
            };
            if node.view.settles && !settled {
                life.settles_for = gaps;
            }
            if !node.view.wants && !node.view.holds {
                life.behind = 0;
            }
            // Its next waiter comes anew.
            if held && life.stage == Stage::Wants {
                checks::note_arrival(self, world, p);
            }
            return;
        }
        match destination {
            Call::Pause(Pause::Hold) => life.stage = Stage::Holds,
            Call::Pause(Pause::Idle) | Call::End => {
                life.stage = Stage::Idle;
                life.behind = 0;
            }
            Call::Pause(Pause::Settle) => life.settles_for = gaps,
            _ => {}
        }
    }

    /// Nobody settles for an older process that has removed what it was about to remove.
    fn note_gaps(&self, world: &mut World) {
        for q in 0..self.cast.roles.len() {
            if !self.is_in_gap(world, q) {
                world.lives.iter_mut().for_each(|life| life.settles_for &= !(1 << q));
            }
        }
    }

    /// A process that was killed is gone when all its files are closed.
    fn end_if_closed(&self, world: &mut World, p: usize) {
        if world.kernel.processes[p].fds.iter().all(|open| open.ino == 0) {
            self.end(world, p);
        }
    }

    fn end(&self, world: &mut World, p: usize) {
        world.kernel.end(p);
        world.lives[p] = Life::default();
        self.note_gaps(world);
    }

    /// Makes the calls that nobody else can see, and comes to the node that stands for its own.
    fn settle_down(&mut self, world: &mut World, p: usize) {
        while world.kernel.processes[p].is_alive {
            let node = self.scripts.node(world.lives[p].node);
            let is_machine = matches!(self.role(p), Role::Machine(_));
            let at_pause = matches!(self.next_call(world, p, 0), Call::Pause(_));
            if let Some(merge) = node.merge.clone()
                && (at_pause || is_machine && merge.to != world.lives[p].node)
            {
                merge.apply(&mut world.kernel, p);
                world.lives[p].node = merge.to;
                if !is_machine {
                    world.lives[p].done = [0; JOBS];
                }
                continue;
            }
            let is_private = |&job: &usize| {
                let call = self.next_call(world, p, job);
                let may_fail = world.faults > 0 && !faults_of(call).is_empty();
                (self.role(p).is_older() || !may_fail) && is_private(&world.kernel, p, call)
            };
            let Some(job) = (0..node.jobs.len()).find(is_private) else {
                return;
            };
            self.make_call(world, p, job);
        }
    }
}
