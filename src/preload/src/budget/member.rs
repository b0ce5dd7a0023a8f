//! This process's place in its domain.
//!
//! It lives in a page that a forked child finds empty: the child is no member until it enters a region of its own, and
//! then it takes a slot of its own. No handler has to run for that, so it holds however the child was made. (A vfork
//! child runs no regions.)

use super::{domain, process, segment};
use crate::next;
use crate::places;
use crate::state::{self, PINS};
use crate::sys;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use knlfix_core::cpumask::{BYTES, CpuMask, SparseMask};
use knlfix_core::ledger::{Ledger, Me, Owner};
use knlfix_core::share::{self, Held, REFRESH_MS, Share};
use knlfix_core::text::Lossy;

/// A process that could not join tries again after this time.
const AGAIN_MS: u32 = 1000;
/// With more slots than this in use, a process looks once in a tick of the clock at most.
const FEW: usize = 32;
/// The allowed mask and the cgroup's quota may change; they are read again after this time.
const SIZE_AGAIN_MS: u32 = 1000;
/// An owner that was not heard of for this long may be dead. One such is looked at in this time.
const QUIET_MS: u32 = 50;
/// Dead owners that are found at one time, at most.
const MOST_AT_ONCE: usize = 16;
/// Owners that a process looks at when it starts, at most: 40 microseconds each.
const MOST_AT_START: usize = 128;

pub(super) struct Member {
    state: AtomicU8,
    /// Our process number; 0 while we are no member.
    process: AtomicI32,
    /// When to try to join again.
    again: AtomicU32,
    /// The slot.
    index: AtomicU32,
    /// What the last look at the ledger said, and when: see [`Seen`].
    seen: AtomicU64,
    /// The ledger's generation at that look.
    generation: AtomicU32,
    /// The budget and the allowed CPUs, and when they were read.
    budget: AtomicU32,
    cpus: AtomicU32,
    sized: AtomicU32,
    /// When an owner was last suspected to be dead, and where to look for the next.
    suspected: AtomicU32,
    suspect: AtomicU32,
    /// One thread reads the size or suspects at a time.
    is_busy: AtomicBool,
    ledger: UnsafeCell<Option<Ledger<'static>>>,
    owner: UnsafeCell<Option<Owner>>,
    mask: UnsafeCell<Option<SparseMask>>,
    fingerprint: AtomicU64,
}

const OUTSIDE: u8 = 0;
const JOINING: u8 = 1;
const JOINED: u8 = 2;
const LEFT: u8 = 3;

/// The page, once there is one.
static PAGE: AtomicPtr<Member> = AtomicPtr::new(core::ptr::null_mut());
/// Where the kernel can't empty the page: whose it is.
static OWNER_BY_NUMBER: AtomicI32 = AtomicI32::new(0);

// SAFETY of what is in cells: `ledger` and `owner` are written while JOINING, by the one thread that made it so, and read
// after JOINED; `mask` is also written by the thread that holds `is_busy`, and read by it alone after that.

/// Milliseconds of the coarse monotonic clock, wrapping; it costs no system call.
pub(crate) fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { next::clock_gettime()(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec as u32).wrapping_mul(1000).wrapping_add(time.tv_nsec as u32 / 1_000_000)
}

/// A look at the ledger, packed: when, and what it said.
#[derive(Clone, Copy)]
struct Seen {
    at: u32,
    threads: u32,
    crowded: bool,
}

impl Seen {
    const CROWDED: u64 = 1 << 31;

    const fn pack(self) -> u64 {
        let crowded = if self.crowded { Self::CROWDED } else { 0 };
        (self.at as u64) << 32 | crowded | (self.threads & 0x7fff_ffff) as u64
    }

    const fn unpack(word: u64) -> Self {
        Self { at: (word >> 32) as u32, threads: word as u32 & 0x7fff_ffff, crowded: word & Self::CROWDED != 0 }
    }
}

