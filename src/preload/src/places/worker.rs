//! Workers that are given a place when they start, where the user wants it (`KNLFIX_PLACE`).
//!
//! A worker is a forked child, or a program that its own program has started (Python's multiprocessing by spawn or
//! forkserver, loky, Dask's nannies). The servers that Python starts beside its workers are none. A worker is pinned to its
//! place by us: its threads stay there, the program hears of the place when it asks for its mask, and its own children
//! start with all CPUs again, and get places of their own.
//!
//! Its memory needs nothing of us: Linux takes it from the node that a thread runs on, unless the user has set another
//! policy.

use super::{Shared, TRIES, Whose, bury, is_being_set, is_claimed, stack, with};
use crate::budget;
use crate::state::{self, PINS};
use crate::sys;
use core::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use knlfix_core::cpumask::CpuMask;
use knlfix_core::ledger::Ledger;
use knlfix_core::pins::{RuntimeId, UserMask};
use knlfix_core::place::{self, Level};

/// 100 microseconds each: so often the worker with the earlier slot looks whether the other one has gone elsewhere.
const NAPS: usize = 10;

/// Who "pins" a worker to its place.
pub(crate) const PLACE: RuntimeId = RuntimeId::MAX;

/// The fingerprint of the place; 0 while there is none.
#[unsafe(link_section = ".data.knlfix_fork")]
static PLACED: AtomicU64 = AtomicU64::new(0);
/// The mask that was there before, in the table of pins; no number of one while there is none. A forked child goes on
/// from it.
#[unsafe(link_section = ".data.knlfix_fork")]
static ALLOWED: AtomicU16 = AtomicU16::new(u16::MAX);
/// The `pthread_t` of the main thread, which was given the place.
#[unsafe(link_section = ".data.knlfix_fork")]
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// Whether this process has a place.
pub(crate) fn is_placed() -> bool {
    PLACED.load(Ordering::Relaxed) != 0
}

/// Whether that is the mask with this fingerprint.
pub(crate) fn is_place(mask: u64) -> bool {
    PLACED.load(Ordering::Relaxed) == mask
}

/// The mask that a child of this process gets, where the process itself has a place.
#[inline]
pub(crate) fn allowed_to_children() -> Option<&'static CpuMask> {
    if is_placed() { allowed() } else { None }
}

#[cold]
fn allowed() -> Option<&'static CpuMask> {
    PINS.mask(UserMask::from_number(ALLOWED.load(Ordering::Relaxed)))
}

/// A runtime is about to pin the calling thread: what it finds is the place, and that is the user mask under its pin.
pub(crate) fn make_room() {
    if is_placed() && sys::fingerprint_of(0).is_ok_and(is_place) {
        PINS.forget(sys::thread_key());
    }
}

/// The calling thread's runtime has lifted its pin: the thread may be in the place again.
pub(crate) fn came_back(now: u64) {
    if is_placed() && is_place(now) {
        record(now, UserMask::from_number(ALLOWED.load(Ordering::Relaxed)));
    }
}

/// Puts on record that the calling thread is in the place.
fn record(place: u64, allowed: UserMask) {
    PINS.record(sys::this_thread(), allowed, PLACE, place, sys::alive);
}

/// The mask that was there before the place, where a thread that the calling one makes now starts in the place.
/// `is_widened`: the calling thread has its user mask for a moment, which is the place where a runtime pinned it.
pub(crate) fn under_place(is_widened: bool) -> Option<UserMask> {
    let now = sys::fingerprint_of(0).ok()?;
    match PINS.user_of(sys::this_thread(), now) {
        Some((allowed, PLACE)) => PINS.intern(allowed),
        _ if is_widened && is_placed() && is_place(now) => Some(UserMask::from_number(ALLOWED.load(Ordering::Relaxed))),
        _ => None,
    }
}

/// A fork is about to happen: finding out what the CPUs are takes a thousand files on a large node, so the children, who
/// will want to know it, inherit it.
pub(crate) fn about_to_fork() {
    if state::config().place.is_some() && !is_placed() {
        let errno = sys::errno();
        stack::with_room(know_the_cpus);
        sys::set_errno(errno);
    }
}

