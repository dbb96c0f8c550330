//! Following one process through its log: what each thread does next, and what the machine is told.
//!
//! This is the driver of `src/locks/drive.rs` once more, without its threads and its mutex: which thread carries out
//! what, and what it reports.

use std::collections::VecDeque;
use std::time::Duration;

use super::Choices;
use super::asks::Ask;
use super::lives::{Life, Step};
use super::threads::{Due, Event, HandsOver, Kind, Moment, NEVER, Thread, Wrong};
use crate::cast::paths;
use crate::error;
use crate::locks::lock::Lock;
use crate::locks::order::{Order, TryNow, Waiter};
use crate::locks::{Environment, Handle, Ticket};
use crate::machine::{Report, Unit};
use crate::os::{Errno, Instant};
use crate::protocol::{self, Approach, Attempt, Claim, HeldLock, Place, inspect};

/// If one order takes longer, the folder is slow: see src/locks/drive.rs.
const SLOW_US: u64 = 250_000;

/// How far the clock can be from the log, in microseconds.
const UNSURE_US: u64 = 3_000;

/// A process that lives on for so long has not forgotten what it has to do: it never knew.
const FORGOTTEN_US: u64 = 1_000_000;

const NOTHING_ASKED: &str = "nothing has asked for this";

pub struct Path<'a> {
    ended: u64,
    lock: Lock<()>,
    threads: Vec<Thread>,
    arrivals: VecDeque<Waiter<()>>,
    /// Waits that no thread has taken yet,
    waits: VecDeque<(Moment, Unit)>,
    /// and orders for a worker; and since when.
    jobs: VecDeque<(Moment, VecDeque<Order<()>>)>,
    /// Waits up to this number are to end.
    ended_wait: u64,
    /// Whether only workers make the calls that follow from an event.
    is_slow: bool,
    /// Of those that wait.
    deadlines: Vec<(Ticket, Instant)>,
    asked: u64,
    now: Moment,
    choices: &'a mut Choices,
}

impl<'a> Path<'a> {
    pub fn new(life: &Life, choices: &'a mut Choices) -> Self {
        Self {
            ended: life.ended,
            lock: Lock::new(paths(), true, 0),
            threads: life.threads.iter().map(Thread::new).collect(),
            arrivals: VecDeque::new(),
            waits: VecDeque::new(),
            jobs: VecDeque::new(),
            ended_wait: 0,
            is_slow: false,
            deadlines: Vec::new(),
            asked: 0,
            now: Moment::default(),
            choices,
        }
    }

    pub fn follow(mut self) -> Result<(), Wrong> {
        loop {
            for t in 0..self.threads.len() {
                self.go_on(t)?;
            }
            self.take_work()?;
            let Some(t) = self.next()? else { break };
            self.happen(t)?;
        }
        let unexplained = self.threads.iter().filter_map(Thread::rest);
        match unexplained.min_by_key(|entry| entry.begin) {
            Some(entry) => Err(Wrong::at(entry, NOTHING_ASKED)),
            None => self.refuse_forgotten(),
        }
    }

    /// What had to be done long before the end was done.
    fn refuse_forgotten(&self) -> Result<(), Wrong> {
        let waits = self.waits.iter().map(|(since, _)| (*since, "a wait"));
        let jobs = self.jobs.iter().map(|(since, _)| (*since, "a worker's orders"));
        let orders = self.threads.iter().filter(|it| it.is_stuck && it.next().is_none());
        let orders = orders.map(|it| (it.since, "the rest of an order"));
        match waits.chain(jobs).chain(orders).find(|(at, _)| at.us + FORGOTTEN_US < self.ended) {
            Some((at, what)) => Err(Wrong { line: at.line, why: format!("{what} is left out") }),
            None => Ok(()),
        }
    }

    // --- What threads do without an event ---------------------------------------------------------

