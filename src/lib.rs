//! Locks between processes for Node: a dead lock never blocks, a live lock is never taken.
//!
//! A gateway keeps each conversation in a transcript `<name>.jsonl` and guards it with a lock file
//! `<name>.jsonl.lock`. While the file exists, the session is locked; the JSON in it names the holder. The
//! hard part is a file whose writer may be dead: pids are reused, process names change, clocks jump, and two
//! contenders may find the same dead file.
//!
//! # Promises
//!
//! 1. Two holders never hold one session's lock at once, whatever crashes in between.
//! 2. A live lock is never taken: no title, name, clock, age or pid namespace overrides a witness.
//! 3. A dead lock never blocks: the next contender takes it over, in milliseconds.
//! 4. No contender of this package deletes another's live lock.
//! 5. Waiting occupies neither the event loop nor libuv's thread pool.
//! 6. We write only into files that we have made, and, where the file system allows, before they have a name.
//! 7. Processes that still run the older TypeScript lock are excluded, and exclude us.
//!
//! # Words
//!
//! * *session file*: the protected file. *lock file*: `<realpath of its folder>/<its name>.lock`.
//! * *record*: the JSON in the lock file.
//! * *holder*: the process that has the lock. *waiter*: an acquire that waits for it. *contender*: a process
//!   that makes an *attempt* to take it.
//! * *older module*, *older process*: the TypeScript lock, and a process that runs it.
//! * *witness*: proof from the kernel that a holder is alive: its flock, or its open descriptor.
//! * *evidence*: what the record and `/proc` suggest without a witness.
//! * *verdict*: `held`, `dead` or `unknown`; its *ground*: why.
//! * *takeover*: our file replaces a dead lock's file. *settling*: the 50 ms in which that may fail.
//! * *queue*, *queue file*, *place*, *turn*: see [`protocol`]'s `queue`.
//! * *obstacle*: the lock or the error in a contender's way.
//! * *release*: the holder gives the lock back. *loss*: the holder's lock ends without a release.
//! * *face*: the functions for any file, or those for sessions. *environment*: one face in one JavaScript
//!   world. *label*: what a lock is for, in its holder's words. *hold*: what an environment has while it holds;
//!   *acquisition*: one acquire that shares it. *handle*, *ticket*: the numbers of an acquisition and
//!   of an acquire.
//! * *event*, *order*: the input and the output of a lock's state machine.
//! * *quick folder*: on a trusted file system, and not slow lately: any thread may make system calls there.
//!
//! # Map
//!
//! A module uses only the modules below it.
//!
//! ```text
//! node        options in, outcomes out                         (the only one that knows Node)
//! locks       the locks of this process: lock decides, drive does
//! protocol    one lock on disk: attempt, release, inspect
//! error       what can go wrong
//! verdict     is the holder alive, and on what ground?         (the one place that decides)
//! process     who a pid is         record   what the lock file says
//! os          all system calls, threads and clocks
//! ```

pub mod error;
pub mod locks;
// Unit tests run without Node, and napi registers nothing in them.
#[cfg(not(test))]
mod node;
pub mod os;
pub mod process;
pub mod protocol;
pub mod record;
pub mod verdict;

/// The name by which the tests import the crate. The tests are compiled into it: otherwise it would have to be
/// an `rlib`, too, which rules out link-time optimisation.
#[cfg(test)]
extern crate self as session_write_lock;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests do to files what they want")]
#[path = "../tests/it/main.rs"]
mod it;
