//! Which CPUs each process has pinned threads to, or a worker of its own on: the load that others choose their places by.

use super::{Ledger, Slot, idle_ms};
use crate::atomics::{AtomicU64, Ordering};
use crate::cpumask::{Bits, CPUS, CpuMask};

/// Words of a whole mask.
const WORDS: usize = CPUS / 64;

/// The CPUs that a slot's owner claims.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CpuCell {
    words: [AtomicU64; WORDS],
}

impl CpuCell {
    #[cfg(all(test, loom))]
    pub(super) fn new() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// What a slot's owner claimed when it was [hidden](Ledger::hide_cpus): the number of words.
#[derive(Debug)]
pub struct HiddenCpus(u32);

impl Ledger<'_> {
    /// The owner of slot `index` claims exactly these CPUs. Of two processes that each claim and then look at the
    /// [claims of others](Self::claims), at least one sees the other's.
    pub fn claim_cpus(&self, index: usize, cpus: &CpuMask) {
        let (Some(slot), Some(cell)) = (self.slots.get(index), self.cpus.get(index)) else { return };
        let claimed = cpus.iter().last().map_or(0, |last| last / 64 + 1);
        let before = slot.cpu_words();
        // So that nobody reads less than there is.
        slot.cpu_words.store(before.max(claimed) as u32, Ordering::SeqCst);
        for (place, word) in cell.words.iter().enumerate().take(before.max(claimed)) {
            let bits = cpus.word(place);
            if word.load(Ordering::Relaxed) != bits {
                word.store(bits, Ordering::SeqCst);
            }
        }
        slot.cpu_words.store(claimed as u32, Ordering::SeqCst);
    }

    /// The owner of slot `index` claims nothing, until [that is taken back](Self::show_cpus) or it claims anew.
    pub fn hide_cpus(&self, index: usize) -> HiddenCpus {
        let Some(slot) = self.slots.get(index) else { return HiddenCpus(0) };
        let words = slot.cpu_words.load(Ordering::SeqCst);
        slot.cpu_words.store(0, Ordering::SeqCst);
        HiddenCpus(words)
    }

    /// It claims what it did before, unless it has claimed anew.
    pub fn show_cpus(&self, index: usize, hidden: HiddenCpus) {
        if let Some(slot) = self.slots.get(index).filter(|slot| slot.cpu_words() == 0) {
            slot.cpu_words.store(hidden.0, Ordering::SeqCst);
        }
    }

    /// The CPUs that each owner claims, as slot and CPU, for all slots but `me`.
    pub fn claims(&self, me: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let others = self.owners().map(|(index, _)| index).filter(move |&index| index != me);
        others.flat_map(|index| self.claimed_by(index).map(move |cpu| (index, cpu)))
    }

    /// The CPUs that the owner of slot `index` claims.
    pub fn claimed_by(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let count = self.slots.get(index).map_or(0, Slot::cpu_words);
        let words = self.cpus.get(index).map_or([].as_slice(), |cell| &cell.words);
        words
            .iter()
            .take(count)
            .enumerate()
            .flat_map(|(place, word)| Bits(word.load(Ordering::SeqCst)).map(move |bit| place * 64 + bit))
    }

    /// Whether the owner of slot `index` is in a region, or was at most `ms` ago. Who has just come counts.
    pub fn is_busy(&self, index: usize, now: u32, ms: u32) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        slot.held() > 0 || idle_ms(slot.seen.load(Ordering::Relaxed), now) <= ms
    }

    /// Whether no other process has a slot before this one: the first process of the domain that is still there.
    pub fn is_first(&self, index: usize) -> bool {
        self.owners().next().is_none_or(|(first, _)| first >= index)
    }
}

impl Slot {
    /// How many words of the owner's [`CpuCell`] say anything.
    fn cpu_words(&self) -> usize {
        (self.cpu_words.load(Ordering::SeqCst) as usize).min(WORDS)
    }
}
