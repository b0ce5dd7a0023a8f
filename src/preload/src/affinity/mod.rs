//! What happens when somebody sets or asks for a mask.
//!
//! * [`observe`]: a mask is set; who set it decides whether it is a pin
//! * [`query`]: a mask is asked for; a program outside a parallel region hears the truth about its CPUs
//! * [`repair`]: a pinned thread makes a child

pub(crate) mod observe;
pub(crate) mod query;
pub(crate) mod repair;

use crate::sys;

/// The thread that a call speaks of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The calling one.
    Myself,
    /// By number, as `sched_setaffinity` takes it: of this process or of another.
    Tid(libc::pid_t),
    /// By `pthread_t`.
    Key(usize),
}

impl Target {
    /// The thread that `sched_setaffinity(tid)` means.
    pub(crate) fn of_tid(tid: libc::pid_t) -> Self {
        if tid == 0 || tid == sys::gettid() { Self::Myself } else { Self::Tid(tid) }
    }

    /// The thread that `pthread_setaffinity_np(key)` means.
    pub(crate) fn of_key(key: usize) -> Self {
        if key == sys::thread_key() { Self::Myself } else { Self::Key(key) }
    }
}
