//! OpenBLAS, BLIS and FlexiBLAS: their routines are entered through [`entry`], which asks for the threads of the call
//! and lets the library use so many.
//!
//! Each hooked name ([`super::blas_names`]) is a stub of a few bytes that says which it is and jumps to [`entry`]. That
//! knows nothing of the routine: it passes all registers and [`STACK_WORDS`] of the stack on, and what comes back.
//!
//! # How many threads
//! A copy of OpenBLAS has one number of threads, for all its callers, and reads it where a routine begins. We lower it
//! while a call runs that was granted less, and put back what was there when the last such call is over. So whoever asks
//! for the number between calls, by whatever way, hears the user's, and whoever sets it is obeyed. Nothing is ever
//! raised above it, and alone it is not touched.
//!
//! The number is OpenBLAS's variable `blas_cpu_number`, not `openblas_set_num_threads()`: that starts all threads of a
//! forked child that would need none of them. OpenBLAS on OpenMP takes the number from `omp_get_max_threads()` on every
//! call, and frees its threads' buffers when that falls, whoever uses them: there the calling thread's own setting is
//! changed and put back, and only in a process where no other thread calls the library.
//!
//! A worker's OpenBLAS was told the start share when it counted the CPUs. That is not the user's number: when more is
//! granted, the copy grows. It is told two threads at least, so that a user's limit of one is known for what it is.
//!
//! # Calls inside calls
//! A LAPACK routine that calls a hooked BLAS routine has its threads already: each thread has a [`Caller`] entry, where
//! its outermost call is written down. A call that was left by `longjmp()` (R's error handler) is ended by the thread's
//! next.

use super::resolve::{self, Sites};
use super::{Governor, Region};
use crate::dso::Dso;
use crate::observe::Source;
use crate::state;
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The stack words that [`entry`] passes on: LAPACK's zheevr has the most, 23 arguments and three lengths of strings.
const STACK_WORDS: usize = 20;

/// Defines hooks: each says its own address, from which its name is found, and goes on to [`entry`].
macro_rules! stubs {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                core::arch::naked_asm!("lea rax, [rip - 7]", "jmp {entry}", entry = sym super::blas::entry)
            }
        )*
    };
}
pub(super) use stubs;

/// A routine was called through the stub at `rax`.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, 64",
        // No routine takes more than two scalars by value.
        "movsd [rsp + 48], xmm0",
        "movsd [rsp + 56], xmm1",
        "mov [rsp], rdi",
        "mov [rsp + 8], rsi",
        "mov [rsp + 16], rdx",
        "mov [rsp + 24], rcx",
        "mov [rsp + 32], r8",
        "mov [rsp + 40], r9",
        "mov rdi, rax",
        "mov rsi, [rbp + 8]",
        "mov rdx, rbp",
        "call {begin}",
        "mov r11, rax",
        "mov r10, rdx",
        "movsd xmm0, [rsp + 48]",
        "movsd xmm1, [rsp + 56]",
        "mov rdi, [rsp]",
        "mov rsi, [rsp + 8]",
        "mov rdx, [rsp + 16]",
        "mov rcx, [rsp + 24]",
        "mov r8, [rsp + 32]",
        "mov r9, [rsp + 40]",
        "test r10, r10",
        "jnz 2f",
        "leave",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        ".cfi_restore rbp",
        "jmp r11",
        ".cfi_restore_state",
        "2: mov [rsp + 56], r10",
        // Word by word: what the caller has just stored in words is not yet to be had in wider pieces.
        ".irp at, 19,18,17,16,15,14,13,12,11,10,9,8,7,6,5,4,3,2,1,0",
        "push qword ptr [rbp + 16 + 8 * \\at]",
        ".endr",
        "call r11",
        "mov rdi, [rbp - 8]",
        "mov [rbp - 16], rax",
        "mov [rbp - 24], rdx",
        "movups [rbp - 48], xmm0",
        "movups [rbp - 64], xmm1",
        "call {end}",
        "mov rax, [rbp - 16]",
        "mov rdx, [rbp - 24]",
        "movups xmm0, [rbp - 48]",
        "movups xmm1, [rbp - 64]",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        begin = sym begin,
        end = sym end,
    )
}

const _: () = assert!(
    STACK_WORDS == 20 && STACK_WORDS.is_multiple_of(2),
    "as many as `entry` pushes, and the stack stays aligned"
);

