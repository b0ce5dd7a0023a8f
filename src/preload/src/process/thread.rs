//! New threads: one whose creator is pinned starts with the user mask, unless its attributes carry a mask.
//!
//! The new thread widens itself before it enters its start routine, so the creator is never moved. What it needs to
//! know waits in a static slot; the routine that runs first (`enter`) empties the slot and *jumps* on, so that no frame
//! of ours is on the thread's stack when it is cancelled, unwound or shown in a backtrace.

use crate::affinity::repair::{self, Widened};
use crate::caller::{self, Kind, Via};
use crate::next::{self, Any, Start};
use crate::state::{self, PINS};
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};
use knlfix_core::cpumask::{BYTES, CpuMask};
use knlfix_core::pins::{RuntimeId, UserMask};
use libc::c_int;

/// Threads that can be made and not yet started at a time.
const STARTS: usize = 1024;

/// What a new thread does before anything else.
#[derive(Clone, Copy)]
struct Plan {
    user: UserMask,
    runtime: RuntimeId,
    /// The fingerprint of the creator's pin; the thread is widened if it has inherited this very mask.
    widen_from: Option<u64>,
}

struct Slot {
    /// Free (0) or taken (1).
    state: AtomicUsize,
    /// Filled while taken. Uninitialised otherwise, so that all slots are pages the process never touches.
    born: UnsafeCell<MaybeUninit<(Start, Any, Plan)>>,
}

// SAFETY: `born` is written by the creator that took the slot and read by the thread it made for it.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; STARTS] =
    [const { Slot { state: AtomicUsize::new(0), born: UnsafeCell::new(MaybeUninit::uninit()) } }; STARTS];
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

/// In a forked child: threads that the parent's other threads were making are not made here.
pub(crate) fn forget() {
    // Slots are taken in order, so the untouched ones stay untouched.
    for slot in SLOTS.iter().take(NEXT_SLOT.load(Ordering::Relaxed)) {
        slot.state.store(0, Ordering::Relaxed);
    }
}

impl Slot {
    fn take(start: Start, argument: Any, plan: Plan) -> Option<&'static Self> {
        let first = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
        let slot = (0..STARTS)
            .filter_map(|step| SLOTS.get((first + step) % STARTS))
            .find(|slot| slot.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok())?;
        // SAFETY: the exchange made the slot ours.
        unsafe { (*slot.born.get()).write((start, argument, plan)) };
        Some(slot)
    }

    fn free(&self) {
        self.state.store(0, Ordering::Release);
    }
}

/// `pthread_create()`, called from `return_address`.
///
/// # Safety
/// As `pthread_create(3)`.
pub(crate) unsafe fn pthread_create(
    thread: Any,
    attributes: Any,
    start: Start,
    argument: Any,
    return_address: usize,
) -> c_int {
    let make = |start, argument| {
        // SAFETY: the caller's own arguments, or ours around them.
        unsafe { next::pthread_create()(thread, attributes, start, argument) }
    };
    let plan = if has_mask(attributes) { pinned_by_attributes(return_address) } else { inherit() };
    create(plan, start, argument, |error| error == 0, make)
}

/// `thrd_create()`.
///
/// # Safety
/// As `thrd_create(3)`.
pub(crate) unsafe fn thrd_create(thread: Any, start: Start, argument: Any) -> c_int {
    let make = |start, argument| {
        // SAFETY: the caller's own arguments, or ours around them.
        unsafe { next::thrd_create()(thread, start, argument) }
    };
    create(inherit(), start, argument, |error| error == 0, make)
}

fn create(
    plan: Option<Plan>,
    start: Start,
    argument: Any,
    succeeded: impl Fn(c_int) -> bool,
    make: impl Fn(Start, Any) -> c_int,
) -> c_int {
    let Some(plan) = plan else {
        return make(start, argument);
    };
    let Some(slot) = Slot::take(start, argument, plan) else {
        // A thousand threads wait for their first instruction. This one inherits from a widened creator instead.
        let _widened = if plan.widen_from.is_some() { Widened::for_child("new thread") } else { None };
        return make(start, argument);
    };
    // SAFETY: `enter` is called as a start routine, with the slot.
    let enter = unsafe { core::mem::transmute::<unsafe extern "C" fn(), Start>(enter) };
    let error = make(enter, core::ptr::from_ref(slot).cast_mut().cast());
    if !succeeded(error) {
        slot.free();
    }
    error
}

/// A thread without a mask in its attributes has its creator's: its pin, if it is pinned.
fn inherit() -> Option<Plan> {
    if !state::active() || !state::is_owner() {
        return None;
    }
    let pin = sys::mask_of(0).ok()?;
    let (user, _) = PINS.user_of(sys::this_thread(), &pin)?;
    let config = state::config();
    let widen_from = (config.affinity && config.threads).then(|| pin.fingerprint());
    // The runtime does not know the new thread: nobody may ask it whether that thread is in a region of its own.
    Some(Plan { user: PINS.intern(user)?, runtime: 0, widen_from })
}

/// A thread with a mask in its attributes is pinned if a runtime gave it (libgomp's workers); the mask under the pin is
/// its creator's user mask.
fn pinned_by_attributes(return_address: usize) -> Option<Plan> {
    let (Kind::Runtime(runtime), true) = (caller::who_sets(return_address, Via::Sched).kind, state::is_owner()) else {
        return None;
    };
    let mask = sys::mask_of(0).ok()?;
    let user = PINS.user_of(sys::this_thread(), &mask).map_or(&mask, |(user, _)| user);
    Some(Plan { user: PINS.intern(user)?, runtime, widen_from: None })
}

fn has_mask(attributes: Any) -> bool {
    if attributes.is_null() {
        return false;
    }
    let mut bytes = [0_u8; BYTES];
    // SAFETY: the caller's attributes, and room for BYTES bytes. glibc fills the mask with ones where there is none.
    let error = unsafe { next::pthread_attr_getaffinity_np()(attributes, BYTES, bytes.as_mut_ptr()) };
    error == 0 && bytes.iter().any(|&byte| byte != 0xff)
}

/// A start routine and its argument, as two registers.
#[repr(C)]
struct Started {
    start: Start,
    argument: Any,
}

/// The first code of a new thread.
unsafe extern "C" fn begin(slot: *const Slot) -> Started {
    // SAFETY: `create` passed a slot, and only this thread uses it until it is freed.
    let slot = unsafe { &*slot };
    // SAFETY: it filled the slot before it made the thread.
    let (start, argument, plan) = unsafe { (*slot.born.get()).assume_init_read() };
    slot.free();
    if let Ok(now) = sys::mask_of(0) {
        follow(plan, &now);
    }
    Started { start, argument }
}

fn follow(plan: Plan, now: &CpuMask) {
    let Some(user) = PINS.mask(plan.user) else {
        return;
    };
    let widened = match plan.widen_from {
        Some(pin) if pin == now.fingerprint() => repair::restore("new thread", now, user),
        // Its mask came from elsewhere: the process's default attributes.
        Some(_) => return,
        None => false,
    };
    if !widened && now != user {
        PINS.record(sys::this_thread(), plan.user, plan.runtime, now, sys::alive);
        log::debug!("pin: thread {}, {user} -> {now}, made so", sys::gettid());
    }
}

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