impl Member {
    /// This process as a member, joining if need be; `None` if it governs itself.
    #[inline]
    pub(super) fn here() -> Option<&'static Self> {
        Self::joined().or_else(join)
    }

    /// This process, if it is a member.
    #[inline]
    pub(super) fn joined() -> Option<&'static Self> {
        // SAFETY: null, or a page that stays.
        let member = unsafe { PAGE.load(Ordering::Acquire).as_ref() }?;
        (member.state.load(Ordering::Acquire) == JOINED).then_some(member)
    }

    pub(super) fn process(&self) -> i32 {
        self.process.load(Ordering::Relaxed)
    }

    /// The ledger, and the slot in it.
    pub(super) fn slot(&self) -> (Ledger<'static>, usize) {
        (self.ledger(), self.index())
    }

    fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed) as usize
    }

    fn ledger(&self) -> Ledger<'static> {
        // SAFETY: see above; only members are asked, and they have a ledger.
        unsafe { (*self.ledger.get()).unwrap_unchecked() }
    }

    pub(super) fn whole(&self) -> u32 {
        self.cpus.load(Ordering::Relaxed)
    }

    pub(super) fn budget(&self) -> u32 {
        self.budget.load(Ordering::Relaxed)
    }

    pub(super) fn share(&self, ask: u32) -> u32 {
        self.grant(ask, self.look(now()).0, self.ledger().held(self.index()))
    }

    /// The threads granted, and whether it is crowded.
    pub(super) fn enter(&self, ask: u32) -> (u32, bool) {
        self.enter_at(ask, now())
    }

    #[inline]
    fn enter_at(&self, ask: u32, now: u32) -> (u32, bool) {
        let (ledger, index) = (self.ledger(), self.index());
        let (seen, generation) = self.look(now);
        let threads = self.grant(ask, seen, ledger.held(index));
        let was_idle = ledger.enter(index, threads, ask, now);
        // Only now do the others see us: if anything changed since we looked at them, that look does not count.
        if !was_idle && generation == ledger.generation() {
            return (threads, seen.crowded);
        }
        let others_of_ours = ledger.held(index).saturating_sub(threads);
        let (seen, _) = self.look_again(now, was_idle);
        let again = self.grant(ask, seen, others_of_ours).min(threads);
        ledger.shrink(index, threads, again);
        (again, seen.crowded)
    }

    /// As [`enter`](Self::enter), for a runtime whose team of `held` threads is dear to change.
    pub(super) fn enter_held(&self, ask: u32, held: &AtomicU64) -> (u32, bool) {
        let now = now();
        let (share, is_crowded) = self.enter_at(ask, now);
        let before = held.load(Ordering::Relaxed);
        let mut team = Held::from_bits(before);
        let threads = team.next(share, ask, now);
        if team.bits() != before {
            held.store(team.bits(), Ordering::Relaxed);
        }
        if threads > share {
            self.ledger().enter(self.index(), threads - share, ask, now);
        } else {
            self.ledger().shrink(self.index(), share, threads);
        }
        (threads, is_crowded)
    }

    /// Whether it is crowded, and whether `count` threads are also more than our share.
    pub(super) fn enter_fixed(&self, count: u32) -> (bool, bool) {
        let now = now();
        self.ledger().enter(self.index(), count, count, now);
        let (seen, _) = self.look(now);
        (seen.crowded, seen.crowded && seen.threads < count)
    }

    pub(super) fn leave(&self, threads: u32) {
        self.ledger().leave(self.index(), threads, now());
    }

    /// What a region may take of what was seen, when others of this process hold so many threads.
    fn grant(&self, ask: u32, seen: Seen, held: u32) -> u32 {
        let budget = self.budget.load(Ordering::Relaxed);
        match seen.crowded {
            true => ask.min(seen.threads.saturating_sub(held)).max(1),
            // A budget below the CPUs holds for a lone process too.
            false if budget < self.whole() => ask.min(budget.saturating_sub(held)).max(1),
            false => ask,
        }
    }

    /// What was seen of the others, and the ledger's generation then.
    #[inline]
    fn look(&self, now: u32) -> (Seen, u32) {
        // The generation is written after what was seen at it.
        let generation = self.generation.load(Ordering::Acquire);
        let seen = Seen::unpack(self.seen.load(Ordering::Relaxed));
        let is_fresh = now.wrapping_sub(seen.at) < REFRESH_MS && generation == self.ledger().generation();
        if is_fresh { (seen, generation) } else { self.look_again(now, false) }
    }

    /// Looks at the ledger. `at_once`: also where that is dear, as the others see us only now.
    #[cold]
    #[inline(never)]
    fn look_again(&self, now: u32, at_once: bool) -> (Seen, u32) {
        let ledger = self.ledger();
        let generation = self.generation.load(Ordering::Acquire);
        let before = Seen::unpack(self.seen.load(Ordering::Relaxed));
        // With many processes a look takes some microseconds, and their comings and goings never end.
        let is_dear = ledger.bound() > FEW && before.at == now && !at_once;
        if is_dear || self.is_busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return (before, generation);
        }
        let after_a_while = now.wrapping_sub(self.sized.load(Ordering::Relaxed)) >= SIZE_AGAIN_MS;
        if after_a_while {
            self.size_up(now);
            self.keep_slot(ledger, now);
        }
        places::refresh(after_a_while);
        let generation = ledger.generation();
        // SAFETY: we hold `is_busy`.
        let mask = unsafe { (*self.mask.get()).as_ref() };
        let me = Me { index: self.index(), fingerprint: self.fingerprint.load(Ordering::Relaxed), mask };
        let Share { threads, crowded, .. } =
            share::share(self.budget.load(Ordering::Relaxed), u32::MAX >> 1, ledger.look(me, now));
        if crowded {
            self.suspect_one(ledger, now);
        }
        let seen = Seen { at: now, threads, crowded };
        self.seen.store(seen.pack(), Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
        self.is_busy.store(false, Ordering::Release);
        if before.crowded != crowded || crowded && before.threads != threads {
            tell_share(seen, self.budget.load(Ordering::Relaxed));
        }
        (seen, generation)
    }

    /// Takes a slot again if somebody took us for dead. The caller holds `is_busy`.
    fn keep_slot(&self, ledger: Ledger<'static>, now: u32) {
        // SAFETY: it was joined, and nobody writes it after that.
        let Some(owner) = (unsafe { *self.owner.get() }) else { return };
        if ledger.owns(self.index(), owner) {
            return;
        }
        // SAFETY: we hold `is_busy`.
        let mask = unsafe { (*self.mask.get()).as_ref() };
        let fingerprint = self.fingerprint.load(Ordering::Relaxed);
        // Memory that was never made is not touched.
        let reserve = |index| index < ledger.bound();
        if let Some(index) = ledger.claim(owner, fingerprint, mask, now, reserve, process::is_alive) {
            self.index.store(index as u32, Ordering::Relaxed);
        }
    }

    /// Reads the allowed mask and the budget. The caller holds `is_busy`, or is joining.
    fn size_up(&self, now: u32) -> Option<()> {
        let mask = allowed_mask()?;
        let budget = knlfix_core::budget::size(state::config().budget, &mask, &super::files::Kernel);
        self.budget.store(budget, Ordering::Relaxed);
        self.cpus.store(mask.count() as u32, Ordering::Relaxed);
        self.sized.store(now, Ordering::Relaxed);
        let fingerprint = mask.fingerprint();
        if self.fingerprint.load(Ordering::Relaxed) != fingerprint {
            let sparse = sparse(&mask);
            if self.process() != 0 {
                self.ledger().set_mask(self.index(), fingerprint, sparse.as_ref());
            }
            // SAFETY: see above.
            unsafe { *self.mask.get() = sparse };
            self.fingerprint.store(fingerprint, Ordering::Relaxed);
        }
        Some(())
    }

    /// Looks whether one of the quiet owners is dead: 40 microseconds, now and then. Where one is, others may be.
    fn suspect_one(&self, ledger: Ledger<'_>, now: u32) {
        if now.wrapping_sub(self.suspected.load(Ordering::Relaxed)) < QUIET_MS {
            return;
        }
        self.suspected.store(now, Ordering::Relaxed);
        for _ in 0..MOST_AT_ONCE {
            let from = self.suspect.load(Ordering::Relaxed) as usize;
            let Some((index, owner)) = ledger.suspect(self.index(), from, now, QUIET_MS) else { return };
            self.suspect.store(index as u32 + 1, Ordering::Relaxed);
            if process::is_alive(owner) {
                return;
            }
            if ledger.free(index, owner) {
                log::debug!("budget: process {} is dead; its threads are free", owner.pid());
            }
        }
    }
}

