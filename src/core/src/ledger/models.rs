//! The protocol under loom, which runs every interleaving and every order of memory that is allowed:
//! `RUSTFLAGS="--cfg loom" cargo test -p knlfix-core --release --lib ledger --target-dir target/loom`
//!
//! Threads stand for processes. Who is killed does nothing more, so what a kill leaves is the state between two
//! operations here; `tests/ledger_storm.rs` stops real processes between any two instructions.

use super::{Bound, CpuCell, Header, Ledger, MAGIC, Me, Owner, Slot};
use crate::atomics::{AtomicU32, AtomicU64};
use crate::cpumask::CpuMask;
use crate::share::LATELY_MS;
use loom::sync::Arc;
use loom::thread;

const SLOTS: usize = 2;
const NOW: u32 = 1000;
/// Everybody's allowed mask.
const MASK: u64 = 7;

struct Segment {
    header: Header,
    slots: [Slot; SLOTS],
    cpus: [CpuCell; SLOTS],
}

impl Segment {
    fn new() -> Self {
        let slot = || Slot {
            owner: AtomicU64::new(0),
            mask: AtomicU64::new(0),
            held: AtomicU32::new(0),
            ask: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            told: AtomicU32::new(0),
            cpu_words: AtomicU32::new(0),
        };
        let header = Header { magic: AtomicU64::new(MAGIC), bound: AtomicU64::new(0), generation: AtomicU32::new(0) };
        Self { header, slots: [slot(), slot()], cpus: [CpuCell::new(), CpuCell::new()] }
    }

    /// With slots that are taken already: by whom, and when they were last in a region.
    fn with(owners: &[(usize, Owner, u32)]) -> Self {
        let mut segment = Self::new();
        for &(index, owner, seen) in owners {
            segment.slots[index].owner = AtomicU64::new(owner.packed());
            segment.slots[index].mask = AtomicU64::new(MASK);
            segment.slots[index].seen = AtomicU32::new(seen);
            let below = owners.iter().map(|&(index, ..)| index as u32 + 1).max().unwrap();
            segment.header.bound = AtomicU64::new(Bound { below, claims: 0 }.packed());
        }
        segment
    }

    fn ledger(&self) -> Ledger<'_> {
        Ledger { header: &self.header, slots: &self.slots, masks: &[], cpus: &self.cpus }
    }

    fn claim(&self, owner: Owner, is_alive: impl Fn(Owner) -> bool) -> Option<usize> {
        self.ledger().claim(owner, MASK, None, NOW, |_| true, is_alive)
    }

    /// The owners below the bound.
    fn owners(&self) -> Vec<Owner> {
        self.ledger().owners().map(|(_, owner)| owner).collect()
    }

    /// Enters a region of two threads, and looks at the others if what was seen of them when the generation was
    /// `before` does not count any more. Returns whether it saw somebody in a region.
    fn enter_and_look(&self, index: usize, before: u32) -> bool {
        let ledger = self.ledger();
        let became_active = ledger.enter(index, 2, 2, NOW);
        (became_active || ledger.generation() != before)
            && ledger.look(Me { index, fingerprint: MASK, mask: None }, NOW).any(|claim| claim.in_region)
    }
}

fn owner(pid: i32, started: u64) -> Owner {
    Owner::new(pid, started).unwrap()
}

/// Runs two processes at once, and returns what they did.
fn both<A: 'static, B: 'static>(
    segment: &Arc<Segment>,
    a: impl Fn(&Segment) -> A + 'static,
    b: impl Fn(&Segment) -> B + 'static,
) -> (A, B) {
    let other = Arc::clone(segment);
    let thread = thread::spawn(move || a(&other));
    let b = b(segment);
    (thread.join().unwrap(), b)
}

const IDLE: u32 = NOW - LATELY_MS - 1;

#[test]
fn two_claimers_never_get_one_slot() {
    loom::model(|| {
        let segment = Arc::new(Segment::new());
        let (a, b) =
            both(&segment, |s| s.claim(owner(1, 1), |_| true).unwrap(), |s| s.claim(owner(2, 1), |_| true).unwrap());
        assert_ne!(a, b);
        assert_eq!(segment.owners().len(), 2);
    });
}

#[test]
fn who_claims_while_the_bound_is_lowered_is_below_it() {
    for taken in 0..SLOTS {
        loom::model(move || {
            let segment = Arc::new(Segment::with(&[(taken, owner(2, 1), IDLE)]));
            let (claimed, freed) = both(
                &segment,
                |s| {
                    let index = s.claim(owner(1, 1), |_| true).unwrap();
                    assert!(s.owners().contains(&owner(1, 1)), "from the claim on");
                    index
                },
                move |s| s.ledger().free(taken, owner(2, 1)),
            );
            assert!(freed);
            assert_eq!(segment.owners(), [owner(1, 1)]);
            assert!(segment.ledger().owns(claimed, owner(1, 1)));
        });
    }
}

#[test]
fn the_last_two_to_leave_lower_the_bound_to_nothing() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE), (1, owner(2, 1), IDLE)]));
        both(&segment, |s| s.ledger().free(0, owner(1, 1)), |s| s.ledger().free(1, owner(2, 1)));
        assert_eq!(segment.ledger().bound(), 0);
    });
}

