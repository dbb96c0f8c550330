//! A process with several waiters: the shipped state machine of its lock, and a driver for it.
//!
//! The driver does what `src/locks/drive.rs` does, without a thread. A *job* is what a thread would be
//! busy with: one order after the other, or a wait that blocks. A job's order is a function of what the
//! order carries and of the answers that its calls have had; so a history is replayed by running each
//! order once, when all its answers are there.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::cast::{claim, paths};
use crate::kernel::{Answer, Call};
use crate::locks::lock::Lock;
use crate::locks::order::{Order, Waiter};
use crate::locks::{Environment, Handle, Request, Ticket};
use crate::os::blocked::Stop;
use crate::os::{self, Instant, Trust};
use crate::protocol::{self, HeldLock};
use crate::replay;

/// What callers in the process can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The next acquire.
    Acquire,
    /// The oldest acquisition is released.
    Release,
    /// The last that waits does not want it any more.
    Cancel,
    /// The lock's alarm rings.
    Alarm,
    /// The environment of the first acquire ends.
    EndEnvironment,
    /// The process ends.
    End,
}

/// What a process is told, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// To this job.
    Answer(u8, Answer),
    Event(Event),
}

/// What a machine's life has come to.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    pub holds: bool,
    pub wants: bool,
    /// Whether its alarm ends a settling.
    pub settles: bool,
    /// Whether its alarm looks after a wait that may be stuck, or a hold that is too long.
    pub is_net: bool,
}

/// How a process stands after a history.
pub struct Stand {
    pub jobs: Vec<JobStand>,
    pub events: Vec<Event>,
    pub view: View,
    /// Files that the state machine itself copied and dropped with the last input.
    pub changes: Vec<Call>,
    pub memory: String,
    pub fds: Vec<u8>,
    pub ids: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct JobStand {
    /// What it does before the call: files are shared and closed.
    pub before: Vec<Call>,
    pub call: Call,
    pub is_stopped: bool,
}

/// One order, or one wait on a thread of its own.
pub enum Unit {
    Order(Order<()>),
    Turn(u64, protocol::Place),
    Flock(u64, protocol::Obstacle),
}

#[derive(Default)]
struct Job {
    unit: Option<Unit>,
    answers: Vec<Answer>,
    todo: VecDeque<Order<()>>,
}

struct Machine {
    lock: Lock<()>,
    now: Instant,
    jobs: Vec<Option<Job>>,
    /// Waits up to this number are to end.
    ended_wait: u64,
    acquires_left: u8,
    acquired: u8,
    /// The last acquire that was cancelled.
    cancelled: u8,
    granted: Vec<Handle>,
    environments_left: u8,
}

/// Runs a machine with a history.
pub fn run(acquires: u8, history: &[Input], trust: Trust) -> Stand {
    replay::begin(trust);
    let mut machine = Machine {
        lock: Lock::new(paths(), true, 0),
        now: Instant::START,
        jobs: Vec::new(),
        ended_wait: 0,
        acquires_left: acquires,
        acquired: 0,
        cancelled: 0,
        granted: Vec::new(),
        environments_left: 1,
    };
    for &input in history {
        replay::take_changes();
        match input {
            Input::Event(event) => machine.event(event),
            Input::Answer(number, answer) => {
                let job = machine.jobs[usize::from(number)].as_mut().expect("a job that is there");
                job.answers.push(answer);
                if answer == Answer::Finished {
                    machine.finish(usize::from(number));
                }
            }
        }
    }
    let stand = machine.stand();
    replay::end();
    stand
}

impl Machine {
    /// An order has had all its answers.
    fn finish(&mut self, number: usize) {
        let mut job = self.jobs[number].take().expect("as above");
        let unit = job.unit.take().expect("an order that is carried out");
        let answers = std::mem::take(&mut job.answers);
        let report = replay::run_to_end(answers, move || unit.run());
        report.tell(&mut self.lock, self.now);
        job.todo.extend(self.lock.orders());
        self.jobs[number] = Some(job);
        self.start(number);
    }

    /// Starts the job's next order; orders without system calls are done at once.
    fn start(&mut self, number: usize) {
        loop {
            let job = self.jobs[number].as_mut().expect("as above");
            let Some(order) = job.todo.pop_front() else {
                self.jobs[number] = None;
                return;
            };
            match order {
                Order::WaitForTurn(wait, place) => self.spawn(Unit::Turn(wait, place)),
                Order::WaitForFlock(wait, obstacle) => self.spawn(Unit::Flock(wait, obstacle)),
                Order::EndWait(wait) => self.ended_wait = self.ended_wait.max(wait),
                Order::Grant(waiter) => self.granted.push(waiter.request.handle),
                Order::Lost(handles, _) => self.granted.retain(|it| !handles.contains(it)),
                Order::Refuse(..) | Order::StartAnew(_) | Order::Unwatch(_) => {}
                order => {
                    job.unit = Some(Unit::Order(order));
                    return;
                }
            }
        }
    }

