//! `fork()` and its kin: the child repairs itself ([`repair::settle`]), after every atfork handler.
//!
//! Until it has, the child is on its parent's pin, and the parent may know its number already. Where the parent gives
//! that child a mask of its own at once (`psutil.Process(pid).cpu_affinity([0])`), and the mask happens to be the pin,
//! the child could not tell one from the other. So setting the mask of a child that was just forked waits, for a moment,
//! until the child has been repaired. It always has after a few microseconds, unless it waits for the CPU that the
//! parent is pinned to; waiting gives it that CPU.

use crate::affinity::repair;
use crate::next;
use crate::observe;
use crate::state;
use crate::sys;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use knlfix_core::record::Event;
use libc::pid_t;

/// Children forked lately by pinned threads: their number, and the fingerprint of the pin.
#[unsafe(link_section = ".data.knlfix_fork")]
static LATELY: [(AtomicI32, AtomicU64); 64] = [const { (AtomicI32::new(0), AtomicU64::new(0)) }; 64];
#[unsafe(link_section = ".data.knlfix_fork")]
static TURN: AtomicUsize = AtomicUsize::new(0);

/// 100 microseconds, this often at most.
const NAPS: usize = 500;

/// `fork()`, also known as `__fork()`. Where nothing was ever pinned the child never sees our code: the first page of
/// it would cost more than all the rest.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn fork_if_active() -> pid_t {
    naked_asm!(
        "cmp byte ptr [rip + {active}], 0",
        "jne 2f",
        "mov r11, [rip + {next}]",
        "test r11, r11",
        "jz 2f",
        "cmp qword ptr [rip + {dl_find_object}], 0", // an old libc's forked child must be noted
        "je 2f",
        "jmp r11",
        "2: jmp {inner}",
        active = sym state::ACTIVE,
        next = sym next::FORK,
        dl_find_object = sym next::DL_FIND_OBJECT,
        inner = sym plain_fork,
    )
}

unsafe extern "C" fn plain_fork() -> pid_t {
    // SAFETY: the caller's own call.
    fork(|| unsafe { next::fork()() })
}

/// `_Fork()`, which runs no atfork handlers.
pub(crate) fn fork_without_handlers() -> pid_t {
    repair::before_fork();
    // SAFETY: the caller's own call.
    fork(|| unsafe { next::_Fork()() })
}

/// Makes the call `fork`, which returns in the parent and in the child.
pub(crate) fn fork(fork: impl FnOnce() -> pid_t) -> pid_t {
    let pin = repair::user_mask_under_pin().map(|(_, pin)| pin);
    let begun = observe::trace::before_fork();
    let pid = fork();
    if pid > 0 {
        observe::trace::forked(begun, pid);
    }
    match (pid, pin) {
        (0, _) => repair::settle(),
        (1.., Some(pin)) => {
            // Here, as the child may never have anything else to write down.
            observe::count(Event::Repair, pid as u32);
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            if let Some((lately, of)) = LATELY.get(turn % LATELY.len()) {
                lately.store(0, Ordering::Release);
                of.store(pin, Ordering::Release);
                lately.store(pid, Ordering::Release);
            }
        }
        _ => {}
    }
    pid
}

/// Before the mask of another process is set: if that is a child of ours, lets it be repaired first.
pub(crate) fn let_it_be_repaired(pid: pid_t) {
    let Some((lately, pin)) = LATELY.iter().find(|(lately, _)| lately.load(Ordering::Acquire) == pid) else { return };
    let pin = pin.load(Ordering::Acquire);
    for _ in 0..NAPS {
        if sys::fingerprint_of(pid) != Ok(pin) {
            break;
        }
        sys::nap();
    }
    // From now on its mask is what somebody made it.
    let _ = lately.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
}
