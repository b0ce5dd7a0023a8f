//! Who calls: the object that a hook's return address lies in, and what kind of object that is.
//!
//! A threading runtime is known by what it exports, not by its file's name: wheels rename theirs. The names in
//! [`RUNTIME_EXPORTS`] are entry points that programs link to, so a runtime can't do without them.
//!
//! A program (or a library) may also have a runtime linked into it statically. Then its own code and the runtime's call
//! from the same object, and the object exports nothing. It is known by the names of the environment variables that the
//! runtime reads, which are in its read-only data, and the two are told apart by how each sets masks: LLVM's and Intel's
//! runtime only through `syscall()`; libgomp with `pthread_setaffinity_np()` from one place, first when it is loaded,
//! and only if the environment asks for pins; MKL through `syscall()`. libgomp and MKL pass masks of the kernel's size,
//! not whole `cpu_set_t`s. Any other call from such an object is the user's.

use crate::budget::{self, Governor};
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

/// Who called from `site`, to set a mask of `size` bytes.
pub(crate) fn who_sets(site: Site, size: usize) -> Caller {
    who(site, Some(size))
}

/// Who called from `site`, to ask for a mask.
pub(crate) fn who_asks(site: Site) -> Caller {
    who(site, None)
}

/// The fewest CPUs to tell whoever called from `site`, if it asks for them only to count them: OpenBLAS, and libgomp
/// where it does not pin. Other runtimes set masks that they made of the answer.
pub(crate) fn least_told(site: Site) -> Option<u32> {
    let (dso, address) = site.caller()?;
    let object = dso.object.as_ref()?;
    match kind(&dso, site.call, address, None) {
        // With one it could not be told from one that its user has limited to one.
        Kind::Counter if budget::is_on(Governor::OpenBlas) => Some(2),
        Kind::Counter => budget::has_switch(Governor::OpenBlas).then_some(1),
        Kind::Runtime(_) => {
            let defines = |name| object.defines(name);
            let counts = defines(c"GOMP_parallel") && !defines(c"__kmpc_fork_call") && !gomp_is_asked_to_pin();
            (counts && budget::has_switch(Governor::Libgomp)).then_some(1)
        }
        _ => None,
    }
}

fn who(site: Site, sets: Option<usize>) -> Caller {
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

fn kind(dso: &Dso, call: Call, address: usize, sets: Option<usize>) -> Kind {
    let Some(object) = &dso.object else { return Kind::User };
    let exports = |names: &[&CStr]| names.iter().any(|name| object.defines(name));
    // libmkl_gnu_thread sets masks too, while it counts cores. Its names differ from layer to layer and year to year.
    let is_mkl = || dso.name.as_bytes().starts_with(b"libmkl_");
    let is_embedded = || match sets {
        Some(size) => embedded_runtime_sets(dso, call, address, size),
        None => runtimes::knows(dso) && embedded(dso).has(Embedded::LLVM | Embedded::MKL),
    };
    match () {
        // A program that exports a runtime has linked it statically.
        () if is_embedded() => Kind::Runtime(runtimes::number_of(dso)),
        () if dso.is_program => Kind::User,
        () if exports(&RUNTIME_EXPORTS) || is_mkl() => Kind::Runtime(runtimes::number_of(dso)),
        () if exports(&NEUTRAL_EXPORTS) => Kind::Neutral,
        () if exports(&COUNTER_EXPORTS) => Kind::Counter,
        () => Kind::User,
    }
}

fn embedded_runtime_sets(dso: &Dso, call: Call, address: usize, size: usize) -> bool {
    // Programs pass a whole `cpu_set_t`; libgomp and MKL pass what the kernel needs.
    let is_cpu_set = size == size_of::<libc::cpu_set_t>();
    match call {
        Call::Syscall => {
            let embedded = embedded(dso);
            embedded.has(Embedded::LLVM) || embedded.has(Embedded::MKL) && !is_cpu_set
        }
        Call::PthreadSetaffinity if !is_cpu_set && gomp_is_asked_to_pin() => {
            let scanned = scanned(dso);
            scanned.is_some_and(|scanned| scanned.found().has(Embedded::GOMP) && scanned.gomp_sets_at(address))
        }
        _ => false,
    }
}

fn embedded(dso: &Dso) -> Embedded {
    scanned(dso).map_or_else(|| scan(dso), Scanned::found)
}

/// The entry of `dso`, scanning it if it is new; `None` when there are too many.
fn scanned(dso: &Dso) -> Option<&'static Scanned> {
    // Another object may be loaded where one was unloaded, but hardly with the same end.
    let key = dso.dynamic ^ dso.end.rotate_left(32);
    let entry = SCANNED.iter().find(|entry| {
        let free = entry.key.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire);
        free.is_ok() || free == Err(key)
    })?;
    if entry.found.load(Ordering::Acquire) == 0 {
        entry.found.store(scan(dso).0, Ordering::Release);
    }
    Some(entry)
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
        if has(b"MKL_NUM_THREADS") && has(b"MKL_DYNAMIC") {
            found |= Embedded::MKL;
        }
        if has(b"__KMP_REGISTERED_LIB_") && has(b"KMP_AFFINITY") {
            found |= Embedded::LLVM;
        }
    }
    Embedded(found)
}

/// Whether the environment makes libgomp pin, as libgomp reads it: places alone pin, unless binding is turned off, and
/// a value it does not know is as none.
fn gomp_is_asked_to_pin() -> bool {
    let value = |name: &[u8]| {
        let mut lines = state::environment();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(b"=")).map(<[u8]>::trim_ascii)
    };
    let is_one_of = |value: &[u8], words: &[&str]| {
        let word = value.split(|byte| b",( \t".contains(byte)).next().unwrap_or(value);
        words.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    match value(b"OMP_PROC_BIND") {
        Some(bind) if is_one_of(bind, &["false"]) => return false,
        Some(bind) if is_one_of(bind, &["true", "master", "primary", "close", "spread"]) => return true,
        _ => {}
    }
    let names = ["threads", "cores", "sockets", "ll_caches", "numa_domains"];
    let is_places = |places: &[u8]| is_one_of(places, &names) || places.starts_with(b"{") || places.starts_with(b"!");
    let is_cpus = |cpus: &[u8]| cpus.first().is_some_and(u8::is_ascii_digit);
    value(b"OMP_PLACES").is_some_and(is_places) || value(b"GOMP_CPU_AFFINITY").is_some_and(is_cpus)
}

/// Which static runtimes an object holds.
#[derive(Clone, Copy)]
struct Embedded(u32);

impl Embedded {
    const SEEN: u32 = 1;
    const GOMP: u32 = 2;
    const LLVM: u32 = 4;
    const MKL: u32 = 8;

    const fn has(self, which: u32) -> bool {
        self.0 & which != 0
    }
}

/// An object scanned for static runtimes.
struct Scanned {
    /// Which object; 0 where there is none yet.
    key: AtomicUsize,
    /// What was found; 0 while that is not known.
    found: AtomicU32,
    /// Where its libgomp sets masks, once it has.
    gomp_sets_at: AtomicUsize,
}

static SCANNED: [Scanned; 32] =
    [const { Scanned { key: AtomicUsize::new(0), found: AtomicU32::new(0), gomp_sets_at: AtomicUsize::new(0) } }; 32];

impl Scanned {
    fn found(&self) -> Embedded {
        Embedded(self.found.load(Ordering::Acquire))
    }

    fn gomp_sets_at(&self, address: usize) -> bool {
        let first = self.gomp_sets_at.compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire);
        first.is_ok() || first == Err(address)
    }
}
