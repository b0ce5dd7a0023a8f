//! New threads: one whose creator is pinned is born with the user mask, unless its attributes carry a mask.
//!
//! The creator is widened for the length of the call. So the thread has the user mask before anybody can know that it
//! exists, and a mask that its creator gives it right afterwards is not mistaken for an inherited pin.
//!
//! A thread that a runtime makes with a mask in its attributes (libgomp's workers) is pinned from birth. It puts that
//! on record itself before it enters its start routine: what it needs to know waits in a static slot, and the routine
//! that runs first ([`enter`]) empties the slot and *jumps* on, so that no frame of ours is on the thread's stack when it
//! is cancelled, unwound or shown in a backtrace.

use crate::affinity::repair::Widened;
use crate::budget;
use crate::caller::{self, Kind};
use crate::next::{self, Any, Start};
use crate::places::{team, worker};
use crate::site::Site;
use crate::state::{self, PINS};
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use knlfix_core::cpumask::BYTES;
use knlfix_core::pins::{RuntimeId, UserMask};
use libc::c_int;

/// Threads that can be made and not yet started at a time; any more go unrecorded.
const STARTS: usize = 1024;

/// What a new thread notes about itself.
#[derive(Clone, Copy)]
struct Born {
    start: Start,
    argument: Any,
    user: UserMask,
    runtime: RuntimeId,
}

struct Slot {
    taken: AtomicBool,
    /// Filled while taken. Uninitialised otherwise, so that all slots are pages the process never touches.
    born: UnsafeCell<MaybeUninit<Born>>,
}

// SAFETY: `born` is written by the creator that took the slot and read by the thread it made for it.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; STARTS] =
    [const { Slot { taken: AtomicBool::new(false), born: UnsafeCell::new(MaybeUninit::uninit()) } }; STARTS];
#[unsafe(link_section = ".data.knlfix_fork")]
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

/// In a forked child: threads that the parent's other threads were making are not made here.
pub(crate) fn forget() {
    // Slots are taken in order, so the untouched ones stay untouched.
    let touched = SLOTS.iter().take(NEXT_SLOT.load(Ordering::Relaxed));
    for slot in touched.filter(|slot| slot.taken.load(Ordering::Relaxed)) {
        slot.taken.store(false, Ordering::Relaxed);
    }
}