/// What [`entry`] is to do: call `real` and [`end`] the call, or without a caller jump there.
#[repr(C)]
struct Begun {
    real: usize,
    caller: Option<&'static Caller>,
}

/// What is known of a call site: the routine, the number of its library (0 for none that we govern), and who calls.
static SITES: Sites<4096, 3> = Sites::new();

/// The routine behind the stub is called from `site`, with the stack at `stack`.
unsafe extern "C" fn begin(stub: usize, site: usize, stack: usize) -> Begun {
    // User addresses have 47 bits, and our stubs are not as far apart as the rest can tell.
    let [real, library, source] = SITES.get(site << 17 | stub & 0x1_ffff, || find(stub, site));
    let governed = LIBRARIES.get(library.wrapping_sub(1)).and_then(|library| Some((library, Caller::this_thread()?)));
    let governed = governed.filter(|_| is_deep_enough(stack));
    let caller =
        governed.and_then(|(library, caller)| caller.begin(library, Source::unpack(source), stack).then_some(caller));
    Begun { real, caller }
}

/// Whether all the words that [`entry`] passes on are there: a fiber's stack may end before.
#[inline]
fn is_deep_enough(stack: usize) -> bool {
    let (first, last) = (stack + 16, stack + 16 + 8 * (STACK_WORDS - 1));
    // The caller's frame begins in the first page.
    first >> 12 == last >> 12 || sys::peek(first, &mut [0; STACK_WORDS]) == STACK_WORDS
}

unsafe extern "C" fn end(caller: &'static Caller) {
    caller.end();
}

/// Whether the calling thread is inside a governed routine, so that what it does there has its threads already.
#[inline]
pub(crate) fn inside() -> bool {
    HAS_CALLERS.load(Ordering::Relaxed) && is_caller_inside()
}

fn is_caller_inside() -> bool {
    Caller::of(sys::thread_key()).is_some_and(|caller| caller.stack.load(Ordering::Relaxed) != 0)
}

#[cold]
#[inline(never)]
fn find(stub: usize, site: usize) -> [usize; 3] {
    /// Called in place of a routine that is nowhere.
    unsafe extern "C" fn nothing() {}
    let object = Dso::around(stub).and_then(|dso| dso.object);
    let name = object.as_ref().and_then(|object| object.name_of(stub)).unwrap_or(c"");
    let Some(real) = resolve::real(name, site) else {
        log::warn!("no BLAS that has {} is loaded: a call of it does nothing", name.to_str().unwrap_or("?"));
        return [nothing as *const () as usize, 0, 0];
    };
    let library = if super::is_on(Governor::OpenBlas) { Library::of(real) } else { 0 };
    [real, library, Source::at(Governor::OpenBlas, site).pack()]
}

// The threads that call ----------------------------------------------------------------------------------------------

/// A thread that called a routine, and its outermost call.
struct Caller {
    /// Its key; 0 where there is none. It stays after the thread, for the next one that has the same key.
    thread: AtomicUsize,
    /// Where the stack was at the outermost call; 0 outside.
    stack: AtomicUsize,
    /// How the library's number was lowered for it.
    lowered: UnsafeCell<Option<Lowered>>,
    region: UnsafeCell<Option<Region>>,
}

// SAFETY: the cells are the thread's own, whose key is in `thread`.
unsafe impl Sync for Caller {}

static CALLERS: [Caller; 256] = [const {
    Caller {
        thread: AtomicUsize::new(0),
        stack: AtomicUsize::new(0),
        lowered: UnsafeCell::new(None),
        region: UnsafeCell::new(None),
    }
}; 256];

/// Whether any thread has called a governed routine.
static HAS_CALLERS: AtomicBool = AtomicBool::new(false);