extern "C" fn know_the_cpus() {
    with(Shared::know);
}

/// A forked child begins, with the user mask; the place is its parent's.
pub(crate) fn forked() {
    if state::config().place.is_some() {
        forget_parent();
        stack::with_room(begin_forked);
    }
}

/// A child that a system call has made begins, with the user mask.
pub(crate) fn forget_parent() {
    PLACED.store(0, Ordering::Relaxed);
}

extern "C" fn begin_forked() {
    if let Some(level) = state::config().place {
        begin(level);
    }
}

/// A program begins.
#[inline(never)]
pub(crate) fn started() {
    let Some(level) = state::config().place.filter(|_| state::config().enabled) else { return };
    // From now on forks are seen.
    state::activate();
    if budget::is_made_by_itself() && !budget::is_helper() {
        begin(level);
    }
}

#[cold]
#[inline(never)]
fn begin(level: Level) {
    let Ok(user) = sys::mask_of(0) else { return };
    let placed = PINS.intern(&user).zip(budget::join()).and_then(|(allowed, (ledger, index))| {
        let mask = with(|shared| shared.choose(ledger, index, level, &user))??;
        ALLOWED.store(allowed.number(), Ordering::Relaxed);
        MAIN.store(sys::thread_key(), Ordering::Relaxed);
        take(user.fingerprint(), &mask, allowed).then_some(mask)
    });
    match placed {
        Some(mask) => log::debug!("place: {mask} of {user}"),
        None => {
            log::debug!("place: none to be had");
            give_up(sys::getpid());
        }
    }
}

/// Gives the calling thread the place `mask`, unless somebody has set its mask since it was `now`.
fn take(now: u64, mask: &CpuMask, allowed: UserMask) -> bool {
    if sys::fingerprint_of(0) != Ok(now) || sys::set_mask(mask).is_err() {
        return false;
    }
    let fingerprint = mask.fingerprint();
    record(fingerprint, allowed);
    PLACED.store(fingerprint, Ordering::Relaxed);
    true
}

fn after_a_nap(is_so: impl FnOnce() -> bool) -> bool {
    sys::nap();
    is_so()
}

impl Shared {
    fn choose(&mut self, ledger: Ledger<'_>, index: usize, level: Level, user: &CpuMask) -> Option<CpuMask> {
        self.know_of(user);
        let (mut chosen, mut buried) = (None, false);
        for attempt in 0..TRIES {
            self.weigh(ledger, index, Whose::All);
            // A pool's workers start at once, and all find the same place the best.
            let turn = if attempt <= usize::from(buried) { 0 } else { index };
            let cpu = place::for_worker(&self.topology, &self.load, level, turn)?.cpu;
            // Some of those that it would share with may have been killed. Asking costs a system call for each.
            if attempt == 0 && self.shares(ledger, index, level, cpu) && bury(ledger, index) {
                buried = true;
                continue;
            }
            chosen = Some(cpu);
            let was_free = self.load.get(usize::from(cpu)) == Some(&0);
            self.worker = self.number_at(cpu);
            let mut cpus = self.claim(ledger, index);
            self.weigh(ledger, index, Whose::All);
            if place::should_move(&self.topology, &self.load, level, cpu) {
                // There is one for everybody, so it wants this one for itself.
                cpus = place::whole(&self.topology, level, cpu);
            }
            // Of two that chose it in one moment the one with the later slot goes. Who stays there all the same was
            // there before, and does not look again.
            let is_mine = || !is_claimed(ledger, index, &cpus, usize::MAX, Whose::All);
            let can_wait = was_free && !is_claimed(ledger, index, &cpus, index, Whose::All);
            if is_mine() || can_wait && (0..NAPS).any(|_| after_a_nap(is_mine)) {
                break;
            }
            if attempt + 1 == TRIES {
                ledger.signal();
            }
        }
        self.weigh(ledger, index, Whose::All);
        chosen.map(|cpu| place::refresh(&self.topology, &self.load, level, cpu))
    }