/// How many other processes of the domain are active on these CPUs, without becoming a member.
pub(super) fn active_elsewhere(mask: &CpuMask) -> u32 {
    let path = domain::ledger_path();
    let ledger = match segment::mapped() {
        Some(ledger) => ledger,
        None => match segment::Locked::open(process::c_path(&path), false).and_then(|file| file.ledger()) {
            Ok(ledger) => ledger,
            Err(_) => return 0,
        },
    };
    let sparse = sparse(mask);
    // This process may have a slot from before an exec.
    let myself = process::myself();
    let index = ledger.owners().find(|&(_, owner)| Some(owner) == myself).map_or(usize::MAX, |(index, _)| index);
    let now = now();
    // Who was killed in a region seems to be in it still, and this process will go by the answer for good.
    for (other, owner) in ledger.owners().take(MOST_AT_START) {
        if !process::is_alive(owner) {
            ledger.free(other, owner);
        }
    }
    let me = Me { index, fingerprint: mask.fingerprint(), mask: sparse.as_ref() };
    ledger.look(me, now).filter(share::Claim::is_active).count() as u32
}

/// The mask as the ledger keeps it.
fn sparse(mask: &CpuMask) -> Option<SparseMask> {
    let mut bytes = [0; BYTES];
    mask.to_bytes(&mut bytes);
    SparseMask::from_bytes(&bytes)
}

