//! What an onlooker may read of a slot: nothing here writes.

use super::{Ledger, MOST_THREADS, MaskCell, idle_ms};
use crate::atomics::Ordering;
use crate::cpumask::CpuMask;

/// A slot's numbers, cut to size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Compute threads that run in the owner's regions now.
    pub held: u32,
    /// Threads that the region it entered last wanted; 0 before the first.
    pub ask: u32,
    /// Its start share; `None` while it has not asked, or was told the whole.
    pub told: Option<u32>,
    /// Time since it last entered or left a region.
    pub idle_ms: u32,
    /// The fingerprint of its allowed mask.
    pub fingerprint: u64,
}

impl Ledger<'_> {
    /// The numbers of slot `index`; `None` beyond the table.
    pub fn line(&self, index: usize, now: u32) -> Option<Line> {
        let slot = self.slots.get(index)?;
        // Before `seen`, as in a look.
        let held = slot.held();
        Some(Line {
            held,
            ask: slot.ask.load(Ordering::Relaxed).min(MOST_THREADS),
            told: Some(slot.told.load(Ordering::Relaxed)).filter(|told| (1..=MOST_THREADS).contains(told)),
            idle_ms: idle_ms(slot.seen.load(Ordering::Relaxed), now),
            fingerprint: slot.mask.load(Ordering::Acquire),
        })
    }

    /// The allowed CPUs of the owner of slot `index`; none if it has too many to be written down.
    pub fn allowed(&self, index: usize) -> CpuMask {
        self.masks.get(index).map_or(CpuMask::EMPTY, MaskCell::load)
    }
}
