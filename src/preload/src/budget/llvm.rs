//! The governor of LLVM's and Intel's OpenMP runtimes, libomp and libiomp5.
//!
//! Compiled code begins a region with `__kmpc_fork_call(location, argc, microtask, ...)`, which returns when the region
//! has ended. Our hook is around it:
//!
//! 1. A default-sized region that is to have fewer threads is preceded by the runtime's own `__kmpc_push_num_threads`,
//!    as if it had a `num_threads` clause: that holds for this one region, and what `omp_get_max_threads` answers, in the
//!    region and after it, stays as it was.
//! 2. Where the program has such a clause, it has called `__kmpc_push_num_threads` itself just before, on the same
//!    thread. Such a region is only counted.
//! 3. So is one of an object that asks how many threads it can have ([`ASKS`]): it may have sized its arrays by that.
//! 4. A region inside another runs on threads that are counted already, or are the program's own business: it passes
//!    through. So do the regions of the runtime itself.
//!
//! The runtimes offer OMPT for watching regions. The hook does without: it needs no part of OMPT, so that the program's
//! tool can have it; libiomp5 2018 has none; with OMPT a region can be resized only by changing the number that
//! `omp_get_max_threads` reports; and it does not tell whether a number was the program's. What a tool could notice is
//! the return address of a region, which would be ours. Where there is a tool, the hook therefore gets out of the way
//! before the runtime is called: regions are resized, but they count as ended when they have begun.
//!
//! While the domain is crowded, idle threads go to sleep at once ([`Runtime::relax`]).

use super::libgomp::ASKS;
use super::marks::{Mark, Marks};
use super::resolve::{self, Sites};
use super::{Governor, Region, is_on, mkl, start_share};
use crate::dso::Dso;
use crate::elf::Object;
use crate::hooks::with_stack;
use crate::observe::Source;
use crate::places::team;
use crate::{state, sys};
use core::arch::naked_asm;
use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

// A copy of the runtime -------------------------------------------------------------------------------------------

/// A copy of libomp or libiomp5 that is loaded.
#[repr(align(64))]
pub(super) struct Runtime {
    /// Its dynamic section; 0 where there is none yet.
    dynamic: AtomicUsize,
    functions: [AtomicUsize; FUNCTIONS.len()],
    start_share: AtomicU8,
    /// Whether a tool watches it by OMPT.
    is_watched: AtomicBool,
    /// Whether threads of it were ever told to sleep at once.
    relaxed: AtomicBool,
}

/// The functions of a runtime that we call.
const FUNCTIONS: [&CStr; 11] = [
    c"__kmpc_push_num_threads",
    c"__kmpc_global_thread_num",
    c"omp_in_parallel",
    c"omp_get_max_threads",
    c"omp_get_num_procs",
    c"omp_get_thread_limit",
    c"kmp_set_defaults",
    c"kmp_get_blocktime",
    c"kmp_set_blocktime",
    // Under their names without the c, these runtimes have those of Fortran.
    c"ompc_get_affinity_format",
    c"ompc_set_affinity_format",
];

static RUNTIMES: [Runtime; 8] = [const {
    Runtime {
        dynamic: AtomicUsize::new(0),
        functions: [const { AtomicUsize::new(0) }; FUNCTIONS.len()],
        start_share: AtomicU8::new(UNTOLD),
        is_watched: AtomicBool::new(false),
        relaxed: AtomicBool::new(false),
    }
}; 8];

/// The longest format of the runtimes, with its end.
const AFFINITY_FORMAT: usize = 512;

const UNTOLD: u8 = 0;
const TELLING: u8 = 1;
const TOLD: u8 = 2;

