//! Lock files that a release could not remove, on file systems where a file that stays counts as held for as long as this
//! process lives. So the release is tried again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::drive;
use crate::os::{self, RunsOn};
use crate::protocol::HeldLock;

/// How long after a round the next one follows.
const PAUSE: Duration = Duration::from_secs(2);

struct Leftovers {
    locks: VecDeque<Arc<HeldLock>>,
    /// Whether a round is planned, or under way.
    is_planned: bool,
}

static LEFTOVERS: Mutex<Leftovers> =
    Mutex::new(Leftovers { locks: VecDeque::new(), is_planned: false });

/// Tries the release of this lock again, until it succeeds.
pub fn add(held: Arc<HeldLock>) {
    let mut leftovers = leftovers();
    leftovers.locks.push_back(held);
    if !std::mem::replace(&mut leftovers.is_planned, true) {
        drop(leftovers);
        plan_round();
    }
}

fn plan_round() {
    let round = move || {
        os::run(Box::new(move |on| {
            // One worker for all of them: a call can hang.
            if on == RunsOn::Worker {
                make_round();
            }
            let mut leftovers = leftovers();
            leftovers.is_planned = !leftovers.locks.is_empty();
            if leftovers.is_planned {
                drop(leftovers);
                plan_round();
            }
        }));
    };
    match os::at(os::now() + PAUSE, round) {
        Ok(timer) => timer.detach(),
        Err(_) => leftovers().is_planned = false, // the next leftover tries it again
    }
}

fn make_round() {
    let count = leftovers().locks.len();
    for _ in 0..count {
        let next = leftovers().locks.pop_front();
        if let Some(held) = next
            && drive::guarded(held.paths(), || held.release().0).is_err()
        {
            leftovers().locks.push_back(held);
        }
    }
}

fn leftovers() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}
