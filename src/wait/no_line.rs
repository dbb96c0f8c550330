//! No line to stand in: leaving one takes a signal that only Linux is known to have to spare.

use std::fs::File;
use std::sync::Arc;

/// A place in a line; there are none.
#[derive(Debug)]
pub enum Place {}

/// When a flock comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "none comes")]
pub enum Arrival {
    InTime,
    TooLate,
}

impl Place {
    pub fn has_come(&self) -> bool {
        match *self {}
    }
}

pub fn is_there() -> bool {
    false
}

pub fn stand(
    _file: Arc<File>,
    _callback: impl Fn(Arrival) + Send + Sync + 'static,
) -> Option<Place> {
    None
}
