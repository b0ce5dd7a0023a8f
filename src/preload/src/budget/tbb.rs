//! The governor of TBB: oneTBB (libtbb.so.12) and the classic one (libtbb.so.2).
//!
//! TBB has no teams: idle workers join whatever algorithm has work. How many there may be at all is said by objects of
//! the type `global_control`, of which the smallest holds. We keep at most one in each copy of TBB that is loaded, with
//! what the ledger granted, while that is less than the copy would use. It is changed only when the grant changes, and
//! taken away by the first algorithm that is granted all of its ask, so that alone nothing is different. What the user
//! said (other controls, arenas) stays an upper bound by TBB's own rules, and who asks TBB for the limit is not told
//! ours.
//!
//! # What is counted
//! The control is the copy's, and so is the region in the ledger: it is entered by the first algorithm that begins in a
//! copy, and left when the last has ended. Algorithms inside an algorithm (of the same thread, or of a worker) have
//! their threads already, and are not counted.
//!
//! * **oneTBB**: every algorithm that waits for its end comes through one of three functions, which we wrap
//!   ([`algorithm`]). Exceptions that the algorithm throws pass the wrapper, whose [`personality`] ends the count.
//! * **Classic TBB**: algorithms are templates that call the scheduler through a table of virtual functions, where
//!   nobody can stand between. But each makes a `task_group_context` on the stack, which has the algorithm's name in
//!   it, and destroys it at the end, also when an exception passes. What runs in an arena is wrapped as above.
//!
//! Tasks that nobody waits for, and the part of a task group's life before the wait, are limited by the control that is
//! there, but not counted.

use super::resolve::{self, Sites};
use super::{Governor, Region};
use crate::dso::Dso;
use crate::next::Any;
use crate::state;
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Defines hooks that pass their number on to a wrapper, in `eax`.
macro_rules! hooks {
    ($($name:ident => $wrapper:ident;)*) => {
        #[allow(non_camel_case_types, reason = "the compiler's own names")]
        #[repr(usize)]
        enum Entry { $($name),* }

        /// The names, by number.
        const NAMES: &[u8] = concat!($(stringify!($name), "\0"),*).as_bytes();

        $(
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!(
                    "mov eax, {number}",
                    "jmp {wrapper}",
                    number = const Entry::$name as usize,
                    wrapper = sym $wrapper,
                )
            }
        )*
    };
}

hooks! {
    // oneTBB's algorithms, the wait of its task groups and graphs, and its pipeline
    _ZN3tbb6detail2r116execute_and_waitERNS0_2d14taskERNS2_18task_group_contextERNS2_12wait_contextES6_ => algorithm;
    _ZN3tbb6detail2r14waitERNS0_2d112wait_contextERNS2_18task_group_contextE => algorithm;
    _ZN3tbb6detail2r117parallel_pipelineERNS0_2d118task_group_contextEmRKNS2_11filter_nodeE => algorithm;
    // the classic pipeline, and what runs in an arena: also the wait of graphs
    _ZN3tbb8pipeline3runEmRNS_18task_group_contextE => algorithm;
    _ZNK3tbb10interface78internal15task_arena_base16internal_executeERNS1_13delegate_baseE => algorithm;
    // controls: made, unmade, and asked for
    _ZN3tbb6detail2r16createERNS0_2d114global_controlE => change;
    _ZN3tbb6detail2r17destroyERNS0_2d114global_controlE => change;
    _ZN3tbb10interface914global_control15internal_createEv => change;
    _ZN3tbb10interface914global_control16internal_destroyEv => change;
    _ZN3tbb6detail2r127global_control_active_valueEi => active_value;
    _ZN3tbb10interface914global_control12active_valueEi => active_value;
    // the context of a classic algorithm: made and destroyed
    _ZN3tbb18task_group_context4initEv => context_made;
    _ZN3tbb18task_group_contextD1Ev => context_destroyed;
}

