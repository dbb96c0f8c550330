//! Ends a blocking call by a signal to its thread. The handler only returns.
//!
//! We take a signal that nobody handles (`wake_signal`) and give it a handler that does nothing. If the host uses
//! that signal itself, it is left alone, and no thread of ours may block.

#![expect(unsafe_code, reason = "no safe crate sends signals to threads, or asks who handles one")]

use std::sync::OnceLock;

use super::wake_signal;

/// Whether [`send`] ends a call.
pub const ENDS_CALLS: bool = true;

/// A running thread. The caller of [`send`] makes sure that it still runs.
#[derive(Debug, Clone, Copy)]
pub struct Thread(libc::pthread_t);

// SAFETY: a `pthread_t` names a thread from any thread (pthreads(7)); on some systems its type is a
// pointer, which is never followed here.
unsafe impl Send for Thread {}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Whether the signal was unused and is ours now.
pub fn is_ours() -> bool {
    static IS_OURS: OnceLock<bool> = OnceLock::new();
    *IS_OURS.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask, SIG_DFL.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: reads the current disposition into a `sigaction` of ours.
        let is_known =
            unsafe { libc::sigaction(wake_signal(), std::ptr::null(), &raw mut action) } == 0;
        if !is_known || action.sa_sigaction != libc::SIG_DFL {
            return false;
        }
        action.sa_sigaction = do_nothing as *const () as libc::sighandler_t;
        action.sa_flags = 0; // in particular no SA_RESTART: the system call is to end
        // SAFETY: `action` is initialised. The handler touches nothing, so it may run at any moment on
        // any thread. It stays where it is: napi-build links with `-z nodelete`, so that closing the
        // addon (which Node does when the last environment that loaded it ends) doesn't unmap it.
        unsafe { libc::sigaction(wake_signal(), &raw const action, std::ptr::null_mut()) == 0 }
    })
}

pub fn this_thread() -> Thread {
    // SAFETY: has no preconditions.
    Thread(unsafe { libc::pthread_self() })
}

/// Sends the signal. The caller knows that the thread has not ended.
pub fn send(thread: Thread) {
    // SAFETY: the caller holds the lock under which the thread says that it goes on to something
    // else (`blocked::Call`), so the thread is alive; a handler that does nothing is installed.
    unsafe { libc::pthread_kill(thread.0, wake_signal()) };
}

/// Unblocks the signal on this thread: the signal mask is inherited from the creating thread.
pub fn accept() {
    // SAFETY: all-zero bytes are a valid `sigset_t`; the calls fill and use only that.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, wake_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}
