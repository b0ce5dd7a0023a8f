//! The ledger against a model that remembers everything, on segments that hold anything, and at its edges.

#[path = "ledger_common/anything.rs"]
mod anything;
mod ledger_common;

use anything::{OURS, live_on};
use knlfix_core::cpumask::{CpuMask, SparseMask};
use knlfix_core::ledger::{CAPACITY, Ledger, Me, Owner, layout};
use knlfix_core::share::{Claim, LATELY_MS, WHOLE};
use ledger_common::Segment;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn owner(pid: i32, started: u64) -> Owner {
    Owner::new(pid, started).unwrap()
}

fn claim(ledger: Ledger<'_>, owner: Owner) -> Option<usize> {
    ledger.claim(owner, 1, None, 1000, |_| true, |_| true)
}

fn look(ledger: Ledger<'_>, index: usize, now: u32) -> Vec<Claim> {
    ledger.look(Me { index, fingerprint: 1, mask: None }, now).collect()
}

// ---- A model that remembers everything -------------------------------------------------------------------------

const PROCESSES: usize = 6;
const LATELY: u64 = LATELY_MS as u64;
/// The allowed masks that processes have here, by their CPUs: they overlap in part.
const MASKS: [&[u8]; 4] = [&[0xff], &[0x0f], &[0xf0, 0xff], &[0, 0, 1]];
/// What they may pin threads to.
const CPUS: [&[usize]; 4] = [&[], &[3], &[0, 1, 64, 1055], &[200, 8191]];

#[derive(Clone, Debug)]
enum Event {
    /// Takes a slot. A process that has one called exec.
    Claim(usize),
    Enter(usize, u32, u32),
    Leave(usize),
    /// Looks at the ledger between entering a region and running it, and runs it on so many threads less.
    Shrink(usize, u32),
    ChangeMask(usize, usize),
    /// Pins threads to the CPUs of such a mask.
    ClaimCpus(usize, usize),
    Exit(usize),
    /// Killed, and the number is another process's from then on.
    Kill(usize),
    /// Killed after it took a slot and before anything else.
    KillInClaim(usize),
    /// Killed after its slot was free and before the bound was lowered.
    KillInExit(usize),
    Reap,
    Wait(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    use Event::*;
    let process = 0..PROCESSES;
    let one = prop_oneof![
        4 => process.clone().prop_map(Claim),
        6 => (process.clone(), 1..9_u32, 0..9_u32).prop_map(|(p, threads, more)| Enter(p, threads, threads + more)),
        4 => process.clone().prop_map(Leave),
        1 => (process.clone(), 0..9_u32).prop_map(|(p, less)| Shrink(p, less)),
        1 => (process.clone(), 0..MASKS.len()).prop_map(|(p, mask)| ChangeMask(p, mask)),
        2 => (process.clone(), 0..CPUS.len()).prop_map(|(p, cpus)| ClaimCpus(p, cpus)),
        1 => process.clone().prop_map(Exit),
        1 => process.clone().prop_map(Kill),
        1 => process.clone().prop_map(KillInClaim),
        1 => process.prop_map(KillInExit),
        1 => Just(Reap),
        4 => prop_oneof![0..4_u32, 8..30_u32, Just(30 * 24 * 3600 * 1000)].prop_map(Wait),
    ];
    prop::collection::vec(one, 0..80)
}

#[derive(Clone, Debug, Default)]
struct Life {
    mask: usize,
    slot: Option<usize>,
    regions: Vec<u32>,
    ask: u32,
    seen: u64,
    cpus: usize,
}

/// What is written in a slot: by whom, and what. Dead owners stay until they are reaped.
#[derive(Clone, Debug)]
struct Line {
    owner: Owner,
    life: Life,
    /// Its owner died while it claimed: what else is in it is from somebody before.
    is_half_taken: bool,
}

struct World {
    segment: Segment,
    /// Milliseconds; the ledger has the lower half.
    now: u64,
    lines: BTreeMap<usize, Line>,
    lives: [Life; PROCESSES],
    births: [u64; PROCESSES],
}

impl World {
    fn new() -> Self {
        let segment = Segment::zeroed();
        segment.ledger().create();
        assert!(segment.ledger().is_valid());
        // The clock wraps in the course of it.
        Self {
            segment,
            now: u64::from(u32::MAX) - 40,
            lines: BTreeMap::new(),
            lives: Default::default(),
            births: [1; PROCESSES],
        }
    }