/// Defines a wrapper around a function of up to four arguments and no result: `$begin` is told the hook's number, the
/// return address, the stack and the first argument, and says what to call; with a token, `$end` is called after it.
macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident, $begin:ident, $end:ident $(, $personality:ident)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                // 0x1b: the distance to it, in four bytes
                $(concat!(".cfi_personality 0x1b, {", stringify!($personality), "}"),)?
                "push rbp",
                ".cfi_def_cfa_offset 16",
                ".cfi_offset rbp, -16",
                "mov rbp, rsp",
                ".cfi_def_cfa_register rbp",
                "push rcx",
                "push rdx",
                "push rsi",
                "push rdi",
                "mov rcx, rdi",
                "mov edi, eax",
                "mov rsi, [rbp + 8]",
                "mov rdx, rbp",
                "call {begin}",
                "mov r11, rax",
                "mov rax, rdx",
                "pop rdi",
                "pop rsi",
                "pop rdx",
                "pop rcx",
                "test rax, rax",
                "jnz 2f",
                "pop rbp",
                ".cfi_remember_state",
                ".cfi_def_cfa rsp, 8",
                ".cfi_restore rbp",
                "jmp r11",
                ".cfi_restore_state",
                "2: push rax",
                "push rax",
                "call r11",
                "mov rdi, [rsp]",
                "call {end}",
                "leave",
                ".cfi_def_cfa rsp, 8",
                "ret",
                ".cfi_endproc",
                begin = sym $begin,
                end = sym $end,
                $($personality = sym $personality,)?
            )
        }
    };
}

wrapper!(
    /// An algorithm that returns when it has ended, or throws.
    algorithm, begin, end, personality
);
wrapper!(
    /// The user makes or unmakes a control.
    change, begin_change, end_change
);

/// What a wrapper is to do: call `real` and, with a token, its end; without one, jump there.
#[repr(C)]
struct Begun<T: 'static> {
    real: usize,
    token: Option<&'static T>,
}

unsafe extern "C" fn begin(entry: usize, site: usize, stack: usize, argument: usize) -> Begun<Caller> {
    const IN_ARENA: usize =
        Entry::_ZNK3tbb10interface78internal15task_arena_base16internal_executeERNS1_13delegate_baseE as usize;
    let (real, library) = known(entry, site);
    let arena = if entry == IN_ARENA { argument } else { 0 };
    Begun { real, token: library.and_then(|library| Caller::begin(library, arena, stack)) }
}

unsafe extern "C" fn end(caller: &'static Caller) {
    caller.end();
}

/// What the unwinder calls for a frame of [`algorithm`] that an exception passes: the frame is the thread's outermost
/// algorithm, or still before or after it.
unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _exception: Any,
    _context: Any,
) -> c_int {
    const CLEANUP_PHASE: c_int = 2;
    const CONTINUE_UNWIND: c_int = 8;
    if actions & CLEANUP_PHASE != 0
        && let Some(caller) = Caller::known(sys::thread_key())
    {
        caller.end();
    }
    CONTINUE_UNWIND
}

unsafe extern "C" fn begin_change(entry: usize, site: usize) -> Begun<Library> {
    let (real, token) = known(entry, site);
    Begun { real, token }
}

unsafe extern "C" fn end_change(library: &'static Library) {
    library.limit.store(0, Ordering::Release);
}

/// Defines a wrapper that passes the hook's number and the stack on as second and third argument.
macro_rules! plain {
    ($name:ident, $inner:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!("mov esi, eax", "mov rdx, rsp", "jmp {inner}", inner = sym $inner)
        }
    };
}

plain!(active_value, on_active_value);
plain!(context_made, on_context_made);
plain!(context_destroyed, on_context_destroyed);

unsafe extern "C" fn on_active_value(parameter: c_int, entry: usize, stack: *const usize) -> usize {
    // SAFETY: the stack pointer that the hook was entered with.
    let (real, library) = known(entry, unsafe { *stack });
    if let Some(library) = library
        && parameter == MAX_ALLOWED_PARALLELISM
        && library.control.value.load(Ordering::Relaxed) != 0
    {
        return library.limit();
    }
    // SAFETY: the definition of this name: `size_t (int)`.
    let real = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(c_int) -> usize>(real) };
    // SAFETY: the caller's own argument.
    unsafe { real(parameter) }
}

unsafe extern "C" fn on_context_made(context: *const Context, entry: usize, stack: *const usize) {
    // SAFETY: the stack pointer that the hook was entered with.
    let (real, library) = known(entry, unsafe { *stack });
    call_method(real, context);
    let Some(library) = library else { return };
    if is_on_stack(context, stack)
        && let Some(caller) = Caller::begin(library, 0, context as usize)
        // SAFETY: the caller has just made it.
        && !unsafe { (*context).is_algorithms() }
    {
        // A task group or a graph may stay for long. It only finds the right control when it comes.
        caller.end();
    }
}

