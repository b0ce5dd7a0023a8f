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

use crate::elf::Object;
use crate::next;
use crate::state;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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

/// By which call a mask was set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// `sched_setaffinity()`
    Sched,
    /// `pthread_setaffinity_np()`
    Pthread,
    /// `syscall()`
    Syscall,
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

/// An object the loader has mapped.
struct Dso {
    object: Option<Object>,
    dynamic: usize,
    start: usize,
    end: usize,
    /// The program itself, not a library.
    is_program: bool,
    name: Text<64>,
}

/// Who called from `address`, to set a mask through `via`.
pub(crate) fn who_sets(address: usize, via: Via) -> Caller {
    who(address, Some(via))
}

/// Who called from `address`, to ask for a mask.
pub(crate) fn who_asks(address: usize) -> Caller {
    who(address, None)
}

fn who(address: usize, sets: Option<Via>) -> Caller {
    let Some(dso) = Dso::around(address) else {
        let known = KNOWN.iter().position(|known| known.spans(address));
        let kind = known.map_or(Kind::User, |at| Kind::Runtime(at as RuntimeId + 1));
        return Caller { kind, name: Text::from_bytes(b"unknown code") };
    };
    let kind = match state::config().runtimes.verdict(dso.name.as_bytes()) {
        Some(true) => dso.runtime(),
        Some(false) => Kind::User,
        None => dso.kind(address, sets),
    };
    Caller { kind, name: dso.name }
}

impl Dso {
    fn kind(&self, address: usize, sets: Option<Via>) -> Kind {
        let Some(object) = &self.object else {
            return Kind::User;
        };
        let exports = |names: &[&CStr]| names.iter().any(|name| object.defines(name));
        // libmkl_gnu_thread sets masks too, while it counts cores. Its names differ from layer to layer and year to year.
        let is_mkl = || self.name.as_bytes().starts_with(b"libmkl_");
        if !self.is_program && (exports(&RUNTIME_EXPORTS) || is_mkl()) {
            return self.runtime();
        }
        if exports(&NEUTRAL_EXPORTS) {
            return Kind::Neutral;
        }
        if exports(&COUNTER_EXPORTS) {
            return Kind::Counter;
        }
        match sets {
            Some(via) if self.embedded_runtime_sets(address, via) => self.runtime(),
            None if self.is_known() && self.embedded().has(Embedded::LLVM) => self.runtime(),
            _ => Kind::User,
        }
    }

    fn runtime(&self) -> Kind {
        Kind::Runtime(KNOWN.iter().zip(1..).find_map(|(known, id)| known.holds(self).then_some(id)).unwrap_or(0))
    }

    fn is_known(&self) -> bool {
        KNOWN.iter().any(|known| known.dynamic.load(Ordering::Acquire) == self.dynamic)
    }

