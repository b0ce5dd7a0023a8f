//! The governor of TBB: oneTBB (libtbb.so.12) and the classic one (libtbb.so.2).
//!
//! An algorithm (`parallel_for`, the wait of a task group or a flow graph, a pipeline) that a program starts outside
//! any other is a region. TBB has no teams: idle workers join whatever algorithm has work, and how many there may be at
//! all is said by objects of the type `global_control`, of which the smallest holds. Ours is one more of those: made
//! when an algorithm is granted less than it asks for, replaced when the grants change, and removed by the first that
//! gets all, so that alone nothing is different. What the program says itself (other controls, arenas) stays an upper
//! bound by TBB's own rules.
//!
//! * **The answer to "how many at most?" does not vary**: an arena keeps its size, and who asks for the smallest
//!   control hears what it would be without ours. Programs and libraries size arrays by both.
//! * **Nested algorithms** are left alone, and so are those of TBB's workers: TBB knows of them.
//! * **oneTBB's algorithms** come through one of three functions, which are wrapped. Exceptions pass through the
//!   wrapper, whose frame the unwinder knows: it asks [`personality`] what the frame has to do about them, which is to
//!   leave the region, and nothing else.
//! * **Classic TBB's** call the scheduler through a table of virtual functions, where nobody can stand between. But
//!   each makes a `task_group_context` on the stack, with the algorithm's name in it, and destroys it at the end, also
//!   when an exception passes. Pipelines and what runs in an arena (also the wait of graphs) are wrapped as above.
//!   Where neither is there, as for task groups, the first task of a kind brings the control up to date.
//!
//! A control that falls acts on workers when they run out of tasks, one that rises at once. Tasks that nobody waits
//! for, and what a task group does before the wait, are held to the control that is there, but not counted.
//!
//! Several copies of TBB may be loaded, each with workers of its own. A call has to reach the copy that it would have
//! reached without us, and that is the same for all calls of an object.

use super::resolve;
use super::{Governor, Region};
use crate::dso::Dso;
use crate::observe::Source;
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// Defines hooks that pass their number on, in `eax`.
macro_rules! hooks {
    ($($name:ident to $inner:ident;)*) => {
        #[allow(non_camel_case_types, reason = "the compiler's own names")]
        #[repr(usize)]
        enum Hook { $($name),* }

        /// The names, by number.
        const NAMES: &[&CStr] = &[$(
            // SAFETY: an identifier and the one NUL that ends it.
            unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
        ),*];

        $(
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    "mov eax, {number}",
                    "jmp {inner}",
                    number = const Hook::$name as usize,
                    inner = sym $inner,
                )
            }
        )*
    };
}

hooks! {
    // oneTBB's algorithms, the wait of its task groups and graphs, and its pipeline
    _ZN3tbb6detail2r116execute_and_waitERNS0_2d14taskERNS2_18task_group_contextERNS2_12wait_contextES6_ to algorithm;
    _ZN3tbb6detail2r14waitERNS0_2d112wait_contextERNS2_18task_group_contextE to algorithm;
    _ZN3tbb6detail2r117parallel_pipelineERNS0_2d118task_group_contextEmRKNS2_11filter_nodeE to algorithm;
    // the classic pipeline, what runs in an arena, and a task that has no parent
    _ZN3tbb8pipeline3runEm to algorithm;
    _ZN3tbb8pipeline3runEmRNS_18task_group_contextE to algorithm;
    _ZNK3tbb10interface78internal15task_arena_base16internal_executeERNS1_13delegate_baseE to algorithm;
    _ZNK3tbb8internal32allocate_root_with_context_proxy8allocateEm to algorithm;
    // controls: made, unmade, and asked for
    _ZN3tbb6detail2r16createERNS0_2d114global_controlE to change;
    _ZN3tbb6detail2r17destroyERNS0_2d114global_controlE to change;
    _ZN3tbb10interface914global_control15internal_createEv to change;
    _ZN3tbb10interface914global_control16internal_destroyEv to change;
    _ZN3tbb6detail2r127global_control_active_valueEi to active_value;
    _ZN3tbb10interface914global_control12active_valueEi to active_value;
    // arenas
    _ZN3tbb6detail2r110initializeERNS0_2d115task_arena_baseE to arena_made;
    _ZN3tbb10interface78internal15task_arena_base19internal_initializeEv to arena_made;
    // the context of a classic algorithm: made and destroyed
    _ZN3tbb18task_group_context4initEv to context_made;
    _ZN3tbb18task_group_contextD1Ev to context_destroyed;
}

