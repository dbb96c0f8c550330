//! The types of `src/locks` that its state machine shares with the driver.

use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Environment(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub client: u64,
    pub number: u64,
}

#[allow(dead_code, reason = "only its driver reads all of it")]
#[derive(Debug, Clone)]
pub struct Request {
    pub environment: Environment,
    pub ticket: Ticket,
    pub handle: Handle,
    pub session_file: PathBuf,
    pub timeout_ms: Option<u64>,
    pub stale_ms: u64,
    pub max_hold_ms: Option<u64>,
    pub label: Option<std::sync::Arc<str>>,
    pub spares_foreign: bool,
    pub allow_reentrant: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    HoldExceeded,
    Removed,
    Released,
}
