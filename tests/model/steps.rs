//! What a process may do next. Each step is one system call, or one decision.

#![allow(clippy::cast_possible_truncation, reason = "the numbers here are small")]
#![allow(clippy::match_same_arms, reason = "in the order of the protocol")]

use crate::world::{CUR, LEFT, LookBack, PLACE, Pc, Place, Process, TMP, Text, World};

/// What kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It comes if nothing prevents it.
    Work,
    /// It may never come: somebody arrives, gives up, ends.
    Choice,
    Crash,
}

pub struct Step {
    pub who: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    pub next: World,
}

/// What becomes of a flock that came too late to the last in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decline {
    /// It is given back. The file belongs to the one whose record is in it.
    Unlocks,
    /// And the file is removed if it was handed on by one who lives.
    RemovesWhatWasHandedOn,
    /// And the file is removed.
    Removes,
    /// The file is removed without waiting for the flock.
    RemovesBlindly,
}

/// The protocol, and ways to get it wrong.
#[expect(clippy::struct_excessive_bools, reason = "each can be left out alone")]
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub look_checks_path: bool,
    pub inherit_checks_path: bool,
    pub marks_are_asked_after: bool,
    pub marks_are_asked_before: bool,
    pub temporary_is_asked: bool,
    pub decline: Decline,
    pub look_back_with_flock: bool,
    pub look_back_says: bool,
    pub settles: bool,
    /// An older process's dead file is written over as well, and nothing is ever exchanged.
    pub older_is_inherited: bool,
    /// An older process asks for the pid some time after it has read the record.
    pub older_judges_late: bool,
}

pub const PROTOCOL: Rules = Rules {
    look_checks_path: true,
    inherit_checks_path: true,
    marks_are_asked_after: true,
    marks_are_asked_before: true,
    temporary_is_asked: true,
    decline: Decline::Unlocks,
    look_back_with_flock: true,
    look_back_says: true,
    settles: true,
    older_is_inherited: true,
    older_judges_late: false,
};

const NAMES: [&str; 3] = ["A", "B", "C"];

/// Everything that can happen next.
pub fn steps(world: &World, rules: &Rules) -> Vec<Step> {
    let mut steps = Vec::new();
    for who in 0..world.processes.len() {
        let me = world.processes[who];
        let mut turn = Turn { world, who, me, rules, steps: &mut steps };
        if me.is_alive() {
            turn.main();
            turn.thread_in_line();
            turn.look_back();
            turn.crash();
        }
    }
    if world.hands > 0 && world.path != 0 && !world.is_taken() {
        let mut next = World { path: 0, hands: world.hands - 1, ..*world };
        next.forget();
        steps.push(Step {
            who: "Somebody",
            what: "removes the path by hand",
            kind: Kind::Choice,
            next,
        });
    }
    steps
}

struct Turn<'a> {
    world: &'a World,
    who: usize,
    me: Process,
    rules: &'a Rules,
    steps: &'a mut Vec<Step>,
}