/// Runs the real function of the number in `eax`, which takes up to four arguments; inside a region if [`before`] says
/// so, and then it returns nothing, and else with no frame of ours on the stack.
#[unsafe(naked)]
unsafe extern "C" fn algorithm() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}", // a 32-bit offset to it
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        "push rcx",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 56",
        ".cfi_adjust_cfa_offset 56",
        "mov rcx, rdi",
        "mov edi, eax",
        "mov rsi, [rsp + 88]",
        "mov rdx, rsp",
        "call {before}",
        "mov rcx, [rsp + 56]",
        "mov rdx, [rsp + 64]",
        "mov rsi, [rsp + 72]",
        "mov rdi, [rsp + 80]",
        "cmp qword ptr [rsp], 0",
        "je 2f",
        "call rax",
        "mov rdi, rsp",
        "call {after}",
        ".cfi_remember_state",
        "add rsp, 88",
        ".cfi_adjust_cfa_offset -88",
        "ret",
        ".cfi_restore_state",
        "2: add rsp, 88",
        ".cfi_adjust_cfa_offset -88",
        "jmp rax",
        ".cfi_endproc",
        personality = sym personality,
        before = sym before,
        after = sym after,
    )
}

/// What [`algorithm`] keeps on its stack while a region runs.
#[repr(C)]
struct Frame {
    /// Says that an algorithm runs: [`MARK`] and this frame's address. 0 otherwise.
    mark: usize,
    /// oneTBB's algorithm.
    algorithm: Algorithm,
    /// Classic TBB's.
    open: Option<&'static Open>,
}

const _: () = assert!(size_of::<Frame>() <= 56);

/// Nothing else on a stack looks like this.
const MARK: usize = 0x6b6e_6c66_6978_5f5f;

unsafe extern "C" fn before(number: usize, site: usize, frame: *mut Frame, argument: *mut c_void) -> *const c_void {
    const ROOT: usize = Hook::_ZNK3tbb8internal32allocate_root_with_context_proxy8allocateEm as usize;
    const IN_ARENA: usize =
        Hook::_ZNK3tbb10interface78internal15task_arena_base16internal_executeERNS1_13delegate_baseE as usize;
    // SAFETY: the assembly's own stack.
    unsafe { (&raw mut (*frame).mark).write(0) };
    let found = Library::of_caller(number, site);
    let Some(library) = found.library else { return found.function };
    let (mut algorithm, mut open) = (Algorithm::NONE, None);
    if library.is_classic() {
        let arena = if number == IN_ARENA { argument } else { core::ptr::null_mut() };
        open = Open::begin(library, found.source, arena, frame as usize);
        if number == ROOT
            && let Some(open) = open.take()
        {
            open.end();
        }
    } else if library.current() == 0 {
        algorithm = library.enter(found.source, core::ptr::null_mut());
    }
    if algorithm.library.is_some() || open.is_some() {
        // SAFETY: as above.
        unsafe { frame.write(Frame { mark: MARK ^ frame as usize, algorithm, open }) };
    }
    found.function
}

unsafe extern "C" fn after(frame: *mut Frame) {
    // SAFETY: filled by `before`, as its mark says.
    let frame = unsafe { &mut *frame };
    frame.mark = 0;
    frame.algorithm.leave();
    if let Some(open) = frame.open {
        open.end();
    }
}

/// What the unwinder asks about [`algorithm`]'s frame, first whether it catches the exception, and then, when the frame
/// goes, for its cleanup (`_Unwind_Personality_Fn` of the C++ ABI).
unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _exception: *mut c_void,
    _context: *mut c_void,
) -> c_int {
    const CLEANUP_PHASE: c_int = 2;
    const CONTINUE_UNWIND: c_int = 8;
    if actions & CLEANUP_PHASE != 0 {
        // The unwinder runs on the stack that it unwinds, so the frame is above us; there is one on a stack, as nested
        // algorithms have none. (Which functions tell where it is depends on the unwinder, which may be part of a
        // program and export nothing.)
        let mut word = (&raw const actions as usize).next_multiple_of(size_of::<usize>());
        // SAFETY: live stack up to the frame, which is there, or we had not been asked.
        while unsafe { *(word as *const usize) } != MARK ^ word {
            word += size_of::<usize>();
        }
        // SAFETY: the frame has said who it is.
        unsafe { after(word as *mut Frame) };
    }
    CONTINUE_UNWIND
}