impl Runtime {
    /// The runtime that has the function at `address`, if it is one of these; `None` too if there are too many.
    pub(super) fn around(address: usize) -> Option<&'static Self> {
        let dso = Dso::around(address)?;
        let object = dso.object.as_ref().filter(|object| object.defines(c"__kmpc_fork_call"))?;
        let runtime = RUNTIMES.iter().find(|runtime| {
            let free = runtime.dynamic.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Acquire);
            free.is_ok() || free == Err(dso.dynamic)
        })?;
        runtime.look_up(object);
        Some(runtime)
    }

    /// Fills the entry in. Threads may do it at once.
    fn look_up(&self, object: &Object) {
        for (name, function) in FUNCTIONS.iter().zip(&self.functions) {
            function.store(object.function(name, true).unwrap_or(0), Ordering::Relaxed);
        }
        self.is_watched.store(environment_has(&[b"OMP_TOOL_LIBRARIES"]) || has_tool(), Ordering::Relaxed);
    }

    /// As a word whose low bits are free.
    pub(super) fn pack(&'static self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// What [`pack`](Self::pack) made.
    #[inline]
    pub(super) fn unpack(word: usize) -> Option<&'static Self> {
        // SAFETY: null, or one of `RUNTIMES`, whatever the low bits say.
        unsafe { ((word & !63) as *const Self).as_ref() }
    }

    /// Calls the `which`th of [`FUNCTIONS`], with up to three arguments.
    #[inline]
    fn call(&self, which: usize, a: usize, b: usize, c: usize) -> c_int {
        let address = self.functions.get(which).map_or(0, |function| function.load(Ordering::Relaxed));
        if address == 0 {
            return 0;
        }
        // SAFETY: a function of an object that is loaded: a call of it has just been made. Those that take fewer arguments
        // ignore the rest, and the answer of those that return nothing is not used.
        unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize, usize, usize) -> c_int>(address)(a, b, c) }
    }

    /// Makes the calling thread's next region one of `threads`.
    fn push_num_threads(&self, location: usize, threads: u32) {
        let thread = self.call(1, location, 0, 0);
        self.call(0, location, thread as usize, threads as usize);
    }

    fn in_parallel(&self) -> bool {
        self.call(2, 0, 0, 0) != 0
    }

    /// How many threads a default-sized region has on the calling thread.
    fn default_size(&self) -> u32 {
        self.call(3, 0, 0, 0).max(1) as u32
    }

    /// Tells the runtime this process's start share, before it has told the program how many threads there are: its
    /// default is that number from then on. What the user or the program set goes before it.
    #[inline]
    pub(super) fn tell_start_share(&self) {
        if self.start_share.load(Ordering::Acquire) != TOLD {
            self.tell();
        }
    }

    #[cold]
    #[inline(never)]
    fn tell(&self) {
        // A thread that comes while another tells it must not enter the runtime first; the runtime has no call to us, so
        // this is short.
        while self.start_share.compare_exchange(UNTOLD, TELLING, Ordering::Acquire, Ordering::Acquire) == Err(TELLING) {
            sys::nap();
        }
        if self.start_share.load(Ordering::Acquire) == TOLD {
            return;
        }
        let errno = sys::errno();
        if let Some(share) = start_share().filter(|_| is_default()) {
            // A number that the program has set is not the number of CPUs any more.
            let (size, cpus) = (self.default_size(), self.call(4, 0, 0, 0) as u32);
            if share < size && size == cpus {
                let mut setting = knlfix_core::text::Text::<32>::new();
                // It has room for any number.
                let _ = core::fmt::Write::write_fmt(&mut setting, format_args!("OMP_NUM_THREADS={share}\0"));
                self.set_default(setting.as_bytes());
                log::debug!("budget: LLVM OpenMP has {share} threads by default");
            }
        }
        sys::set_errno(errno);
        forget_at_fork();
        self.start_share.store(TOLD, Ordering::Release);
    }

    /// Sets a variable of the runtime, and no other: it would put the format of what `OMP_DISPLAY_AFFINITY` prints back to
    /// its default.
    fn set_default(&self, setting: &[u8]) {
        let mut format = [0_u8; AFFINITY_FORMAT];
        let length = self.call(9, format.as_mut_ptr() as usize, format.len(), 0);
        self.call(6, setting.as_ptr() as usize, 0, 0);
        if length > 0 {
            self.call(10, format.as_ptr() as usize, 0, 0);
        }
    }

    /// While other processes want the CPUs, the idle threads of the calling thread's teams sleep at once; alone, they
    /// wait as they did. What the user or the program set stays.
    pub(super) fn relax(&self, crowded: bool) {
        if !(crowded || self.relaxed.load(Ordering::Relaxed)) || !waiting_is_ours() {
            return;
        }
        let now = self.call(7, 0, 0, 0);
        if crowded && now == DEFAULT_BLOCKTIME {
            self.relaxed.store(true, Ordering::Relaxed);
            self.call(8, SHORT_BLOCKTIME as usize, 0, 0);
        } else if !crowded && now == SHORT_BLOCKTIME {
            self.call(8, DEFAULT_BLOCKTIME as usize, 0, 0);
        }
    }
}