    /// Carries out what the thread has to do, up to its next event.
    fn go_on(&mut self, t: usize) -> Result<(), Wrong> {
        loop {
            let thread = &mut self.threads[t];
            if thread.due.is_some() || thread.is_stuck {
                return Ok(());
            }
            let hands_over = match thread.hands_over {
                HandsOver::Nothing => false,
                HandsOver::Changes => thread.todo.iter().any(changes_the_disk),
                HandsOver::All => !thread.todo.is_empty(),
            };
            if hands_over {
                let since = thread.since.max(self.now);
                self.jobs.push_back((since, std::mem::take(&mut thread.todo)));
            }
            if let Some(order) = thread.todo.pop_front() {
                self.carry_out(t, order)?;
            } else if let Some(ask) = thread.asks.pop_front() {
                thread.bring(Event::Ask(ask), None);
            } else if !self.read_on(t)? {
                return Ok(());
            }
        }
    }

    /// Takes the thread's next entry. `false`: there is none, or it is a call.
    fn read_on(&mut self, t: usize) -> Result<bool, Wrong> {
        let thread = &mut self.threads[t];
        let Some(entry) = thread.next().cloned() else { return Ok(false) };
        let mut event = None;
        match &entry.step {
            Step::Call(..) if thread.kind == Kind::JavaScript => {
                if thread.is_over || thread.call.is_some() || thread.asks_again() {
                    return Err(Wrong::at(&entry, NOTHING_ASKED));
                }
                (thread.is_over, thread.asks) = (true, Ask::end_of(t).into());
                return Ok(true);
            }
            Step::Call(..) | Step::Killed => return Ok(false),
            Step::Begins(words) => {
                self.asked += 1;
                let handle = Handle(self.asked);
                let (asks, with_path) = Ask::of(words, t, handle);
                (thread.asks, thread.with_path) = (asks.into(), with_path);
                (thread.call, thread.outcome) = (Some(handle), Ask::outcome(words));
            }
            Step::Ends(outcome) => {
                if thread.outcome.take().is_some_and(|told| told != outcome) {
                    return Err(Wrong::at(&entry, "the machine has another outcome"));
                }
                (thread.call, thread.with_path) = (None, None);
            }
            Step::Resolves if thread.kind == Kind::JavaScript => {
                thread.asks.extend(thread.with_path.clone());
            }
            // A worker lets somebody in, where the folder is slow.
            Step::Resolves => thread.asks.push_back(Ask::Admit),
            Step::Wakes => {
                thread.kind = Kind::Times;
                event = Some(Event::Alarm);
            }
        }
        thread.go_to(thread.at + 1);
        if let Some(event) = event {
            thread.bring(event, None);
        }
        Ok(true)
    }

    fn carry_out(&mut self, t: usize, order: Order<()>) -> Result<(), Wrong> {
        let thread = &mut self.threads[t];
        let since = thread.since.max(self.now);
        match order {
            Order::WaitForTurn(number, place) => {
                self.waits.push_back((since, Unit::Turn(number, place)));
            }
            Order::WaitForFlock(number, obstacle) => {
                self.waits.push_back((since, Unit::Flock(number, obstacle)));
            }
            Order::EndWait(number) => self.ended_wait = self.ended_wait.max(number),
            Order::Expire(waiters, _) => {
                if self.run_guarded(t, || inspect::facts(&paths()))?.is_some() {
                    for waiter in &waiters {
                        self.tell(t, waiter, "timeout");
                    }
                    self.threads[t].bring(Event::Report(Report::Nothing), None);
                }
            }
            Order::Grant(waiter) => self.tell(t, &waiter, "granted"),
            Order::Refuse(waiter, _) => self.tell(t, &waiter, "refusal"),
            Order::Lost(..) | Order::StartAnew(_) | Order::Unwatch(_) => {}
            order @ (Order::Leave(_) | Order::Close(_) | Order::Watch(..)) => {
                self.run(t, Unit::Order(order))?;
            }
            order => {
                if let Some(report) = self.run_guarded(t, || Unit::Order(order).run())? {
                    self.threads[t].bring(Event::Report(report), None);
                }
            }
        }
        Ok(())
    }