// What the program asks and says ---------------------------------------------------------------------------------

/// Passes the number and the return address on, as second and third argument.
macro_rules! with_site {
    ($($name:ident to $inner:ident;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!("mov esi, eax", "mov rdx, [rsp]", "jmp {inner}", inner = sym $inner)
            }
        )*
    };
}

with_site! {
    change to on_change;
    active_value to on_active_value;
    arena_made to on_arena_made;
    context_made to on_context_made;
    context_destroyed to on_context_destroyed;
}

/// The program's own controls change. What we know of them is out of date then.
unsafe extern "C" fn on_change(control: *mut c_void, number: usize, site: usize) {
    let found = Library::of_caller(number, site);
    // SAFETY: the function of that name, and the caller's own argument.
    unsafe { call(found.function, control) };
    if let Some(library) = found.library {
        library.limit.store(0, Ordering::Relaxed);
    }
}

unsafe extern "C" fn on_active_value(parameter: c_int, number: usize, site: usize) -> usize {
    let found = Library::of_caller(number, site);
    match found.library {
        Some(library) if parameter == MAX_ALLOWED_PARALLELISM && library.installed.load(Ordering::Acquire) != 0 => {
            library.limit() as usize
        }
        // SAFETY: the function of that name, and the caller's own argument.
        _ => unsafe { call(found.function, parameter as usize as *mut c_void) },
    }
}

/// An arena is made. TBB before 2021.11 warns of arenas that are larger than the smallest control, which shall not be
/// ours. The next algorithm brings it back.
unsafe extern "C" fn on_arena_made(arena: *mut c_void, number: usize, site: usize) {
    let found = Library::of_caller(number, site);
    if let Some(library) = found.library {
        library.change_to(0);
    }
    // SAFETY: the function of that name, and the caller's own argument.
    unsafe { call(found.function, arena) };
}

/// Calls a function that takes a pointer or a number, or nothing.
///
/// # Safety
/// `function` is one, and takes that argument.
unsafe fn call(function: *const c_void, argument: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { core::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut c_void) -> usize>(function)(argument) }
}

// Classic algorithms ---------------------------------------------------------------------------------------------

/// Classic TBB's `task_group_context`, as far as all versions since 2018 have the same.
#[repr(C)]
struct Context {
    _before: [u8; 128],
    version_and_traits: usize,
    _between: [u8; 32],
    name: u32,
}

impl Context {
    /// Whether it is an algorithm's own: the names of all algorithms follow each other.
    fn is_algorithms(&self) -> bool {
        const NAMED_SINCE: usize = 3;
        const ALGORITHM: u32 = 48;
        const PARALLEL_SORT: u32 = 54;
        self.version_and_traits & 0xffff >= NAMED_SINCE && (ALGORITHM..=PARALLEL_SORT).contains(&self.name)
    }
}

unsafe extern "C" fn on_context_made(context: *mut Context, number: usize, site: usize) {
    let found = Library::of_caller(number, site);
    // SAFETY: the function of that name, and the caller's own argument.
    unsafe { call(found.function, context.cast()) };
    if let Some(library) = found.library
        // SAFETY: it was just made.
        && unsafe { (*context).is_algorithms() }
    {
        Open::begin(library, found.source, core::ptr::null_mut(), context as usize);
    }
}

unsafe extern "C" fn on_context_destroyed(context: *mut Context, number: usize, site: usize) {
    if let Some(open) =
        Open::of(sys::thread_key()).filter(|open| open.stack.load(Ordering::Relaxed) == context as usize)
    {
        open.end();
    }
    let found = Library::of_caller(number, site);
    // SAFETY: the function of that name, and the caller's own argument.
    unsafe { call(found.function, context.cast()) };
}

/// A thread's outermost classic algorithm.
struct Open {
    /// The thread's key; 0 where there is none. It stays after the thread, for the next one that has the same key.
    thread: AtomicUsize,
    /// Where the stack was when it began; 0 outside.
    stack: AtomicUsize,
    algorithm: UnsafeCell<Algorithm>,
}

