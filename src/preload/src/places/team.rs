//! Pins that are moved out of each other's way.
//!
//! A runtime pins its team where its own process has the room, and in each of sixteen workers that is the same place. So
//! what it asked for is kept, and the thread is pinned to CPUs of the same shape that no other process claims. All
//! threads of a process are moved together, so that neighbours stay neighbours ([`place::plan`]); where nothing is free
//! a thread keeps the user mask.
//!
//! * The runtime goes on believing what it asked for: that is what it hears when it asks for the mask ([`asked_by`]).
//! * LLVM's and Intel's runtimes walk over all CPUs, pinned to one after the other, to find out what they are. The thread
//!   that did so is moved when it enters a region, or when another thread of the runtime is pinned: then the walk is over.
//! * CPUs that the user named (`GOMP_CPU_AFFINITY`, `OMP_PLACES={0},{4}`, `KMP_AFFINITY=proclist=[...]`) are the user's.
//! * A thread whose mask somebody else has set is left alone from then on.

use super::{Shared, Whose, agree, bury, has_to_yield, is_being_set, with, worker};
use crate::budget;
use crate::observe;
use crate::runtimes::{self, Sets};
use crate::state::{self, PINS};
use crate::sys;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use knlfix_core::cpumask::{CpuMask, SparseMask};
use knlfix_core::ledger::Ledger;
use knlfix_core::pins::{RuntimeId, Thread, UserMask};
use knlfix_core::place::{self, Pinned, Place};
use knlfix_core::record::Event;
use knlfix_core::topology::Topology;

/// Pinned threads that are looked after. More are pinned where their runtimes want them.
const MOST: usize = 1024;

/// Threads that bring up a runtime at the same time.
const WALKERS: usize = 8;

/// A pinned thread.
#[derive(Clone, Copy)]
struct Member {
    thread: Thread,
    runtime: RuntimeId,
    user: UserMask,
    /// The fingerprint of the mask that it has from its runtime or from us.
    now: u64,
}

/// This process's pinned threads.
pub(super) struct Team {
    members: [Member; MOST],
    /// Those of `members`, in the same order.
    pinned: [MaybeUninit<Pinned>; MOST],
    /// The place that each has by now.
    has: [Place; MOST],
    /// So many of them are there.
    count: usize,
    /// Threads that may still be finding out what the CPUs are.
    walkers: [Option<Member>; WALKERS],
}

