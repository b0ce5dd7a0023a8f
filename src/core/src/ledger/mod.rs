//! The ledger of a domain: which processes are there, and how many compute threads each of them runs.
//!
//! It is a table in memory that the processes of a domain share: one cache line for each process, written by that
//! process alone. There is no lock and no sum: what the domain uses is found by adding the lines up, so a process that
//! is killed at any instruction leaves nothing wrong but its own line, which the others take back when they see that it
//! is dead. `README.md` beside this file says why no thread of the budget is ever lost.
//!
//! Everything read from it may be garbage (another program of the same user can write there), so every number is cut to
//! size before it is used, and no loop is longer than the table.

mod slot;

use crate::atomics::{AtomicU32, AtomicU64, Ordering, fence};
use crate::cpumask::SparseMask;
use crate::share::{Claim, LATELY_MS};
pub use slot::{MaskCell, Owner, Slot};

/// Processes that a ledger has room for.
pub const CAPACITY: usize = 4096;

/// The number of the layout, in the segment's name and in its head.
pub const VERSION: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"knlfix\0\x01");

/// The head of the segment.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Header {
    /// Says that the segment is a ledger of this layout. Written last, by the process that makes it.
    magic: AtomicU64,
    /// No slot from here on is owned.
    bound: AtomicU32,
    /// A hint that some process became active or gave up its slot: whoever sees it changed looks again. Nothing depends on
    /// it but how soon that is.
    generation: AtomicU32,
}

/// Where things are in the segment, in bytes.
pub mod layout {
    use super::{CAPACITY, Header, MaskCell, Slot};
    use core::ops::Range;

    const SLOTS: usize = size_of::<Header>();
    const MASKS: usize = SLOTS + CAPACITY * size_of::<Slot>();
    /// The whole segment. Most of it is a hole: only what [`needed_by`] names is ever touched.
    pub const SIZE: usize = MASKS + CAPACITY * size_of::<MaskCell>();

    /// The head.
    pub const HEADER: Range<usize> = 0..SLOTS;

    /// The bytes that the owner of slot `index` writes, besides the head.
    pub const fn needed_by(index: usize) -> [Range<usize>; 2] {
        let (slot, mask) = (SLOTS + index * size_of::<Slot>(), MASKS + index * size_of::<MaskCell>());
        [slot..slot + size_of::<Slot>(), mask..mask + size_of::<MaskCell>()]
    }

    pub(super) const fn slots() -> usize {
        SLOTS
    }

    pub(super) const fn masks() -> usize {
        MASKS
    }
}

/// A segment that is mapped here.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    header: &'a Header,
    slots: &'a [Slot],
    masks: &'a [MaskCell],
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
            }
        }
    }
}

