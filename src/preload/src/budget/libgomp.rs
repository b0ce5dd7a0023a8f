//! The governor of GNU OpenMP.
//!
//! gcc turns a parallel region into a function and a call of one of the entry points below, with the number of threads
//! that the program asked for, or 0 if it asked for none. What happens then:
//!
//! * **A number was asked for**: it is passed on unchanged; the ledger hears of it. Programs size arrays by it.
//! * **None was asked for**, and the object that the region is in does not ask for the maximum either (in which case it
//!   may have sized something by the answer): the region gets this process's share.
//! * **Nested regions** are left alone: their threads are the outer region's business.
//!
//! Several copies of libgomp may be loaded, each with threads and settings of its own. A call has to reach the copy that
//! it would have reached without us, so what belongs to a call is found once for each region: the region's function lies
//! in the object that calls, also where the call itself was turned into a jump. LLVM's and Intel's runtimes have the same
//! entry points, for code that gcc compiled.
//!
//! A team may have fewer threads than before for next to nothing if it is a team of one. Any other change makes libgomp
//! end threads and create new ones, so that size is held for a while ([`knlfix_core::share::Held`]). Teams belong to
//! threads, but the size that is held is the copy's: all threads see the same share, and so they change at most once for
//! each change of it.

use super::ballast::{self, Ballast};
use super::llvm::Runtime;
use super::resolve::{self, Sites};
use super::{Governor, Region, forked, mkl};
use crate::dso::Dso;
use crate::next::Any;
use crate::observe::{Begun as Observed, Source};
use crate::places::team;
use crate::state;
use crate::sys;
use core::ffi::{CStr, c_int, c_long, c_uint, c_void};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What a region became.
type Function = unsafe extern "C" fn(*mut c_void);

/// The entry points, by number.
#[allow(non_camel_case_types, reason = "libgomp's own names")]
#[repr(usize)]
enum Entry {
    GOMP_parallel,
    GOMP_parallel_reductions,
    GOMP_parallel_sections,
    GOMP_parallel_loop_static,
    GOMP_parallel_loop_dynamic,
    GOMP_parallel_loop_guided,
    GOMP_parallel_loop_nonmonotonic_dynamic,
    GOMP_parallel_loop_nonmonotonic_guided,
    GOMP_parallel_loop_runtime,
    GOMP_parallel_loop_nonmonotonic_runtime,
    GOMP_parallel_loop_maybe_nonmonotonic_runtime,
    GOMP_parallel_start,
    GOMP_parallel_sections_start,
    GOMP_parallel_loop_static_start,
    GOMP_parallel_loop_dynamic_start,
    GOMP_parallel_loop_guided_start,
    GOMP_parallel_loop_runtime_start,
    GOMP_parallel_end,
}

macro_rules! c_name {
    ($name:ident) => {
        // SAFETY: an identifier and the one NUL that ends it.
        const { unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) } }
    };
}

/// Entry points that run the whole region. They return nothing or a number; a register that holds nothing may be passed
/// on as well.
macro_rules! whole {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(function: Function, data: Any, threads: c_uint, $($arg: $type),*) -> usize {
                let begun = begin(Entry::$name as usize, c_name!($name), function, threads);
                let Some(real) = begun.real else { return serially(function, data) };
                // SAFETY: the definition of this name, whose C prototype this is.
                let real = unsafe {
                    core::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(Function, Any, c_uint, $($type),*) -> usize,
                    >(real)
                };
                // SAFETY: the caller's own arguments, but for the number of threads.
                let result = unsafe { real(function, data, begun.threads, $($arg),*) };
                if let Some(region) = begun.region {
                    super::leave(region);
                }
                result
            }
        )*
    };
}

whole! {
    GOMP_parallel(flags: c_uint);
    GOMP_parallel_reductions(flags: c_uint);
    GOMP_parallel_sections(count: c_uint, flags: c_uint);
    GOMP_parallel_loop_static(start: c_long, end: c_long, step: c_long, chunk: c_long, flags: c_uint);
    GOMP_parallel_loop_dynamic(start: c_long, end: c_long, step: c_long, chunk: c_long, flags: c_uint);
    GOMP_parallel_loop_guided(start: c_long, end: c_long, step: c_long, chunk: c_long, flags: c_uint);
    GOMP_parallel_loop_nonmonotonic_dynamic(start: c_long, end: c_long, step: c_long, chunk: c_long, flags: c_uint);
    GOMP_parallel_loop_nonmonotonic_guided(start: c_long, end: c_long, step: c_long, chunk: c_long, flags: c_uint);
    GOMP_parallel_loop_runtime(start: c_long, end: c_long, step: c_long, flags: c_uint);
    GOMP_parallel_loop_nonmonotonic_runtime(start: c_long, end: c_long, step: c_long, flags: c_uint);
    GOMP_parallel_loop_maybe_nonmonotonic_runtime(start: c_long, end: c_long, step: c_long, flags: c_uint);
}

