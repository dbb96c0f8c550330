//! The parameters of an attempt.

use std::sync::Arc;

use crate::verdict::Limits;

/// How a contender wants the lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The hold limit in milliseconds, for the record; `None`: no limit.
    pub max_hold_ms: Option<u64>,
    /// What the lock is for, for the record.
    pub label: Option<Arc<str>>,
    /// How old a lock must be before its age counts.
    pub limits: Limits,
    /// Whether this process holds this lock already. True only in a sweep or an inspection.
    pub is_held_here: bool,
    /// Whether a file that is not a lock file is refused, not taken for a dead lock.
    pub spares_foreign: bool,
    /// Whether the contender waits in the queue if the lock is held.
    pub may_queue: bool,
}