unsafe extern "C" fn on_context_destroyed(context: *const Context, entry: usize, stack: *const usize) {
    // SAFETY: the stack pointer that the hook was entered with.
    let (real, _) = known(entry, unsafe { *stack });
    if let Some(caller) = Caller::known(sys::thread_key())
        && caller.stack.load(Ordering::Relaxed) == context as usize
    {
        caller.end();
    }
    call_method(real, context);
}

/// Whether the context belongs to a function that is just calling us: algorithms keep theirs there.
fn is_on_stack(context: *const Context, stack: *const usize) -> bool {
    const NEAR: usize = 4096;
    (context as usize).wrapping_sub(stack as usize) < NEAR
}

fn call_method(real: usize, object: *const Context) {
    // SAFETY: the definition of a method without arguments or result.
    let real = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(*const Context)>(real) };
    // SAFETY: the caller's own object.
    unsafe { real(object) }
}

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

// Call sites ---------------------------------------------------------------------------------------------------------

/// What is known of a call site: the definition to call, and the copy of TBB.
static SITES: Sites<512, 2> = Sites::new();

fn known(entry: usize, site: usize) -> (usize, Option<&'static Library>) {
    let [real, library] = SITES.get(site << 4 | entry, || find(entry, site));
    // SAFETY: an element of LIBRARIES, or null.
    (real, unsafe { (library as *const Library).as_ref() })
}

#[cold]
#[inline(never)]
fn find(entry: usize, site: usize) -> [usize; 2] {
    /// Called where there is no TBB: nothing can have been begun.
    unsafe extern "C" fn nothing() -> usize {
        0
    }
    let name = NAMES.split_inclusive(|&byte| byte == 0).nth(entry);
    let name = name.and_then(|name| CStr::from_bytes_with_nul(name).ok()).unwrap_or(c"");
    let Some(real) = resolve::real(name, site) else { return [nothing as *const () as usize, 0] };
    let library = if super::is_on(Governor::Tbb) { Library::of(real) } else { None };
    [real, library.map_or(0, |library| core::ptr::from_ref(library) as usize)]
}

// The threads that call ----------------------------------------------------------------------------------------------

/// A thread that began an algorithm, and its outermost one.
struct Caller {
    /// Its key; 0 where there is none. It stays after the thread, for the next one that has the same key.
    thread: AtomicUsize,
    /// Where the stack was at the outermost algorithm; 0 outside.
    stack: AtomicUsize,
    library: AtomicUsize,
}

static CALLERS: [Caller; 128] =
    [const { Caller { thread: AtomicUsize::new(0), stack: AtomicUsize::new(0), library: AtomicUsize::new(0) } }; 128];

impl Caller {
    /// Where `thread` may be.
    fn places(thread: usize) -> impl Iterator<Item = &'static Self> {
        // Keys are addresses on the threads' stacks, which lie at regular distances.
        let start = (thread >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
        (start..start + 8).filter_map(|at| CALLERS.get(at % CALLERS.len()))
    }

    fn known(thread: usize) -> Option<&'static Self> {
        Self::places(thread).find(|caller| caller.thread.load(Ordering::Relaxed) == thread)
    }

    /// Begins an algorithm of the calling thread in an arena (0: its own), which is to be [ended](Self::end); `None` if it
    /// is not to be counted.
    fn begin(library: &'static Library, arena: usize, stack: usize) -> Option<&'static Self> {
        let thread = sys::thread_key();
        let known = Self::known(thread);
        match known {
            Some(caller) => {
                let outermost = caller.stack.load(Ordering::Relaxed);
                if stack < outermost {
                    return None;
                }
                // An algorithm that was left by longjmp().
                caller.end();
            }
            None if library.open.load(Ordering::Relaxed) != 0 && library.runs_this_thread() => return None,
            None => {}
        }
        let caller = known.or_else(|| {
            let take = |caller: &&Self| {
                caller.thread.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            };
            Self::places(thread).find(take)
        })?;
        caller.library.store(core::ptr::from_ref(library) as usize, Ordering::Relaxed);
        caller.stack.store(stack, Ordering::Relaxed);
        library.enter(arena);
        Some(caller)
    }

    /// Ends the outermost algorithm, if there is one.
    fn end(&self) {
        if self.stack.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.stack.store(0, Ordering::Relaxed);
        // SAFETY: an element of LIBRARIES; `begin` has written it.
        if let Some(library) = unsafe { (self.library.load(Ordering::Relaxed) as *const Library).as_ref() } {
            library.leave();
        }
    }
}