/// Without any runtime: the region has one thread.
#[cold]
fn serially(function: Function, data: Any) -> usize {
    // SAFETY: the caller's own function and its argument.
    unsafe { function(data) };
    1
}

/// Entry points of gcc before 4.9: the caller runs the region's function itself, and calls `GOMP_parallel_end`.
macro_rules! halves {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(function: Function, data: Any, threads: c_uint, $($arg: $type),*) {
                let begun = begin(Entry::$name as usize, c_name!($name), function, threads);
                let Some(real) = begun.real else { return };
                open(&begun, function);
                // SAFETY: the definition of this name, whose C prototype this is.
                let real = unsafe {
                    core::mem::transmute::<*const c_void, unsafe extern "C" fn(Function, Any, c_uint, $($type),*)>(real)
                };
                // SAFETY: the caller's own arguments, but for the number of threads.
                unsafe { real(function, data, begun.threads, $($arg),*) };
            }
        )*
    };
}

halves! {
    GOMP_parallel_start();
    GOMP_parallel_sections_start(count: c_uint);
    GOMP_parallel_loop_static_start(start: c_long, end: c_long, step: c_long, chunk: c_long);
    GOMP_parallel_loop_dynamic_start(start: c_long, end: c_long, step: c_long, chunk: c_long);
    GOMP_parallel_loop_guided_start(start: c_long, end: c_long, step: c_long, chunk: c_long);
    GOMP_parallel_loop_runtime_start(start: c_long, end: c_long, step: c_long);
}

crate::hooks::with_stack!(GOMP_parallel_end, "rdi", on_parallel_end);

unsafe extern "C" fn on_parallel_end(stack: *const usize) {
    let (real, region) = close().unwrap_or_else(|| {
        // SAFETY: the stack pointer that the hook was entered with.
        (end_for(unsafe { *stack }), None)
    });
    let Some(real) = definition(real) else { return };
    // SAFETY: the definition of this name.
    let real = unsafe { core::mem::transmute::<*const c_void, unsafe extern "C" fn()>(real) };
    // SAFETY: the caller's own call.
    unsafe { real() };
    if let Some(region) = region {
        super::leave(region);
    }
}

/// A region that is about to run.
struct Begun {
    real: Option<*const c_void>,
    /// What to tell libgomp.
    threads: c_uint,
    /// `None`: nothing was written down.
    region: Option<Region>,
}

/// What is known of a region: the definition to call, the copy of libgomp with [`RESIZES`], and who calls.
static SITES: Sites<2048, 3> = Sites::new();
/// In a copy's address: default-sized regions may be given fewer threads.
const RESIZES: usize = 1;

fn begin(entry: usize, name: &CStr, function: Function, asked: c_uint) -> Begun {
    let function = function as usize;
    let [real, copy, source] = SITES.get(function << 5 | entry, || find(name, function));
    let (real, source) = (definition(real), Source::unpack(source));
    let as_asked = Begun { real, threads: asked, region: None };
    // SAFETY: an element of COPIES, or null.
    let Some(known) = (unsafe { ((copy & !RESIZES) as *const Copy).as_ref() }) else { return as_asked };
    if known.in_parallel() {
        return as_asked;
    }
    let llvm = known.llvm();
    if let Some(runtime) = llvm {
        runtime.tell_start_share();
        team::region_begins();
    }
    let ask = if asked == 0 { known.max_threads() } else { asked };
    if asked == 0 && ask > 1 && copy & RESIZES != 0 {
        let region = super::enter_held(source, ask, &known.held);
        relax(llvm, region);
        // All of it is what libgomp would do by itself.
        let threads = if region.threads == ask { 0 } else { region.threads };
        return Begun { real, threads, region: Some(region) };
    }
    if super::blas::inside() {
        // A BLAS that runs on OpenMP: the call has a region of its own.
        return as_asked;
    }
    let (region, is_squeezed) = super::enter_explicit(source, ask);
    if ask > 1 && llvm.is_none() {
        ballast::weigh(known, ask, is_squeezed && region.waits_passively());
    }
    relax(llvm, region);
    Begun { real, threads: asked, region: Some(region) }
}

/// LLVM's runtimes have a way of their own to make threads sleep.
fn relax(llvm: Option<&Runtime>, region: Region) {
    if let Some(runtime) = llvm {
        runtime.relax(region.waits_passively());
    }
}

