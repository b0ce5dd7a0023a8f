//! The runtimes that were seen at work: what a forked child must know without asking the loader, and how to ask each
//! whether a parallel region runs.

use crate::dso::Dso;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use knlfix_core::pins::RuntimeId;

/// By number, from 1.
static KNOWN: [Known; 32] = [const { Known::none() }; 32];

struct Known {
    /// The object's dynamic section; 0 where there is none yet.
    dynamic: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    /// The address of its `omp_in_parallel`, or 0.
    in_parallel: AtomicUsize,
    /// Whether any thread may ask it; LLVM's takes a thread that asks for a new one of its own, and pins it.
    any_thread_may_ask: AtomicBool,
    /// Whether it exports an OpenMP runtime's entry points.
    has_teams: AtomicBool,
}

impl Known {
    const fn none() -> Self {
        Self {
            dynamic: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            in_parallel: AtomicUsize::new(0),
            any_thread_may_ask: AtomicBool::new(false),
            has_teams: AtomicBool::new(false),
        }
    }

    /// Whether this entry is `dso`'s, taking it if it is free.
    fn holds(&self, dso: &Dso) -> bool {
        let found = self.dynamic.load(Ordering::Acquire);
        if found == dso.dynamic {
            return true;
        }
        if found != 0 || self.dynamic.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        if let Some(object) = &dso.object {
            let is_llvm = object.defines(c"__kmpc_fork_call");
            self.any_thread_may_ask.store(!is_llvm, Ordering::Relaxed);
            self.has_teams.store(is_llvm || object.defines(c"GOMP_parallel"), Ordering::Relaxed);
            let in_parallel = object.function(c"omp_in_parallel", true).unwrap_or(0);
            self.in_parallel.store(in_parallel, Ordering::Release);
        }
        self.start.store(dso.start, Ordering::Release);
        self.end.store(dso.end, Ordering::Release);
        true
    }

    fn spans(&self, address: usize) -> bool {
        (self.start.load(Ordering::Acquire)..self.end.load(Ordering::Acquire)).contains(&address)
    }

    fn in_parallel(&self) -> bool {
        let address = self.in_parallel.load(Ordering::Acquire);
        if address == 0 || !self.is_still_loaded(address) {
            return false;
        }
        // SAFETY: `int omp_in_parallel(void)` of an object that is still there.
        let ask = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn() -> c_int>(address) };
        // SAFETY: `in_parallel_region` asks it only on threads that may.
        unsafe { ask() != 0 }
    }

    fn is_still_loaded(&self, address: usize) -> bool {
        // Without the loader's word (an old libc, after a fork) it is better not to ask the runtime either.
        let asks_there = |dso: &Dso| dso.object.as_ref().and_then(|object| object.function(c"omp_in_parallel", true));
        Dso::around(address).is_some_and(|dso| asks_there(&dso) == Some(address))
    }
}

/// The number of `dso`, giving it one if it has none; 0 when there are too many.
pub(crate) fn number_of(dso: &Dso) -> RuntimeId {
    KNOWN.iter().zip(1..).find_map(|(known, id)| known.holds(dso).then_some(id)).unwrap_or(0)
}

/// The number of the runtime that was seen around `address`.
pub(crate) fn number_around(address: usize) -> Option<RuntimeId> {
    KNOWN.iter().zip(1..).find_map(|(known, id)| known.spans(address).then_some(id))
}

/// Whether `dso` was seen at work.
pub(crate) fn knows(dso: &Dso) -> bool {
    KNOWN.iter().any(|known| known.dynamic.load(Ordering::Acquire) == dso.dynamic)
}

/// What a runtime sets masks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sets {
    /// To pin its team: libgomp.
    Pins,
    /// To pin its team, after one of its threads has been on every CPU to find out what they are: LLVM's and Intel's.
    PinsAfterAWalk,
    /// To find out what the CPUs are (MKL), or nobody knows.
    Others,
}

/// What this runtime sets masks for.
pub(crate) fn sets(runtime: RuntimeId) -> Sets {
    let known = usize::from(runtime).checked_sub(1).and_then(|at| KNOWN.get(at));
    match known {
        Some(known) if !known.has_teams.load(Ordering::Acquire) => Sets::Others,
        Some(known) if known.any_thread_may_ask.load(Ordering::Acquire) => Sets::Pins,
        Some(_) => Sets::PinsAfterAWalk,
        None => Sets::Others,
    }
}

/// Whether the calling thread, pinned by `runtime`, is inside a parallel region.
pub(crate) fn in_parallel_region(runtime: RuntimeId) -> bool {
    KNOWN
        .iter()
        .zip(1..)
        .filter(|(known, id)| *id == runtime || known.any_thread_may_ask.load(Ordering::Acquire))
        .any(|(known, _)| known.in_parallel())
}