#[cold]
#[inline(never)]
fn tell_share(seen: Seen, budget: u32) {
    if seen.crowded {
        log::debug!("budget: {} of {budget} threads are ours", seen.threads);
    } else {
        log::debug!("budget: alone");
    }
}

/// The calling thread's mask, or the user mask under its pin.
pub(crate) fn allowed_mask() -> Option<CpuMask> {
    let mask = sys::mask_of(0).ok()?;
    let under = if state::active() { PINS.user_of(sys::this_thread(), mask.fingerprint()) } else { None };
    Some(under.map_or(mask, |(user, _)| user.clone()))
}

/// The page, made if there is none.
fn page() -> Option<&'static Member> {
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: it stays.
        return unsafe { page.as_ref() };
    }
    let size = size_of::<Member>().next_multiple_of(4096);
    let fresh = sys::map(None, size).ok()?;
    if sys::wipe_on_fork(fresh, size).is_err() {
        OWNER_BY_NUMBER.store(sys::getpid(), Ordering::Relaxed);
        state::at_fork(None, forget);
    }
    match PAGE.compare_exchange(core::ptr::null_mut(), fresh.cast(), Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: zeros are a member that is outside, with no ledger.
        Ok(_) => unsafe { fresh.cast::<Member>().as_ref() },
        Err(other) => {
            // SAFETY: nobody has seen ours.
            unsafe { sys::unmap(fresh, size) };
            // SAFETY: another thread's page, which stays.
            unsafe { other.as_ref() }
        }
    }
}

/// In a forked child, where the kernel is too old to empty the page.
extern "C" fn forget() {
    if OWNER_BY_NUMBER.load(Ordering::Relaxed) != sys::getpid()
        && let Some(member) = Member::joined()
    {
        member.process.store(0, Ordering::Relaxed);
        member.fingerprint.store(0, Ordering::Relaxed);
        member.is_busy.store(false, Ordering::Relaxed);
        member.state.store(OUTSIDE, Ordering::Release);
    }
}

