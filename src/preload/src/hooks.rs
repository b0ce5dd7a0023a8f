//! Every name that we hook for masks, processes and threads, on one screen; the runtimes' own entry points are with their
//! governors in [`crate::budget`]. A hook converts its arguments, asks whether there is anything to do, and
//! passes on; what it does is in [`crate::affinity`] and [`crate::process`].
//!
//! | names | what happens |
//! |---|---|
//! | `sched_setaffinity` `pthread_setaffinity_np` | [`observe`]: who set it? |
//! | `sched_getaffinity` `pthread_getaffinity_np` | [`query`]: who asks? |
//! | `sysconf` `get_nprocs` `get_nprocs_conf` | [`budget::narrow_count`]: who counts the CPUs? |
//! | `_exit` `_Exit` | the slot in the ledger is given back, as `exit` does through our destructor |
//! | `dlclose` | what is known of call sites is forgotten |
//! | `syscall` | masks as above, and every fork and exec below |
//! | `fork` `__fork` `_Fork` `forkpty` `daemon` | [`forking`]: repaired in the child |
//! | `vfork` `__vfork` | [`birth`]: the child is born with the user mask |
//! | `clone` `__clone` | [`crate::process::clone`] |
//! | `execve` `execv` `execvp` `execvpe` `execl` `execlp` `execle` `fexecve` `execveat` | [`Widened`] until it fails |
//! | `posix_spawn` `posix_spawnp` `pidfd_spawn` `pidfd_spawnp` `system` `popen` | [`Widened`] for the call |
//! | `wordexp` `timer_create` `mq_notify` `aio_*` `lio_listio` `getaddrinfo_a` | the same: libc makes shells and threads for them |
//! | `pthread_create` `thrd_create` | [`thread`]: the new thread is born with the user mask |
//!
//! Each public name needs its own hook: inside libc, `popen` calls no `posix_spawn` and `execl` no `execve` that
//! anybody could interpose.

use crate::affinity::repair::Widened;
use crate::affinity::{Target, observe, query};
use crate::budget;
use crate::next::{self, Any, Argv, CloneStart, Start};
use crate::places::Leaving;
use crate::process::{birth, clone as cloning, fork as forking, thread};
use crate::site::{Call, Site};
use crate::state;
use crate::sys;
use core::arch::naked_asm;
use libc::{c_char, c_int, c_long, pid_t, size_t};

/// Passes the stack pointer, where the return address is, on as one more argument, in `$register`.
macro_rules! with_stack {
    ($(#[$doc:meta])* $name:ident, $register:literal, $inner:ident) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(concat!("mov ", $register, ", rsp"), "jmp {inner}", inner = sym $inner)
        }
    };
}

pub(crate) use with_stack;

const fn site(call: Call, stack: *const usize) -> Site {
    // SAFETY: the hooks' assembly passes the stack pointer they were entered with.
    unsafe { Site::new(call, stack) }
}

// Masks ----------------------------------------------------------------------------------------------------------

with_stack!(sched_setaffinity, "rcx", on_sched_setaffinity);
with_stack!(sched_getaffinity, "rcx", on_sched_getaffinity);
with_stack!(pthread_setaffinity_np, "rcx", on_pthread_setaffinity_np);
with_stack!(pthread_getaffinity_np, "rcx", on_pthread_getaffinity_np);

unsafe extern "C" fn on_sched_setaffinity(tid: pid_t, size: size_t, mask: *const u8, stack: *const usize) -> c_int {
    observe::set(Target::of_tid(tid), site(Call::SchedSetaffinity, stack), size, || {
        // SAFETY: the caller's own arguments.
        let result = unsafe { next::sched_setaffinity()(tid, size, mask) };
        (result == 0, result)
    })
}

unsafe extern "C" fn on_pthread_setaffinity_np(
    key: usize,
    size: size_t,
    mask: *const u8,
    stack: *const usize,
) -> c_int {
    observe::set(Target::of_key(key), site(Call::PthreadSetaffinity, stack), size, || {
        // SAFETY: the caller's own arguments.
        let error = unsafe { next::pthread_setaffinity_np()(key, size, mask) };
        (error == 0, error)
    })
}