/// Whether the program or a library brings a tool. (The runtimes have a weak `ompt_start_tool` of their own.)
fn has_tool() -> bool {
    let errno = sys::errno();
    // SAFETY: a C string, and the default handle: what the runtime looks for, the loader's first.
    let tool = unsafe { crate::next::dlsym()(core::ptr::null_mut(), c"ompt_start_tool".as_ptr()) } as usize;
    sys::set_errno(errno);
    let dso = if tool == 0 { None } else { Dso::around(tool) };
    dso.and_then(|dso| dso.object).is_some_and(|object| !object.defines(c"__kmpc_fork_call"))
}

/// For so many milliseconds a thread spins before it sleeps.
const DEFAULT_BLOCKTIME: c_int = 200;
const SHORT_BLOCKTIME: c_int = 0;

/// LLVM's runtime starts anew in a forked child, with the default it would have had.
fn forget_at_fork() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn forget() {
        for runtime in &RUNTIMES {
            runtime.start_share.store(UNTOLD, Ordering::Relaxed);
        }
    }
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        state::at_fork(None, forget);
    }
}

/// Whether the environment leaves the default number of threads to the runtime. (Setting it would make the runtime show
/// its settings twice.)
fn is_default() -> bool {
    super::has_switch(Governor::LlvmOpenmp)
        && !environment_has(&[b"OMP_NUM_THREADS", b"OMP_DISPLAY_ENV", b"KMP_SETTINGS"])
}

/// Whether neither the environment nor the program says how threads wait.
fn waiting_is_ours() -> bool {
    match WAITING_IS_OURS.load(Ordering::Relaxed) {
        UNKNOWN => {
            let ours = !environment_has(&[b"KMP_BLOCKTIME", b"OMP_WAIT_POLICY", b"KMP_LIBRARY"]);
            // Unless the program has just said so.
            let _ = WAITING_IS_OURS.compare_exchange(UNKNOWN, ours.into(), Ordering::Relaxed, Ordering::Relaxed);
            ours
        }
        ours => ours == 1,
    }
}

static WAITING_IS_OURS: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 2;

with_stack!(kmp_set_blocktime, "rsi", on_set_blocktime);
with_stack!(kmp_set_blocktime_, "rsi", on_set_blocktime_);

unsafe extern "C" fn on_set_blocktime(time: usize, stack: *const usize) {
    // SAFETY: the hook's assembly passes the stack pointer it was entered with.
    program_waits(c"kmp_set_blocktime", time, unsafe { *stack });
}

/// Fortran's, which passes the address of the time.
unsafe extern "C" fn on_set_blocktime_(time: usize, stack: *const usize) {
    // SAFETY: as above.
    program_waits(c"kmp_set_blocktime_", time, unsafe { *stack });
}

#[cold]
fn program_waits(name: &CStr, time: usize, site: usize) {
    WAITING_IS_OURS.store(0, Ordering::Relaxed);
    if let Some(function) = resolve::real(name, site) {
        // SAFETY: `void kmp_set_blocktime(int)`, or Fortran's with an address.
        unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize)>(function)(time) }
    }
}

fn environment_has(names: &[&[u8]]) -> bool {
    state::environment()
        .any(|line| names.iter().any(|&name| line.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'='))))
}

// Regions ---------------------------------------------------------------------------------------------------------

/// Threads whose next region has a number of its own.
static EXPLICIT: Marks = Marks::new();

/// What is known of a call site: the function it means, the runtime, who calls, and in the runtime's low bits:
const GOVERNED: usize = 1;
const BY_ONE_WHO_ASKS: usize = 2;
const BY_RUNTIME: usize = 4;

static FORKS: Sites<1024, 3> = Sites::new();

#[cold]
#[inline(never)]
fn find_fork(site: usize, name: &CStr, missing: usize) -> [usize; 3] {
    let Some(function) = resolve::real(name, site) else { return [missing, 0, 0] };
    let Some(runtime) = Runtime::around(function) else { return [function, 0, 0] };
    let caller = Dso::around(site);
    if caller.as_ref().is_some_and(|dso| dso.dynamic == runtime.dynamic.load(Ordering::Relaxed)) {
        return [function, runtime.pack() | BY_RUNTIME, 0];
    }
    let asks = caller.and_then(|dso| dso.object).is_some_and(|object| object.imports(&ASKS));
    let governor = if mkl::is_layer(site) { Governor::Mkl } else { Governor::LlvmOpenmp };
    let by = if asks { BY_ONE_WHO_ASKS } else { 0 };
    let governed = if is_on(governor) { GOVERNED } else { 0 };
    [function, runtime.pack() | by | governed, Source::at(governor, site).pack()]
}

