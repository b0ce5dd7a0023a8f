//! The ledger of a domain: which processes are there, and how many compute threads each of them runs.
//!
//! It is a table in memory that the processes of a domain share: one cache line for each process, written by that
//! process alone. There is no lock and no sum: what the domain uses is found by adding the lines up, so a process that
//! is killed at any instruction leaves nothing wrong but its own line, which the others take back when they see that it
//! is dead. `README.md` beside this file says why no thread of the budget is ever lost.
//!
//! Everything read from it may be garbage (another program of the same user can write there), so every number is cut to
//! size before it is used, and no loop is longer than the table.

mod cpus;
#[cfg(all(test, loom))]
mod models;
mod slot;
mod view;

use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::cpumask::SparseMask;
use crate::share::{Claim, LATELY_MS, WHOLE};
pub use cpus::{CpuCell, HiddenCpus};
pub use slot::{MaskCell, Owner, Slot};
pub use view::Line;

/// Processes that a ledger has room for.
pub const CAPACITY: usize = 4096;

/// The number of the layout, in the segment's name and in its head.
pub const VERSION: u32 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"knlfix\0\0") | (VERSION as u64) << 56;

/// No process runs more compute threads than this: a larger number is garbage.
const MOST_THREADS: u32 = 1 << 16;

/// A look's own clock may have been read so long before what it finds was written. Anything farther ahead was written
/// almost 50 days ago: the milliseconds wrap.
const AHEAD_MS: u32 = 60_000;

/// Lowering the bound is tried so often. Each failure means that somebody else changed it, and lower next time.
const TRIES: usize = 8;

/// The head of the segment: a page, but where loom's small stacks have to hold it.
#[cfg_attr(not(loom), repr(C, align(4096)))]
#[derive(Debug)]
pub struct Header {
    /// Says that the segment is a ledger of this layout. Written last, by the process that makes it.
    magic: AtomicU64,
    /// A [`Bound`].
    bound: AtomicU64,
    /// Counts, wrapping: some process became active, or gave up its slot. Whoever sees it changed looks again.
    generation: AtomicU32,
}

/// Slots in use are `below` this one. The number of `claims` so far makes a lowering fail that did not see the last one.
#[derive(Clone, Copy)]
struct Bound {
    below: u32,
    claims: u32,
}

impl Bound {
    const fn packed(self) -> u64 {
        (self.claims as u64) << 32 | self.below as u64
    }

    const fn from_packed(word: u64) -> Self {
        Self { below: word as u32, claims: (word >> 32) as u32 }
    }
}

/// Time since `seen`, in milliseconds.
const fn idle_ms(seen: u32, now: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle > u32::MAX - AHEAD_MS { 0 } else { idle }
}

/// Where things are in the segment, in bytes.
pub mod layout {
    use super::{CAPACITY, CpuCell, Header, MaskCell, Slot};
    use core::ops::Range;

    const SLOTS: usize = size_of::<Header>();
    const MASKS: usize = SLOTS + CAPACITY * size_of::<Slot>();
    const CPUS: usize = MASKS + CAPACITY * size_of::<MaskCell>();
    /// The whole segment. Most of it is a hole: only what [`needed_by`] names is ever touched.
    pub const SIZE: usize = CPUS + CAPACITY * size_of::<CpuCell>();

    /// The head.
    pub const HEADER: Range<usize> = 0..SLOTS;

    /// The bytes that the owner of slot `index` writes, besides the head.
    pub const fn needed_by(index: usize) -> [Range<usize>; 3] {
        [
            element(SLOTS, index, size_of::<Slot>()),
            element(MASKS, index, size_of::<MaskCell>()),
            element(CPUS, index, size_of::<CpuCell>()),
        ]
    }

    /// The bytes of all slots before `bound`, besides the head.
    pub const fn used_by(bound: usize) -> [Range<usize>; 3] {
        [
            SLOTS..SLOTS + bound * size_of::<Slot>(),
            MASKS..MASKS + bound * size_of::<MaskCell>(),
            CPUS..CPUS + bound * size_of::<CpuCell>(),
        ]
    }

    const fn element(table: usize, index: usize, size: usize) -> Range<usize> {
        table + index * size..table + (index + 1) * size
    }

