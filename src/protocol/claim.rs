//! The parameters of an attempt.

use crate::verdict::Limits;

/// How a contender wants the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The hold limit in milliseconds, for the record.
    pub max_hold_ms: u64,
    /// How old a lock must be before its age counts.
    pub limits: Limits,
    /// Whether this process holds this lock already. True only in a sweep or an inspection.
    pub is_held_here: bool,
    /// Whether the contender waits in the queue if the lock is held.
    pub may_queue: bool,
}
