//! A blocking call is not ended here. `CancelSynchronousIo` would do that, but has no effect in Wine, so it could not be
//! tried; and mono had hangs in it. A thread whose wait nobody wants any more goes on waiting until the holder releases.

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