impl Caller {
    /// The places where `thread` may be.
    fn places(thread: usize) -> impl Iterator<Item = &'static Self> {
        let first = Self::first_place(thread);
        (first..first + 8).filter_map(|at| CALLERS.get(at % CALLERS.len()))
    }

    /// Keys are addresses on the threads' stacks, which lie at regular distances.
    #[inline]
    const fn first_place(thread: usize) -> usize {
        (thread >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56
    }

    /// The entry of `thread`, if it has one.
    #[inline]
    fn of(thread: usize) -> Option<&'static Self> {
        let is = |caller: &&Self| caller.thread.load(Ordering::Relaxed) == thread;
        CALLERS.get(Self::first_place(thread)).filter(is).or_else(|| Self::places(thread).find(is))
    }

    /// The calling thread's entry; `None` if too many threads call.
    #[inline]
    fn this_thread() -> Option<&'static Self> {
        let thread = sys::thread_key();
        Self::of(thread).or_else(|| Self::take(thread))
    }

    #[cold]
    #[inline(never)]
    fn take(thread: usize) -> Option<&'static Self> {
        HAS_CALLERS.store(true, Ordering::Relaxed);
        Self::places(thread)
            .find(|caller| caller.thread.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    /// Begins a call of `library`; false if the thread is already in one.
    fn begin(&'static self, library: &'static Library, source: Source, stack: usize) -> bool {
        let outermost = self.stack.load(Ordering::Relaxed);
        if outermost != 0 {
            if stack < outermost {
                return false;
            }
            self.end();
        }
        if !library.may_be_lowered(self.thread.load(Ordering::Relaxed)) {
            return false;
        }
        let number = library.number();
        let region = super::enter(source, library.most(number));
        let lowered = if region.threads < number || library.is_lowered() {
            library.lower(region)
        } else {
            if region.threads > number {
                library.grow(number, region.threads);
            }
            None
        };
        // SAFETY: only this thread uses its cells.
        unsafe {
            *self.lowered.get() = lowered;
            *self.region.get() = Some(region);
        }
        self.stack.store(stack, Ordering::Relaxed);
        true
    }

    /// Ends the outermost call.
    fn end(&self) {
        self.stack.store(0, Ordering::Relaxed);
        // SAFETY: only this thread uses its cells.
        let (lowered, region) = unsafe { ((*self.lowered.get()).take(), (*self.region.get()).take()) };
        if let Some(lowered) = lowered {
            lowered.put_back();
        }
        if let Some(region) = region {
            super::leave(region);
        }
    }
}

// The libraries ------------------------------------------------------------------------------------------------------

/// How a library keeps its number of threads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A variable.
    Variable,
    /// OpenMP's number for the calling thread, and a variable that follows it.
    OpenMp,
    /// A function to ask and one to set, for the process or for the thread.
    Functions,
}

/// A library that is loaded.
struct Library {
    /// What tells it from any other: the variable, or the function to ask; 0 where there is none yet, 1 while it is
    /// filled in.
    id: AtomicUsize,
    /// A [`Kind`].
    kind: AtomicU8,
    /// `int (*)(void)`, the number's, which a [`Kind::Variable`] has not; and `void (*)(int)`.
    ask: AtomicUsize,
    set: AtomicUsize,
    /// The number, where it is the start share or what that grew to; 0 where it is the user's.
    told: AtomicU32,
    /// What the calls in progress have made of the number.
    state: AtomicU64,
    /// On OpenMP, the one thread that calls, or [`MANY`].
    thread: AtomicUsize,
}

const FILLING: usize = 1;
const MANY: usize = 1;

static LIBRARIES: [Library; 16] = [const {
    Library {
        id: AtomicUsize::new(0),
        kind: AtomicU8::new(0),
        ask: AtomicUsize::new(0),
        set: AtomicUsize::new(0),
        told: AtomicU32::new(0),
        state: AtomicU64::new(0),
        thread: AtomicUsize::new(0),
    }
}; 16];

/// What the calls in progress have made of a library's number: four 16-bit fields in a word, which is 0 when the number
/// is the user's.
///
/// | bits | field | |
/// |---|---|---|
/// | 0-15 | `calls` | that run with a lowered number |
/// | 16-31 | `own` | the user's number |
/// | 32-47 | `given` | what it was lowered to |
/// | 48-63 | `process` | the low half of the process's number: in a forked child those calls are not its own |
///
/// With no calls, the last of them is just putting the number back, and whoever comes next still knows the user's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const NONE: Self = Self(0);

    fn new(calls: u32, own: u32, given: u32, process: i32) -> Self {
        let process = process as u16;
        Self(
            u64::from(calls as u16)
                | u64::from(own as u16) << 16
                | u64::from(given as u16) << 32
                | u64::from(process) << 48,
        )
    }

    const fn calls(self) -> u32 {
        self.0 as u16 as u32
    }

    const fn own(self) -> u32 {
        (self.0 >> 16) as u16 as u32
    }

    const fn given(self) -> u32 {
        (self.0 >> 32) as u16 as u32
    }

    /// Whether it was copied by a fork, into `process`.
    fn is_of_parent(self, process: i32) -> bool {
        self != Self::NONE && (self.0 >> 48) as u16 != process as u16
    }

    /// The user's number, where the library has `current`: another than we gave was set since.
    const fn own_behind(self, current: u32) -> u32 {
        if self.own() != 0 && self.given() == current { self.own() } else { current }
    }
}