fn definition(address: usize) -> Option<*const c_void> {
    (address != 0).then_some(address as *const c_void)
}

#[cold]
#[inline(never)]
fn find(name: &CStr, function: usize) -> [usize; 3] {
    let Some(real) = resolve::real(name, function) else { return [0, 0, 0] };
    if !state::config().enabled {
        return [real, 0, 0];
    }
    forked::watch();
    let copy = if super::is_on(Governor::Libgomp) { Copy::for_region(function) } else { None };
    let Some(copy) = copy else { return [real, 0, 0] };
    let flags = if may_resize(function, copy.llvm().is_some()) { RESIZES } else { 0 };
    let governor = if copy.llvm().is_some() { Governor::LlvmOpenmp } else { Governor::Libgomp };
    let source = Source::at(if mkl::is_layer(function) { Governor::Mkl } else { governor }, function);
    [real, core::ptr::from_ref(copy) as usize | flags, source.pack()]
}

/// Whether the object that holds a region never asks how many threads it could have. Code that is in no object may be
/// anybody's. (LLVM's own implementation of gcc's waiting loops crashes in a team of one.)
fn may_resize(function: usize, is_llvm: bool) -> bool {
    let object = Dso::around(function).and_then(|dso| dso.object);
    object.is_some_and(|object| !(object.imports(&ASKS) || is_llvm && object.imports(&WAITING_LOOPS)))
}

/// What the iterations of a loop wait for one another with.
const WAITING_LOOPS: [&CStr; 2] = [c"GOMP_doacross_wait", c"GOMP_doacross_ull_wait"];

/// The functions that tell or set how many threads a region will have, as C and Fortran call them.
pub(super) const ASKS: [&CStr; 7] = [
    c"omp_get_max_threads",
    c"omp_get_max_threads_",
    c"omp_get_num_procs",
    c"omp_get_num_procs_",
    c"omp_set_num_threads",
    c"omp_set_num_threads_",
    c"omp_set_num_threads_8_",
];

/// A copy of libgomp, or another runtime with its entry points.
pub(super) struct Copy {
    /// The object's dynamic section; 0 where there is none yet.
    dynamic: AtomicUsize,
    max_threads: AtomicUsize,
    in_parallel: AtomicUsize,
    num_procs: AtomicUsize,
    parallel: AtomicUsize,
    llvm: AtomicUsize,
    cpus: AtomicU32,
    held: AtomicU64,
    pub(super) ballast: Ballast,
}

static COPIES: [Copy; 16] = [const { Copy::none() }; 16];

/// The ballasts of all copies.
pub(super) fn ballasts() -> impl Iterator<Item = &'static Ballast> {
    COPIES.iter().map(|copy| &copy.ballast)
}

/// How many copies are governed.
pub(super) fn copies() -> usize {
    COPIES.iter().filter(|copy| copy.dynamic.load(Ordering::Relaxed) != 0).count()
}

impl Copy {
    const fn none() -> Self {
        Self {
            dynamic: AtomicUsize::new(0),
            max_threads: AtomicUsize::new(0),
            in_parallel: AtomicUsize::new(0),
            num_procs: AtomicUsize::new(0),
            parallel: AtomicUsize::new(0),
            llvm: AtomicUsize::new(0),
            cpus: AtomicU32::new(0),
            held: AtomicU64::new(0),
            ballast: Ballast::new(),
        }
    }

