//! What a ledger has to bear: a segment that holds anything.

use crate::ledger_common::Segment;
use knlfix_core::cpumask::{CPUS, CpuMask, SparseMask};
use knlfix_core::ledger::{CAPACITY, Ledger, Me, Owner, layout};
use knlfix_core::share::{WHOLE, share};
use std::cell::Cell;

/// The owner's word of whoever lives on the segment: it may be there before.
pub(crate) const OURS: u64 = 7 << 22 | 4242;

/// Fills the head and the first slots and masks: 64 bytes are for the head, then 256 for each slot:
/// its line, and its mask, which are its CPUs too.
fn fill(segment: &mut Segment, bytes: &[u8]) {
    let (head, slots) = bytes.split_at(bytes.len().min(64));
    segment.write(layout::HEADER, head);
    for (index, bytes) in slots.chunks(256).enumerate().take(CAPACITY) {
        let [slot, mask, cpus] = layout::needed_by(index);
        let (line, cell) = bytes.split_at(bytes.len().min(64));
        segment.write(slot, line);
        segment.write(mask, cell);
        segment.write(cpus, cell);
    }
}

/// Lives through a whole life on a segment that holds `bytes`, and zeros from there on: joins, enters, looks, leaves,
/// reaps. Panics if anything comes of the bytes but claims of a sane size. Leaves zeros.
pub(crate) fn live_on(segment: &mut Segment, bytes: &[u8]) {
    fill(segment, bytes);
    live(segment.ledger(), bytes);
    // One slot more than there are bytes for, where all others are taken.
    fill(segment, &vec![0; bytes.len() + 320]);
}

fn live(ledger: Ledger<'_>, bytes: &[u8]) {
    let number = |at: usize| bytes.iter().skip(at).take(4).fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
    let (now, budget, ask) = (number(0), number(3), number(5).max(1));
    let me = Owner::new((OURS & 0x3f_ffff) as i32, OURS >> 22).unwrap();
    let mask = SparseMask::from_bytes(bytes.get(..bytes.len().min(24)).unwrap_or(&[]));
    let asked = Cell::new(0);
    // Some are dead, by what their number says.
    let is_alive = |owner: Owner| {
        asked.set(asked.get() + 1);
        owner == me || owner.pid() % 4 != 1
    };

    let _ = ledger.is_valid();
    assert!(ledger.bound() <= CAPACITY);
    let index = ledger.claim(me, 5, mask.as_ref(), now, |_| true, is_alive).unwrap();
    assert!(ledger.owns(index, me) && ledger.owns(ledger.owners().find(|&(_, owner)| owner == me).unwrap().0, me));
    assert_eq!(ledger.owners().filter(|&(_, owner)| owner == me).count(), 1);
    assert!(index < ledger.bound() && ledger.bound() <= CAPACITY);
    assert_eq!(ledger.held(index), 0);

    let me_looking = Me { index, fingerprint: 5, mask: mask.as_ref() };
    for claim in ledger.look(me_looking, now) {
        assert!(claim.weight <= WHOLE && claim.held <= 1 << 16 && claim.ask <= 1 << 16, "{claim:?}");
    }
    assert!(ledger.look(me_looking, now).count() < CAPACITY);
    let granted = share(budget, ask, ledger.look(me_looking, now)).threads;
    assert!((1..=ask).contains(&granted));

    assert!(ledger.claims(index).all(|(other, cpu)| other != index && other < CAPACITY && cpu < CPUS));
    let pinned = CpuMask::of([number(2) as usize % CPUS, 17]);
    ledger.claim_cpus(index, &pinned);
    assert!(ledger.claimed_by(index).eq(pinned.iter()));
    ledger.claim_cpus(index, &CpuMask::EMPTY);
    assert_eq!(ledger.claimed_by(index).count(), 0);

    assert!(ledger.enter(index, granted, ask, now), "it was not active before");
    ledger.shrink(index, granted, 1);
    assert_eq!(ledger.held(index), 1);
    ledger.leave(index, 1, now);
    ledger.leave(index, 1, now);
    assert_eq!(ledger.held(index), 0, "whatever was left too often");

    if let Some((found, owner)) = ledger.suspect(index, number(7) as usize, now, 50) {
        assert!(found != index && ledger.owns(found, owner));
    }
    ledger.reap(is_alive);
    assert!(ledger.owners().all(|(_, owner)| is_alive(owner)));
    ledger.reap(|owner| owner == me);
    assert_eq!(ledger.owners().collect::<Vec<_>>(), [(index, me)]);
    assert_eq!(ledger.bound(), index + 1);
    assert!(asked.get() <= 4 * CAPACITY, "asked {} times", asked.get());

    // Any number may be in `held`. Nobody enters a slot that is not its own, but where garbage was.
    for other in 0..bytes.len() / 256 {
        ledger.enter(other, 3, 3, now);
        ledger.leave(other, 3, now);
        assert!(ledger.held(other) <= 1 << 16);
    }
    assert!(ledger.free(index, me) && !ledger.free(index, me));
    ledger.reap(|_| false);
    assert_eq!((ledger.bound(), ledger.owners().count()), (0, 0));
}