    pub(super) const fn slots() -> usize {
        SLOTS
    }

    pub(super) const fn masks() -> usize {
        MASKS
    }

    pub(super) const fn cpus() -> usize {
        CPUS
    }
}

/// A segment that is mapped here.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    header: &'a Header,
    slots: &'a [Slot],
    masks: &'a [MaskCell],
    cpus: &'a [CpuCell],
}

/// What a process that looks at the ledger says of itself.
#[derive(Clone, Copy)]
pub struct Me<'a> {
    /// Its slot; beyond the table if it has none and only looks.
    pub index: usize,
    /// The fingerprint of its allowed mask.
    pub fingerprint: u64,
    /// Its allowed mask; `None` if that is too wide to be written down, and then every other mask counts whole.
    pub mask: Option<&'a SparseMask>,
}

impl Ledger<'static> {
    /// The segment at `base`.
    ///
    /// # Safety
    /// `base` must point to [`layout::SIZE`] bytes, aligned to a page, that stay mapped for good, readable and writable.
    /// What they hold does not matter.
    pub unsafe fn at(base: *const u8) -> Self {
        // SAFETY: the caller's promise; every field is an atomic integer, for which all bytes are good.
        unsafe {
            Self {
                header: &*base.cast(),
                slots: core::slice::from_raw_parts(base.add(layout::slots()).cast(), CAPACITY),
                masks: core::slice::from_raw_parts(base.add(layout::masks()).cast(), CAPACITY),
                cpus: core::slice::from_raw_parts(base.add(layout::cpus()).cast(), CAPACITY),
            }
        }
    }
}