    /// An acquire ends. The call that asked for it has the outcome at once, if it still runs on this thread.
    fn tell(&mut self, t: usize, waiter: &Waiter<()>, outcome: &'static str) {
        self.deadlines.retain(|(ticket, _)| *ticket != waiter.request.ticket);
        let thread = &mut self.threads[t];
        if thread.call == Some(waiter.request.handle) {
            thread.outcome = Some(outcome);
        }
    }

    /// Runs an order or a wait that takes as long as it takes.
    fn run(&mut self, t: usize, unit: Unit) -> Result<(), Wrong> {
        let thread = &mut self.threads[t];
        let Some(report) = thread.run(|| unit.run())? else { return Ok(()) };
        let after_end_of = match &report {
            Report::Nothing => return Ok(()),
            Report::Turn(number, _, Err(Errno::INTR))
            | Report::Flock(number, _, Err(Errno::INTR)) => Some(*number),
            _ => None,
        };
        thread.bring(Event::Report(report), after_end_of);
        Ok(())
    }

    /// Runs what the driver takes the time of.
    fn run_guarded<T>(&mut self, t: usize, job: impl FnOnce() -> T) -> Result<Option<T>, Wrong> {
        let thread = &mut self.threads[t];
        let (first, before) = (thread.at, thread.since.max(self.now));
        let report = thread.run(job)?;
        if thread.at > first {
            // How long it took before its first call and after its last one is not in the log.
            let least_us = thread.since.us - thread.log[first].began;
            let next = thread.next().map_or(u64::MAX, |next| next.began);
            let options = match next.saturating_sub(before.us) {
                ..SLOW_US => &[false][..],
                _ if least_us >= SLOW_US => &[true],
                _ => &[false, true],
            };
            thread.is_slow |= self.choices.of(options);
        }
        Ok(report)
    }

    /// Threads of the binary that have nothing to do, and make a call all the same, take what waits for a thread.
    fn take_work(&mut self) -> Result<(), Wrong> {
        loop {
            let free = self.threads.iter().enumerate();
            let free = free.filter_map(|(t, thread)| Some((thread.unexplained()?, t)));
            let mut free: Vec<_> = free.collect();
            free.sort_unstable_by_key(|(entry, _)| entry.begin);
            let mut options = Vec::new();
            for (entry, t) in free {
                let is_there = |since: Option<&Moment>, kind| {
                    let may = [kind, Kind::Unknown].contains(&self.threads[t].kind);
                    (may && since.is_some_and(|it| it.line < entry.begin)).then_some((t, kind))
                };
                let wait = is_there(self.waits.front().map(|it| &it.0), Kind::Blocks);
                let job = is_there(self.jobs.front().map(|it| &it.0), Kind::Works);
                let blocks = matches!(&entry.step, Step::Call(asked, _) if asked.begins_a_wait());
                options.extend(if blocks { [wait, job] } else { [job, wait] }.iter().flatten());
            }
            if options.is_empty() {
                return Ok(());
            }
            let (t, kind) = self.choices.of(&options);
            self.take(t, kind)?;
            self.go_on(t)?;
        }
    }

    fn take(&mut self, t: usize, kind: Kind) -> Result<(), Wrong> {
        let thread = &mut self.threads[t];
        thread.kind = kind;
        if kind == Kind::Blocks {
            let (since, unit) = self.waits.pop_front().expect("a wait");
            thread.since = thread.since.max(since);
            return self.run(t, unit);
        }
        let (since, todo) = self.jobs.pop_front().expect("a job");
        thread.since = thread.since.max(since);
        (thread.todo, thread.hands_over) = (todo, HandsOver::Nothing);
        Ok(())
    }

    // --- Events -----------------------------------------------------------------------------------

