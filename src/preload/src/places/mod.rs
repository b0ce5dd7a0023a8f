//! Workers don't stack: which CPUs the processes of a domain pin threads to.
//!
//! Each process says in the ledger which CPUs it claims ([`knlfix_core::ledger`]), one for each pinned thread. Who is about
//! to choose looks at what the others claim, chooses ([`knlfix_core::place`]), says so, and looks again: of two that
//! chose the same at once, the one with the later slot chooses anew.
//!
//! * [`team`]: a runtime pins a thread where another process has one already. The pin is moved.
//! * [`worker`]: a worker starts. If the user wants it, it gets a place of its own.
//!
//! What a process knows of itself is in static memory that one thread at a time uses. A thread that can't have it for
//! [`PATIENCE`] goes without: its pin stays as its runtime made it.

mod stack;
pub(crate) mod team;
pub(crate) mod worker;

use crate::affinity::Target;
use crate::budget;
use crate::state;
use crate::sys;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use knlfix_core::cpumask::{CPUS, CpuMask};
use knlfix_core::ledger::{HiddenCpus, Ledger, Owner};
use knlfix_core::topology::Topology;

/// 100 microseconds, this often at most.
const PATIENCE: usize = 1000;
/// A choice is made so often, where others choose the same at the same time.
const TRIES: usize = 8;

/// A process that was in no region for so long does not need its CPUs.
const BUSY_MS: u32 = 1000;

/// Whose claims count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    All,
    /// Those of processes that were in a region lately, or have just come.
    Busy,
}

/// What one thread at a time uses.
struct Shared {
    /// The CPUs this process may use, once somebody wanted to know.
    topology: Topology,
    /// Of which mask that is.
    of: u64,
    /// How many other processes claim each of them.
    load: [u16; CPUS],
    team: team::Team,
    /// The CPU that this process claims as a worker that was given a place.
    worker: Option<u16>,
}

struct Cell(UnsafeCell<Shared>);

// SAFETY: it is used by the thread whose number is in `HOLDER` alone.
unsafe impl Sync for Cell {}

static SHARED: Cell = Cell(UnsafeCell::new(Shared {
    topology: Topology::new(),
    of: 0,
    load: [0; CPUS],
    team: team::Team::new(),
    worker: None,
}));

/// The thread that uses it; 0 if none does.
#[unsafe(link_section = ".data.knlfix_fork")]
static HOLDER: AtomicI32 = AtomicI32::new(0);

/// Uses what is shared, if it can be had in time.
fn with<R>(use_it: impl FnOnce(&mut Shared) -> R) -> Option<R> {
    if !hold() {
        return None;
    }
    // SAFETY: HOLDER is ours until we are done.
    let result = use_it(unsafe { &mut *SHARED.0.get() });
    HOLDER.store(0, Ordering::Release);
    Some(result)
}

#[inline(never)]
fn hold() -> bool {
    let me = sys::gettid();
    for nap in 0..PATIENCE {
        if HOLDER.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return true;
        }
        if HOLDER.load(Ordering::Relaxed) == me || nap + 1 == PATIENCE {
            // A signal handler of the thread that has it.
            break;
        }
        sys::nap();
    }
    false
}

/// In a forked child: the thread that used it may not be here, and what is pinned is the parent's.
pub(crate) fn forget_parent() {
    HOLDER.store(0, Ordering::Relaxed);
    SETTING.store(0, Ordering::Relaxed);
    stack::forget_others();
    // Who claims nothing may have threads that found no place, or a runtime that is coming up.
    if CLAIMS.load(Ordering::Relaxed) || team::is_known() {
        CLAIMS.store(false, Ordering::Relaxed);
        with(|shared| {
            shared.team.clear();
            shared.worker = None;
        });
    }
}

impl Shared {
    /// Sees to it that the topology is that of this process's CPUs; while threads are looked after, it stays.
    #[inline(never)]
    fn know(&mut self) {
        if self.team.is_empty()
            && let Some(allowed) = budget::allowed_mask()
        {
            self.know_of(&allowed);
        }
    }

    fn know_of(&mut self, allowed: &CpuMask) {
        let of = allowed.fingerprint();
        if self.of != of {
            // A fork may find it half read.
            self.of = 0;
            self.topology.read(&budget::Kernel, allowed);
            self.of = of;
        }
    }

    /// Counts who claims what.
    fn weigh(&mut self, ledger: Ledger<'_>, index: usize, whose: Whose) {
        let Self { topology, load, .. } = self;
        let count = topology.cpus().len();
        if let Some(load) = load.get_mut(..count) {
            load.fill(0);
        }
        let now = budget::now();
        let counts = |other: usize| whose == Whose::All || ledger.is_busy(other, now, BUSY_MS);
        for (_, cpu) in ledger.claims(index).filter(|&(other, _)| counts(other)) {
            if let Some(load) = topology.position(cpu).and_then(|at| load.get_mut(at)) {
                *load = load.saturating_add(1);
            }
        }
    }
}

