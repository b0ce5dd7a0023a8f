//! Who calls: the object that a hook's return address lies in, and what kind of object that is.
//!
//! A threading runtime is known by what it exports, not by its file's name: wheels rename theirs. The names in
//! [`RUNTIME_EXPORTS`] are entry points that programs link to, so a runtime can't do without them.
//!
//! A program (or a library) may also have a runtime linked into it statically. Then its own code and the runtime's call
//! from the same object, and the object exports nothing. It is known by the names of the environment variables that the
//! runtime reads, which are in its read-only data, and the two are told apart by how each sets masks: LLVM's and Intel's
//! runtime only through `syscall()`; libgomp with `pthread_setaffinity_np()` from one place, first when it is loaded,
//! and only if the environment asks for pins. Any other call from such an object is the user's.

use crate::dso::Dso;
use crate::runtimes;
use crate::site::{Call, Site};
use crate::state;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use knlfix_core::pins::RuntimeId;
use knlfix_core::text::Text;

/// What kind of object calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An OpenMP runtime, TBB, MKL: sets masks, and saves and restores the real one.
    Runtime(RuntimeId),
    /// OpenBLAS: a mask it sets is a pin, but it asks for one only to count CPUs.
    Counter,
    /// hwloc: moves the thread over all CPUs while it looks at them, and back. Neither makes nor breaks a pin.
    Neutral,
    /// Anybody else.
    User,
}

/// The caller of a hook.
pub(crate) struct Caller {
    pub(crate) kind: Kind,
    /// The object's file name, for the log.
    pub(crate) name: Text<64>,
}

/// Entry points of the runtimes whose pins we undo.
const RUNTIME_EXPORTS: [&CStr; 3] = [c"GOMP_parallel", c"__kmpc_fork_call", c"TBB_runtime_interface_version"];
/// OpenBLAS, as Debian, numpy's wheels, scipy's wheels and conda name it.
const COUNTER_EXPORTS: [&CStr; 5] = [
    c"openblas_get_config",
    c"openblas_get_config64_",
    c"openblas_get_config_64",
    c"scipy_openblas_get_config",
    c"scipy_openblas_get_config64_",
];
/// hwloc by itself, and the copy inside Open MPI 4.
const NEUTRAL_EXPORTS: [&CStr; 2] = [c"hwloc_topology_init", c"opal_hwloc201_hwloc_topology_init"];

/// Who called from `site`, to set a mask.
pub(crate) fn who_sets(site: Site) -> Caller {
    who(site, true)
}

/// Who called from `site`, to ask for a mask.
pub(crate) fn who_asks(site: Site) -> Caller {
    who(site, false)
}

fn who(site: Site, sets: bool) -> Caller {
    let Some((dso, address)) = site.caller() else {
        let kind = runtimes::number_around(site.address()).map_or(Kind::User, Kind::Runtime);
        return Caller { kind, name: Text::from_bytes(b"unknown code") };
    };
    let kind = match state::config().runtimes.verdict(dso.name.as_bytes()) {
        Some(true) => Kind::Runtime(runtimes::number_of(&dso)),
        Some(false) => Kind::User,
        None => kind(&dso, site.call, address, sets),
    };
    Caller { kind, name: dso.name }
}

fn kind(dso: &Dso, call: Call, address: usize, sets: bool) -> Kind {
    let Some(object) = &dso.object else { return Kind::User };
    let exports = |names: &[&CStr]| names.iter().any(|name| object.defines(name));
    // libmkl_gnu_thread sets masks too, while it counts cores. Its names differ from layer to layer and year to year.
    let is_mkl = || dso.name.as_bytes().starts_with(b"libmkl_");
    let is_embedded = || {
        if sets {
            embedded_runtime_sets(dso, call, address)
        } else {
            runtimes::knows(dso) && embedded(dso).has(Embedded::LLVM)
        }
    };
    if !dso.is_program && (exports(&RUNTIME_EXPORTS) || is_mkl()) {
        Kind::Runtime(runtimes::number_of(dso))
    } else if exports(&NEUTRAL_EXPORTS) {
        Kind::Neutral
    } else if exports(&COUNTER_EXPORTS) {
        Kind::Counter
    } else if is_embedded() {
        Kind::Runtime(runtimes::number_of(dso))
    } else {
        Kind::User
    }
}

fn embedded_runtime_sets(dso: &Dso, call: Call, address: usize) -> bool {
    static GOMP_SETS_AT: AtomicUsize = AtomicUsize::new(0);
    match call {
        Call::Syscall => embedded(dso).has(Embedded::LLVM),
        Call::PthreadSetaffinity if gomp_is_asked_to_pin() && embedded(dso).has(Embedded::GOMP) => {
            match GOMP_SETS_AT.compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => true,
                Err(first) => first == address,
            }
        }
        _ => false,
    }
}

fn embedded(dso: &Dso) -> Embedded {
    for (cached, state) in &SCANNED {
        let found = cached.load(Ordering::Acquire);
        if found == dso.dynamic {
            match state.load(Ordering::Acquire) {
                0 => break,
                known => return Embedded(known),
            }
        }
        if found == 0 && cached.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let result = scan(dso);
            state.store(result.0, Ordering::Release);
            return result;
        }
    }
    scan(dso)
}

/// Looks for a static runtime's variable names in what the object has mapped read-only.
fn scan(dso: &Dso) -> Embedded {
    let mut found = Embedded::SEEN;
    let constants = dso.segments().filter(|(flags, _)| flags & (libc::PF_W | libc::PF_X) == 0);
    for (_, bytes) in constants {
        let has = |text: &[u8]| {
            // SAFETY: both ranges are mapped and readable.
            !unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), text.as_ptr().cast(), text.len()) }.is_null()
        };
        if has(b"GOMP_CPU_AFFINITY") && has(b"GOMP_SPINCOUNT") {
            found |= Embedded::GOMP;
        }
        if has(b"__KMP_REGISTERED_LIB_") && has(b"KMP_AFFINITY") {
            found |= Embedded::LLVM;
        }
    }
    Embedded(found)
}

/// Whether the environment makes libgomp pin. As libgomp reads it: places alone pin, unless binding is turned off.
fn gomp_is_asked_to_pin() -> bool {
    let value = |name: &[u8]| state::environment().find_map(|line| line.strip_prefix(name)?.strip_prefix(b"="));
    match value(b"OMP_PROC_BIND") {
        Some(bind) => !bind.trim_ascii().eq_ignore_ascii_case(b"false"),
        None => value(b"OMP_PLACES").or_else(|| value(b"GOMP_CPU_AFFINITY")).is_some(),
    }
}

/// Which static runtimes an object holds.
#[derive(Clone, Copy)]
struct Embedded(u32);

impl Embedded {
    const SEEN: u32 = 1;
    const GOMP: u32 = 2;
    const LLVM: u32 = 4;

    const fn has(self, which: u32) -> bool {
        self.0 & which != 0
    }
}

/// Objects scanned for static runtimes, and what was found.
static SCANNED: [(AtomicUsize, AtomicU32); 16] = [const { (AtomicUsize::new(0), AtomicU32::new(0)) }; 16];