    fn owner(&self, p: usize) -> Owner {
        owner(p as i32 + 1, self.births[p])
    }

    fn first_free(&self) -> usize {
        (0..).find(|index| !self.lines.contains_key(index)).unwrap()
    }

    /// Where the bound is when it was lowered just now.
    fn lowest_bound(&self) -> usize {
        self.lines.keys().last().map_or(0, |last| last + 1)
    }

    fn idle(&self, seen: u64) -> u64 {
        self.now - seen
    }

    /// The process dies; whoever comes after it with its number is another one.
    fn bury(&mut self, p: usize) {
        self.lives[p] = Life { mask: self.lives[p].mask, ..Life::default() };
        self.births[p] += 1;
    }

    /// What the model has of a process's line, after the process changed it.
    fn note(&mut self, p: usize) {
        if let Some(slot) = self.lives[p].slot {
            self.lines.insert(slot, Line { owner: self.owner(p), life: self.lives[p].clone(), is_half_taken: false });
        }
    }

    fn write_owner(&mut self, slot: usize, word: u64) {
        let [range, ..] = layout::needed_by(slot);
        self.segment.write(range, &word.to_le_bytes());
    }

    fn happen(&mut self, event: Event) {
        let now = self.now as u32;
        match event {
            Event::Claim(p) => {
                let expected = self.lives[p].slot.unwrap_or_else(|| self.first_free());
                let mask = SparseMask::from_bytes(MASKS[self.lives[p].mask]).unwrap();
                let ledger = self.segment.ledger();
                let is_alive = |_| panic!("nobody is judged while there is room");
                let got = ledger.claim(self.owner(p), mask.fingerprint(), Some(&mask), now, |_| true, is_alive);
                assert_eq!(got, Some(expected));
                let seen = self.now - LATELY - 1;
                self.lives[p] = Life { mask: self.lives[p].mask, slot: got, seen, ..Life::default() };
                self.note(p);
            }
            Event::Enter(p, threads, ask) => {
                let Some(slot) = self.lives[p].slot else { return };
                let was_idle = self.lives[p].regions.is_empty() && self.idle(self.lives[p].seen) > LATELY / 2;
                let generation = self.segment.ledger().generation();
                assert_eq!(self.segment.ledger().enter(slot, threads, ask, now), was_idle);
                assert_eq!(self.segment.ledger().generation() != generation, was_idle, "the others are told");
                self.lives[p].regions.push(threads);
                self.lives[p].ask = ask;
                self.lives[p].seen = self.now;
                self.note(p);
            }
            Event::Leave(p) => {
                let Some(slot) = self.lives[p].slot else { return };
                let Some(threads) = self.lives[p].regions.pop() else { return };
                self.segment.ledger().leave(slot, threads, now);
                self.lives[p].seen = self.now;
                self.note(p);
            }
            Event::Shrink(p, less) => {
                let Some(slot) = self.lives[p].slot else { return };
                let Some(threads) = self.lives[p].regions.last_mut() else { return };
                let left = threads.saturating_sub(less).max(1);
                self.segment.ledger().shrink(slot, *threads, left);
                *threads = left;
                self.note(p);
            }
            Event::ChangeMask(p, mask) => {
                self.lives[p].mask = mask;
                let Some(slot) = self.lives[p].slot else { return };
                let mask = SparseMask::from_bytes(MASKS[mask]).unwrap();
                self.segment.ledger().set_mask(slot, mask.fingerprint(), Some(&mask));
                self.note(p);
            }
            Event::ClaimCpus(p, cpus) => {
                let Some(slot) = self.lives[p].slot else { return };
                self.lives[p].cpus = cpus;
                self.segment.ledger().claim_cpus(slot, &CpuMask::of(CPUS[cpus].iter().copied()));
                self.note(p);
            }
            Event::Exit(p) => {
                let Some(slot) = self.lives[p].slot else { return };
                assert!(self.segment.ledger().free(slot, self.owner(p)));
                assert!(!self.segment.ledger().free(slot, self.owner(p)), "once only");
                self.lines.remove(&slot);
                assert_eq!(self.segment.ledger().bound(), self.lowest_bound());
                self.bury(p);
            }
            Event::Kill(p) => self.bury(p),
            Event::KillInClaim(p) => {
                if self.lives[p].slot.is_some() {
                    return;
                }
                let slot = self.first_free();
                // Above the bound nobody ever sees it, until somebody passes it by.
                if slot < self.segment.ledger().bound() {
                    let life = self.lives[p].clone();
                    self.lines.insert(slot, Line { owner: self.owner(p), life, is_half_taken: true });
                    self.write_owner(slot, (self.births[p] << 22) | (p as u64 + 1));
                    self.bury(p);
                }
            }
            Event::KillInExit(p) => {
                let Some(slot) = self.lives[p].slot else { return };
                self.write_owner(slot, 0);
                self.lines.remove(&slot);
                self.bury(p);
            }
            Event::Reap => self.reap(),
            Event::Wait(ms) => self.now += u64::from(ms),
        }
    }

