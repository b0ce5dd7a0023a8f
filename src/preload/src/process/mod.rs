//! What happens when a process or a thread is made.
//!
//! * [`fork`]: `fork()` and its kin
//! * [`birth`]: vfork, and the system calls that make processes: children that may share our stack
//! * [`clone`]: libc's `clone()`
//! * [`thread`]: `pthread_create`, `thrd_create`
//!
//! The rest needs no more than [`crate::affinity::repair`].

pub(crate) mod birth;
pub(crate) mod clone;
pub(crate) mod fork;
pub(crate) mod thread;

/// In a forked child: whatever the parent's other threads were about to make is not made here.
pub(crate) fn forget_births() {
    birth::forget();
    thread::forget();
}