impl Slot {
    fn take(born: Born) -> Option<&'static Self> {
        let first = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
        let mut slots = (0..STARTS).filter_map(|step| SLOTS.get(first.wrapping_add(step) % STARTS));
        let slot = slots.find(|slot| !slot.taken.swap(true, Ordering::Acquire))?;
        // SAFETY: the swap made the slot ours.
        unsafe { (*slot.born.get()).write(born) };
        Some(slot)
    }

    fn free(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// `pthread_create()`, called from `site`.
///
/// # Safety
/// As `pthread_create(3)`.
pub(crate) unsafe fn pthread_create(thread: Any, attributes: Any, start: Start, argument: Any, site: Site) -> c_int {
    let make = |start, argument| {
        // SAFETY: the caller's own arguments, or ours around them.
        unsafe { next::pthread_create()(thread, attributes, start, argument) }
    };
    if has_mask(attributes) {
        return match pinned_by_attributes(site) {
            Some((user, runtime)) => recorded(Born { start, argument, user, runtime }, make),
            None => make(start, argument),
        };
    }
    inheriting(start, argument, make)
}

/// `thrd_create()`.
///
/// # Safety
/// As `thrd_create(3)`.
pub(crate) unsafe fn thrd_create(thread: Any, start: Start, argument: Any) -> c_int {
    inheriting(start, argument, |start, argument| {
        // SAFETY: the caller's own arguments, or ours around them.
        unsafe { next::thrd_create()(thread, start, argument) }
    })
}

/// A thread without a mask in its attributes has its creator's.
fn inheriting(start: Start, argument: Any, make: impl Fn(Start, Any) -> c_int) -> c_int {
    if state::config().threads {
        let widened = Widened::for_thread("new thread");
        return match placed(widened.is_some()) {
            Some(user) => recorded(Born { start, argument, user, runtime: worker::PLACE }, make),
            None => make(start, argument),
        };
    }
    // The user wants threads as they are: on the pin. Their own children are repaired all the same. The runtime does not
    // know such a thread, so nobody may ask it whether that thread is in a region.
    match user_mask_here() {
        Some((user, true)) => {
            let runtime = if placed(false).is_some() { worker::PLACE } else { 0 };
            recorded(Born { start, argument, user, runtime }, make)
        }
        _ => make(start, argument),
    }
}

/// The mask under the place that a new thread shares with its creator: it may leave the place, or outlive it.
fn placed(is_widened: bool) -> Option<UserMask> {
    if state::config().place.is_some() && state::is_owner() { worker::under_place(is_widened) } else { None }
}

/// The user mask of the calling thread, and whether there is a pin on it.
#[inline(never)]
fn user_mask_here() -> Option<(UserMask, bool)> {
    if !state::is_owner() {
        return None;
    }
    let mask = sys::mask_of(0).ok()?;
    let under = PINS.user_of(sys::this_thread(), mask.fingerprint());
    Some((PINS.intern(under.map_or(&mask, |(user, _)| user))?, under.is_some()))
}

/// A thread with a mask in its attributes is pinned if a runtime gave it that; the mask under the pin is its creator's
/// user mask.
fn pinned_by_attributes(site: Site) -> Option<(UserMask, RuntimeId)> {
    match caller::who_sets(site, 0).kind {
        // The ballast's threads only sleep.
        Kind::Runtime(_) if budget::ballast_is_calling() => None,
        Kind::Runtime(runtime) => Some((user_mask_here()?.0, runtime)),
        _ => None,
    }
}

#[inline(never)]
fn has_mask(attributes: Any) -> bool {
    if attributes.is_null() {
        return false;
    }
    let mut bytes = [0_u8; BYTES];
    // SAFETY: the caller's attributes, and room for BYTES bytes. glibc fills the mask with ones where there is none.
    let error = unsafe { next::pthread_attr_getaffinity_np()(attributes, BYTES, bytes.as_mut_ptr()) };
    error == 0 && bytes.iter().any(|&byte| byte != 0xff)
}

fn recorded(born: Born, make: impl Fn(Start, Any) -> c_int) -> c_int {
    let Some(slot) = Slot::take(born) else { return make(born.start, born.argument) };
    // SAFETY: `enter` takes what a start routine takes, and returns through the one it jumps to.
    let enter = unsafe { core::mem::transmute::<unsafe extern "C" fn(), Start>(enter) };
    let error = make(enter, core::ptr::from_ref(slot).cast_mut().cast());
    if error != 0 {
        slot.free();
    }
    error
}

/// The first code of a recorded thread.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "sub rsp, 8",
        "call {begin}",
        "add rsp, 8",
        "mov rdi, rdx",
        "jmp rax",
        begin = sym begin,
    )
}

/// A start routine and its argument, as two registers.
#[repr(C)]
struct Started {
    start: Start,
    argument: Any,
}

unsafe extern "C" fn begin(slot: *const Slot) -> Started {
    // SAFETY: `recorded` passed a slot, and only this thread uses it until it is freed.
    let slot = unsafe { &*slot };
    // SAFETY: it filled the slot before it made the thread.
    let Born { start, argument, user, runtime } = unsafe { (*slot.born.get()).assume_init_read() };
    slot.free();
    note(user, runtime);
    Started { start, argument }
}

#[inline(never)]
fn note(user: UserMask, runtime: RuntimeId) {
    let (Ok(now), Some(mask)) = (sys::mask_of(0), PINS.mask(user)) else { return };
    if now != *mask {
        let thread = sys::this_thread();
        PINS.record(thread, user, runtime, now.fingerprint(), sys::alive);
        log::debug!("pin: thread {}, {mask} -> {now}, made so", thread.tid);
        team::pinned(thread, &now, runtime);
    }
}