impl Library {
    /// The number of the library that the routine at `real` belongs to, or 0.
    fn of(real: usize) -> usize {
        let Some(dso) = Dso::around(real) else { return 0 };
        let Some((kind, id, ask, set)) = kind(&dso, real) else { return 0 };
        let place = LIBRARIES.iter().zip(1..).find(|(library, _)| {
            let fill = || {
                library.kind.store(kind as u8, Ordering::Relaxed);
                library.ask.store(ask, Ordering::Relaxed);
                library.set.store(set, Ordering::Relaxed);
            };
            match library.id.compare_exchange(0, FILLING, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    fill();
                    library.id.store(id, Ordering::Release);
                    if kind == Kind::Variable && set != 0 && is_left_to_count() {
                        library.told.store(told(library.current()), Ordering::Relaxed);
                    }
                    true
                }
                // It may have been unloaded meanwhile, and another one be there.
                Err(found) if found == id => {
                    fill();
                    true
                }
                Err(_) => false,
            }
        });
        place.map_or(0, |(_, number)| number)
    }

    fn kind(&self) -> Kind {
        const VARIABLE: u8 = Kind::Variable as u8;
        const OPENMP: u8 = Kind::OpenMp as u8;
        match self.kind.load(Ordering::Relaxed) {
            VARIABLE => Kind::Variable,
            OPENMP => Kind::OpenMp,
            _ => Kind::Functions,
        }
    }

    /// OpenBLAS's variable.
    fn variable(&self) -> &AtomicI32 {
        // SAFETY: the address of an `int` of an object that is never unloaded while its routines are called.
        unsafe { AtomicI32::from_ptr(self.id.load(Ordering::Relaxed) as *mut i32) }
    }

    /// The number that the library has now.
    #[inline]
    fn current(&self) -> u32 {
        let current = match self.kind() {
            Kind::Variable => self.variable().load(Ordering::Relaxed),
            _ => {
                // SAFETY: the address of the library's `int (*)(void)`.
                unsafe {
                    core::mem::transmute::<usize, unsafe extern "C" fn() -> c_int>(self.ask.load(Ordering::Relaxed))()
                }
            }
        };
        current.clamp(1, i32::from(i16::MAX)) as u32
    }

    /// Makes `to` of the number if it is `from`.
    fn change(&self, from: u32, to: u32) {
        let kind = self.kind();
        if kind != Kind::Variable && self.current() == from {
            self.set(to);
        }
        if kind != Kind::Functions {
            let (from, to) = (from as i32, to as i32);
            let _ = self.variable().compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn set(&self, to: u32) {
        // SAFETY: the address of the library's `void (*)(int)`.
        unsafe {
            core::mem::transmute::<usize, unsafe extern "C" fn(c_int)>(self.set.load(Ordering::Relaxed))(to as c_int);
        }
    }

    /// How many threads a call may ask for, where the number is `number`.
    #[inline]
    fn most(&self, number: u32) -> u32 {
        match self.told.load(Ordering::Relaxed) {
            0 => number,
            told if told == number => super::whole().max(number),
            _ => {
                // The user has set another.
                self.told.store(0, Ordering::Relaxed);
                number
            }
        }
    }

    /// More than the start share was granted.
    #[cold]
    #[inline(never)]
    fn grow(&self, from: u32, to: u32) {
        if self.told.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.set(to);
        }
    }

    fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    fn is_lowered(&self) -> bool {
        self.state() != State::NONE
    }

    /// The user's number of threads.
    #[inline]
    fn number(&self) -> u32 {
        self.state().own_behind(self.current())
    }

    fn replace(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Whether `thread` may call with fewer threads than the user set, and be counted: see the head of this file for
    /// OpenBLAS on OpenMP. Where a second thread calls it, OpenMP's own governor sees what they do.
    #[inline]
    fn may_be_lowered(&self, thread: usize) -> bool {
        self.kind() != Kind::OpenMp || self.has_one_caller(thread) || self.is_lowered()
    }

    fn has_one_caller(&self, thread: usize) -> bool {
        match self.thread.load(Ordering::Relaxed) {
            MANY => false,
            0 => match self.thread.compare_exchange(0, thread, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => true,
                Err(_) => self.has_one_caller(thread),
            },
            caller if caller == thread => true,
            _ => {
                // `lower` writes the state first, and looks here then: one of the two sees the other.
                self.thread.store(MANY, Ordering::SeqCst);
                false
            }
        }
    }

    /// Lowers the number for a call that begins; `None` if there is nothing to lower.
    #[cold]
    #[inline(never)]
    fn lower(&'static self, Region { threads, process, .. }: Region) -> Option<Lowered> {
        if process == 0 {
            return None;
        }
        let is_openmp = self.kind() == Kind::OpenMp;
        loop {
            let state = self.state();
            let current = self.current();
            if state.is_of_parent(process) {
                if !is_openmp {
                    self.change(state.given(), state.own());
                }
                self.replace(state, State::NONE);
                continue;
            }
            let own = state.own_behind(current);
            let given = match state.calls() {
                0 => threads,
                _ if is_openmp => state.given(),
                _ if threads >= own => threads,
                _ => threads.min(state.given()),
            };
            if given >= own {
                return None;
            }
            let lowered = Lowered { library: self, own, given, process };
            if !self.replace(state, State::new(state.calls() + 1, own, given, process)) {
                continue;
            }
            if is_openmp && state.calls() == 0 && self.thread.load(Ordering::SeqCst) == MANY {
                lowered.put_back();
                return None;
            }
            self.change(current, given);
            return Some(lowered);
        }
    }
}

/// What was done to a library's number for one call.
#[derive(Clone, Copy)]
struct Lowered {
    library: &'static Library,
    own: u32,
    given: u32,
    process: i32,
}

impl Lowered {
    /// The call is over.
    #[cold]
    #[inline(never)]
    fn put_back(self) {
        let library = self.library;
        // A thread's own number nobody else puts back.
        if library.kind() != Kind::Variable {
            library.change(self.given, self.own);
        }
        loop {
            let state = library.state();
            if state.calls() == 0 || state.is_of_parent(self.process) {
                return;
            }
            let left = State::new(state.calls() - 1, state.own(), state.given(), self.process);
            if library.replace(state, left) {
                if left.calls() == 0 {
                    library.change(left.given(), left.own());
                    library.replace(left, State::NONE);
                }
                return;
            }
        }
    }
}

/// `number`, if it is what this process was told to have.
fn told(number: u32) -> u32 {
    // OpenBLAS is told two at least: see `caller::least_told`.
    match super::start::told() {
        Some(share) if share.max(2) == number => number,
        _ => 0,
    }
}

/// Whether no variable tells OpenBLAS its number.
fn is_left_to_count() -> bool {
    const NAMES: [&[u8]; 3] = [b"OPENBLAS_NUM_THREADS=", b"GOTO_NUM_THREADS=", b"OMP_NUM_THREADS="];
    !state::environment().any(|line| NAMES.iter().any(|name| line.starts_with(name)))
}

/// How the library around the routine `real` keeps its number: the kind, what tells it from others, and the functions
/// to ask and to set; `None` if it has no threads of its own, or we don't know it.
fn kind(dso: &Dso, real: usize) -> Option<(Kind, usize, usize, usize)> {
    const SETTERS: [&CStr; 4] = [
        c"openblas_set_num_threads",
        c"openblas_set_num_threads64_",
        c"scipy_openblas_set_num_threads",
        c"scipy_openblas_set_num_threads64_",
    ];
    let functions = |ask: &CStr, set: &CStr| Some((dso.lookup(ask)?, dso.lookup(set)?));
    if let Some(variable) = dso.lookup(c"blas_cpu_number") {
        // Only the library's own threads have queues.
        if dso.lookup(c"exec_blas_async").is_some() {
            return Some((Kind::Variable, variable, 0, SETTERS.iter().find_map(|name| dso.lookup(name)).unwrap_or(0)));
        }
        let (ask, set) = (resolve::real(c"omp_get_max_threads", real)?, resolve::real(c"omp_set_num_threads", real)?);
        return Some((Kind::OpenMp, variable, ask, set));
    }
    let (ask, set) = functions(c"bli_thread_get_num_threads", c"bli_thread_set_num_threads")
        .or_else(|| functions(c"flexiblas_get_num_threads", c"flexiblas_set_num_threads"))?;
    Some((Kind::Functions, ask, ask, set))
}