/// Frees what processes claim that were killed and waited for; whether there are any. Whose number is in use again is
/// found out later, as that takes longer to see.
fn bury(ledger: Ledger<'_>, index: usize) -> bool {
    let claims = |other: usize| ledger.claimed_by(other).next().is_some();
    let is_gone = |&(other, owner): &(usize, Owner)| other != index && claims(other) && !sys::is_there(owner.pid());
    ledger.owners().filter(is_gone).filter(|&(other, owner)| ledger.free(other, owner)).count() > 0
}

/// Whether a process of a slot below `below` claims one of `cpus` too.
fn is_claimed(ledger: Ledger<'_>, index: usize, cpus: &CpuMask, below: usize, whose: Whose) -> bool {
    let now = budget::now();
    let counts = |other: usize| other < below && (whose == Whose::All || ledger.is_busy(other, now, BUSY_MS));
    ledger.claims(index).any(|(other, cpu)| cpus.contains(cpu) && counts(other))
}

/// Whether this process, which has settled on `cpus`, has to choose anew.
fn has_to_yield(ledger: Ledger<'_>, index: usize, cpus: &CpuMask, whose: Whose) -> bool {
    !ledger.is_first(index) && is_claimed(ledger, index, cpus, index, whose)
}

/// Chooses by `choose`, which claims what it chose and says what that is, until nobody else claims the same. After some
/// tries the one with the earlier slot stays, and the other is told to look again.
fn agree(ledger: Ledger<'_>, index: usize, whose: Whose, mut choose: impl FnMut() -> CpuMask) {
    for attempt in 1..=TRIES {
        let cpus = choose();
        if !is_claimed(ledger, index, &cpus, usize::MAX, whose) {
            return;
        }
        if ledger.is_first(index)
            || attempt == TRIES
            || attempt > TRIES / 2 && !has_to_yield(ledger, index, &cpus, whose)
        {
            ledger.signal();
            return;
        }
    }
}

/// Whether this process claims any CPU.
#[unsafe(link_section = ".data.knlfix_fork")]
static CLAIMS: AtomicBool = AtomicBool::new(false);

impl Shared {
    /// Says in the ledger what this process claims, and returns it.
    #[inline(never)]
    fn claim(&self, ledger: Ledger<'_>, index: usize) -> CpuMask {
        let mut cpus = self.team.cpus(&self.topology);
        if let Some(cpu) = self.worker {
            cpus.insert(cpu.into());
        }
        let claims = !cpus.is_empty();
        if claims || CLAIMS.load(Ordering::Relaxed) {
            CLAIMS.store(claims, Ordering::Relaxed);
            ledger.claim_cpus(index, &cpus);
        }
        cpus
    }
}

/// For the length of an exec this process claims nothing, as the new program may never look at the ledger. If the exec
/// fails, everything is as before.
pub(crate) struct Leaving(Option<HiddenCpus>);

impl Leaving {
    pub(crate) fn for_exec() -> Self {
        let claims = CLAIMS.load(Ordering::Relaxed) && state::is_owner();
        let joined = if claims { budget::joined() } else { None };
        Self(joined.map(|(ledger, index)| ledger.hide_cpus(index)))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(hidden) = self.0.take()
            && let Some((ledger, index)) = budget::joined()
        {
            ledger.show_cpus(index, hidden);
        }
    }
}

/// So many threads are setting masks that are the user's.
#[unsafe(link_section = ".data.knlfix_fork")]
static SETTING: AtomicU32 = AtomicU32::new(0);

/// Whether somebody who is no runtime is setting a mask just now, perhaps of a thread that is looked after here.
fn is_being_set() -> bool {
    SETTING.load(Ordering::SeqCst) > 0
}

/// While this lives, no mask is set here.
pub(crate) struct Still(bool);

impl Still {
    pub(crate) fn begin() -> Self {
        let is_needed = team::is_known() || worker::is_placed();
        if is_needed {
            SETTING.fetch_add(1, Ordering::SeqCst);
            // Who is at it ends first.
            with(|_| ());
        }
        Self(is_needed)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if self.0 {
            SETTING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Somebody who is no runtime has set a thread's mask: it is none of ours any more.
pub(crate) fn let_go(target: Target) {
    match target {
        Target::Myself => {
            team::forget_key(sys::thread_key());
            worker::give_up(sys::gettid());
        }
        Target::Key(key) => {
            team::forget_key(key);
            worker::give_up_by_key(key);
        }
        Target::Tid(tid) => {
            team::forget_tid(tid);
            worker::give_up(tid);
        }
    }
}

/// A process that is at work has looked at the ledger, after some while or soon: sees whether it has to make room for
/// neighbours, or can have the room of one that has gone.
pub(crate) fn refresh(after_a_while: bool) {
    team::refresh(after_a_while);
    if after_a_while {
        worker::refresh();
    }
}