impl Turn<'_> {
    fn add(&mut self, kind: Kind, what: &'static str, change: impl FnOnce(&mut World, usize)) {
        let mut next = *self.world;
        change(&mut next, self.who);
        next.forget();
        self.steps.push(Step { who: NAMES[self.who], what, kind, next });
    }

    fn work(&mut self, what: &'static str, change: impl FnOnce(&mut World, usize)) {
        self.add(Kind::Work, what, change);
    }

    fn choice(&mut self, what: &'static str, change: impl FnOnce(&mut World, usize)) {
        self.add(Kind::Choice, what, change);
    }

    /// Asks something, and goes on accordingly.
    fn ask(&mut self, what: &'static str, answer: bool, yes: Pc, no: Pc) {
        self.work(what, |w, me| w.go(me, if answer { yes } else { no }));
    }

    fn crash(&mut self) {
        if self.world.crashes > 0 {
            self.add(Kind::Crash, "CRASHES", |w, me| {
                w.crashes -= 1;
                w.is_littered = true;
                w.end(me);
            });
        }
    }

    #[rustfmt::skip]
    fn main(&mut self) {
        match self.me.pc {
            Pc::Idle => self.idle(),
            Pc::Ending | Pc::Gone => self.ending(),
            Pc::Open | Pc::LookFlock | Pc::LookNames | Pc::LookRead | Pc::LookAsk | Pc::LookUnlock | Pc::Watch
            | Pc::Link => self.look(),
            Pc::Prepare | Pc::Mark | Pc::InLine | Pc::Come | Pc::ComeNames | Pc::ComeRead | Pc::TakeBack
            | Pc::Behind => self.wait(),
            Pc::TakeMarks | Pc::MarkBefore | Pc::Spoil | Pc::Rest | Pc::Mend | Pc::MarkAfter | Pc::Still
            | Pc::LeaveLine => self.inherit(),
            Pc::SweepOpen | Pc::SweepFlock | Pc::SweepAsk | Pc::SweepNames | Pc::SweepUnlink => self.sweep(),
            Pc::TmpCreate | Pc::TmpFlock | Pc::TmpWrite | Pc::TmpNames | Pc::DeadNames | Pc::Exchange | Pc::Out
            | Pc::OutUnlink | Pc::Mine | Pc::Back | Pc::BackLink | Pc::BackUnlink | Pc::Discard
            | Pc::DiscardUnlink => self.take_over(),
            Pc::Settling | Pc::Hold | Pc::HandLine | Pc::HandMark | Pc::HandNames | Pc::HandUnlock | Pc::Names
            | Pc::Unlink | Pc::Unlock => self.hold(),
            Pc::OldIdle | Pc::OldTry | Pc::OldJudge | Pc::OldGap | Pc::OldWrite | Pc::OldHold
            | Pc::OldRemove => self.older(),
        }
    }

    // --- Arriving and ending ------------------------------------------------------------------------

    fn idle(&mut self) {
        let has_left = self.has_left();
        if self.me.turns > 0 {
            self.choice("arrives", |w, me| {
                w.processes[me].turns -= 1;
                w.go(me, if has_left { Pc::TakeBack } else { Pc::Open });
            });
        }
        if self.me.turns > 0 && has_left {
            self.choice("arrives, its series over", |w, me| {
                w.processes[me].turns -= 1;
                w.go(me, Pc::Behind);
            });
        }
        self.choice("begins to end", |w, me| w.go(me, Pc::Ending));
    }

    /// Looks back a last time (see there), and ends.
    fn ending(&mut self) {
        if self.me.pc == Pc::Ending && self.me.open[LEFT].ino == 0 {
            self.work("ends", World::end);
        }
    }

    fn has_left(&self) -> bool {
        self.me.open[LEFT].ino != 0 && self.me.look_back == LookBack::Due
    }

    // --- Looking ------------------------------------------------------------------------------------

    fn look(&mut self) {
        let world = self.world;
        match self.me.pc {
            Pc::Open if world.path == 0 => {
                self.work("finds the path vacant", |w, me| w.go(me, Pc::Link));
            }
            Pc::Open => self.work("opens the lock file", |w, me| {
                w.open(me, CUR, w.path);
                w.go(me, Pc::LookFlock);
            }),
            Pc::LookFlock if world.is_flocked(self.who, CUR) => {
                self.work("finds it flocked", |w, me| w.go(me, Pc::Prepare));
            }
            Pc::LookFlock => self.work("gets its flock", |w, me| {
                w.open_mut(me, CUR).flock = true;
                w.go(me, Pc::LookNames);
            }),
            Pc::LookNames => {
                let stays = world.names(self.who, CUR) || !self.rules.look_checks_path;
                self.or_again("checks that the path names it", stays, Pc::LookRead);
            }
            Pc::LookRead => {
                let is_ours = promises(world.text(self.who, CUR));
                self.work("reads it", |w, me| {
                    // Open for writing only if that can't make it look alive.
                    w.open_mut(me, CUR).writes = is_ours;
                    w.go(me, if is_ours { Pc::TakeMarks } else { Pc::LookAsk });
                });
            }
            Pc::LookAsk => {
                let is_alive = self.is_alive(CUR);
                let inherits = self.rules.older_is_inherited;
                self.work("asks for its writer", |w, me| {
                    w.open_mut(me, CUR).writes = !is_alive && inherits;
                    let dead = if inherits { Pc::TakeMarks } else { Pc::TmpCreate };
                    w.go(me, if is_alive { Pc::LookUnlock } else { dead });
                });
            }
            Pc::LookUnlock => self.work("gives its flock back", |w, me| {
                w.open_mut(me, CUR).flock = false;
                w.go(me, Pc::Watch);
            }),
            Pc::Watch => {
                if !world.names(self.who, CUR) || !self.is_alive(CUR) {
                    self.work("is told of a change", |w, me| {
                        w.close(me, CUR);
                        w.go(me, Pc::Open);
                    });
                }
                self.choice("gives up", |w, me| {
                    w.close(me, CUR);
                    w.go(me, Pc::Idle);
                });
            }
            // The file was made, flocked and written before; nobody could see it.
            Pc::Link if world.path != 0 => self.work("can't link", |w, me| w.go(me, Pc::Open)),
            _ => self.work("links its new lock file", |w, me| {
                w.path = w.create(me, CUR);
                w.open_mut(me, CUR).flock = true;
                let token = w.fresh_token(me);
                w.write(me, CUR, Text::Ours { token, promises: true });
                w.processes[me].token = token;
                w.go(me, Pc::Hold);
            }),
        }
    }

    /// Judges a file whose flock we have, or that promises none. Every grace is over: nobody hangs so long.
    fn is_alive(&self, slot: usize) -> bool {
        let owner = match self.world.text(self.who, slot) {
            Text::Ours { promises: true, .. } | Text::Spoilt(_) => return false,
            Text::Empty => None,
            Text::Ours { token, .. } => Some(World::writer_of(token)),
            Text::Older(owner) => Some(owner),
        };
        let is_written = self.world.is_written(self.who, slot);
        is_written
            || owner.is_some_and(|owner| owner as usize != self.who && self.world.lives(owner))
    }

    /// Goes on, or closes what it looked at and begins again.
    fn or_again(&mut self, what: &'static str, goes_on: bool, on: Pc) {
        self.work(what, |w, me| {
            if goes_on {
                w.go(me, on);
            } else {
                again(w, me);
            }
        });
    }

    // --- Waiting and coming back --------------------------------------------------------------------

    fn wait(&mut self) {
        let world = self.world;
        match self.me.pc {
            Pc::Prepare if self.me.place != Place::None => {} // a thread is about to leave
            Pc::Prepare => self.work("opens it once more, to stand in line", |w, me| {
                let writes = promises(w.text(me, CUR));
                w.shift(me, CUR, PLACE);
                w.open_mut(me, PLACE).writes = writes;
                w.processes[me].place = Place::Wanted;
                w.go(me, Pc::Mark);
            }),
            Pc::Mark => self.work("marks it, and stands in line", |w, me| {
                w.open_mut(me, PLACE).line = true;
                w.go(me, Pc::InLine);
            }),
            Pc::InLine => self.in_line(),
            Pc::Come => {
                self.ask("may inherit?", self.me.open[CUR].writes, Pc::TakeMarks, Pc::ComeNames);
            }
            Pc::ComeNames => {
                let stays = world.names(self.who, CUR);
                self.or_again("checks that the path names it", stays, Pc::ComeRead);
            }
            Pc::ComeRead => {
                let is_dead = promises(world.text(self.who, CUR));
                let inherits = self.rules.older_is_inherited;
                self.work("reads it", |w, me| {
                    w.open_mut(me, CUR).writes = is_dead && inherits;
                    let dead = if inherits { Pc::TakeMarks } else { Pc::TmpCreate };
                    w.go(me, if is_dead { dead } else { Pc::LookAsk });
                });
            }
            Pc::TakeBack if world.is_flocked(self.who, LEFT) => {
                self.work("finds what it has left flocked", |w, me| w.go(me, Pc::Behind));
            }
            Pc::TakeBack => self.work("gets the flock of what it has left", |w, me| {
                w.shift(me, LEFT, CUR);
                w.open_mut(me, CUR).flock = true;
                w.processes[me].own = w.processes[me].left;
                w.processes[me].left = 0;
                w.go(me, Pc::TakeMarks);
            }),
            _ => {
                let is_there = world.names(self.who, LEFT);
                let is_in_line = self.me.place == Place::Wanted;
                self.work("checks that the path names what it has left", |w, me| {
                    if is_there && is_in_line {
                        return w.go(me, Pc::InLine);
                    }
                    let ino = w.file(me, LEFT).ino;
                    w.open(me, CUR, ino);
                    w.go(me, Pc::Prepare);
                    if !is_there {
                        w.close(me, LEFT);
                        w.processes[me].left = 0;
                        again(w, me);
                    }
                });
            }
        }
    }

    /// The kernel wakes them in order. Here anybody may be next: that includes it.
    fn in_line(&mut self) {
        let world = self.world;
        if !world.is_flocked(self.who, PLACE) {
            self.work("gets the flock in line", |w, me| {
                w.shift(me, PLACE, CUR);
                w.open_mut(me, CUR).flock = true;
                w.processes[me].place = Place::None;
                w.go(me, Pc::Come);
            });
        }
        if self.has_left() {
            self.choice("tries to be ahead of the line", |w, me| w.go(me, Pc::TakeBack));
        }
        if !world.names(self.who, PLACE) {
            self.choice("looks again, and the path names another", again);
        }
        self.choice("gives up", |w, me| {
            w.open_mut(me, PLACE).line = false;
            w.processes[me].place = Place::Abandoned;
            w.go(me, Pc::Idle);
        });
    }

    /// A thread whose place nobody wants: it leaves, or the flock comes first.
    fn thread_in_line(&mut self) {
        let close = |w: &mut World, me: usize| {
            w.close(me, PLACE);
            w.processes[me].place = Place::None;
        };
        let world = self.world;
        match self.me.place {
            Place::None | Place::Wanted => {}
            Place::Abandoned => {
                self.work("(thread) leaves the line", close);
                if !world.is_flocked(self.who, PLACE)
                    || self.rules.decline == Decline::RemovesBlindly
                {
                    let with_flock = self.rules.decline != Decline::RemovesBlindly;
                    self.work("(thread) gets the flock too late", |w, me| {
                        w.open_mut(me, PLACE).flock = with_flock;
                        w.processes[me].place = Place::Come;
                    });
                }
            }
            Place::Come => {
                self.work("(thread) closes it", close);
                let handed_on = match world.text(self.who, PLACE) {
                    Text::Ours { token, .. } => world.is_marked(self.who, PLACE, token),
                    _ => false,
                };
                let may = match self.rules.decline {
                    Decline::Unlocks => false,
                    Decline::RemovesWhatWasHandedOn => handed_on,
                    Decline::Removes | Decline::RemovesBlindly => true,
                };
                let is_last = self.me.open[PLACE].writes && !world.has_line(self.who, PLACE);
                if may && is_last && world.names(self.who, PLACE) {
                    self.work("(thread) sees nobody behind it, and the path names it", |w, me| {
                        w.processes[me].place = Place::Named;
                    });
                }
            }
            Place::Named => self.work("(thread) removes the path", |w, me| {
                w.unlink_path(me);
                w.close(me, PLACE);
                w.processes[me].place = Place::None;
            }),
        }
    }

    // --- Inheriting ---------------------------------------------------------------------------------

    fn inherit(&mut self) {
        let (world, me) = (self.world, self.me);
        let lives =
            (me.own == me.previous && me.own != 0) || world.is_marked(self.who, CUR, me.previous);
        match me.pc {
            Pc::TakeMarks => self.work("takes its marks away, reads the record", |w, me| {
                let previous = match w.text(me, CUR) {
                    Text::Ours { token, .. } => token,
                    Text::Spoilt(token) if token == w.processes[me].own => token,
                    _ => 0,
                };
                let open = w.open_mut(me, CUR);
                (open.line, open.mark) = (false, 0);
                w.processes[me].previous = previous;
                w.go(me, Pc::MarkBefore);
            }),
            Pc::MarkBefore => {
                let handed_on = lives || !self.rules.marks_are_asked_before;
                let sweeps = !handed_on && self.rules.temporary_is_asked;
                self.work("asks for the mark of its predecessor", |w, me| {
                    w.processes[me].handed_on = handed_on;
                    w.go(me, if sweeps { Pc::SweepOpen } else { Pc::Spoil });
                });
            }
            Pc::Spoil => self.work("spoils the first byte", |w, me| {
                w.write(me, CUR, Text::Spoilt(w.processes[me].previous));
                w.go(me, Pc::Rest);
            }),
            Pc::Rest => self.work("writes the rest", |w, me| {
                w.write(me, CUR, Text::Spoilt(0));
                w.go(me, Pc::Mend);
            }),
            Pc::Mend => self.work("mends the first byte", |w, me| {
                let token = w.fresh_token(me);
                w.write(me, CUR, Text::Ours { token, promises: true });
                w.processes[me].token = token;
                w.go(me, Pc::MarkAfter);
            }),
            Pc::MarkAfter => {
                let need_not_settle = me.handed_on && (lives || !self.rules.marks_are_asked_after);
                self.work("asks for that mark again", |w, me| {
                    let process = &mut w.processes[me];
                    (process.handed_on, process.previous, process.own) = (need_not_settle, 0, 0);
                    w.go(me, Pc::Still);
                });
            }
            Pc::Still => {
                let stays = world.names(self.who, CUR) || !self.rules.inherit_checks_path;
                self.work("checks that the path still names it", |w, me| {
                    let need_not_settle = std::mem::take(&mut w.processes[me].handed_on);
                    match (stays, need_not_settle) {
                        (false, _) => again(w, me),
                        (true, true) if w.processes[me].place == Place::Wanted => {
                            w.go(me, Pc::LeaveLine);
                        }
                        (true, true) => w.go(me, Pc::Hold),
                        (true, false) => settle(w, me),
                    }
                });
            }
            _ => self.work("leaves its own place in line", |w, me| {
                w.open_mut(me, PLACE).line = false;
                w.processes[me].place = Place::Abandoned;
                w.go(me, Pc::Hold);
            }),
        }
    }

    /// What follows is what is to be done about the dead file: written over, or exchanged.
    fn sweep(&mut self) {
        let world = self.world;
        let then = if self.me.open[CUR].writes { Pc::Spoil } else { Pc::TmpCreate };
        match self.me.pc {
            Pc::SweepOpen if world.temporary == 0 => {
                self.work("finds no temporary", |w, me| w.go(me, then));
            }
            Pc::SweepOpen => self.work("opens the temporary", |w, me| {
                w.open(me, TMP, w.temporary);
                let is_it = w.temporary == w.file(me, CUR).ino;
                w.go(me, if is_it { Pc::SweepNames } else { Pc::SweepFlock });
            }),
            Pc::SweepFlock if world.is_flocked(self.who, TMP) => {
                self.work("finds it flocked", occupied);
            }
            Pc::SweepFlock => self.work("gets its flock", |w, me| {
                w.open_mut(me, TMP).flock = true;
                w.go(me, Pc::SweepAsk);
            }),
            Pc::SweepAsk if world.is_written(self.who, TMP) => {
                self.work("finds that somebody writes it", occupied);
            }
            Pc::SweepAsk => {
                self.work("finds that nobody writes it", |w, me| w.go(me, Pc::SweepNames));
            }
            Pc::SweepNames => {
                let is_there = world.temporary == self.me.open[TMP].ino;
                self.work("checks that it still has that name", |w, me| {
                    if is_there {
                        return w.go(me, Pc::SweepUnlink);
                    }
                    w.close(me, TMP);
                    w.go(me, then);
                });
            }
            _ => self.work("removes the temporary", |w, me| {
                w.temporary = 0;
                w.close(me, TMP);
                w.go(me, then);
            }),
        }
    }

    // --- Taking over by exchange --------------------------------------------------------------------

    fn take_over(&mut self) {
        let world = self.world;
        let (path, temporary) = (world.path, world.temporary);
        let is_mine = temporary == self.me.open[TMP].ino;
        match self.me.pc {
            Pc::TmpCreate if temporary != 0 => {
                self.work("finds a temporary", |w, me| w.go(me, Pc::SweepOpen));
            }
            Pc::TmpCreate => self.work("creates the temporary", |w, me| {
                w.temporary = w.create(me, TMP);
                w.go(me, Pc::TmpFlock);
            }),
            Pc::TmpFlock => {
                let is_free = !world.is_flocked(self.who, TMP);
                self.work("flocks it, if it can", |w, me| {
                    w.open_mut(me, TMP).flock = is_free;
                    w.go(me, Pc::TmpWrite);
                });
            }
            Pc::TmpWrite => self.work("writes it", |w, me| {
                let (token, promises) = (w.fresh_token(me), w.file(me, TMP).flock);
                w.write(me, TMP, Text::Ours { token, promises });
                w.processes[me].token = token;
                w.go(me, Pc::TmpNames);
            }),
            Pc::TmpNames => self.work("checks that it still has that name", |w, me| {
                if is_mine {
                    return w.go(me, Pc::DeadNames);
                }
                w.close(me, TMP);
                w.go(me, Pc::TmpCreate);
            }),
            Pc::DeadNames => {
                let is_there = world.names(self.who, CUR);
                self.ask(
                    "checks that the path names the dead file",
                    is_there,
                    Pc::Exchange,
                    Pc::Discard,
                );
            }
            Pc::Exchange if path == 0 || temporary == 0 => {
                self.work("can't exchange", |w, me| w.go(me, Pc::Discard));
            }
            Pc::Exchange => self.work("exchanges them", |w, me| {
                std::mem::swap(&mut w.path, &mut w.temporary);
                w.go(me, Pc::Out);
            }),
            Pc::Out => {
                let is_dead_one = temporary == self.me.open[CUR].ino;
                self.ask("looks at what has come out", is_dead_one, Pc::OutUnlink, Pc::Back);
            }
            Pc::OutUnlink => self.work("removes the dead file", |w, me| {
                w.temporary = 0;
                w.go(me, Pc::Mine);
            }),
            Pc::Mine => {
                let is_there = world.names(self.who, TMP);
                self.work("checks that the path names its own", |w, me| {
                    w.shift(me, TMP, CUR);
                    if is_there { settle(w, me) } else { again(w, me) }
                });
            }
            Pc::Back if path == 0 || temporary == 0 => {
                self.work("can't exchange back", |w, me| w.go(me, Pc::BackLink));
            }
            Pc::Back => self.work("exchanges them back", |w, me| {
                std::mem::swap(&mut w.path, &mut w.temporary);
                w.go(me, Pc::Discard);
            }),
            Pc::BackLink if path != 0 || temporary == 0 => {
                self.work("can't link", |w, me| w.go(me, Pc::Discard));
            }
            Pc::BackLink => self.work("links the other's file to the path", |w, me| {
                w.path = w.temporary;
                w.go(me, Pc::BackUnlink);
            }),
            Pc::BackUnlink => self.work("removes its other name", |w, me| {
                w.temporary = 0;
                w.go(me, Pc::Discard);
            }),
            Pc::Discard if is_mine => {
                self.work("its temporary is still there", |w, me| w.go(me, Pc::DiscardUnlink));
            }
            Pc::Discard => self.work("has no temporary any more", again),
            _ => self.work("removes its temporary", |w, me| {
                w.temporary = 0;
                again(w, me);
            }),
        }
    }

    // --- Holding and letting go ---------------------------------------------------------------------

    fn hold(&mut self) {
        let world = self.world;
        match self.me.pc {
            Pc::Settling if self.me.is_read && self.rules.settles => {}
            Pc::Settling => {
                let stays = world.names(self.who, CUR);
                self.or_again("has settled, and checks that the path names it", stays, Pc::Hold);
            }
            Pc::Hold => {
                self.work("releases", |w, me| w.go(me, Pc::HandLine));
                self.choice("releases, whoever is in line", |w, me| w.go(me, Pc::Names));
            }
            Pc::HandLine => {
                let promises = promises(world.text(self.who, CUR));
                let is_waited_for = world.has_line(self.who, CUR) && promises;
                self.ask(
                    "asks whether somebody is in line",
                    is_waited_for,
                    Pc::HandMark,
                    Pc::Names,
                );
            }
            Pc::HandMark => self.work("marks it as handed on", |w, me| {
                w.open_mut(me, CUR).mark = w.processes[me].token;
                w.go(me, Pc::HandNames);
            }),
            Pc::HandNames => {
                let is_there = world.names(self.who, CUR);
                self.ask("checks that the path names it", is_there, Pc::HandUnlock, Pc::Names);
            }
            Pc::HandUnlock if self.me.look_back != LookBack::Due => {}
            Pc::HandUnlock => self.work("unlocks", |w, me| {
                w.shift(me, CUR, LEFT);
                w.open_mut(me, LEFT).flock = false;
                w.processes[me].left = std::mem::take(&mut w.processes[me].token);
                w.go(me, Pc::Idle);
            }),
            Pc::Names => {
                let is_there = world.names(self.who, CUR);
                self.ask("checks that the path names it", is_there, Pc::Unlink, Pc::Unlock);
            }
            Pc::Unlink => self.work("removes the path", |w, me| {
                w.unlink_path(me);
                w.go(me, Pc::Unlock);
            }),
            _ => self.work("unlocks, closes", |w, me| {
                w.close(me, CUR);
                w.processes[me].token = 0;
                w.go(me, Pc::Idle);
            }),
        }
    }

    /// Removes what was left if nobody has taken it.
    fn look_back(&mut self) {
        if self.me.open[LEFT].ino == 0 || matches!(self.me.pc, Pc::TakeBack | Pc::Behind) {
            return;
        }
        let world = self.world;
        let token = self.me.left;
        let text = world.text(self.who, LEFT);
        let says = text == Text::Spoilt(token)
            || matches!(text, Text::Ours { token: t, .. } if t == token);
        let is_ours = world.names(self.who, LEFT) && (says || !self.rules.look_back_says);
        let done = |w: &mut World, me: usize| {
            w.close(me, LEFT);
            (w.processes[me].left, w.processes[me].look_back) = (0, LookBack::Due);
        };
        match self.me.look_back {
            LookBack::Due
                if world.is_flocked(self.who, LEFT) && self.rules.look_back_with_flock =>
            {
                self.work("(back) finds it flocked", |w, me| {
                    w.processes[me].look_back = LookBack::Busy;
                });
            }
            LookBack::Due => {
                let with_flock = self.rules.look_back_with_flock;
                self.work("(back) gets its flock", |w, me| {
                    w.open_mut(me, LEFT).flock |= with_flock;
                    w.processes[me].look_back = LookBack::Locked;
                });
            }
            LookBack::Locked if is_ours && world.has_line(self.who, LEFT) => {
                let is_ending = self.me.pc == Pc::Ending;
                self.work("(back) finds somebody in line, unlocks", |w, me| {
                    w.open_mut(me, LEFT).flock = false;
                    w.processes[me].look_back = LookBack::Due;
                    if is_ending {
                        w.is_littered = true;
                        done(w, me);
                    }
                });
            }
            LookBack::Locked if is_ours => {
                self.work("(back) finds it untaken", |w, me| {
                    w.processes[me].look_back = LookBack::Ours;
                });
            }
            LookBack::Locked => self.work("(back) finds it taken, closes it", done),
            LookBack::Ours => self.work("(back) removes the path, closes it", |w, me| {
                w.unlink_path(me);
                done(w, me);
            }),
            // If somebody has the flock and has not written: later. Who ends can't wait for that.
            LookBack::Busy if is_ours && self.me.pc == Pc::Ending => {
                self.work("(back) leaves it to who has the flock", |w, me| {
                    w.is_littered = true;
                    done(w, me);
                });
            }
            LookBack::Busy if is_ours => {
                self.work("(back) will look again", |w, me| {
                    w.processes[me].look_back = LookBack::Due;
                });
            }
            LookBack::Busy => self.work("(back) finds it taken, closes it", done),
        }
    }

    // --- An older process ---------------------------------------------------------------------------

    fn older(&mut self) {
        let world = self.world;
        match self.me.pc {
            Pc::OldIdle => {
                if self.me.turns > 0 {
                    self.choice("arrives", |w, me| {
                        w.processes[me].turns -= 1;
                        w.go(me, Pc::OldTry);
                    });
                }
                self.choice("ends", World::end);
            }
            Pc::OldTry if world.path == 0 => self.work("creates the lock file", |w, me| {
                w.path = w.create(me, CUR);
                w.go(me, Pc::OldWrite);
            }),
            Pc::OldTry => {
                let owner = self.owner();
                let is_dead = owner.is_some_and(|owner| !self.respects(owner));
                if is_dead {
                    self.work("reads a dead record", |w, me| w.go(me, Pc::OldGap));
                } else if let Some(owner) = owner.filter(|_| self.rules.older_judges_late) {
                    self.work("reads a record", |w, me| {
                        w.processes[me].previous = owner;
                        w.go(me, Pc::OldJudge);
                    });
                }
                self.choice("gives up", |w, me| w.go(me, Pc::OldIdle));
            }
            Pc::OldJudge => {
                let is_dead = !self.respects(self.me.previous);
                self.work("asks whether its process lives", |w, me| {
                    w.processes[me].previous = 0;
                    w.go(me, Pc::OldTry);
                    if is_dead {
                        return w.go(me, Pc::OldGap);
                    }
                    w.leave_gap(me);
                });
            }
            Pc::OldGap => self.work("removes the path", |w, me| {
                w.unlink_path(me);
                w.go(me, Pc::OldTry);
                w.leave_gap(me);
            }),
            Pc::OldWrite => self.work("writes its record", |w, me| {
                w.write(me, CUR, Text::Older(me as u8));
                w.go(me, Pc::OldHold);
            }),
            Pc::OldHold => self.work("releases: closes the lock file", |w, me| {
                w.close(me, CUR);
                w.go(me, Pc::OldRemove);
            }),
            _ => self.work("releases: removes the path", |w, me| {
                w.unlink_path(me);
                w.go(me, Pc::OldIdle);
                w.leave_gap(me);
            }),
        }
    }

    /// Whom the lock file names, if it says so. One that says nothing is given a grace: nobody hangs so long.
    fn owner(&self) -> Option<u8> {
        let path = self.world.path;
        match self.world.text[path as usize] {
            Text::Ours { token, .. } => Some(World::writer_of(token)),
            Text::Older(owner) => Some(owner),
            Text::Empty | Text::Spoilt(_) => {
                let mut all = self.world.processes.iter().flat_map(|process| process.open);
                (!all.any(|open| open.ino == path)).then_some(u8::MAX)
            }
        }
    }

    /// By its pid alone. Its own: it holds nothing.
    fn respects(&self, owner: u8) -> bool {
        owner as usize != self.who && self.world.lives(owner)
    }
}