    fn spawn(&mut self, unit: Unit) {
        self.add(Job { unit: Some(unit), ..Job::default() });
    }

    fn add(&mut self, job: Job) -> usize {
        let free = self.jobs.iter().position(Option::is_none).unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        self.jobs[free] = Some(job);
        free
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Acquire => {
                self.acquires_left -= 1;
                self.acquired += 1;
                let waiter = Waiter {
                    request: request(self.acquired),
                    deadline: None,
                    has_waited: false,
                    is_taken_over: false,
                    caller: (),
                };
                self.lock.acquire(self.now, waiter);
            }
            Event::Release => {
                let handle = self.granted.remove(0);
                let released = self.lock.release(handle);
                self.release(released);
            }
            Event::Cancel => {
                self.cancelled = self.acquired;
                let Request { environment, ticket, .. } = request(self.acquired);
                drop(self.lock.cancel(environment, ticket));
            }
            Event::EndEnvironment => {
                self.environments_left -= 1;
                let environment = request(1).environment;
                drop(self.lock.forget(environment));
                let released = self.lock.release_environment(environment);
                self.release(released);
            }
            Event::Alarm => {
                self.now = self.lock.alarm().expect("an alarm").max(self.now);
                self.lock.time(self.now);
            }
            Event::End => {}
        }
        let todo = self.lock.orders();
        let number = self.add(Job { todo, ..Job::default() });
        self.start(number);
    }

    fn release(&mut self, released: Option<Arc<HeldLock>>) {
        if let Some(held) = released {
            self.spawn(Unit::Order(Order::Release(held, None)));
        }
    }

    // --- Where it stands ------------------------------------------------------------------------

    fn stand(mut self) -> Stand {
        let (changes, (memory, fds, ids)) = (replay::take_changes(), self.remember());
        let has_jobs = self.jobs.iter().any(Option::is_some);
        let is_last_waiting = self.acquired != self.cancelled && self.lock.waiters() > 0;
        let view = View {
            holds: self.lock.hold().is_some(),
            wants: self.lock.waiters() > 0,
            settles: memory.contains("stage: Settling"),
            is_net: self.lock.hold().is_some() || memory.contains("stage: Blocked"),
        };
        let events = [
            (Event::Acquire, self.acquires_left > 0),
            (Event::Release, !self.granted.is_empty()),
            (Event::Cancel, is_last_waiting),
            (Event::Alarm, self.lock.alarm().is_some()),
            (Event::EndEnvironment, self.environments_left > 0 && self.acquired > 0),
            (Event::End, self.acquires_left == 0 && !has_jobs && self.lock.is_done()),
        ];
        let events = events.into_iter().filter(|(_, may)| *may).map(|(event, _)| event).collect();
        let ended_wait = self.ended_wait;
        // Each job goes on by itself: it does not close the file of a lock that another job has, too.
        let _kept: Vec<_> = self.jobs.iter().flatten().flat_map(Job::shared_locks).collect();
        let jobs = std::mem::take(&mut self.jobs).into_iter();
        let jobs = jobs.map(|job| match job {
            None => JobStand { before: Vec::new(), call: Call::Nothing, is_stopped: false },
            Some(job) => job.stand(ended_wait),
        });
        Stand { jobs: jobs.collect(), events, view, changes, memory, fds, ids }
    }

    /// Everything that it will go on by, in canonical names.
    fn remember(&self) -> (String, Vec<u8>, Vec<u8>) {
        replay::begin_memory(self.now);
        let mut memory = tidy(&format!("{:?}", self.lock));
        let _ =
            write!(memory, "{} {} {}", self.acquires_left, self.acquired, self.environments_left);
        let _ = write!(memory, "{:?} {}", self.granted, self.cancelled);
        for job in &self.jobs {
            let Some(job) = job else {
                memory.push_str(" - ");
                continue;
            };
            let unit = job.unit.as_ref().expect("as above");
            let _ = write!(memory, " {} {:?}", unit.is_stopped(self.ended_wait), job.todo);
            let _ = match unit {
                Unit::Order(order) => write!(memory, "{order:?}"),
                Unit::Turn(number, place) => {
                    write!(memory, "{} {place:?}", self.is_current(*number))
                }
                Unit::Flock(number, obstacle) => {
                    write!(memory, "{} {obstacle:?}", self.is_current(*number))
                }
            };
            for &answer in &job.answers {
                replay::write_answer(&mut memory, answer);
            }
        }
        let (fds, ids) = replay::end_memory();
        (memory, fds, ids)
    }

    fn is_current(&self, number: u64) -> bool {
        self.lock.last_wait() == number
    }
}