    fn is_alive(&self) -> impl Fn(Owner) -> bool + use<> {
        let births = self.births;
        move |owner| births[owner.pid() as usize - 1] == owner.started()
    }

    fn reap(&mut self) {
        let is_alive = self.is_alive();
        let dead = self.lines.values().filter(|line| !is_alive(line.owner)).count();
        assert_eq!(self.segment.ledger().reap(&is_alive), dead);
        self.lines.retain(|_, line| is_alive(line.owner));
        assert_eq!(self.segment.ledger().bound(), self.lowest_bound());
    }

    fn check(&self) {
        let ledger = self.segment.ledger();
        let owners = self.lines.iter().map(|(&slot, line)| (slot, line.owner));
        assert_eq!(ledger.owners().collect::<BTreeMap<_, _>>(), owners.collect::<BTreeMap<_, _>>());
        for (&slot, line) in self.lines.iter().filter(|(_, line)| !line.is_half_taken) {
            let cpus = CPUS[line.life.cpus].iter().copied();
            assert!(ledger.claimed_by(slot).eq(cpus.clone()));
            let of_others = |other: usize| ledger.claims(other).filter(|&(index, _)| index == slot).map(|(_, cpu)| cpu);
            assert!(of_others(slot).next().is_none() && of_others(CAPACITY).eq(cpus));
            assert_eq!(ledger.is_first(slot), self.lines.keys().next() == Some(&slot));
        }
        for (&slot, line) in &self.lines {
            let mask = SparseMask::from_bytes(MASKS[line.life.mask]).unwrap();
            let me = Me { index: slot, fingerprint: mask.fingerprint(), mask: Some(&mask) };
            let others = self.lines.iter().filter(|&(&other, _)| other != slot);
            let claims = ledger.look(me, self.now as u32).collect::<Vec<_>>();
            assert_eq!(claims.len(), others.clone().count());
            for (claim, (&other, theirs)) in claims.iter().zip(others) {
                if !theirs.is_half_taken && !line.is_half_taken {
                    self.check_claim(claim, &theirs.life, &line.life, other < slot);
                }
            }
        }
    }

    fn check_claim(&self, claim: &Claim, theirs: &Life, mine: &Life, is_before: bool) {
        let held = theirs.regions.iter().sum::<u32>();
        let is_active = held > 0 || self.idle(theirs.seen) <= LATELY;
        assert_eq!((claim.held, claim.in_region, claim.is_before_us), (held, held > 0, is_before));
        assert_eq!(claim.ask, theirs.ask);
        assert_eq!(claim.idle_ms <= LATELY_MS, self.idle(theirs.seen) <= LATELY);
        let of = |mask: usize| {
            u32::from_le_bytes(*MASKS[mask].iter().chain(&[0; 4]).copied().collect::<Vec<_>>().first_chunk().unwrap())
        };
        let (them, us) = (of(theirs.mask), of(mine.mask));
        let weight = (them & us).count_ones() * u32::from(WHOLE) / them.count_ones();
        assert_eq!(u32::from(claim.weight), if is_active { weight } else { u32::from(WHOLE) });
    }
}

proptest! {
    #[test]
    fn agrees_with_a_model_that_remembers_everything(events in events()) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            world.check();
        }
        for p in 0..PROCESSES {
            world.bury(p);
        }
        world.reap();
        let ledger = world.segment.ledger();
        prop_assert_eq!((ledger.bound(), ledger.owners().count()), (0, 0));
        for n in 0..PROCESSES {
            prop_assert_eq!(claim(ledger, owner(n as i32 + 1, 99)), Some(n));
        }
    }

    /// Words that mean something are more likely than chance would have them.
    #[test]
    fn lives_on_a_segment_that_holds_anything(
        words in prop::collection::vec(
            prop_oneof![
                any::<u64>(),
                Just(0),
                Just(u64::MAX),
                Just(u64::MAX >> 32),
                (0..9_u64, 0..5000_u64).prop_map(|(started, pid)| started << 22 | pid),
                (1..9_u64).prop_map(|started| started << 22), // a time without a number is nobody's
                Just(OURS),
                (0..5000_u64, 0..5000_u64).prop_map(|(high, low)| high << 32 | low),
            ],
            0..600,
        ),
    ) {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        live_on(&mut Segment::zeroed(), &bytes);
    }
}