    fn embedded_runtime_sets(&self, address: usize, via: Via) -> bool {
        static GOMP_SETS_AT: AtomicUsize = AtomicUsize::new(0);
        match via {
            Via::Sched => false,
            Via::Syscall => self.embedded().has(Embedded::LLVM),
            Via::Pthread if gomp_is_asked_to_pin() && self.embedded().has(Embedded::GOMP) => {
                match GOMP_SETS_AT.compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => true,
                    Err(first) => first == address,
                }
            }
            Via::Pthread => false,
        }
    }

    fn embedded(&self) -> Embedded {
        for (cached, state) in &SCANNED {
            let found = cached.load(Ordering::Acquire);
            if found == self.dynamic {
                match state.load(Ordering::Acquire) {
                    0 => break,
                    known => return Embedded(known),
                }
            }
            if found == 0 && cached.compare_exchange(0, self.dynamic, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                let result = self.scan();
                state.store(result.0, Ordering::Release);
                return result;
            }
        }
        self.scan()
    }

    /// Looks for a static runtime's variable names in what the object has mapped read-only.
    fn scan(&self) -> Embedded {
        let mut found = Embedded::SEEN;
        for bytes in self.constants() {
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

    /// The read-only segments, from the ELF header at the object's start.
    fn constants(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: every object's first segment begins with its ELF header, as the loader required.
        let header = unsafe { &*(self.start as *const libc::Elf64_Ehdr) };
        let is_elf = header.e_ident.starts_with(b"\x7fELF") && header.e_phoff.is_multiple_of(8);
        let count = if is_elf { usize::from(header.e_phnum) } else { 0 };
        let table = (self.start + header.e_phoff as usize) as *const libc::Elf64_Phdr;
        // SAFETY: the program headers are in the first segment too.
        let headers =
            unsafe { core::slice::from_raw_parts(if count == 0 { core::ptr::dangling() } else { table }, count) };
        let base = self.object.as_ref().map_or(self.start, Object::base);
        headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
            .filter(|header| header.p_flags & libc::PF_R != 0 && header.p_flags & (libc::PF_W | libc::PF_X) == 0)
            // SAFETY: the loader mapped this segment readable.
            .map(move |header| unsafe {
                core::slice::from_raw_parts((base + header.p_vaddr as usize) as *const u8, header.p_filesz as usize)
            })
    }

    fn around(address: usize) -> Option<Self> {
        if next::has_dl_find_object() {
            return Self::found_by_loader(address);
        }
        if state::forked() {
            // Before glibc 2.35 the loader can be asked only under its lock, which a thread that did not survive the
            // fork may have held: a forked child knows the runtimes that its parent knew (`who` looks there).
            return None;
        }
        let mut search = Visit { address, found: None };
        // SAFETY: `visit` gets the search back, and it outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    fn found_by_loader(address: usize) -> Option<Self> {
        /// `struct dl_find_object` of `<dlfcn.h>`
        #[repr(C)]
        struct Found {
            flags: u64,
            start: usize,
            end: usize,
            map: *const LinkMap,
            eh_frame: usize,
            reserved: [u64; 7],
        }
        /// The public part of `struct link_map` of `<link.h>`
        #[repr(C)]
        struct LinkMap {
            base: usize,
            name: *const libc::c_char,
            dynamic: *const c_void,
        }
        let mut found = Found { flags: 0, start: 0, end: 0, map: core::ptr::null(), eh_frame: 0, reserved: [0; 7] };
        // SAFETY: the structure is glibc's.
        let error = unsafe { next::_dl_find_object()(address, (&raw mut found).cast()) };
        if error != 0 || found.map.is_null() {
            return None;
        }
        // SAFETY: the object we were called from stays loaded while it waits for us.
        let map = unsafe { &*found.map };
        // SAFETY: as above.
        let object = unsafe { Object::at(map.base, map.dynamic) };
        // SAFETY: the loader's name of the object is a C string.
        let path = unsafe { map.name.as_ref().map(|name| CStr::from_ptr(name)) }.unwrap_or(c"");
        Some(Self::new(object, map.dynamic as usize, found.start..found.end, path))
    }

    fn new(object: Option<Object>, dynamic: usize, span: core::ops::Range<usize>, path: &CStr) -> Self {
        let soname = object.as_ref().map_or(c"", |object| object.soname());
        let is_program = path.is_empty();
        let file = path.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
        let name = match (is_program, file.is_empty()) {
            (true, _) => program_name(),
            (false, true) => soname.to_bytes(),
            (false, false) => file,
        };
        Self { object, dynamic, start: span.start, end: span.end, is_program, name: Text::from_bytes(name) }
    }
}

fn program_name() -> &'static [u8] {
    unsafe extern "C" {
        static program_invocation_short_name: *const libc::c_char;
    }
    // SAFETY: libc sets it before any constructor runs; a program may point it elsewhere, but only to a C string.
    let name = unsafe { program_invocation_short_name.as_ref().map(|name| CStr::from_ptr(name)) };
    name.map_or(b"the program", |name| name.to_bytes())
}

struct Visit {
    address: usize,
    found: Option<Dso>,
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: the search that `around` passed, and the loader's own record.
    let (search, info) = unsafe { (&mut *search.cast::<Visit>(), &*info) };
    if !spans(info, search.address) {
        return 0;
    }
    let base = info.dlpi_addr as usize;
    let loads = || program_headers(info).iter().filter(|header| header.p_type == libc::PT_LOAD);
    let start = loads().map(|header| base + header.p_vaddr as usize).min().unwrap_or(base) & !0xfff;
    let end = loads().map(|header| base + (header.p_vaddr + header.p_memsz) as usize).max().unwrap_or(base);
    let dynamic = program_headers(info).iter().find(|header| header.p_type == libc::PT_DYNAMIC);
    let dynamic = dynamic.map_or(0, |header| base + header.p_vaddr as usize);
    // SAFETY: the loader's own name and record of an object that can't go while it waits for us.
    let (path, object) = unsafe { (CStr::from_ptr(info.dlpi_name), Object::of(info)) };
    search.found = Some(Dso::new(object, dynamic, start..end, path));
    1
}

/// The program headers of an object the loader visits.
pub(crate) fn program_headers(info: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    if info.dlpi_phdr.is_null() {
        return &[];
    }
    // SAFETY: the loader's own table, which it keeps while it visits.
    unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
}

/// Whether `address` lies in an object the loader visits.
pub(crate) fn spans(info: &libc::dl_phdr_info, address: usize) -> bool {
    program_headers(info).iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        (start..start + header.p_memsz as usize).contains(&address)
    })
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

/// The runtimes that were seen at work, by number (from 1): what a forked child must know without asking the loader,
/// and how to ask each whether a parallel region runs.
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
}

impl Known {
    const fn none() -> Self {
        Self {
            dynamic: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            in_parallel: AtomicUsize::new(0),
            any_thread_may_ask: AtomicBool::new(false),
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
            self.any_thread_may_ask.store(!object.defines(c"__kmpc_fork_call"), Ordering::Relaxed);
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
        // SAFETY: it may be called anywhere.
        unsafe { ask() != 0 }
    }

    fn is_still_loaded(&self, address: usize) -> bool {
        // Without the loader's word (an old libc, after a fork) it is better not to ask the runtime either.
        Dso::around(address).is_some_and(|dso| dso.dynamic == self.dynamic.load(Ordering::Acquire))
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