    /// Whether others claim CPUs of the part that the CPU at `position` is in.
    fn shares(&self, ledger: Ledger<'_>, index: usize, level: Level, position: u16) -> bool {
        is_claimed(ledger, index, &place::whole(&self.topology, level, position), usize::MAX, Whose::All)
    }

    fn number_at(&self, position: u16) -> Option<u16> {
        self.topology.cpus().get(usize::from(position)).map(|cpu| cpu.number)
    }
}

/// A runtime has pinned the calling thread. A libgomp that its parent has brought up knows all the CPUs that the parent had,
/// and pins where each of its siblings does: such a thread is in the place, as it would be without pins.
pub(crate) fn keep_in_place(asked: &CpuMask) {
    let Ok(place) = sys::mask_of(sys::getpid()) else { return };
    if is_place(place.fingerprint()) && !asked.is_subset(&place) && sys::set_mask(&place).is_ok() {
        record(place.fingerprint(), UserMask::from_number(ALLOWED.load(Ordering::Relaxed)));
        log::debug!("place: thread {} stays in {place}", sys::gettid());
    }
}

/// Makes the place narrower or wider, as neighbours come and go, or takes another. When the main thread looks.
pub(crate) fn refresh() {
    let placed = PLACED.load(Ordering::Relaxed);
    if placed != 0 {
        stack::with_room(fit);
    }
}

#[cold]
#[inline(never)]
extern "C" fn fit() {
    let placed = PLACED.load(Ordering::Relaxed);
    let number = ALLOWED.load(Ordering::Relaxed);
    if sys::gettid() != sys::getpid() || sys::fingerprint_of(0) != Ok(placed) {
        return;
    }
    let (Some(level), Some((ledger, index))) = (state::config().place, budget::joined()) else { return };
    // What a worker of many CPUs has in memory is near them.
    let may_move = matches!(level, Level::Core | Level::Spread);
    with(|shared| {
        let cpu = shared.topology.position(shared.worker?.into())? as u16;
        if may_move && shared.shares(ledger, index, level, cpu) {
            bury(ledger, index);
        }
        shared.weigh(ledger, index, Whose::All);
        let mask = if may_move && place::should_move(&shared.topology, &shared.load, level, cpu) {
            shared.choose(ledger, index, level, PINS.mask(UserMask::from_number(number))?)?
        } else {
            place::refresh(&shared.topology, &shared.load, level, cpu)
        };
        if mask.fingerprint() != placed && !is_being_set() && take(placed, &mask, UserMask::from_number(number)) {
            follow(placed, &mask);
        }
        Some(())
    });
}

/// The other threads that were in the place.
fn follow(placed: u64, mask: &CpuMask) {
    for (thread, allowed) in PINS.pinned_to(placed, PLACE) {
        // The parent's are in the table of a forked child, too.
        let is_there = sys::alive(thread.tid) && sys::fingerprint_of(thread.tid) == Ok(placed);
        if is_there && sys::set_mask_of(thread.tid, mask).is_ok() {
            PINS.record(thread, allowed, PLACE, mask.fingerprint(), sys::alive);
        }
    }
}

/// As [`give_up`], for a thread that is known by its `pthread_t`.
pub(crate) fn give_up_by_key(key: usize) {
    if key == MAIN.load(Ordering::Relaxed) {
        give_up(sys::getpid());
    }
}

/// The user has set the mask of the main thread: the place is free.
pub(crate) fn give_up(tid: i32) {
    if ALLOWED.load(Ordering::Relaxed) != u16::MAX && tid == sys::getpid() {
        PLACED.store(0, Ordering::Relaxed);
        ALLOWED.store(u16::MAX, Ordering::Relaxed);
        if let Some((ledger, index)) = budget::joined() {
            with(|shared| {
                shared.worker = None;
                shared.claim(ledger, index)
            });
        }
    }
}