impl Ledger<'_> {
    /// Whether it was made whole, in this layout.
    pub fn is_valid(&self) -> bool {
        self.header.magic.load(Ordering::Acquire) == MAGIC
    }

    /// Makes a ledger of a segment that holds zeros or the beginnings of a ledger. Who else makes it at the same time, or
    /// claims already, does not matter.
    pub fn create(&self) {
        self.header.magic.store(MAGIC, Ordering::Release);
    }

    /// Slots in use are before this one. Costs follow it, not the capacity.
    pub fn bound(&self) -> usize {
        let bound = Bound::from_packed(self.header.bound.load(Ordering::SeqCst));
        (bound.below as usize).min(self.slots.len())
    }

    /// Changes when a process becomes active or gives up its slot. To be read before a [look](Self::look), and again
    /// after each [`enter`](Self::enter): if it differs then, what was seen is out of date.
    pub fn generation(&self) -> u32 {
        self.header.generation.load(Ordering::SeqCst)
    }

    /// Has all others look again.
    pub fn signal(&self) {
        self.header.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn used(&self) -> impl Iterator<Item = (usize, &Slot)> + Clone {
        self.slots.iter().take(self.bound()).enumerate()
    }

    /// The owners, with their slots.
    pub fn owners(&self) -> impl Iterator<Item = (usize, Owner)> + Clone {
        self.used().filter_map(|(index, slot)| Some((index, slot.owner()?)))
    }

    /// Whether slot `index` belongs to `owner`. It does from a claim until it is given back, unless somebody took its
    /// owner for dead.
    pub fn owns(&self, index: usize, owner: Owner) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.owner() == Some(owner))
    }

    /// Takes a slot for `owner`, whose allowed mask is `mask`. A process that owns one already (before an exec) gets that
    /// one again, emptied. `reserve` makes the memory of a slot, false if there is none; `is_alive` is asked about owners
    /// only when no slot is free. `None` when there is no room.
    ///
    /// A process claims in one thread at a time.
    pub fn claim(
        &self,
        owner: Owner,
        fingerprint: u64,
        mask: Option<&SparseMask>,
        now: u32,
        reserve: impl Fn(usize) -> bool,
        is_alive: impl Fn(Owner) -> bool,
    ) -> Option<usize> {
        let mine = self.owners().find(|&(_, other)| other == owner).map(|(index, _)| index);
        let index = mine.or_else(|| self.take(owner, &reserve)).or_else(|| {
            self.reap(is_alive);
            self.take(owner, &reserve)
        })?;
        if let Some(cell) = self.masks.get(index) {
            cell.store(mask);
        }
        self.slots.get(index)?.reset(fingerprint, now.wrapping_sub(LATELY_MS + 1));
        self.include(index);
        self.drop_others_of(owner, index);
        Some(index)
    }

    /// Takes the first slot that nobody owns.
    fn take(&self, owner: Owner, reserve: impl Fn(usize) -> bool) -> Option<usize> {
        for (index, slot) in self.slots.iter().enumerate() {
            // Below the bound the memory is there. Above it, looking is touching.
            if index >= self.bound() && !reserve(index) {
                return None;
            }
            let word = slot.owner.load(Ordering::SeqCst);
            let is_free = match Owner::from_packed(word) {
                None => true, // 0, or a word that can't be an owner's
                // Above the bound: a thread of ours was claiming when another one called exec.
                Some(other) if other == owner => return Some(index),
                Some(_) => false,
            };
            if is_free && slot.owner.compare_exchange(word, owner.packed(), Ordering::SeqCst, Ordering::Relaxed).is_ok()
            {
                return Some(index);
            }
        }
        None
    }

    /// A process has one slot: gives back what else bears its name.
    fn drop_others_of(&self, owner: Owner, index: usize) {
        for (other, _) in self.owners().filter(|&(other, found)| found == owner && other != index) {
            self.release(other, owner);
        }
    }

    /// Raises the bound over `index`, which has been taken. Also where it is high enough: a lowering that looked at the
    /// slot before it was taken fails, because of the count.
    fn include(&self, index: usize) {
        let mut word = self.header.bound.load(Ordering::SeqCst);
        for _ in 0..CAPACITY {
            let Bound { below, claims } = Bound::from_packed(word);
            let below = below.clamp(index as u32 + 1, CAPACITY as u32);
            let next = Bound { below, claims: claims.wrapping_add(1) }.packed();
            match self.header.bound.compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        // Nobody is that unlucky. Entering and looking see to it again.
    }

    /// Raises the bound over a slot that the caller owns, if it is too low: only foreign hands can have done that.
    fn keep_in_bound(&self, index: usize) {
        if index < self.slots.len() && self.bound() <= index {
            self.include(index);
        }
    }

    /// Lowers the bound as far as slots are free.
    fn lower_bound(&self) {
        for _ in 0..TRIES {
            let word = self.header.bound.load(Ordering::SeqCst);
            let Bound { below, claims } = Bound::from_packed(word);
            let last = self.slots.iter().take(below as usize).rposition(|slot| slot.owner().is_some());
            let lower = last.map_or(0, |index| index as u32 + 1);
            let next = Bound { below: lower, claims }.packed();
            if lower == below
                || self.header.bound.compare_exchange(word, next, Ordering::SeqCst, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
    }

    fn release(&self, index: usize, owner: Owner) -> bool {
        self.slots.get(index).is_some_and(|slot| {
            slot.owner.compare_exchange(owner.packed(), 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives a slot back: its owner leaves, or somebody saw that the owner is dead. Nothing happens if it has another
    /// owner by now.
    pub fn free(&self, index: usize, owner: Owner) -> bool {
        let freed = self.release(index, owner);
        if freed {
            self.lower_bound();
            self.signal();
        }
        freed
    }

    /// Frees the slots of all owners that `is_alive` says are dead. Returns how many.
    pub fn reap(&self, is_alive: impl Fn(Owner) -> bool) -> usize {
        let dead = self.owners().filter(|&(_, owner)| !is_alive(owner));
        let freed = dead.filter(|&(index, owner)| self.release(index, owner)).count();
        // Also after none: somebody may have died between giving a slot back and this.
        self.lower_bound();
        if freed > 0 {
            self.signal();
        }
        freed
    }

    /// One owner that was not heard of for `quiet_ms`, from slot `from` on and round again: it may be dead. Those that
    /// hold threads come first, since only they cost others anything.
    pub fn suspect(&self, me: usize, from: usize, now: u32, quiet_ms: u32) -> Option<(usize, Owner)> {
        let first = |must_hold: bool| {
            let is_quiet = |&(index, _): &(usize, Owner)| {
                index != me
                    && self.slots.get(index).is_some_and(|slot| {
                        (!must_hold || slot.held() > 0) && idle_ms(slot.seen.load(Ordering::Relaxed), now) >= quiet_ms
                    })
            };
            let after = self.owners().skip_while(|&(index, _)| index < from).find(is_quiet);
            after.or_else(|| self.owners().find(is_quiet))
        };
        first(true).or_else(|| first(false))
    }

    /// The owner of slot `index` enters a region that runs `threads` and wanted `ask`. Returns whether it was not active
    /// before: then the others are told, and what it saw of them earlier is out of date. It also is if the
    /// [`generation`](Self::generation) changed meanwhile. Of two processes that enter at once, at least one learns it.
    pub fn enter(&self, index: usize, threads: u32, ask: u32, now: u32) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        let seen = slot.seen.load(Ordering::Relaxed);
        if slot.ask.load(Ordering::Relaxed) != ask {
            slot.ask.store(ask, Ordering::Relaxed);
        }
        let held = slot.held.fetch_add(threads, Ordering::SeqCst);
        if seen != now {
            slot.seen.store(now, Ordering::Relaxed);
        }
        // Half of what the others go by, as some time goes by between the clock and the count.
        let was_idle = held == 0 && idle_ms(seen, now) > LATELY_MS / 2;
        if was_idle {
            self.keep_in_bound(index);
            self.signal();
        }
        was_idle
    }

    /// The owner of slot `index` leaves a region that ran `threads`.
    pub fn leave(&self, index: usize, threads: u32, now: u32) {
        let Some(slot) = self.slots.get(index) else { return };
        // First, so that nobody finds a slot that holds nothing and was last heard of when the region began.
        if slot.seen.load(Ordering::Relaxed) != now {
            slot.seen.store(now, Ordering::Relaxed);
        }
        slot.give_back(threads);
    }

    /// Gives the threads of a region that has just been entered back, but for `threads`: the ledger was looked at in
    /// between.
    pub fn shrink(&self, index: usize, from: u32, threads: u32) {
        if let Some(slot) = self.slots.get(index) {
            slot.give_back(from.saturating_sub(threads));
        }
    }

    /// Compute threads that the owner of slot `index` runs now.
    pub fn held(&self, index: usize) -> u32 {
        self.slots.get(index).map_or(0, Slot::held)
    }

    /// Notes the start share of the owner of slot `index`.
    pub fn tell(&self, index: usize, share: u32) {
        if let Some(slot) = self.slots.get(index) {
            slot.told.store(share, Ordering::Relaxed);
        }
    }

    /// Notes another allowed mask for the owner of slot `index`.
    pub fn set_mask(&self, index: usize, fingerprint: u64, mask: Option<&SparseMask>) {
        if let (Some(slot), Some(cell)) = (self.slots.get(index), self.masks.get(index)) {
            cell.store(mask);
            slot.mask.store(fingerprint, Ordering::Release);
        }
    }

    /// What all others claim, as it concerns `me`.
    pub fn look<'a>(&'a self, me: Me<'a>, now: u32) -> impl Iterator<Item = Claim> + Clone + 'a {
        self.keep_in_bound(me.index);
        let myself = self.slots.get(me.index).and_then(Slot::owner);
        self.owners().filter_map(move |(index, owner)| {
            if index == me.index {
                return None;
            }
            if Some(owner) == myself {
                // Left by a thread of ours that was claiming when another one called exec.
                self.release(index, owner);
                return None;
            }
            let slot = self.slots.get(index)?;
            // Before `seen`, which is written before the last thread is given back.
            let held = slot.held();
            let idle_ms = idle_ms(slot.seen.load(Ordering::Relaxed), now);
            let is_active = held > 0 || idle_ms <= LATELY_MS;
            let same = slot.mask.load(Ordering::Acquire) == me.fingerprint;
            let weight = match (self.masks.get(index), me.mask) {
                (Some(cell), Some(mine)) if is_active && !same => cell.weight(mine),
                _ => WHOLE,
            };
            Some(Claim {
                ask: slot.ask.load(Ordering::Relaxed).min(MOST_THREADS),
                held,
                in_region: held > 0,
                idle_ms,
                weight,
                is_before_us: index < me.index,
            })
        })
    }
}