    /// The copy that the region's object uses.
    fn for_region(function: usize) -> Option<&'static Self> {
        // Not by the entry point itself: a tool may stand in front of it.
        let max_threads = resolve::real(c"omp_get_max_threads", function)?;
        let dso = Dso::around(max_threads)?;
        let object = dso.object.as_ref()?;
        let define = |name| object.function(name, true);
        let (in_parallel, num_procs) = (define(c"omp_in_parallel")?, define(c"omp_get_num_procs")?);
        let parallel = define(c"GOMP_parallel").unwrap_or(0);
        let copy = COPIES.iter().find(|copy| {
            let taken = copy.dynamic.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok() || taken == Err(dso.dynamic)
        })?;
        // Threads that find the same copy at once write the same.
        copy.num_procs.store(num_procs, Ordering::Relaxed);
        copy.parallel.store(parallel, Ordering::Relaxed);
        copy.llvm.store(Runtime::around(max_threads).map_or(0, Runtime::pack), Ordering::Relaxed);
        copy.in_parallel.store(in_parallel, Ordering::Relaxed);
        copy.max_threads.store(max_threads, Ordering::Release);
        Some(copy)
    }

    fn ask(function: &AtomicUsize) -> c_int {
        // SAFETY: `int omp_...(void)` of an object that is in use; `for_region` has written it.
        let function =
            unsafe { core::mem::transmute::<usize, unsafe extern "C" fn() -> c_int>(function.load(Ordering::Relaxed)) };
        // SAFETY: as above.
        unsafe { function() }
    }

    fn max_threads(&self) -> u32 {
        Self::ask(&self.max_threads).max(1) as u32
    }

    fn in_parallel(&self) -> bool {
        Self::ask(&self.in_parallel) != 0
    }

    fn llvm(&self) -> Option<&'static Runtime> {
        Runtime::unpack(self.llvm.load(Ordering::Relaxed))
    }

    /// The CPUs that it believes to have.
    pub(super) fn cpus(&self) -> u32 {
        if self.cpus.load(Ordering::Relaxed) == 0 {
            self.cpus.store(Self::ask(&self.num_procs).max(1) as u32, Ordering::Relaxed);
        }
        self.cpus.load(Ordering::Relaxed)
    }

    /// Runs a region that does nothing.
    pub(super) fn run_nothing(&self, threads: c_uint) {
        unsafe extern "C" fn nothing(_: *mut c_void) {}
        let Some(parallel) = definition(self.parallel.load(Ordering::Relaxed)) else { return };
        // SAFETY: the definition of `GOMP_parallel`.
        let parallel = unsafe {
            core::mem::transmute::<*const c_void, unsafe extern "C" fn(Function, Any, c_uint, c_uint)>(parallel)
        };
        // SAFETY: a region without data.
        unsafe { parallel(nothing, core::ptr::null_mut(), threads, 0) };
    }
}

/// In a forked child: the threads that the parent's other threads ran are not here.
pub(super) fn forget_threads() {
    ballasts().for_each(Ballast::forget);
    let myself = sys::thread_key();
    let is_lost = |half: &&Half| ![0, myself].contains(&half.thread.load(Ordering::Relaxed));
    for half in HALVES.iter().filter(is_lost) {
        half.thread.store(0, Ordering::Relaxed);
    }
}

/// A region that was begun by one call and will be ended by another.
struct Half {
    /// Who began it; 0 where there is none.
    thread: AtomicUsize,
    /// Later ones are inner ones.
    turn: AtomicU32,
    /// The real `GOMP_parallel_end`.
    end: AtomicUsize,
    threads: AtomicU32,
    process: AtomicI32,
    observed: AtomicU64,
}

static HALVES: [Half; 256] = [const {
    Half {
        thread: AtomicUsize::new(0),
        turn: AtomicU32::new(0),
        end: AtomicUsize::new(0),
        threads: AtomicU32::new(0),
        process: AtomicI32::new(0),
        observed: AtomicU64::new(0),
    }
}; 256];
static TURN: AtomicU32 = AtomicU32::new(0);

/// Keeps a region until its end. Where there is no room for it, it is not governed.
fn open(begun: &Begun, function: Function) {
    let region = begun.region.unwrap_or(Region::unknown(0));
    let is_free =
        |half: &&Half| half.thread.compare_exchange(0, sys::thread_key(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
    let Some(half) = HALVES.iter().find(is_free) else { return super::leave(region) };
    half.turn.store(TURN.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    half.end.store(end_for(function as usize), Ordering::Relaxed);
    half.threads.store(region.threads, Ordering::Relaxed);
    half.process.store(region.process, Ordering::Relaxed);
    half.observed.store(region.begun.bits(), Ordering::Relaxed);
}

/// The calling thread's innermost region: its real end, and what to leave.
fn close() -> Option<(usize, Option<Region>)> {
    let myself = sys::thread_key();
    let now = TURN.load(Ordering::Relaxed);
    let mine = HALVES.iter().filter(|half| half.thread.load(Ordering::Relaxed) == myself);
    let half = mine.min_by_key(|half| now.wrapping_sub(half.turn.load(Ordering::Relaxed)))?;
    let (threads, process) = (half.threads.load(Ordering::Relaxed), half.process.load(Ordering::Relaxed));
    let (end, begun) = (half.end.load(Ordering::Relaxed), Observed::from_bits(half.observed.load(Ordering::Relaxed)));
    half.thread.store(0, Ordering::Relaxed);
    Some((end, Some(Region { threads, process, begun })))
}

/// The `GOMP_parallel_end` that a call from around `address` means.
fn end_for(address: usize) -> usize {
    let name = c_name!(GOMP_parallel_end);
    let find = || [resolve::real(name, address).unwrap_or(0), 0, 0];
    SITES.get(address << 5 | Entry::GOMP_parallel_end as usize, find)[0]
}