// SAFETY: the cell is used by the thread whose key it has.
unsafe impl Sync for Open {}

static OPEN: [Open; 128] = [const {
    Open { thread: AtomicUsize::new(0), stack: AtomicUsize::new(0), algorithm: UnsafeCell::new(Algorithm::NONE) }
}; 128];

impl Open {
    fn places(thread: usize) -> impl Iterator<Item = &'static Self> {
        // Keys are addresses on the threads' stacks, which lie at regular distances.
        let start = (thread >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
        (start..start + 8).filter_map(|at| OPEN.get(at % OPEN.len()))
    }

    fn of(thread: usize) -> Option<&'static Self> {
        Self::places(thread).find(|open| open.thread.load(Ordering::Relaxed) == thread)
    }

    /// Begins an algorithm of the calling thread, to be [ended](Self::end); `None` if it is not to be counted. An arena
    /// of null is the thread's own.
    fn begin(library: &'static Library, source: Source, arena: *mut c_void, stack: usize) -> Option<&'static Self> {
        let thread = sys::thread_key();
        let known = Self::of(thread);
        if known.is_some_and(|open| stack < open.stack.load(Ordering::Relaxed)) || library.runs_classic_task() {
            return None;
        }
        let is_taken =
            |open: &&Self| open.thread.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let open = known.or_else(|| Self::places(thread).find(is_taken))?;
        // One may have been left by longjmp().
        open.end();
        // SAFETY: it is the calling thread's.
        unsafe { *open.algorithm.get() = library.enter(source, arena) };
        open.stack.store(stack, Ordering::Relaxed);
        Some(open)
    }

    fn end(&self) {
        self.stack.store(0, Ordering::Relaxed);
        // SAFETY: it is the calling thread's.
        unsafe { (*self.algorithm.get()).leave() };
    }
}

// Copies of TBB --------------------------------------------------------------------------------------------------

/// A `global_control` of `<tbb/global_control.h>`, of either TBB.
#[repr(C)]
struct Control {
    value: usize,
    /// oneTBB's reserve, classic TBB's next control.
    theirs: usize,
    parameter: c_int,
}

const MAX_ALLOWED_PARALLELISM: c_int = 0;

/// What we call, by number.
enum Function {
    Create,
    Destroy,
    ActiveValue,
    /// Of an arena; without one, of the calling thread's.
    MaxConcurrency,
    /// See [`Library::current`].
    Current,
    /// oneTBB's version, classic TBB's slot of the calling thread in its arena.
    Other,
}

const ONE: [&CStr; 6] = [
    c"_ZN3tbb6detail2r16createERNS0_2d114global_controlE",
    c"_ZN3tbb6detail2r17destroyERNS0_2d114global_controlE",
    c"_ZN3tbb6detail2r127global_control_active_valueEi",
    c"_ZN3tbb6detail2r115max_concurrencyEPKNS0_2d115task_arena_baseE",
    c"_ZN3tbb6detail2r115current_contextEv",
    c"TBB_runtime_interface_version",
];
const CLASSIC: [&CStr; 6] = [
    c"_ZN3tbb10interface914global_control15internal_createEv",
    c"_ZN3tbb10interface914global_control16internal_destroyEv",
    c"_ZN3tbb10interface914global_control12active_valueEi",
    c"_ZN3tbb10interface78internal15task_arena_base24internal_max_concurrencyEPKNS0_10task_arenaE",
    c"_ZN3tbb4task4selfEv",
    c"_ZN3tbb10interface78internal15task_arena_base21internal_current_slotEv",
];

/// A copy of TBB, and our control in it.
struct Library {
    /// The address of its dynamic section; 0 where there is none yet.
    dynamic: AtomicUsize,
    is_known: AtomicBool,
    is_classic: AtomicBool,
    /// Whether an arena may have more threads than there are CPUs, as it had before oneTBB 2021.8 where it was the
    /// first.
    stretches: AtomicBool,
    hooked: [AtomicUsize; NAMES.len()],
    functions: [AtomicUsize; 6],
    /// What the smallest control of the program's own says; 0 if that has to be asked anew, [`ASKING`](Self::ASKING)
    /// while it is.
    limit: AtomicU32,
    /// The value of our control; 0 if there is none.
    installed: AtomicU32,
    /// The workers that regions were granted.
    workers: AtomicU32,
    /// The process that changes our control.
    process: AtomicI32,
    /// One thread changes our control at a time, and nobody waits for that.
    is_busy: AtomicBool,
    /// TBB keeps the address of a control, and a new one comes before the old one goes.
    controls: UnsafeCell<[Control; 2]>,
}