unsafe extern "C" fn on_sched_getaffinity(tid: pid_t, size: size_t, mask: *mut u8, stack: *const usize) -> c_int {
    // SAFETY: the caller's own arguments.
    let result = unsafe { next::sched_getaffinity()(tid, size, mask) };
    if result == 0 {
        // SAFETY: libc has just written all of it.
        query::answer(Target::of_tid(tid), site(Call::SchedGetaffinity, stack), unsafe {
            core::slice::from_raw_parts_mut(mask, size)
        });
    }
    result
}

unsafe extern "C" fn on_pthread_getaffinity_np(key: usize, size: size_t, mask: *mut u8, stack: *const usize) -> c_int {
    // SAFETY: the caller's own arguments.
    let error = unsafe { next::pthread_getaffinity_np()(key, size, mask) };
    if error == 0 {
        // SAFETY: libc has just written all of it.
        query::answer(Target::of_key(key), site(Call::PthreadGetaffinity, stack), unsafe {
            core::slice::from_raw_parts_mut(mask, size)
        });
    }
    error
}

/// `sysconf()`: straight through, but for the two names that count CPUs.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn sysconf() -> c_long {
    naked_asm!(
        "lea eax, [rdi - {conf}]", // _SC_NPROCESSORS_CONF, _SC_NPROCESSORS_ONLN
        "cmp eax, 1",
        "jbe 2f",
        "mov r11, [rip + {next}]",
        "test r11, r11",
        "jz 2f",
        "jmp r11",
        "2: mov rsi, rsp",
        "jmp {on_sysconf}",
        conf = const libc::_SC_NPROCESSORS_CONF,
        next = sym next::SYSCONF,
        on_sysconf = sym on_sysconf,
    )
}

unsafe extern "C" fn on_sysconf(name: c_int, stack: *const usize) -> c_long {
    // SAFETY: the caller's own argument.
    let value = unsafe { next::sysconf()(name) };
    let counts = [libc::_SC_NPROCESSORS_CONF, libc::_SC_NPROCESSORS_ONLN].contains(&name);
    if counts { budget::narrow_count(site(Call::Sysconf, stack), value) } else { value }
}

with_stack!(get_nprocs, "rdi", on_get_nprocs);
with_stack!(get_nprocs_conf, "rdi", on_get_nprocs_conf);

unsafe extern "C" fn on_get_nprocs(stack: *const usize) -> c_int {
    // SAFETY: takes no arguments.
    let count = unsafe { next::get_nprocs()() };
    budget::narrow_count(site(Call::GetNprocs, stack), count.into()) as c_int
}

unsafe extern "C" fn on_get_nprocs_conf(stack: *const usize) -> c_int {
    // SAFETY: takes no arguments.
    let count = unsafe { next::get_nprocs_conf()() };
    budget::narrow_count(site(Call::GetNprocsConf, stack), count.into()) as c_int
}

/// `syscall()`: straight through, but for the calls that are hooked under their own names too.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn syscall() -> c_long {
    naked_asm!(
        "lea eax, [rdi - {clone}]", // clone, fork, vfork, execve: four in a row
        "cmp eax, 3",
        "jbe 3f",
        "lea eax, [rdi - {setaffinity}]", // sched_setaffinity, sched_getaffinity
        "cmp eax, 1",
        "jbe 4f",
        "cmp edi, {execveat}",
        "je 4f",
        "cmp edi, {clone3}",
        "je 3f",
        "2: mov r11, [rip + {next}]",
        "test r11, r11",
        "jz 4f",
        "jmp r11",
        // A process is made or replaced: only a pinned thread's children need help.
        "3: cmp edi, {execve}",
        "je 4f",
        "cmp byte ptr [rip + {active}], 0",
        "je 2b",
        "jmp {make}",
        // The seventh argument is on the stack; we add the stack pointer.
        "4: mov rax, rsp",
        "sub rsp, 8",
        "push rax",
        "push [rax + 8]",
        "call {on_syscall}",
        "add rsp, 24",
        "ret",
        clone = const libc::SYS_clone,
        setaffinity = const libc::SYS_sched_setaffinity,
        execve = const libc::SYS_execve,
        execveat = const libc::SYS_execveat,
        clone3 = const libc::SYS_clone3,
        next = sym next::SYSCALL,
        active = sym state::ACTIVE,
        make = sym birth::make,
        on_syscall = sym on_syscall,
    )
}