// ---- Edges -----------------------------------------------------------------------------------------------------

#[test]
fn a_full_table_has_room_again_when_somebody_has_died() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    for n in 0..CAPACITY {
        assert_eq!(claim(ledger, owner(n as i32 + 1, 1)), Some(n));
    }
    let late = owner(9999, 1);
    assert_eq!(claim(ledger, late), None);
    assert_eq!(ledger.owners().count(), CAPACITY, "nobody lost anything");
    let got = ledger.claim(late, 1, None, 1000, |_| true, |owner| owner.pid() != 100);
    assert_eq!(got, Some(99));
    assert_eq!(ledger.reap(|_| false), CAPACITY);
    assert_eq!(ledger.bound(), 0);
}

#[test]
fn without_room_for_another_slot_the_dead_make_room() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    let claim = |owner: Owner| ledger.claim(owner, 1, None, 1000, |index| index < 2, |owner| owner.pid() != 1);
    assert_eq!(claim(owner(1, 1)), Some(0));
    assert_eq!(claim(owner(2, 1)), Some(1));
    assert_eq!(claim(owner(3, 1)), Some(0), "of process 1");
    assert_eq!(claim(owner(4, 1)), None);
    assert_eq!(ledger.bound(), 2, "nothing above it was touched");
}

#[test]
fn what_a_process_held_before_an_exec_is_gone() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    let (a, b) = (owner(1, 1), owner(2, 1));
    assert_eq!((claim(ledger, a), claim(ledger, b)), (Some(0), Some(1)));
    ledger.enter(1, 8, 8, 1000);
    assert!(look(ledger, 0, 1000)[0].in_region);
    assert_eq!(claim(ledger, b), Some(1));
    assert!(!look(ledger, 0, 1000)[0].is_active());
}

/// Another thread of the process was claiming when it called exec, and had taken slot 2.
#[test]
fn a_slot_of_ours_that_nobody_knows_is_dropped() {
    let mut segment = Segment::zeroed();
    let ours = owner(1, 1);
    claim(segment.ledger(), owner(2, 1));
    let [range, ..] = layout::needed_by(2);
    segment.write(range, &(1_u64 << 22 | 1).to_le_bytes());
    let ledger = segment.ledger();
    assert_eq!(claim(ledger, ours), Some(1));
    assert_eq!(claim(ledger, owner(3, 1)), Some(3));
    assert_eq!(look(ledger, 1, 1000).len(), 2, "2 and 3");
    assert_eq!(ledger.owners().map(|(index, _)| index).collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn a_number_that_was_given_out_again_is_another_process() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    assert_eq!(claim(ledger, owner(1, 1)), Some(0));
    ledger.enter(0, 8, 8, 1000);
    assert_eq!(claim(ledger, owner(1, 2)), Some(1));
    assert!(!ledger.free(0, owner(1, 2)), "not its slot");
    assert_eq!(ledger.reap(|found| found == owner(1, 2)), 1);
    assert_eq!(ledger.owners().collect::<Vec<_>>(), [(1, owner(1, 2))]);
}

#[test]
fn who_is_silent_for_weeks_is_not_active_again() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    assert_eq!((claim(ledger, owner(1, 1)), claim(ledger, owner(2, 1))), (Some(0), Some(1)));
    ledger.enter(1, 2, 2, 1000);
    ledger.leave(1, 2, 1000);
    for days in [1, 24, 25, 30, 49] {
        let now = 1000 + days * 24 * 3600 * 1000;
        assert!(!look(ledger, 0, now)[0].is_active(), "after {days} days");
    }
    assert!(look(ledger, 0, 990)[0].is_active(), "a clock that was read a moment before");
}

