//! A blocking call can't be ended here. `CancelSynchronousIo` is made for that, but waits itself until the call is over
//! (some drivers never end one), and has no effect in Wine. So a thread whose wait nobody wants any more goes on to wait,
//! until the holder releases.

/// A thread that blocks.
#[derive(Debug, Clone, Copy)]
pub struct Thread;

/// Whether [`send`] ends a call.
pub const ENDS_CALLS: bool = false;

/// Nothing has to be set up.
pub fn is_ours() -> bool {
    true
}

pub fn this_thread() -> Thread {
    Thread
}

pub fn send(_thread: Thread) {}

pub fn accept() {}