impl Job {
    fn shared_locks(&self) -> Vec<Arc<HeldLock>> {
        let in_hand = self.unit.iter().filter_map(|unit| match unit {
            Unit::Order(order) => Some(order),
            Unit::Turn(..) | Unit::Flock(..) => None,
        });
        let held = in_hand.chain(&self.todo).filter_map(|order| match order {
            Order::CheckPath(held) | Order::Release(held, _) => Some(held),
            _ => None,
        });
        held.filter(|held| Arc::strong_count(held) > 1).cloned().collect()
    }

    fn stand(self, ended_wait: u64) -> JobStand {
        let unit = self.unit.expect("as above");
        let is_stopped = unit.is_stopped(ended_wait);
        let (before, call) = replay::run_to_call(self.answers, move || unit.run());
        JobStand { before, call, is_stopped }
    }
}

/// What came of an order.
pub enum Report {
    Nothing,
    Tried(crate::error::Result<protocol::Attempt>),
    TriedPast(crate::error::Result<protocol::Attempt>),
    Looked(u64, protocol::LookPast),
    Checked(Arc<HeldLock>, crate::error::Result<bool>),
    Released(Option<protocol::Place>),
    Watched(protocol::Obstacle),
    Turn(u64, protocol::Place, os::Result<()>),
    Flock(u64, protocol::Obstacle, os::Result<()>),
}

impl Report {
    /// Tells the lock.
    pub fn tell(self, lock: &mut Lock<()>, now: Instant) {
        match self {
            Self::Nothing => {}
            Self::Tried(result) => lock.tried(now, result),
            Self::TriedPast(result) => lock.tried_past(now, result),
            Self::Looked(number, seen) => lock.looked(now, number, seen),
            Self::Checked(held, is_ours) => lock.path_checked(now, &held, is_ours),
            Self::Released(place) => lock.released(now, place),
            Self::Watched(obstacle) => lock.watched(now, obstacle, false, true),
            Self::Turn(number, place, end) => lock.turn_ended(now, number, place, end),
            Self::Flock(number, obstacle, end) => lock.flock_ended(now, number, obstacle, end),
        }
    }
}

impl Unit {
    fn is_stopped(&self, ended_wait: u64) -> bool {
        match self {
            Self::Order(_) => false,
            Self::Turn(number, _) | Self::Flock(number, _) => *number <= ended_wait,
        }
    }

    pub fn run(self) -> Report {
        match self {
            Self::Turn(number, mut place) => {
                place.prepare();
                let end = place.wait(&Stop);
                Report::Turn(number, place, end)
            }
            Self::Flock(number, mut obstacle) => {
                obstacle.prepare();
                let end = obstacle.wait(&Stop);
                Report::Flock(number, obstacle, end)
            }
            Self::Order(order) => carry_out(order),
        }
    }
}

fn carry_out(order: Order<()>) -> Report {
    match order {
        Order::Try(claim, approach) => Report::Tried(protocol::attempt(&paths(), &claim, approach)),
        Order::TryPast(claim, approach) => {
            Report::TriedPast(protocol::attempt(&paths(), &claim, approach))
        }
        Order::LookPast(number, claim, awaited) => {
            Report::Looked(number, protocol::look_past(&paths(), &claim, &awaited))
        }
        Order::CheckPath(held) => {
            let is_ours = held.is_at_its_path();
            Report::Checked(held, is_ours)
        }
        Order::Release(held, _) => {
            let (_, place) = held.release();
            drop(held);
            Report::Released(place)
        }
        Order::Watch(_, obstacle) => Report::Watched(obstacle),
        Order::Leave(place) => {
            place.leave();
            Report::Nothing
        }
        other => {
            drop(other);
            Report::Nothing
        }
    }
}

/// Two environments take turns; in each, the second acquire may share what the first one has.
fn request(number: u8) -> Request {
    let number = u64::from(number);
    Request {
        environment: Environment(number % 2),
        ticket: Ticket { client: 1, number },
        handle: Handle(number),
        session_file: "/f/s".into(),
        timeout_ms: None,
        stale_ms: claim().limits.stale_ms,
        max_hold_ms: MAX_HOLD.as_millis().try_into().ok(),
        label: None,
        spares_foreign: false,
        allow_reentrant: true,
    }
}

const MAX_HOLD: Duration = Duration::from_secs(1);

/// Counters that only grow, in the words of `Debug`: of a wait it matters whether it is the current
/// one, and of the looks not how many more than enough there were.
fn tidy(memory: &str) -> String {
    let mut tidied = String::with_capacity(memory.len());
    let mut rest = memory;
    while let Some(at) = ["number: ", "quiet_looks: ", "blind_looks: "]
        .iter()
        .filter_map(|word| rest.find(word).map(|at| at + word.len()))
        .min()
    {
        let digits = rest[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - at);
        let count: u64 = rest[at..at + digits].parse().unwrap_or(0);
        let is_number = rest[..at].ends_with("number: ");
        tidied.push_str(&rest[..at]);
        let _ = write!(tidied, "{}", if is_number { 0 } else { count.min(6) });
        rest = &rest[at + digits..];
    }
    tidied.push_str(rest);
    tidied
}