unsafe extern "C" fn on_syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
    stack: *const usize,
) -> c_long {
    // SAFETY: the caller's own arguments.
    let real = || unsafe { next::syscall()(number, a, b, c, d, e, f) };
    match number {
        libc::SYS_sched_setaffinity => observe::set(Target::of_tid(a as pid_t), site(Call::Syscall, stack), b, || {
            let result = real();
            (result == 0, result)
        }),
        libc::SYS_sched_getaffinity => {
            let written = real();
            if written > 0 && state::active() {
                // SAFETY: the kernel has just written this many bytes there.
                let mask = unsafe { core::slice::from_raw_parts_mut(c as *mut u8, written as usize) };
                query::answer(Target::of_tid(a as pid_t), site(Call::Syscall, stack), mask);
            }
            written
        }
        libc::SYS_execve | libc::SYS_execveat => {
            let _leaving = Leaving::for_exec();
            let _widened = Widened::for_child("exec");
            real()
        }
        _ => real(),
    }
}

/// `dlclose()`: another object may be mapped where one was.
#[unsafe(no_mangle)]
unsafe extern "C" fn dlclose(handle: Any) -> c_int {
    // SAFETY: the caller's own argument.
    let result = unsafe { next::dlclose()(handle) };
    budget::objects_changed();
    result
}