    /// The thread that brings the next event.
    fn next(&mut self) -> Result<Option<usize>, Wrong> {
        let may = |due: &&Due| due.after_end_of.is_none_or(|number| number <= self.ended_wait);
        let dues = self.threads.iter().enumerate();
        let dues = dues.filter_map(|(t, thread)| Some((t, thread.due.as_ref().filter(may)?)));
        let dues: Vec<_> = dues.collect();
        let Some(limit) = dues.iter().map(|(_, due)| due.until).min() else {
            return self.begin_ended_wait();
        };
        let order = |(t, due): &(usize, &Due)| {
            let from = due.from.max(self.now);
            (if due.is_late { due.until } else { from }, from, *t)
        };
        let mut options: Vec<_> = dues.iter().map(order).collect();
        options.retain(|(_, from, _)| *from < limit);
        options.sort_unstable();
        if options.is_empty() {
            return Err(Wrong { line: limit.line, why: "an event comes too late".into() });
        }
        let (_, from, t) = self.choices.of(&options);
        // A thread that another one has overtaken was stopped, and perhaps for longer.
        for (_, _, other) in options.iter().take_while(|(_, _, it)| *it != t) {
            self.threads[*other].due.as_mut().expect("an event").is_late = true;
        }
        let unexplained = self.threads.iter().filter_map(Thread::unexplained);
        let before = unexplained.filter(|entry| entry.begin < from.line);
        if let Some(entry) = before.min_by_key(|entry| entry.begin) {
            return Err(Wrong::at(entry, NOTHING_ASKED));
        }
        self.now = from;
        Ok(Some(t))
    }

    /// A wait that was ended before it began may make no call, so no thread shows that it has taken it.
    fn begin_ended_wait(&mut self) -> Result<Option<usize>, Wrong> {
        let is_ended = match self.waits.front() {
            Some((_, Unit::Turn(number, _) | Unit::Flock(number, _))) => *number <= self.ended_wait,
            _ => false,
        };
        let may = |it: &Thread| matches!(it.kind, Kind::Blocks | Kind::Unknown);
        let is_free = |it: &Thread| may(it) && it.due.is_none() && !it.is_stuck;
        match self.threads.iter().position(is_free).filter(|_| is_ended) {
            Some(t) => self.take(t, Kind::Blocks).and_then(|()| self.next()),
            None => Ok(None),
        }
    }

    fn happen(&mut self, t: usize) -> Result<(), Wrong> {
        let Due { event, until, is_slow, .. } = self.threads[t].due.take().expect("an event");
        self.is_slow |= is_slow;
        let now = self.clock(&event, until);
        let is_of_a_wait = matches!(event, Event::Report(Report::Turn(..) | Report::Flock(..)));
        self.threads[t].hands_over = match &event {
            Event::Report(_) if !is_of_a_wait => self.threads[t].hands_over, // it goes on as before
            Event::Alarm | Event::Ask(Ask::Cancel(..) | Ask::Release(_)) | Event::Report(_)
                if self.is_slow =>
            {
                HandsOver::All
            }
            Event::Alarm => HandsOver::Changes,
            _ => HandsOver::Nothing,
        };
        match event {
            Event::Ask(ask) => self.ask(t, now, ask)?,
            Event::Report(report) => report.tell(&mut self.lock, now),
            Event::Tried(request, result) => {
                let outcome = match &result {
                    Ok(Some(_)) => "granted",
                    Ok(None) => "contended",
                    Err(_) => "refusal",
                };
                self.threads[t].outcome = Some(outcome);
                self.lock.tried_now(now, &request, result.ok().flatten());
            }
            Event::Alarm => self.lock.time(now),
        }
        let orders = self.lock.orders();
        self.threads[t].todo.extend(orders);
        Ok(())
    }

    /// What the clock shows to the thread. Where that is near to a deadline or an alarm, there is a choice.
    fn clock(&mut self, event: &Event, until: Moment) -> Instant {
        let now = self.now.us;
        let to = if until == NEVER { now + UNSURE_US } else { until.us };
        let mut options = vec![instant(now)];
        if let Event::Ask(Ask::Arrive(_)) = event {
            // Its deadline counts from here.
            options.extend((to > now + UNSURE_US).then_some(instant(to)));
            return self.choices.of(&options);
        }
        // Other events don't look at the clock: they only set it.
        let may_expire = matches!(
            event,
            Event::Alarm
                | Event::Report(Report::Tried(Ok(Attempt::Queued(_) | Attempt::Contended(_))))
        );
        if !may_expire {
            return options[0];
        }
        let window = instant(now.saturating_sub(UNSURE_US))..=instant(to);
        let deadlines = self.deadlines.iter().map(|(_, at)| *at);
        for at in deadlines.chain(self.lock.alarm()) {
            if window.contains(&at) {
                let just_before = at.checked_sub(Duration::from_micros(1)).unwrap_or(at);
                options.push(if at <= instant(now) { just_before } else { at });
            }
        }
        self.choices.of(&options)
    }