/// Whether a thread has another mask than its runtime asked for.
#[unsafe(link_section = ".data.knlfix_fork")]
static MOVED: AtomicBool = AtomicBool::new(false);
/// Whether there is a thread that may still walk.
#[unsafe(link_section = ".data.knlfix_fork")]
static WALKS: AtomicBool = AtomicBool::new(false);
/// Threads that a team has.
#[unsafe(link_section = ".data.knlfix_fork")]
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Team {
    pub(super) const fn new() -> Self {
        let member = Member { thread: Thread { key: 0, tid: 0 }, runtime: 0, user: UserMask::from_number(0), now: 0 };
        Self {
            members: [member; MOST],
            pinned: [const { MaybeUninit::zeroed() }; MOST],
            has: [Place::AsAsked; MOST],
            count: 0,
            walkers: [None; WALKERS],
        }
    }

    pub(super) fn clear(&mut self) {
        self.set_count(0);
        self.walkers = [None; WALKERS];
        MOVED.store(false, Ordering::Relaxed);
        WALKS.store(false, Ordering::Relaxed);
    }

    /// Whether a thread had to go without a place.
    fn waits(&self) -> bool {
        self.pinned().iter().any(|pinned| pinned.place == Place::Dropped)
    }

    /// Whether a thread does not have its place yet.
    fn is_unsettled(&self) -> bool {
        self.pinned().iter().zip(&self.has).any(|(pinned, &has)| pinned.place != has)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn set_count(&mut self, count: usize) {
        self.count = count;
        COUNT.store(count as u32, Ordering::Relaxed);
    }

    fn members(&self) -> &[Member] {
        self.members.get(..self.count).unwrap_or(&[])
    }

    fn pinned(&self) -> &[Pinned] {
        let there = self.pinned.get(..self.count).unwrap_or(&[]);
        // SAFETY: `note` wrote them before it counted them.
        unsafe { &*(core::ptr::from_ref(there) as *const [Pinned]) }
    }

    fn pinned_mut(&mut self) -> &mut [Pinned] {
        let there = self.pinned.get_mut(..self.count).unwrap_or(&mut []);
        // SAFETY: as above.
        unsafe { &mut *(core::ptr::from_mut(there) as *mut [Pinned]) }
    }

    /// The CPUs that its threads claim.
    pub(super) fn cpus(&self, topology: &Topology) -> CpuMask {
        CpuMask::of(
            self.pinned().iter().filter_map(|pinned| Some(topology.cpus().get(usize::from(pinned.cpu))?.number.into())),
        )
    }

    fn position(&self, thread: Thread) -> Option<usize> {
        self.members().iter().position(|member| member.thread == thread)
    }

    /// Notes what a runtime asked for. `of` is the fingerprint of the mask that the topology is of.
    fn note(&mut self, topology: &Topology, of: u64, member: Member, asked: SparseMask) {
        if PINS.mask(member.user).map(CpuMask::fingerprint) != Some(of) {
            // The user has given this thread CPUs of its own, and it may not go to others.
            return self.retain(|other| other.thread != member.thread);
        }
        let new = Pinned::new(topology, asked);
        // A libgomp whose team shrinks and grows ends threads and makes new ones: each follows one that has ended.
        let ends_here = |at: &usize| {
            let (known, pinned) = (self.members().get(*at), self.pinned().get(*at));
            known
                .zip(pinned)
                .is_some_and(|(known, pinned)| pinned.asks_the_same_as(&new) && !sys::alive(known.thread.tid))
        };
        let at = self.position(member.thread).or_else(|| (0..self.count).find(ends_here)).unwrap_or(self.count);
        if let (Some(known), Some(pinned), Some(has)) =
            (self.members.get_mut(at), self.pinned.get_mut(at), self.has.get_mut(at))
        {
            (*known, *has) = (member, Place::AsAsked);
            pinned.write(new);
            self.set_count(self.count.max(at + 1));
        }
    }

    /// Whether the thread may be the one that brings its runtime up, and so be finding out what the CPUs are.
    fn may_walk(&self, member: Member) -> bool {
        let all = self.members().iter().chain(self.walkers.iter().flatten());
        // It may have been brought down meanwhile, with all its threads.
        let is_at_work = |other: &Member| {
            other.runtime == member.runtime && other.thread != member.thread && sys::alive(other.thread.tid)
        };
        runtimes::sets(member.runtime) == Sets::PinsAfterAWalk && !all.copied().any(|other| is_at_work(&other))
    }

    fn walk(&mut self, member: Member) {
        let is_its = |walker: &&mut Option<Member>| {
            walker.is_none_or(|walker| walker.thread == member.thread || !sys::alive(walker.thread.tid))
        };
        if let Some(walker) = self.walkers.iter_mut().find(is_its) {
            *walker = Some(member);
            WALKS.store(true, Ordering::Relaxed);
        }
    }

    /// Threads that have found out all they wanted join the others, with the last mask that their runtime set; whether
    /// there are any.
    fn gather(&mut self, topology: &Topology, of: u64, has_ended: impl Fn(&Member) -> bool) -> bool {
        let mut is_any = false;
        for at in 0..WALKERS {
            let Some(walker) = self.walkers.get_mut(at) else { break };
            if let Some(member) = walker.take_if(|member| has_ended(member))
                && let Ok(mask) = sys::mask_of(member.thread.tid)
                && mask.fingerprint() == member.now
                && let Some(asked) = mask.to_sparse()
            {
                self.note(topology, of, member, asked);
                is_any = true;
            }
        }
        WALKS.store(self.walkers.iter().any(Option::is_some), Ordering::Relaxed);
        is_any
    }

    fn remove(&mut self, at: usize) {
        let Some(last) = self.count.checked_sub(1) else { return };
        self.members.swap(at, last);
        self.pinned.swap(at, last);
        self.has.swap(at, last);
        self.set_count(last);
    }

    fn retain(&mut self, keep: impl Fn(&Member) -> bool) {
        let mut at = 0;
        while let Some(member) = self.members().get(at) {
            if keep(member) {
                at += 1;
            } else {
                self.remove(at);
            }
        }
    }

    /// Forgets threads that have ended; whether there were any.
    fn bury(&mut self) -> bool {
        let before = self.count;
        self.retain(|member| sys::alive(member.thread.tid));
        self.count != before
    }
}

/// The calling thread has just been pinned by a runtime, to `asked`.
#[inline(never)]
pub(crate) fn pinned(thread: Thread, asked: &CpuMask, runtime: RuntimeId) {
    // The ballast's threads only sleep.
    let is_ours = state::config().move_pins && !budget::ballast_is_calling();
    let sets = runtimes::sets(runtime);
    if !is_ours || sets == Sets::Others || are_named() {
        return;
    }
    if worker::is_placed() {
        if sets == Sets::Pins {
            worker::keep_in_place(asked);
        }
        return;
    }
    let now = asked.fingerprint();
    let Some(user) = PINS.user_of(thread, now).and_then(|(user, _)| PINS.intern(user)) else { return };
    let member = Member { thread, runtime, user, now };
    let may_walk = with(|shared| {
        let may_walk = shared.team.may_walk(member);
        if may_walk {
            shared.team.walk(member);
        }
        may_walk
    });
    if may_walk == Some(false) {
        take_in(asked, member);
    }
}

#[inline(never)]
fn take_in(asked: &CpuMask, member: Member) {
    let (Some((ledger, index)), Some(asked)) = (budget::join(), asked.to_sparse()) else { return };
    with(|shared| {
        shared.know();
        shared.team.gather(&shared.topology, shared.of, |walker| walker.runtime == member.runtime);
        shared.team.note(&shared.topology, shared.of, member, asked);
        shared.arrange(ledger, index);
    });
}

/// A region begins on the calling thread: whatever its runtime wanted to find out it knows by now.
#[inline]
pub(crate) fn region_begins() {
    if WALKS.load(Ordering::Relaxed) {
        walk_is_over();
    }
}

#[cold]
#[inline(never)]
fn walk_is_over() {
    let errno = sys::errno();
    let thread = sys::this_thread();
    if let Some((ledger, index)) = budget::join() {
        with(|shared| {
            shared.know();
            if shared.team.gather(&shared.topology, shared.of, |walker| walker.thread == thread) {
                shared.arrange(ledger, index);
            }
        });
    }
    sys::set_errno(errno);
}

/// The runtime has lifted the calling thread's pin.
pub(crate) fn lifted(thread: Thread) {
    forget(|member| member.thread == thread);
}

/// Somebody is about to set the mask of a thread: it is none of ours any more.
pub(crate) fn forget_key(key: usize) {
    forget(|member| member.thread.key == key);
}

/// As [`forget_key`], for a thread that is known by its number.
pub(crate) fn forget_tid(tid: i32) {
    forget(|member| member.thread.tid == tid);
}

/// Whether any thread is looked after, pinned or not, or may still walk.
#[inline]
pub(super) fn is_known() -> bool {
    COUNT.load(Ordering::Relaxed) > 0 || WALKS.load(Ordering::Relaxed)
}

#[inline]
fn forget(which: impl Fn(&Member) -> bool) {
    if is_known() {
        remove(which);
    }
}

#[cold]
#[inline(never)]
fn remove(which: impl Fn(&Member) -> bool) {
    with(|shared| {
        let before = shared.team.count;
        for walker in &mut shared.team.walkers {
            walker.take_if(|walker| which(walker));
        }
        shared.team.retain(|member| !which(member));
        if shared.team.count != before
            && let Some((ledger, index)) = budget::joined()
        {
            shared.claim(ledger, index);
        }
    });
}

/// What the calling thread's runtime asked for, if its mask, of this fingerprint, is another because of us.
#[inline]
pub(crate) fn asked_by(thread: Thread, now: u64) -> Option<SparseMask> {
    if MOVED.load(Ordering::Relaxed) { find_asked(thread, now) } else { None }
}

#[cold]
#[inline(never)]
fn find_asked(thread: Thread, now: u64) -> Option<SparseMask> {
    with(|shared| {
        let at = shared.team.position(thread)?;
        let is_ours = shared.team.members.get(at).is_some_and(|member| member.now == now);
        shared.team.pinned().get(at).filter(|_| is_ours).map(|pinned| pinned.asked.clone())
    })?
}

/// Sees whether a thread that had to go without a place can have one, or has to make room.
pub(super) fn refresh(after_a_while: bool) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some((ledger, index)) = budget::joined() else { return };
    with(|shared| {
        let before = shared.team.count;
        if after_a_while {
            shared.team.bury();
        }
        if after_a_while && (shared.team.waits() || shared.team.is_unsettled())
            || has_to_yield(ledger, index, &shared.team.cpus(&shared.topology), Whose::Busy)
        {
            shared.arrange(ledger, index);
        } else if shared.team.count != before {
            shared.claim(ledger, index);
        }
    });
}