fn promises(text: Text) -> bool {
    matches!(text, Text::Ours { promises: true, .. } | Text::Spoilt(_))
}

/// Closes what it looked at, and looks again.
fn again(w: &mut World, me: usize) {
    w.close(me, CUR);
    w.close(me, TMP);
    let process = &mut w.processes[me];
    (process.token, process.previous, process.own, process.handed_on) = (0, 0, 0, false);
    if process.place == Place::Wanted {
        process.place = Place::Abandoned;
    }
    w.go(me, Pc::Open);
}

/// The temporary is in use: waits a moment. What was taken back is left once more.
fn occupied(w: &mut World, me: usize) {
    w.close(me, TMP);
    let own = w.processes[me].own;
    if own == 0 {
        return again(w, me);
    }
    w.shift(me, CUR, LEFT);
    w.open_mut(me, LEFT).flock = false;
    let process = &mut w.processes[me];
    (process.left, process.own, process.previous, process.handed_on) = (own, 0, 0, false);
    let is_in_line = process.place == Place::Wanted;
    w.go(me, if is_in_line { Pc::InLine } else { Pc::TakeBack });
}

fn settle(w: &mut World, me: usize) {
    w.processes[me].is_read = w.is_gap_open();
    if w.processes[me].place == Place::Wanted {
        w.processes[me].place = Place::Abandoned;
    }
    w.go(me, Pc::Settling);
}
