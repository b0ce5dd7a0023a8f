//! A stack for what needs more than a caller may have.
//!
//! Choosing a place takes some kilobytes. A fork, or a question for the mask, may come from a signal handler on 8 KiB,
//! or from a thread with the smallest stack there is.

use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Far more than we need: a signal handler may come on top.
const SIZE: usize = 256 * 1024;

#[repr(align(64))]
struct Stack(UnsafeCell<MaybeUninit<[u8; SIZE]>>);

// SAFETY: it is used by the thread whose key is in `USER` alone.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new(MaybeUninit::uninit()));

/// The `pthread_t` of the thread that is on it, or 0. A forked child keeps that of the thread that forked: it may have
/// done so in a signal handler, and will return to what it was at.
#[unsafe(link_section = ".data.knlfix_fork")]
static USER: AtomicUsize = AtomicUsize::new(0);

/// In a forked child: another thread that was on it is not here.
pub(super) fn forget_others() {
    if USER.load(Ordering::Relaxed) != sys::thread_key() {
        USER.store(0, Ordering::Relaxed);
    }
}

/// Calls `run` there, if nobody else is there.
pub(super) fn with_room(run: extern "C" fn()) -> bool {
    if USER.compare_exchange(0, sys::thread_key(), Ordering::Acquire, Ordering::Relaxed).is_err() {
        return false;
    }
    // SAFETY: one past the end of the array, which is ours until USER is 0.
    unsafe { call_on(STACK.0.get().cast::<u8>().add(SIZE), run) };
    USER.store(0, Ordering::Release);
    true
}

/// Calls `run()` on the stack that ends at `top`.
#[unsafe(naked)]
unsafe extern "C" fn call_on(top: *mut u8, run: extern "C" fn()) {
    naked_asm!("push rbp", "mov rbp, rsp", "mov rsp, rdi", "call rsi", "mov rsp, rbp", "pop rbp", "ret")
}
