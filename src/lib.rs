//! A session write lock for Node: a dead lock never blocks, a live lock is never taken.
//!
//! A gateway keeps each conversation in a transcript `<name>.jsonl` and guards it with a lock file
//! `<name>.jsonl.lock`. That the file exists means that the session is locked; the JSON in it
//! says by whom. The hard part is what to do with a file whose writer may be dead: pids are
//! reused, process names change, clocks jump, and two contenders may find the same dead file.
//!
//! # Terms
//!
//! * *session file*: what is protected. *Lock file*: `<realpath of its folder>/<its name>.lock`.
//! * *record*: the JSON in the lock file.
//! * *holder*, *contender*, *waiter*: processes, and parts of this one, that have the lock, try to
//!   take it, or wait for it.
//! * *witness*: proof from the kernel that a holder lives: its flock, or its open descriptor.
//! * *evidence*: what the record and `/proc` suggest where no witness can be had.
//! * *takeover*: replacing a dead holder's lock file.
//!
//! # Promises
//!
//! 1. Two holders never hold one session's lock at once, whatever crashes in between.
//! 2. A live lock is never taken: no title, name, clock, age or pid namespace overrides a witness.
//! 3. A dead lock never blocks: the next contender takes it over, in milliseconds.
//! 4. Nobody deletes another's lock.
//! 5. Waiting occupies neither the event loop nor libuv's thread pool.
//! 6. Processes that still run the older TypeScript lock are excluded, and exclude us.
//!
//! # Map
//!
//! Knowledge flows one way, and each module knows nothing of those above it:
//!
//! ```text
//! node        options in, outcomes out                      (the only one that knows Node)
//! sweep       all locks of a folder
//! registry    this process's locks and queues     executor  threads for disk work
//!                                                 wait      look again: on change, at an instant
//! protocol    publish, look, take over, release; protocol::inspection  what is this lock file?
//! verdict     is the holder alive?                (the one place that decides)
//! witness     what the kernel proves              process   who a pid is
//! record      what the lock file says             sys       the system calls, one function each
//!                                                 time      instants, and how a record names them
//! ```

#[cfg(not(unix))]
compile_error!("session-write-lock needs a Unix: flock, hard links and inode numbers");

pub mod error;
mod executor;
// Unit tests run without Node, and napi registers nothing in them.
#[cfg(not(test))]
mod node;
pub mod process;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod sweep;
mod sys;
pub mod time;
pub mod verdict;
pub mod wait;
pub mod witness;

/// What the tests of the whole crate call it. They are compiled into it: a library that others could
/// link, which they would otherwise need, can't be optimised as a whole.
#[cfg(test)]
extern crate self as session_write_lock;

#[cfg(test)]
#[path = "../tests/it/main.rs"]
mod it;