#[test]
fn of_two_that_become_active_one_sees_the_other() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE), (1, owner(2, 1), IDLE)]));
        let (a, b) = both(&segment, |s| s.enter_and_look(0, 0), |s| s.enter_and_look(1, 0));
        assert!(a || b);
    });
}

#[test]
fn who_goes_on_while_another_becomes_active_sees_it_or_is_seen() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), NOW - 1), (1, owner(2, 1), IDLE)]));
        let (a, b) = both(&segment, |s| s.enter_and_look(0, 0), |s| s.enter_and_look(1, 0));
        assert!(a || b);
    });
}

/// The second thread takes its process for active because of the first, which has not looked yet.
#[test]
fn every_thread_of_a_process_sees_who_did_not_see_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE), (1, owner(2, 1), IDLE)]));
        let other = Arc::clone(&segment);
        let second = thread::spawn(move || other.enter_and_look(0, 0));
        let (first, other) = both(&segment, |s| s.enter_and_look(0, 0), |s| s.enter_and_look(1, 0));
        assert!(other || first && second.join().unwrap());
    });
}

#[test]
fn a_newcomer_and_who_becomes_active_see_each_other() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE)]));
        let (newcomer, old) = both(
            &segment,
            |s| {
                let before = s.ledger().generation();
                let index = s.claim(owner(2, 1), |_| true).unwrap();
                s.enter_and_look(index, before)
            },
            |s| s.enter_and_look(0, 0),
        );
        assert!(newcomer || old);
    });
}

/// At the end of a long region, which it entered long ago.
#[test]
fn who_leaves_a_region_is_never_seen_idle() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE), (1, owner(2, 1), IDLE)]));
        segment.slots[0].held.fetch_add(2, crate::atomics::Ordering::Relaxed);
        let (active, ()) = both(
            &segment,
            |s| s.ledger().look(Me { index: 1, fingerprint: MASK, mask: None }, NOW).all(|claim| claim.is_active()),
            |s| s.ledger().leave(0, 2, NOW),
        );
        assert!(active);
    });
}

/// The number 1 was another process's, whose slot two others are about to free.
#[test]
fn a_slot_with_a_new_owner_is_not_freed() {
    let is_alive = |found| found != owner(1, 1);
    loom::model(move || {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE)]));
        let (_, index) = both(
            &segment,
            move |s| s.ledger().reap(is_alive),
            move |s| {
                s.ledger().reap(is_alive);
                s.claim(owner(1, 2), is_alive).unwrap()
            },
        );
        assert!(segment.ledger().owns(index, owner(1, 2)));
        assert_eq!(segment.owners(), [owner(1, 2)]);
    });
}

#[test]
fn a_process_that_called_exec_gets_its_slot_again_while_others_reap() {
    let is_alive = |found| found == owner(1, 1);
    loom::model(move || {
        let segment = Arc::new(Segment::with(&[(0, owner(2, 1), IDLE), (1, owner(1, 1), IDLE)]));
        segment.slots[1].held.fetch_add(2, crate::atomics::Ordering::Relaxed);
        let (freed, index) =
            both(&segment, move |s| s.ledger().reap(is_alive), move |s| s.claim(owner(1, 1), is_alive).unwrap());
        assert_eq!((freed, index), (1, 1));
        assert_eq!(segment.owners(), [owner(1, 1)]);
        assert_eq!(segment.ledger().held(1), 0);
    });
}

/// A thread was claiming when another one called exec: its slot is taken, and the bound not raised yet.
#[test]
fn a_claim_that_an_exec_cut_off_is_made_good() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(2, 1), IDLE)]));
        segment.slots[1].owner.store(owner(1, 1).packed(), crate::atomics::Ordering::SeqCst);
        let (index, _) =
            both(&segment, |s| s.claim(owner(1, 1), |_| true).unwrap(), |s| s.ledger().free(0, owner(2, 1)));
        assert!(segment.ledger().owns(index, owner(1, 1)));
        let names = segment.slots.iter().filter(|slot| slot.owner() == Some(owner(1, 1))).count();
        assert!(names == 1 || segment.ledger().bound() == 1, "what is beyond the bound is dropped once it is below");
    });
}

#[test]
fn a_full_table_gives_the_slot_of_the_dead_to_one_alone() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(3, 1), IDLE), (1, owner(4, 1), IDLE)]));
        let is_alive = |found| found != owner(4, 1);
        let (a, b) = both(&segment, move |s| s.claim(owner(1, 1), is_alive), move |s| s.claim(owner(2, 1), is_alive));
        assert!(matches!((a, b), (Some(1), None) | (None, Some(1))));
        assert_eq!(segment.owners().len(), 2);
    });
}

#[test]
fn of_two_who_claim_a_cpu_at_once_one_learns_it() {
    loom::model(|| {
        let segment = Arc::new(Segment::with(&[(0, owner(1, 1), IDLE), (1, owner(2, 1), IDLE)]));
        let claim = |s: &Segment, index: usize| {
            s.ledger().claim_cpus(index, &CpuMask::of([5]));
            s.ledger().claims(index).any(|(_, cpu)| cpu == 5)
        };
        let (a, b) = both(&segment, move |s| claim(s, 0), move |s| claim(s, 1));
        assert!(a || b);
    });
}