#[test]
fn who_holds_threads_is_suspected_first() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    for pid in 1..=4 {
        claim(ledger, owner(pid, 1));
    }
    ledger.enter(3, 2, 2, 1000);
    assert_eq!(ledger.suspect(0, 1, 1049, 50), Some((1, owner(2, 1))), "3 was heard of");
    assert_eq!(ledger.suspect(0, 1, 1050, 50), Some((3, owner(4, 1))));
    ledger.leave(3, 2, 1050);
    assert_eq!(ledger.suspect(0, 2, 1060, 50), Some((2, owner(3, 1))));
    assert_eq!(ledger.suspect(0, 4, 1060, 50), Some((1, owner(2, 1))), "round again");
}

#[test]
fn a_word_that_is_no_owners_is_a_free_slot() {
    let mut segment = Segment::zeroed();
    let [range, ..] = layout::needed_by(0);
    segment.write(range, &(5_u64 << 22).to_le_bytes());
    assert_eq!(claim(segment.ledger(), owner(1, 1)), Some(0));
}

#[test]
fn owners_are_numbers_and_times() {
    for pid in [0, -1, i32::MIN, 1 << 22] {
        assert_eq!(Owner::new(pid, 1), None);
    }
    for (pid, started) in [(1, 0), ((1 << 22) - 1, (1 << 42) - 1)] {
        assert_eq!((owner(pid, started).pid(), owner(pid, started).started()), (pid, started));
    }
}

#[test]
fn only_a_whole_ledger_is_valid() {
    let mut segment = Segment::zeroed();
    assert!(!segment.ledger().is_valid());
    segment.ledger().create();
    assert!(segment.ledger().is_valid());
    // Another version of the layout, in the last byte.
    segment.write(7..8, &[99]);
    assert!(!segment.ledger().is_valid());
}

/// Two processes find an unfinished ledger at once; one has claimed before the other makes it.
#[test]
fn making_a_ledger_twice_loses_nothing() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    ledger.create();
    claim(ledger, owner(1, 1));
    ledger.create();
    assert_eq!((ledger.bound(), ledger.owners().count()), (1, 1));
}

// ---- Onlookers -------------------------------------------------------------------------------------------------

#[test]
fn an_onlooker_reads_what_the_owner_wrote() {
    let segment = Segment::zeroed();
    let ledger = segment.ledger();
    let mask = CpuMask::of([0, 1, 64, 8191]);
    let index = ledger.claim(owner(7, 1), mask.fingerprint(), mask.to_sparse().as_ref(), 1000, |_| true, |_| true);
    let line = |now| ledger.line(index.unwrap(), now).unwrap();
    let before = line(1000);
    assert_eq!((before.held, before.ask, before.told), (0, 0, None));
    assert!(before.idle_ms > LATELY_MS);
    ledger.tell(0, 2);
    ledger.enter(0, 3, 4, 2000);
    let inside = line(2005);
    assert_eq!((inside.held, inside.ask, inside.told, inside.idle_ms), (3, 4, Some(2), 5));
    assert_eq!((ledger.allowed(0), inside.fingerprint), (mask.clone(), mask.fingerprint()));
    ledger.tell(0, u32::MAX);
    ledger.set_mask(0, 1, None);
    assert_eq!((line(2005).told, ledger.allowed(0)), (None, CpuMask::EMPTY));
    assert!(ledger.line(CAPACITY, 0).is_none() && ledger.allowed(CAPACITY).is_empty());
}

#[test]
fn an_onlooker_sees_garbage_cut_to_size() {
    let mut segment = Segment::zeroed();
    segment.write(0..layout::SIZE, &vec![0xff; layout::SIZE]);
    let line = segment.ledger().line(5, 1000).unwrap();
    assert_eq!((line.held, line.ask, line.told), (1 << 16, 1 << 16, None));
    // All words of the cell are at the last place.
    assert_eq!(segment.ledger().allowed(5), CpuMask::of((255 * 64..256 * 64).filter(|&cpu| cpu < 8192)));
}

#[test]
fn the_bytes_of_all_slots_in_use_are_those_of_each() {
    for (all, each) in layout::used_by(3).into_iter().zip(0..3) {
        let slots = (0..3).map(|index| layout::needed_by(index)[each].clone());
        assert_eq!(all.collect::<Vec<_>>(), slots.flatten().collect::<Vec<_>>());
    }
    assert_eq!(layout::used_by(CAPACITY)[2].end, layout::SIZE);
}