/// How multiprocessing's workers end.
#[unsafe(no_mangle)]
unsafe extern "C" fn _exit(status: c_int) -> ! {
    budget::at_exit();
    // SAFETY: the caller's own argument.
    unsafe { next::_exit()(status) };
    sys::exit(status)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn _Exit(status: c_int) -> ! {
    budget::at_exit();
    // SAFETY: the caller's own argument.
    unsafe { next::_Exit()(status) };
    sys::exit(status)
}

// Forks ----------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn fork() -> pid_t {
    naked_asm!("jmp {inner}", inner = sym forking::fork_if_active)
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn __fork() -> pid_t {
    naked_asm!("jmp {inner}", inner = sym forking::fork_if_active)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn _Fork() -> pid_t {
    forking::fork_without_handlers()
}

/// Hooks that repair in the child what the next definition made.
macro_rules! forking {
    ($($name:ident($($arg:ident: $type:ty),*) means $next:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> pid_t {
                // SAFETY: the caller's own call.
                forking::fork(|| unsafe { next::$next()($($arg),*) })
            }
        )*
    };
}

forking! {
    forkpty(terminal: Any, name: Any, settings: Any, size: Any) means forkpty;
    daemon(no_chdir: c_int, no_close: c_int) means daemon; // only the child returns, with 0
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn vfork() -> pid_t {
    naked_asm!("jmp {inner}", inner = sym birth::vfork)
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn __vfork() -> pid_t {
    naked_asm!("jmp {inner}", inner = sym birth::vfork)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clone(
    start: Option<CloneStart>,
    stack: Any,
    flags: c_int,
    argument: Any,
    parent_tid: Any,
    tls: Any,
    child_tid: Any,
) -> c_int {
    // SAFETY: the caller's own call.
    unsafe { cloning::clone(start, stack, flags, argument, parent_tid, tls, child_tid) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __clone(
    start: Option<CloneStart>,
    stack: Any,
    flags: c_int,
    argument: Any,
    parent_tid: Any,
    tls: Any,
    child_tid: Any,
) -> c_int {
    // SAFETY: the caller's own call.
    unsafe { cloning::clone(start, stack, flags, argument, parent_tid, tls, child_tid) }
}

// Programs -------------------------------------------------------------------------------------------------------

/// Hooks that only widen the calling thread while the next definition runs.
macro_rules! widened {
    ($widen:ident: $($name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                let _widened = Widened::$widen(stringify!($name));
                // SAFETY: the caller's own call.
                unsafe { next::$name()($($arg),*) }
            }
        )*
    };
}

/// Hooks that do so for a program that takes this one's place, if all goes well.
macro_rules! replaced {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
                let _leaving = Leaving::for_exec();
                let _widened = Widened::for_child(stringify!($name));
                // SAFETY: the caller's own call.
                unsafe { next::$name()($($arg),*) }
            }
        )*
    };
}

replaced! {
    execve(path: *const c_char, argv: Argv, envp: Argv);
    execv(path: *const c_char, argv: Argv);
    execvp(file: *const c_char, argv: Argv);
    execvpe(file: *const c_char, argv: Argv, envp: Argv);
    fexecve(fd: c_int, argv: Argv, envp: Argv);
    execveat(dir: c_int, path: *const c_char, argv: Argv, envp: Argv, flags: c_int);
}

widened! { for_child:
    posix_spawn(pid: *mut pid_t, path: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int;
    posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int;
    pidfd_spawn(fd: *mut c_int, path: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int;
    pidfd_spawnp(fd: *mut c_int, file: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int;
    system(command: *const c_char) -> c_int;
    popen(command: *const c_char, mode: *const c_char) -> Any;
    wordexp(words: *const c_char, expanded: Any, flags: c_int) -> c_int;
}

widened! { for_thread:
    timer_create(clock: c_int, event: Any, timer: Any) -> c_int;
    mq_notify(queue: c_int, event: Any) -> c_int;
    aio_read(request: Any) -> c_int;
    aio_read64(request: Any) -> c_int;
    aio_write(request: Any) -> c_int;
    aio_write64(request: Any) -> c_int;
    aio_fsync(operation: c_int, request: Any) -> c_int;
    aio_fsync64(operation: c_int, request: Any) -> c_int;
    lio_listio(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int;
    lio_listio64(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int;
    getaddrinfo_a(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int;
}

/// The exec functions that list their arguments. Five of these come in registers and the rest on the stack, above the
/// return address: with the five pushed in its place, the stack holds a finished `argv`, however long.
macro_rules! listed {
    ($name:ident, $inner:ident) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() -> c_int {
            naked_asm!(
                "pop rax",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push rax",
                "push rbp",
                "mov rbp, rsp",
                "and rsp, -16",
                "call {inner}",
                "mov rsp, rbp",
                "pop rbp",
                "pop rcx",
                "add rsp, 40",
                "push rcx",
                "ret",
                inner = sym $inner,
            )
        }
    };
}

listed!(execl, on_execl);
listed!(execlp, on_execlp);
listed!(execle, on_execle);

unsafe extern "C" fn on_execl(path: *const c_char, argv: Argv) -> c_int {
    // SAFETY: the caller's own arguments, as an array.
    unsafe { execv(path, argv) }
}

unsafe extern "C" fn on_execlp(file: *const c_char, argv: Argv) -> c_int {
    // SAFETY: the caller's own arguments, as an array.
    unsafe { execvp(file, argv) }
}

unsafe extern "C" fn on_execle(path: *const c_char, argv: Argv) -> c_int {
    let mut end = argv;
    // SAFETY: the arguments go on to a null pointer, and the environment comes after it.
    unsafe {
        while !(*end).is_null() {
            end = end.add(1);
        }
        execve(path, argv, *end.add(1) as Argv)
    }
}

// Threads --------------------------------------------------------------------------------------------------------

/// `pthread_create()`: straight through where nothing was ever pinned.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn pthread_create() -> c_int {
    naked_asm!("mov r8, rsp", "jmp {inner}", inner = sym on_pthread_create)
}

unsafe extern "C" fn on_pthread_create(
    thread: Any,
    attr: Any,
    start: Start,
    argument: Any,
    stack: *const usize,
) -> c_int {
    let error = if state::active() {
        // SAFETY: the caller's own call.
        unsafe { thread::pthread_create(thread, attr, start, argument, site(Call::PthreadCreate, stack)) }
    } else {
        // SAFETY: the caller's own call.
        unsafe { next::pthread_create()(thread, attr, start, argument) }
    };
    if error != 0 && budget::ballast_is_calling() { 0 } else { error }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thrd_create(thread: Any, start: Start, argument: Any) -> c_int {
    if !state::active() {
        // SAFETY: the caller's own call.
        return unsafe { next::thrd_create()(thread, start, argument) };
    }
    // SAFETY: the caller's own call.
    unsafe { thread::thrd_create(thread, start, argument) }
}