    fn ask(&mut self, t: usize, now: Instant, ask: Ask) -> Result<(), Wrong> {
        let mut released = None;
        match ask {
            Ask::Arrive(request) => {
                let timeout = request.timeout_ms.map(Duration::from_millis);
                let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
                self.deadlines.extend(deadline.map(|at| (request.ticket, at)));
                let (has_waited, is_taken_over, caller) = (false, false, ());
                let waiter = Waiter { request, deadline, has_waited, is_taken_over, caller };
                self.arrivals.push_back(waiter);
            }
            Ask::Admit => {
                let may = self.is_slow || self.threads[t].kind == Kind::JavaScript;
                if may && let Some(waiter) = self.arrivals.pop_front() {
                    self.lock.acquire(now, waiter);
                }
            }
            Ask::Try(request) => match self.lock.try_acquire(&request) {
                TryNow::Try(claim, approach) => {
                    if let Some(taken) = self.run_guarded(t, || try_now(&claim, approach))? {
                        self.threads[t].bring(Event::Tried(request, taken), None);
                    }
                }
                TryNow::Contended | TryNow::Share(_) => self.threads[t].outcome = Some("contended"),
            },
            Ask::Release(environment) => {
                let hold = self.lock.hold().filter(|hold| hold.environment == environment);
                let handle = hold.map(|hold| hold.handles[0]);
                released = handle.and_then(|handle| self.lock.release(handle));
            }
            Ask::Cancel(environment, ticket) => {
                let is_gone = self.cancel(environment, ticket);
                self.threads[t].outcome = Some(if is_gone { "true" } else { "false" });
            }
            Ask::Forget(environment) => {
                self.arrivals.retain(|waiter| waiter.request.environment != environment);
                drop(self.lock.forget(environment));
            }
            Ask::ReleaseAll(environment) => released = self.lock.release_environment(environment),
            Ask::LeaveNow => self.lock.leave_now(),
        }
        self.threads[t].todo.extend(released.map(|held| Order::Release(held, None)));
        Ok(())
    }

    fn cancel(&mut self, environment: Environment, ticket: Ticket) -> bool {
        let is_it = |waiter: &Waiter<()>| {
            waiter.request.environment == environment && waiter.request.ticket == ticket
        };
        self.deadlines.retain(|(its, _)| *its != ticket);
        match self.arrivals.iter().position(is_it) {
            Some(place) => self.arrivals.remove(place).is_some(),
            None => self.lock.cancel(environment, ticket).is_some(),
        }
    }
}

fn instant(us: u64) -> Instant {
    Instant::START + Duration::from_micros(us)
}

/// As in src/locks/drive.rs.
fn changes_the_disk(order: &Order<()>) -> bool {
    use Order::{Leave, Release, Try, TryPast};
    matches!(order, Try(..) | TryPast(..) | Release(..) | Leave(..))
}

/// As in src/locks/acquire.rs.
fn try_now(claim: &Claim, approach: Approach) -> error::Result<Option<HeldLock>> {
    match protocol::attempt(&paths(), claim, approach)? {
        Attempt::Acquired(lock) => Ok(Some(lock)),
        Attempt::TakenOver(lock) => Ok(lock.is_at_its_path()?.then_some(lock)),
        Attempt::Queued(place) => {
            place.leave();
            Ok(None)
        }
        Attempt::Contended(obstacle) => {
            obstacle.into_place().into_iter().for_each(Place::leave);
            Ok(None)
        }
    }
}