impl Ledger<'_> {
    /// Whether it was made whole, in this layout.
    pub fn is_valid(&self) -> bool {
        self.header.magic.load(Ordering::Acquire) == MAGIC
    }

    /// Makes a ledger of a segment that nobody uses yet, which holds zeros or the beginnings of a ledger.
    pub fn create(&self) {
        self.header.bound.store(0, Ordering::Relaxed);
        self.header.magic.store(MAGIC, Ordering::Release);
    }

    /// Slots in use are before this one. Costs follow it, not the capacity.
    pub fn bound(&self) -> usize {
        (self.header.bound.load(Ordering::SeqCst) as usize).min(self.slots.len())
    }

    /// See [`Header`]'s field.
    pub fn generation(&self) -> u32 {
        self.header.generation.load(Ordering::Acquire)
    }

    fn signal(&self) {
        self.header.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn used(&self) -> impl Iterator<Item = (usize, &Slot)> + Clone {
        self.slots.iter().take(self.bound()).enumerate()
    }

    /// The owners, with their slots.
    pub fn owners(&self) -> impl Iterator<Item = (usize, Owner)> + Clone {
        self.used().filter_map(|(index, slot)| Some((index, slot.owner()?)))
    }

    /// Takes a slot for `owner`, whose allowed mask is `mask`. A process that owns one already (before an exec) gets that
    /// one again, emptied. `reserve` makes the memory of a slot, false if there is none; `is_alive` is asked about owners
    /// only when no slot is free. `None` when there is no room.
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
        let index = mine.or_else(|| self.take_free(owner, &reserve)).or_else(|| {
            self.reap(is_alive);
            self.take_free(owner, &reserve)
        })?;
        self.masks.get(index)?.store(mask);
        self.slots.get(index)?.reset(fingerprint, now.wrapping_sub(LATELY_MS + 1));
        self.keep_in_bound(index);
        Some(index)
    }

    fn take_free(&self, owner: Owner, reserve: impl Fn(usize) -> bool) -> Option<usize> {
        for (index, slot) in self.slots.iter().enumerate() {
            // Below the bound the memory is there. Above it, looking is touching.
            if index >= self.bound() && !reserve(index) {
                return None;
            }
            let taken = slot.owner.compare_exchange(0, owner.packed(), Ordering::SeqCst, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(index);
            }
            // A word that can't be an owner's is nobody's.
            if let Err(word) = taken
                && Owner::from_packed(word).is_none()
                && slot.owner.compare_exchange(word, owner.packed(), Ordering::SeqCst, Ordering::Relaxed).is_ok()
            {
                return Some(index);
            }
        }
        None
    }

    /// Raises the bound over `index`, if a race or a kill left it too low.
    fn keep_in_bound(&self, index: usize) {
        if self.bound() <= index {
            self.header.bound.fetch_max(index as u32 + 1, Ordering::SeqCst);
        }
    }

    /// Lowers the bound as far as slots are free. Somebody may take one meanwhile, so whoever lowers it looks again, and
    /// every owner sees to its own slot whenever it [looks](Self::look).
    fn lower_bound(&self) {
        let bound = self.bound();
        let last =
            |below: usize| self.slots.iter().take(below).rposition(|slot| slot.owner.load(Ordering::SeqCst) != 0);
        let lower = last(bound).map_or(0, |index| index + 1);
        let lowered = lower < bound
            && self
                .header
                .bound
                .compare_exchange(bound as u32, lower as u32, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok();
        if lowered && let Some(index) = last(bound) {
            self.header.bound.fetch_max(index as u32 + 1, Ordering::SeqCst);
        }
    }

    /// Gives a slot back: its owner leaves, or somebody saw that the owner is dead. Nothing happens if it has another
    /// owner by now.
    pub fn free(&self, index: usize, owner: Owner) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        let freed = slot.owner.compare_exchange(owner.packed(), 0, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if freed {
            self.lower_bound();
            self.signal();
        }
        freed
    }

    /// Frees the slots of all owners that `is_alive` says are dead. Returns how many.
    pub fn reap(&self, is_alive: impl Fn(Owner) -> bool) -> usize {
        self.owners().filter(|&(_, owner)| !is_alive(owner)).filter(|&(index, owner)| self.free(index, owner)).count()
    }

    /// One owner that was not heard of for `quiet_ms`, from slot `from` on and round again: it may be dead.
    pub fn suspect(&self, me: usize, from: usize, now: u32, quiet_ms: u32) -> Option<(usize, Owner)> {
        let is_quiet = |&(index, _): &(usize, Owner)| {
            let seen = self.slots.get(index).map_or(now, |slot| slot.seen.load(Ordering::Relaxed));
            index != me && now.wrapping_sub(seen) >= quiet_ms
        };
        let after = self.owners().skip_while(|&(index, _)| index < from).find(is_quiet);
        after.or_else(|| self.owners().find(is_quiet))
    }

    /// The owner of slot `index` enters a region that runs `threads` and wanted `ask`. Returns whether it was not active
    /// before: then the others are told, and it has to look at the ledger before it trusts what it saw there earlier.
    pub fn enter(&self, index: usize, threads: u32, ask: u32, now: u32) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        let held = slot.held.fetch_add(threads, Ordering::Relaxed);
        let seen = slot.seen.load(Ordering::Relaxed);
        if slot.ask.load(Ordering::Relaxed) != ask {
            slot.ask.store(ask, Ordering::Relaxed);
        }
        if seen != now {
            slot.seen.store(now, Ordering::Relaxed);
        }
        let was_idle = held == 0 && now.wrapping_sub(seen) > LATELY_MS;
        if was_idle {
            // Of two processes that become active at once, at least one sees the other: each shows itself before it looks.
            fence(Ordering::SeqCst);
            self.signal();
        }
        was_idle
    }

    /// The owner of slot `index` leaves a region that ran `threads`.
    pub fn leave(&self, index: usize, threads: u32, now: u32) {
        let Some(slot) = self.slots.get(index) else { return };
        slot.held.fetch_sub(threads, Ordering::Relaxed);
        if slot.seen.load(Ordering::Relaxed) != now {
            slot.seen.store(now, Ordering::Relaxed);
        }
    }

    /// Gives the threads of a region that has just been entered back, but for `threads`: the ledger was looked at in
    /// between.
    pub fn shrink(&self, index: usize, from: u32, threads: u32) {
        if let Some(slot) = self.slots.get(index) {
            slot.held.fetch_sub(from.saturating_sub(threads), Ordering::Relaxed);
        }
    }

    /// Compute threads that the owner of slot `index` runs now.
    pub fn held(&self, index: usize) -> u32 {
        self.slots.get(index).map_or(0, |slot| slot.held.load(Ordering::Relaxed))
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
        if me.index < self.slots.len() {
            self.keep_in_bound(me.index);
        }
        self.used().filter_map(move |(index, slot)| {
            if index == me.index || slot.owner.load(Ordering::SeqCst) == 0 {
                return None;
            }
            let held = slot.held.load(Ordering::SeqCst);
            let idle_ms = now.wrapping_sub(slot.seen.load(Ordering::Relaxed));
            let idle_ms = if idle_ms > u32::MAX / 2 { 0 } else { idle_ms }; // it was a moment ahead of us
            let is_active = held > 0 || idle_ms <= LATELY_MS;
            let same = slot.mask.load(Ordering::Acquire) == me.fingerprint;
            let weight = match (self.masks.get(index), me.mask) {
                _ if same || !is_active => 256,
                (Some(cell), Some(mine)) => cell.weight(mine),
                _ => 256,
            };
            Some(Claim {
                ask: slot.ask.load(Ordering::Relaxed),
                held,
                in_region: held > 0,
                idle_ms,
                weight,
                is_before_us: index < me.index,
            })
        })
    }
}