// The copies of TBB --------------------------------------------------------------------------------------------------

/// A `global_control`, of either TBB.
#[repr(C)]
struct Control {
    /// 0 while TBB does not have it.
    value: AtomicUsize,
    /// Classic TBB's.
    next: UnsafeCell<usize>,
    parameter: c_int,
}

// SAFETY: TBB guards what it writes with its own lock.
unsafe impl Sync for Control {}

const MAX_ALLOWED_PARALLELISM: c_int = 0;

/// The functions of a library, by number.
enum Function {
    /// `int (const task_arena *)`: of the arena; without one, of the calling thread's or a default one.
    MaxConcurrency,
    /// The calling thread's slot in its arena, -1 (or 65535) outside of any. Workers have none of the first.
    Slot,
    ActiveValue,
    Create,
    Destroy,
}

const ONE: [&CStr; 5] = [
    c"_ZN3tbb6detail2r115max_concurrencyEPKNS0_2d115task_arena_baseE",
    c"_ZN3tbb6detail2r114execution_slotEPKNS0_2d114execution_dataE",
    c"_ZN3tbb6detail2r127global_control_active_valueEi",
    c"_ZN3tbb6detail2r16createERNS0_2d114global_controlE",
    c"_ZN3tbb6detail2r17destroyERNS0_2d114global_controlE",
];
const CLASSIC: [&CStr; 5] = [
    c"_ZN3tbb10interface78internal15task_arena_base24internal_max_concurrencyEPKNS0_10task_arenaE",
    c"_ZN3tbb10interface78internal15task_arena_base21internal_current_slotEv",
    c"_ZN3tbb10interface914global_control12active_valueEi",
    c"_ZN3tbb10interface914global_control15internal_createEv",
    c"_ZN3tbb10interface914global_control16internal_destroyEv",
];

/// A copy of TBB that is loaded.
struct Library {
    /// The object's dynamic section; 0 where there is none yet.
    dynamic: AtomicUsize,
    functions: [AtomicUsize; 5],
    /// An [`Open`].
    open: AtomicU64,
    /// What holds without our control; 0 if that is not known, [`READING`] while it is found out.
    limit: AtomicUsize,
    /// A thread changes the control.
    is_changing: AtomicBool,
    control: Control,
}

const READING: usize = usize::MAX;

static LIBRARIES: [Library; 8] = [const {
    Library {
        dynamic: AtomicUsize::new(0),
        functions: [const { AtomicUsize::new(0) }; 5],
        open: AtomicU64::new(0),
        limit: AtomicUsize::new(0),
        is_changing: AtomicBool::new(false),
        control: Control { value: AtomicUsize::new(0), next: UnsafeCell::new(0), parameter: MAX_ALLOWED_PARALLELISM },
    }
}; 8];

/// The outermost algorithms in a library, and the region of them all: 0, or
///
/// | bits | |
/// |---|---|
/// | 0-15 | how many algorithms |
/// | 16-31 | the region's threads |
/// | 32-63 | the process that entered it |
#[derive(Clone, Copy, PartialEq, Eq)]
struct Open(u64);

impl Open {
    const NONE: Self = Self(0);

    fn first(region: Region) -> Self {
        Self(1 | u64::from(region.threads as u16) << 16 | u64::from(region.process as u32) << 32)
    }

    const fn one_more(self) -> Self {
        Self(self.0 + 1)
    }

    const fn one_less(self) -> Self {
        if self.0 & 0xffff == 1 { Self::NONE } else { Self(self.0 - 1) }
    }

    const fn region(self) -> Region {
        Region { threads: self.0 as u32 >> 16, is_crowded: false, process: (self.0 >> 32) as i32 }
    }
}

impl Library {
    /// The library that has the function at `real`.
    fn of(real: usize) -> Option<&'static Self> {
        let dso = Dso::around(real)?;
        let object = dso.object.as_ref()?;
        let [one, classic] = [ONE, CLASSIC].map(|names| names.map(|name| object.function(name, true).unwrap_or(0)));
        let functions = [one, classic].into_iter().find(|functions| !functions.contains(&0))?;
        let library = LIBRARIES.iter().find(|library| {
            let taken = library.dynamic.compare_exchange(0, dso.dynamic, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok() || taken == Err(dso.dynamic)
        })?;
        // Threads that find the same library at once write the same.
        for (place, function) in library.functions.iter().zip(functions) {
            place.store(function, Ordering::Relaxed);
        }
        forget_in_children();
        Some(library)
    }