/// What the hooks have on the stack.
#[repr(C)]
struct Frame {
    region: MaybeUninit<Region>,
    padding: [usize; 3],
    rax: usize,
    r9: usize,
    r8: usize,
    rcx: usize,
    rdx: usize,
    argc: usize,
    location: usize,
    rbp: usize,
    site: usize,
}

// The assembly makes room for it.
const _: () = assert!(size_of::<Frame>() == 112 && size_of::<Region>() == 16);

/// How to go on: with which function, and whether [`after`] is to be called when it returns.
#[repr(C)]
struct Way {
    function: usize,
    has_region: usize,
}

impl Way {
    const fn past_us(function: usize) -> Self {
        Self { function, has_region: 0 }
    }
}

unsafe extern "C" fn before_fork_call(frame: &mut Frame) -> Way {
    let site = frame.site;
    let missing = serial_fork_call as *const () as usize;
    before(frame, FORKS.get(site, || find_fork(site, c"__kmpc_fork_call", missing)))
}

unsafe extern "C" fn before_fork_call_if(frame: &mut Frame) -> Way {
    let site = frame.site;
    let missing = serial_fork_call_if as *const () as usize;
    let [function, known, source] = FORKS.get(site | 1 << 48, || find_fork(site, c"__kmpc_fork_call_if", missing));
    // The fourth argument is the condition; without it the caller runs the region alone.
    if frame.rcx as c_int == 0 {
        EXPLICIT.take();
        return Way::past_us(function);
    }
    before(frame, [function, known, source])
}

#[inline]
fn before(frame: &mut Frame, [function, known, source]: [usize; 3]) -> Way {
    let Some(runtime) = Runtime::unpack(known) else { return Way::past_us(function) };
    if known & BY_RUNTIME != 0 {
        return Way::past_us(function);
    }
    let explicit = EXPLICIT.take();
    runtime.tell_start_share();
    team::region_begins();
    if known & GOVERNED == 0 || runtime.in_parallel() {
        return Way::past_us(function);
    }
    let source = Source::unpack(source);
    let region = match explicit {
        Mark::Number(count) => super::enter_fixed(source, count),
        _ => {
            let size = runtime.default_size();
            let may_resize = known & BY_ONE_WHO_ASKS == 0 && explicit == Mark::None;
            let region = if may_resize { super::enter(source, size) } else { super::enter_fixed(source, size) };
            if region.threads < size {
                runtime.push_num_threads(frame.location, region.threads);
            }
            region
        }
    };
    runtime.relax(region.waits_passively());
    if runtime.is_watched.load(Ordering::Relaxed) {
        super::leave(region);
        return Way::past_us(function);
    }
    frame.region.write(region);
    Way { function, has_region: 1 }
}

unsafe extern "C" fn after(frame: &Frame) {
    // SAFETY: `before` wrote it.
    super::leave(unsafe { frame.region.assume_init() });
}

/// A hook around a function: everything goes to it as it came, and what `$copy` says goes with it on the stack.
macro_rules! around {
    ($name:ident, $before:ident, $($copy:literal),*) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                "push rbp",
                ".cfi_def_cfa_offset 16",
                ".cfi_offset rbp, -16",
                "mov rbp, rsp",
                ".cfi_def_cfa_register rbp",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                "push rax",
                "sub rsp, 40",
                "mov rdi, rsp",
                "call {before}",
                "mov r10, rax",
                "test edx, edx",
                "jz 4f",
                $($copy,)*
                "mov rdi, [rbp - 8]",
                "mov rsi, [rbp - 16]",
                "mov rdx, [rbp - 24]",
                "mov rcx, [rbp - 32]",
                "mov r8, [rbp - 40]",
                "mov r9, [rbp - 48]",
                "mov rax, [rbp - 56]",
                "call r10",
                "lea rdi, [rbp - 96]",
                "call {after}",
                "leave",
                ".cfi_remember_state",
                ".cfi_def_cfa rsp, 8",
                "ret",
                ".cfi_restore_state",
                "4: mov rdi, [rbp - 8]",
                "mov rsi, [rbp - 16]",
                "mov rdx, [rbp - 24]",
                "mov rcx, [rbp - 32]",
                "mov r8, [rbp - 40]",
                "mov r9, [rbp - 48]",
                "mov rax, [rbp - 56]",
                "leave",
                ".cfi_def_cfa rsp, 8",
                "jmp r10",
                ".cfi_endproc",
                before = sym $before,
                after = sym after,
            )
        }
    };
}

