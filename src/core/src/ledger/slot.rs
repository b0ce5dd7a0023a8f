//! One process's line of the ledger.

use super::MOST_THREADS;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::cpumask::{Bits, CpuMask, SparseMask};
use crate::share::WHOLE;
use core::num::NonZeroU64;

/// A process that may own a slot: its number and when it started, so that a process that gets the number of a dead one
/// is not taken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(NonZeroU64);

/// Linux gives out process numbers below 2^22.
const PID_BITS: u32 = 22;

impl Owner {
    /// The process `pid`, started so many clock ticks after the node (field 22 of `/proc/PID/stat`; 0 where that can't
    /// be read). `None` if `pid` is none.
    pub const fn new(pid: i32, started: u64) -> Option<Self> {
        if pid <= 0 || pid >= 1 << PID_BITS {
            return None;
        }
        match NonZeroU64::new(started << PID_BITS | pid as u64) {
            Some(packed) => Some(Self(packed)),
            None => None,
        }
    }

    /// The process's number.
    pub const fn pid(self) -> i32 {
        (self.0.get() & ((1 << PID_BITS) - 1)) as i32
    }

    /// When it started, in clock ticks after the node; 0 if that is not known.
    pub const fn started(self) -> u64 {
        self.0.get() >> PID_BITS
    }

    pub(super) const fn packed(self) -> u64 {
        self.0.get()
    }

    /// What a slot's word says; `None` where nobody owns it, or the word can't be an owner's.
    pub(super) const fn from_packed(word: u64) -> Option<Self> {
        Self::new((word & ((1 << PID_BITS) - 1)) as i32, word >> PID_BITS)
    }
}

/// A slot: one cache line, which only its owner writes while it has one.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    /// 0 where it is free. The only word that others write: from a dead owner to 0, and from 0 to themselves.
    pub(super) owner: AtomicU64,
    /// The fingerprint of the owner's allowed mask, whose CPUs are in the [`MaskCell`] of the same index.
    pub(super) mask: AtomicU64,
    /// Compute threads that run in the owner's regions now.
    pub(super) held: AtomicU32,
    /// Threads that the region it entered last wanted.
    pub(super) ask: AtomicU32,
    /// When it last entered or left a region, in milliseconds of the monotonic clock, wrapping.
    pub(super) seen: AtomicU32,
    /// Its start share; 0 while it has not asked.
    pub(super) told: AtomicU32,
    /// How many words of its [`CpuCell`](super::CpuCell) say anything.
    pub(super) cpu_words: AtomicU32,
}

impl Slot {
    pub(super) fn owner(&self) -> Option<Owner> {
        Owner::from_packed(self.owner.load(Ordering::SeqCst))
    }

    /// Compute threads that the owner runs; at most [`MOST_THREADS`] are believed.
    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::SeqCst).min(MOST_THREADS)
    }

    /// The owner runs `threads` less.
    pub(super) fn give_back(&self, threads: u32) {
        // It never held so many if somebody else wrote there, and then it must not seem to hold the rest for ever.
        if self.held.fetch_sub(threads, Ordering::Release) < threads {
            self.held.store(0, Ordering::Relaxed);
        }
    }

    /// What a new owner starts with. `seen` lies so far back that it is not active.
    pub(super) fn reset(&self, mask: u64, seen: u32) {
        self.held.store(0, Ordering::Relaxed);
        self.ask.store(0, Ordering::Relaxed);
        self.told.store(0, Ordering::Relaxed);
        self.cpu_words.store(0, Ordering::Relaxed);
        self.seen.store(seen, Ordering::Relaxed);
        self.mask.store(mask, Ordering::Release);
    }
}

/// The CPUs of a slot's owner: up to 16 words of 64 CPUs each, wherever they are among 8192.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct MaskCell {
    words: [AtomicU64; 16],
    /// Which word of the mask each is: a byte each.
    places: [AtomicU64; 2],
}

impl MaskCell {
    /// Writes the mask down; a mask that is too wide for the cell is written as none.
    pub(super) fn store(&self, mask: Option<&SparseMask>) {
        let mut entries = mask.into_iter().flat_map(SparseMask::entries);
        let mut places = [0_u64; 2];
        for (entry, cell) in self.words.iter().enumerate() {
            let (place, word) = entries.next().unwrap_or((0, 0));
            cell.store(word, Ordering::Relaxed);
            if let Some(half) = places.get_mut(entry / 8) {
                *half |= (place as u64 & 0xff) << (entry % 8 * 8);
            }
        }
        for (cell, word) in self.places.iter().zip(places) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// The mask; empty where it was written as none.
    pub(super) fn load(&self) -> CpuMask {
        let [low, high] = self.places.each_ref().map(|half| half.load(Ordering::Relaxed));
        let cpus = self.words.iter().enumerate().flat_map(|(entry, cell)| {
            let half = if entry < 8 { low } else { high };
            let place = (half >> (entry % 8 * 8) & 0xff) as usize;
            Bits(cell.load(Ordering::Relaxed)).map(move |bit| place * 64 + bit)
        });
        CpuMask::of(cpus)
    }

    /// The part of this mask's CPUs that are in `mine`, of [`WHOLE`]; all of them if it says nothing. A mask that is being
    /// written gives some answer, which the next look corrects.
    pub(super) fn weight(&self, mine: &SparseMask) -> u16 {
        let [low, high] = self.places.each_ref().map(|half| half.load(Ordering::Relaxed));
        let (mut all, mut common) = (0_u32, 0_u32);
        for (entry, cell) in self.words.iter().enumerate() {
            let word = cell.load(Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            let half = if entry < 8 { low } else { high };
            let place = (half >> (entry % 8 * 8) & 0xff) as usize;
            all += word.count_ones();
            common += (word & mine.word(place)).count_ones();
        }
        (common * u32::from(WHOLE)).checked_div(all).map_or(WHOLE, |part| part as u16)
    }
}