    /// Calls one of the library's functions.
    fn call(&self, function: Function, argument: usize) -> usize {
        let at = self.functions.get(function as usize).map_or(0, |at| at.load(Ordering::Relaxed));
        // SAFETY: it takes a pointer, a number or nothing; `of` has found it.
        let function = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize) -> usize>(at) };
        // SAFETY: TBB keeps no pointer but that to the control, which is static; an arena is the caller's own.
        unsafe { function(argument) }
    }

    /// Whether the calling thread is a worker, or somebody's guest in an arena.
    fn runs_this_thread(&self) -> bool {
        !matches!(self.call(Function::Slot, 0) as u16, 0 | u16::MAX)
    }

    /// Threads that TBB would use.
    fn ask(&self, arena: usize) -> u32 {
        let most = self.call(Function::MaxConcurrency, arena) as c_int;
        (most.max(1) as usize).min(self.limit()) as u32
    }

    /// The first of the open algorithms enters the region.
    fn enter(&self, arena: usize) {
        if self.change_open(|open| (open != Open::NONE).then(|| open.one_more())).is_some() {
            return;
        }
        let ask = self.ask(arena);
        let region = super::enter(ask);
        let first = |open: Open| Some(if open == Open::NONE { Open::first(region) } else { open.one_more() });
        if self.change_open(first) == Some(Open::NONE) {
            self.set_control(if region.threads < ask { region.threads as usize } else { 0 });
        } else {
            // Another thread was quicker.
            super::leave(region);
        }
    }

    /// The last of the open algorithms leaves it. (In a forked child there are none at first.)
    fn leave(&self) {
        let before = self.change_open(|open| (open != Open::NONE).then(|| open.one_less()));
        if let Some(before) = before
            && before.one_less() == Open::NONE
        {
            super::leave(before.region());
        }
    }

    /// Changes what is open, and returns what was; `None` if there is nothing to change.
    fn change_open(&self, change: impl Fn(Open) -> Option<Open>) -> Option<Open> {
        let change = |open| change(Open(open)).map(|open| open.0);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change).ok().map(Open)
    }

    /// What holds without our control.
    fn limit(&self) -> usize {
        match self.limit.load(Ordering::Acquire) {
            0 | READING => self.read_limit(),
            limit => limit,
        }
    }

    #[cold]
    #[inline(never)]
    fn read_limit(&self) -> usize {
        let Some(_change) = Change::begin(self) else { return usize::MAX };
        self.limit.store(READING, Ordering::Relaxed);
        let value = self.control.value.load(Ordering::Relaxed);
        self.put_control(0);
        let limit = self.call(Function::ActiveValue, MAX_ALLOWED_PARALLELISM as usize);
        self.put_control(value);
        // The user may have changed it meanwhile.
        let _ = self.limit.compare_exchange(READING, limit, Ordering::AcqRel, Ordering::Relaxed);
        limit
    }

    /// Makes `value` the most threads there may be; 0 lifts our control.
    fn set_control(&self, value: usize) {
        if self.control.value.load(Ordering::Relaxed) != value
            && let Some(_change) = Change::begin(self)
        {
            self.put_control(value);
        }
    }

    /// For the thread that changes the control.
    fn put_control(&self, value: usize) {
        let control = core::ptr::from_ref(&self.control) as usize;
        let before = self.control.value.load(Ordering::Relaxed);
        if before == value {
            return;
        }
        if before != 0 {
            self.call(Function::Destroy, control);
        }
        self.control.value.store(value, Ordering::Relaxed);
        if value != 0 {
            self.call(Function::Create, control);
        }
    }
}

/// A thread's right to change a library's control.
struct Change<'a>(&'a Library);

impl<'a> Change<'a> {
    fn begin(library: &'a Library) -> Option<Self> {
        library
            .is_changing
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then_some(Self(library))
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.is_changing.store(false, Ordering::Release);
    }
}

/// A forked child is in none of the algorithms that its parent's threads are in.
fn forget_in_children() {
    extern "C" fn forget() {
        for caller in &CALLERS {
            caller.stack.store(0, Ordering::Relaxed);
        }
        for library in &LIBRARIES {
            library.open.store(0, Ordering::Relaxed);
            library.is_changing.store(false, Ordering::Relaxed);
        }
    }
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        state::at_fork(None, forget);
    }
}