// Its arguments are as many as the second says, from the fourth on: three in registers and the rest on the stack.
around!(
    __kmpc_fork_call,
    before_fork_call,
    "mov ecx, [rbp - 16]",
    "sub ecx, 3",
    "jle 3f",
    "lea edx, [rcx + 1]",
    "and edx, -2",
    "shl rdx, 3",
    "sub rsp, rdx",
    "2: mov r11, [rbp + rcx * 8 + 8]",
    "mov [rsp + rcx * 8 - 8], r11",
    "dec ecx",
    "jnz 2b",
    "3:"
);

// (location, argc, microtask, condition, arguments)
around!(__kmpc_fork_call_if, before_fork_call_if, "");

/// `__kmpc_fork_call` where there is no runtime: the region on the caller alone.
#[unsafe(naked)]
unsafe extern "C" fn serial_fork_call() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push 0", // the thread's number
        "push 0",
        "mov r10, rdx",
        "mov rdx, rcx",
        "mov rcx, r8",
        "mov r8, r9",
        "mov r9, [rbp + 16]",
        "lea eax, [rsi - 4]",
        "test eax, eax",
        "jle 3f",
        "lea edi, [rax + 1]",
        "and edi, -2",
        "shl rdi, 3",
        "sub rsp, rdi",
        "2: mov r11, [rbp + rax * 8 + 16]",
        "mov [rsp + rax * 8 - 8], r11",
        "dec eax",
        "jnz 2b",
        "3: lea rdi, [rbp - 8]",
        "mov rsi, rdi",
        "call r10",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}

/// `__kmpc_fork_call_if`, likewise.
unsafe extern "C" fn serial_fork_call_if(
    _location: usize,
    _argc: c_int,
    microtask: unsafe extern "C" fn(*const c_int, *const c_int, *mut c_void),
    _condition: c_int,
    arguments: *mut c_void,
) {
    let zero = 0;
    // SAFETY: the caller's own function, with its arguments.
    unsafe { microtask(&raw const zero, &raw const zero, arguments) }
}

// Numbers ---------------------------------------------------------------------------------------------------------

/// The names that give the next region a number.
const PUSHES: [&CStr; 4] = [
    c"__kmpc_push_num_threads",
    c"__kmpc_push_num_threads_strict",
    c"__kmpc_push_num_threads_list",
    c"__kmpc_push_num_threads_list_strict",
];

/// Remembers that the calling thread's next region has a number, the third argument (or a list of so many numbers, the
/// fourth), and says where to go on.
unsafe extern "C" fn on_push(which: usize, count: c_int, list: *const c_int, site: usize) -> usize {
    extern "C" fn nothing() {}
    static SITES: Sites<1024, 1> = Sites::new();
    let [function] = SITES.get(site | which << 48, || {
        let name = PUSHES.get(which).copied().unwrap_or(c"");
        [resolve::real(name, site).unwrap_or(nothing as *const () as usize)]
    });
    let is_list = which >= 2;
    // SAFETY: the caller's own list, of at least so many numbers.
    let count = if is_list && count > 0 { unsafe { *list } } else { count };
    if count > 0 {
        EXPLICIT.put(count as u32);
    }
    function
}

macro_rules! pushes {
    ($($which:literal $name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!("mov eax, {which}", "jmp {push}", which = const $which, push = sym push)
            }
        )*
    };
}

pushes! {
    0 __kmpc_push_num_threads
    1 __kmpc_push_num_threads_strict
    2 __kmpc_push_num_threads_list
    3 __kmpc_push_num_threads_list_strict
}

/// One of the above, the `eax`th.
#[unsafe(naked)]
unsafe extern "C" fn push() {
    naked_asm!(
        ".cfi_startproc",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        ".cfi_def_cfa_offset 64",
        "mov edi, eax",
        "mov esi, edx",
        "mov rdx, rcx",
        "mov rcx, [rsp + 56]",
        "call {on_push}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        ".cfi_def_cfa_offset 8",
        "jmp rax",
        ".cfi_endproc",
        on_push = sym on_push,
    )
}