// SAFETY: the cell is used by the thread that holds `is_busy`.
unsafe impl Sync for Library {}

static LIBRARIES: [Library; 8] = [const { Library::new() }; 8];

/// What a call means: the function, and the copy if we govern it.
struct Found {
    function: *const c_void,
    library: Option<&'static Library>,
    source: Source,
}

/// Where there is no TBB, its functions do nothing.
unsafe extern "C" fn nothing() -> usize {
    1
}

/// An algorithm that was entered: to be left once.
struct Algorithm {
    /// `None` when there is nothing to leave.
    library: Option<&'static Library>,
    region: Region,
    /// What the copy counts for it.
    workers: u32,
}

impl Algorithm {
    const NONE: Self = Self { library: None, region: Region::unknown(0), workers: 0 };

    fn leave(&mut self) {
        if let Some(library) = self.library.take() {
            if self.workers != 0 {
                library.workers.fetch_sub(self.workers, Ordering::Relaxed);
            }
            super::leave(self.region);
        }
    }
}

impl Library {
    const ASKING: u32 = u32::MAX;

    const fn new() -> Self {
        const NO_CONTROL: Control = Control { value: 0, theirs: 0, parameter: MAX_ALLOWED_PARALLELISM };
        Self {
            dynamic: AtomicUsize::new(0),
            is_known: AtomicBool::new(false),
            is_classic: AtomicBool::new(false),
            stretches: AtomicBool::new(false),
            hooked: [const { AtomicUsize::new(0) }; NAMES.len()],
            functions: [const { AtomicUsize::new(0) }; 6],
            limit: AtomicU32::new(0),
            installed: AtomicU32::new(0),
            workers: AtomicU32::new(0),
            process: AtomicI32::new(0),
            is_busy: AtomicBool::new(false),
            controls: UnsafeCell::new([NO_CONTROL, NO_CONTROL]),
        }
    }

    /// The copy that a call from `site` means, and its function of that number.
    #[inline]
    fn of_caller(number: usize, site: usize) -> Found {
        let found = CALLERS.iter().filter(|caller| caller.spans(site)).find_map(|caller| caller.function(number));
        found.unwrap_or_else(|| Self::find(number, site))
    }

    #[cold]
    #[inline(never)]
    fn find(number: usize, site: usize) -> Found {
        let name = NAMES.get(number).copied().unwrap_or(c"");
        let Some(function) = resolve::real(name, site) else {
            return Found { function: nothing as *const c_void, library: None, source: Source::NONE };
        };
        let found = Found { function: function as *const c_void, library: None, source: Source::NONE };
        let Some(library) = Dso::around(function).and_then(|dso| LIBRARIES.iter().find(|library| library.holds(&dso)))
        else {
            return found;
        };
        // Another preload may have a function of that name.
        match Dso::around(site) {
            Some(dso) if library.hooked(number) as usize == function => {
                let source = Source::of(Governor::Tbb, &dso);
                Caller::remember(&dso, library, source);
                Found { library: library.for_calls_of(&dso), source, ..found }
            }
            _ => found,
        }
    }