#[cold]
#[inline(never)]
fn join() -> Option<&'static Member> {
    let member = page()?;
    let now = now();
    let again = member.again.load(Ordering::Relaxed);
    if again != 0 && now.wrapping_sub(again) > u32::MAX / 2 {
        return None;
    }
    // Another thread may be at it. Until it is done, this one is alone.
    member.state.compare_exchange(OUTSIDE, JOINING, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    let joined = try_to_join(member, now);
    if joined.is_none() {
        member.again.store(now.wrapping_add(AGAIN_MS).max(1), Ordering::Relaxed);
    }
    member.state.store(if joined.is_some() { JOINED } else { OUTSIDE }, Ordering::Release);
    joined.map(|()| member)
}

fn try_to_join(member: &Member, now: u32) -> Option<()> {
    let owner = process::myself()?;
    member.size_up(now)?;
    let path = domain::ledger_path();
    let claimed = segment::Locked::open(process::c_path(&path), true).and_then(|file| {
        let ledger = file.ledger()?;
        // SAFETY: we are JOINING.
        let mask = unsafe { (*member.mask.get()).as_ref() };
        let fingerprint = member.fingerprint.load(Ordering::Relaxed);
        let index = ledger.claim(owner, fingerprint, mask, now, |index| file.reserve(index), process::is_alive);
        Ok((ledger, index.ok_or(segment::Refused::Failed("making room in it", libc::ENOSPC))?))
    });
    let (ledger, index) = match claimed {
        Ok(claimed) => claimed,
        Err(refused) => {
            tell_refused(process::c_path(&path), &refused);
            return None;
        }
    };
    // SAFETY: we are JOINING.
    unsafe {
        *member.ledger.get() = Some(ledger);
        *member.owner.get() = Some(owner);
    }
    member.index.store(index as u32, Ordering::Relaxed);
    // Stale, so that the first region looks.
    member.seen.store(Seen { at: now.wrapping_sub(REFRESH_MS), threads: 1, crowded: false }.pack(), Ordering::Relaxed);
    member.process.store(owner.pid(), Ordering::Relaxed);
    if let Some(told) = super::start::told() {
        ledger.tell(index, told);
    }
    let path = Lossy(process::c_path(&path).to_bytes());
    log::debug!("budget: slot {index} of {path}, {} threads", member.budget.load(Ordering::Relaxed));
    Some(())
}

#[cold]
#[inline(never)]
fn tell_refused(path: &core::ffi::CStr, refused: &segment::Refused) {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    if TOLD.swap(1, Ordering::Relaxed) == 0 {
        let path = Lossy(path.to_bytes());
        log::warn!("budget: {path}: {refused}; this process is not governed");
    }
}

/// When the process ends: gives the slot back, and removes the ledger after the last.
pub(crate) extern "C" fn at_exit() {
    crate::observe::ended();
    give_back();
    crate::observe::report();
}

fn give_back() {
    let Some(member) = Member::joined() else { return sweep() };
    if member.process() != sys::getpid() {
        return;
    }
    member.state.store(LEFT, Ordering::Release);
    // SAFETY: it was joined.
    let Some(owner) = (unsafe { *member.owner.get() }) else { return };
    let (ledger, index) = (member.ledger(), member.index());
    ledger.free(index, owner);
    if ledger.owners().any(|(_, owner)| process::is_alive(owner)) {
        return;
    }
    let path = domain::ledger_path();
    let path = process::c_path(&path);
    if let Ok(file) = segment::Locked::open(path, false)
        && file.is_mapped()
    {
        file.remove_if_empty(path, ledger);
    }
}

/// A pool's parent that ran no region itself: it outlives its workers, which are killed in the end.
fn sweep() {
    if super::start::told_here() {
        let path = domain::ledger_path();
        let path = process::c_path(&path);
        if let Ok(file) = segment::Locked::open(path, false)
            && let Ok(ledger) = file.ledger()
        {
            file.remove_if_empty(path, ledger);
        }
    }
}

/// What the loader calls when the program ends.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

// SAFETY: see above `now`.
unsafe impl Sync for Member {}