impl Shared {
    /// Chooses places, claims them, and pins threads to them.
    #[inline(never)]
    fn arrange(&mut self, ledger: Ledger<'_>, index: usize) {
        agree(ledger, index, Whose::Busy, || {
            self.plan(ledger, index, Whose::All);
            if self.team.waits() && (self.team.bury() | bury(ledger, index)) {
                self.plan(ledger, index, Whose::All);
            }
            if self.team.waits() {
                // A pool's parent that waits for its workers is no reason to leave its CPU idle.
                self.plan(ledger, index, Whose::Busy);
            }
            self.claim(ledger, index)
        });
        for at in (0..self.team.count).rev() {
            if !self.settle(at) {
                self.team.remove(at);
            }
        }
    }

    fn plan(&mut self, ledger: Ledger<'_>, index: usize, whose: Whose) {
        self.weigh(ledger, index, whose);
        let Self { topology, load, team, .. } = self;
        place::plan(topology, load, team.pinned_mut(), ledger.is_first(index));
    }

    /// Gives a thread the mask of its place. False if it has another mask than we believe: then it is none of ours.
    fn settle(&mut self, at: usize) -> bool {
        let team = &self.team;
        let (Some(member), Some(pinned), Some(&has)) =
            (team.members().get(at), team.pinned().get(at), team.has.get(at))
        else {
            return true;
        };
        let Thread { key, tid } = member.thread;
        // Who makes a child has the user mask meanwhile, and will have its pin again.
        if has == pinned.place || is_being_set() || PINS.is_widened(key) {
            return true;
        }
        let Some(user) = PINS.mask(member.user) else { return false };
        let wanted = place::mask_of(&self.topology, &pinned.asked, pinned.place);
        let (mask, is_pin) = wanted.as_ref().map_or((user, false), |mask| (mask, true));
        let (next, place) = (mask.fingerprint(), pinned.place);
        // The number of a thread that has ended may be another process's by now.
        if !sys::alive(tid) || sys::fingerprint_of(tid) != Ok(member.now) || sys::set_mask_of(tid, mask).is_err() {
            return false;
        }
        if is_pin {
            PINS.record(member.thread, member.user, member.runtime, next, sys::alive);
            log::debug!("pin: thread {tid}, moved to {mask}");
            observe::count(Event::MovedPin, observe::lowest(mask));
        } else {
            PINS.forget(key);
            log::debug!("pin: thread {tid}, all such places are taken: {mask}");
        }
        if let (Some(member), Some(has)) = (self.team.members.get_mut(at), self.team.has.get_mut(at)) {
            (member.now, *has) = (next, place);
        }
        MOVED.store(true, Ordering::Relaxed);
        true
    }
}

/// Whether the user named the CPUs to pin to.
fn are_named() -> bool {
    // A runtime that walks over the CPUs asks for each.
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    const UNKNOWN: u8 = 2;
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let named = environment_names_them();
            KNOWN.store(named.into(), Ordering::Relaxed);
            named
        }
        named => named == 1,
    }
}

fn environment_names_them() -> bool {
    let is_naming = |line: &[u8]| match () {
        () if line.starts_with(b"GOMP_CPU_AFFINITY=") => true,
        () if line.starts_with(b"OMP_PLACES=") => line.contains(&b'{'),
        () if line.starts_with(b"KMP_AFFINITY=") => line.windows(8).any(|word| word.eq_ignore_ascii_case(b"proclist")),
        () => false,
    };
    state::environment().any(is_naming)
}