    /// The library, if calls of that object are governed. What TBB calls itself, it does as part of something else; its
    /// constructors do before it is ready.
    fn for_calls_of(&'static self, dso: &Dso) -> Option<&'static Self> {
        (self.dynamic.load(Ordering::Relaxed) != dso.dynamic && super::is_on(Governor::Tbb)).then_some(self)
    }

    /// Whether this entry is the TBB `dso`, taking it if it is free.
    fn holds(&self, dso: &Dso) -> bool {
        let dynamic = self.dynamic.load(Ordering::Acquire);
        if dynamic != 0 {
            // Another thread may be at finding the functions.
            return dynamic == dso.dynamic && self.is_known.load(Ordering::Acquire);
        }
        let Some(object) = &dso.object else { return false };
        let [one, classic] = [ONE, CLASSIC].map(|names| names.map(|name| object.function(name, true).unwrap_or(0)));
        let is_classic = one.contains(&0);
        let functions = if is_classic { classic } else { one };
        // We hold on to it: it has the address of our control, and who loaded it may unload it.
        if functions.contains(&0)
            || !dso.keep()
            || self.dynamic.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        for (place, name) in self.hooked.iter().zip(NAMES) {
            place.store(object.function(name, true).unwrap_or(0), Ordering::Relaxed);
        }
        for (place, function) in self.functions.iter().zip(functions) {
            place.store(function, Ordering::Relaxed);
        }
        self.is_classic.store(is_classic, Ordering::Relaxed);
        let stretches = is_classic || self.call(Function::Other, core::ptr::null_mut()) < 12080;
        self.stretches.store(stretches, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
        log::debug!("budget: TBB in {}", dso.name);
        true
    }

    #[inline]
    fn hooked(&self, number: usize) -> *const c_void {
        self.hooked.get(number).map_or(0, |function| function.load(Ordering::Relaxed)) as *const c_void
    }

    #[inline]
    fn call(&self, function: Function, argument: *mut c_void) -> usize {
        let function = self.functions.get(function as usize).map_or(0, |function| function.load(Ordering::Relaxed));
        // SAFETY: `holds` has found all of them, and the copy stays loaded. None keeps the argument but for a control,
        // which is static.
        unsafe { call(function as *const c_void, argument) }
    }

    #[inline]
    fn is_classic(&self) -> bool {
        self.is_classic.load(Ordering::Relaxed)
    }

    /// Classic TBB's task that the calling thread runs, or one that stands for none; oneTBB's algorithm that it is in,
    /// as a worker's thread among others, or 0.
    #[inline]
    fn current(&self) -> usize {
        self.call(Function::Current, core::ptr::null_mut())
    }

    /// Whether the calling thread runs a task.
    fn runs_classic_task(&self) -> bool {
        const NO_SLOT: u16 = u16::MAX;
        // `task::state()` lies before the task, in a prefix of which this part is as old as TBB.
        const STATE: usize = 12;
        const EXECUTING: u8 = 0;
        // A thread that has no slot has not been seen by TBB yet, and asking for its task would bring it in.
        self.call(Function::Other, core::ptr::null_mut()) as u16 != NO_SLOT
            // SAFETY: what runs, or a task that stands for none.
            && unsafe { *((self.current() - STATE) as *const u8) } == EXECUTING
    }

    /// The size of an arena; of null, of the calling thread's.
    #[inline]
    fn max_concurrency(&self, arena: *mut c_void) -> u32 {
        (self.call(Function::MaxConcurrency, arena) as c_int).max(1) as u32
    }

    fn active_value(&self) -> u32 {
        let value = self.call(Function::ActiveValue, MAX_ALLOWED_PARALLELISM as usize as *mut c_void);
        u32::try_from(value).unwrap_or(u32::MAX - 1).max(1)
    }

    #[inline]
    fn enter(&'static self, source: Source, arena: *mut c_void) -> Algorithm {
        let (most, limit) = (self.max_concurrency(arena), self.limit());
        if most > limit && self.stretches.load(Ordering::Relaxed) && most > super::whole() && limit >= super::whole() {
            // More than there are CPUs was asked for, and no control of ours could be taken back without a trace.
            return Algorithm { library: Some(self), region: super::enter_fixed(source, most), workers: 0 };
        }
        let ask = most.min(limit);
        let region = super::enter(source, ask);
        if region.threads == ask && self.installed.load(Ordering::Acquire) == 0 {
            return Algorithm { library: Some(self), region, workers: 0 };
        }
        self.adjust(region, ask)
    }

    /// Brings our control in line with the workers that all regions were granted.
    #[inline(never)]
    fn adjust(&'static self, region: Region, ask: u32) -> Algorithm {
        let workers = region.threads - 1;
        let all = self.workers.fetch_add(workers, Ordering::Relaxed).saturating_add(region.threads);
        if all >= self.limit() {
            self.change_to(0);
        } else if region.threads < ask {
            self.change_to(all);
        } else {
            self.change_to(all.max(self.installed.load(Ordering::Relaxed)));
        }
        Algorithm { library: Some(self), region, workers }
    }

    /// The smallest of the program's own controls, or TBB's default.
    #[inline]
    fn limit(&self) -> u32 {
        match self.limit.load(Ordering::Relaxed) {
            0 | Self::ASKING => self.find_limit(),
            limit => limit,
        }
    }

    #[cold]
    #[inline(never)]
    fn find_limit(&self) -> u32 {
        self.limit.store(Self::ASKING, Ordering::Relaxed);
        let installed = self.installed.load(Ordering::Acquire);
        let mut limit = self.active_value();
        // Where it is ours, the others can only be heard without it.
        if installed != 0 && limit >= installed {
            if !self.lock() {
                return super::whole();
            }
            let installed = self.installed.load(Ordering::Relaxed);
            self.set(0);
            limit = self.active_value();
            self.set(installed);
            self.is_busy.store(false, Ordering::Release);
        }
        // The program may have changed it meanwhile.
        let _ = self.limit.compare_exchange(Self::ASKING, limit, Ordering::Relaxed, Ordering::Relaxed);
        limit
    }

    /// Makes our control say `value`, or removes it if that is 0.
    #[inline]
    fn change_to(&self, value: u32) {
        if self.installed.load(Ordering::Relaxed) != value && self.lock() {
            self.set(value);
            self.is_busy.store(false, Ordering::Release);
        }
    }

    /// In a forked child it fails: TBB has no workers there, and a thread of the parent may have been inside `set`.
    fn lock(&self) -> bool {
        let process = sys::getpid();
        match self.process.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed) {
            Err(owner) if owner != process => false,
            _ => self.is_busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok(),
        }
    }

    /// The caller has locked it. The new control comes first, so that there is one change for TBB and not two.
    #[cold]
    #[inline(never)]
    fn set(&self, value: u32) {
        let before = self.installed.load(Ordering::Relaxed);
        if value == before {
            return;
        }
        let controls = self.controls.get().cast::<Control>();
        // SAFETY: we hold `is_busy`, and of two there is a free one: the one whose value is 0.
        unsafe {
            let (old, new) = match (*controls).value {
                0 => (controls.add(1), controls),
                _ => (controls, controls.add(1)),
            };
            if value != 0 {
                new.write(Control { value: value as usize, theirs: 0, parameter: MAX_ALLOWED_PARALLELISM });
                self.call(Function::Create, new.cast());
            }
            if before != 0 {
                self.call(Function::Destroy, old.cast());
                (*old).value = 0;
            }
        }
        self.installed.store(value, Ordering::Release);
    }
}

// Objects that call TBB ------------------------------------------------------------------------------------------

/// An object that calls TBB, and the copy that its calls reach. Templates make call sites by the hundred, but objects
/// are few.
struct Caller {
    start: AtomicUsize,
    end: AtomicUsize,
    library: AtomicPtr<Library>,
    is_governed: AtomicBool,
    source: AtomicUsize,
}

static CALLERS: [Caller; 32] = [const {
    Caller {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        library: AtomicPtr::new(core::ptr::null_mut()),
        is_governed: AtomicBool::new(false),
        source: AtomicUsize::new(0),
    }
}; 32];

impl Caller {
    #[inline]
    fn spans(&self, site: usize) -> bool {
        site < self.end.load(Ordering::Acquire) && site >= self.start.load(Ordering::Relaxed)
    }

    /// What a call of the hook of that number means here, if it is one of the library's.
    #[inline]
    fn function(&self, number: usize) -> Option<Found> {
        // SAFETY: null, or a static.
        let library = unsafe { self.library.load(Ordering::Relaxed).as_ref() }?;
        let function = library.hooked(number);
        let library = if self.is_governed.load(Ordering::Relaxed) { Some(library) } else { None };
        let source = Source::unpack(self.source.load(Ordering::Relaxed));
        (!function.is_null()).then_some(Found { function, library, source })
    }

    /// Where there is no room, the object's calls are looked up each time.
    fn remember(dso: &Dso, library: &'static Library, source: Source) {
        let free = CALLERS.iter().find(|caller| {
            let place = &caller.start;
            place.load(Ordering::Relaxed) == 0
                && place.compare_exchange(0, dso.start, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(caller) = free {
            caller.library.store(core::ptr::from_ref(library).cast_mut(), Ordering::Relaxed);
            caller.is_governed.store(library.for_calls_of(dso).is_some(), Ordering::Relaxed);
            caller.source.store(source.pack(), Ordering::Relaxed);
            caller.end.store(dso.end, Ordering::Release);
        }
    }
}
