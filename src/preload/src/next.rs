//! The next definitions: what each hooked name would mean without us, so that other preloads behind us get their turn.
//!
//! All are looked up at once, on the first call of any hook, which is before a vfork child could need one. The search
//! is that of `dlsym(RTLD_NEXT)`: the objects behind ours, in the loader's order ([`crate::elf`] says why it is not
//! `dlsym` itself).

use crate::elf::Object;
use crate::sys;
use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use libc::{c_char, c_int, c_long, pid_t, size_t};

/// A place for one definition. The address comes first: assembly reads it there.
#[repr(C)]
pub(crate) struct Next {
    at: AtomicUsize,
    name: &'static CStr,
}

impl Next {
    const fn named(name: &'static CStr) -> Self {
        Self { at: AtomicUsize::new(0), name }
    }

    fn address(&self) -> usize {
        match self.at.load(Ordering::Acquire) {
            0 if !SEARCHED.load(Ordering::Acquire) || self.may_come_late() => {
                find_all();
                self.at.load(Ordering::Acquire)
            }
            found => found,
        }
    }

    /// Before glibc 2.34 these are in libraries of their own, which a program may load later. (So may a forked child.
    /// Where they were not loaded before, there was hardly another thread that could have left the loader locked.)
    fn may_come_late(&self) -> bool {
        let late =
            [&b"pthread_"[..], b"thrd_", b"dl", b"forkpty", b"timer_", b"mq_", b"aio_", b"lio_", b"getaddrinfo_a"];
        late.iter().any(|name| self.name.to_bytes().starts_with(name))
    }
}

/// C's `char *const argv[]`.
pub(crate) type Argv = *const *const c_char;
/// A thread's start routine; what it returns does not matter to us.
pub(crate) type Start = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// What `clone(2)` starts.
pub(crate) type CloneStart = unsafe extern "C" fn(*mut c_void) -> c_int;
/// A pointer that is only passed on.
pub(crate) type Any = *mut c_void;

macro_rules! next {
    ($($place:ident = $name:ident($($arg:ident: $type:ty),*) -> $ret:ty, else $missing:expr;)*) => {
        static ALL: &[&Next] = &[$(&$place),*];
        $(
            pub(crate) static $place: Next = Next::named(
                // SAFETY: an identifier and the one NUL that ends it.
                unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
            );

            /// The next definition, or a stand-in where this libc has none.
            #[allow(non_snake_case, reason = "libc's own name")]
            #[allow(dead_code, reason = "assembly reads the place of vfork itself")]
            pub(crate) fn $name() -> unsafe extern "C" fn($($type),*) -> $ret {
                #[allow(unused_variables, reason = "most stand-ins only fail")]
                unsafe extern "C" fn missing($($arg: $type),*) -> $ret {
                    $missing
                }
                match $place.address() {
                    0 => missing,
                    // SAFETY: the address of the function of this name, whose C prototype this is.
                    at => unsafe { core::mem::transmute::<usize, unsafe extern "C" fn($($type),*) -> $ret>(at) },
                }
            }
        )*
    };
}

/// What a missing function does: it fails as the kernel would.
fn no_such_call() -> c_int {
    sys::set_errno(libc::ENOSYS);
    -1
}

next! {
    SCHED_SETAFFINITY = sched_setaffinity(tid: pid_t, size: size_t, mask: *const u8) -> c_int, else no_such_call();
    SCHED_GETAFFINITY = sched_getaffinity(tid: pid_t, size: size_t, mask: *mut u8) -> c_int, else no_such_call();
    PTHREAD_SETAFFINITY_NP = pthread_setaffinity_np(key: usize, size: size_t, mask: *const u8) -> c_int, else libc::ENOSYS;
    PTHREAD_GETAFFINITY_NP = pthread_getaffinity_np(key: usize, size: size_t, mask: *mut u8) -> c_int, else libc::ENOSYS;
    PTHREAD_GETCPUCLOCKID = pthread_getcpuclockid(key: usize, clock: *mut c_int) -> c_int, else libc::ENOSYS;
    PTHREAD_ATTR_GETAFFINITY_NP = pthread_attr_getaffinity_np(attr: Any, size: size_t, mask: *mut u8) -> c_int,
        else libc::ENOSYS;
    SYSCALL = syscall(n: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long,
        else no_such_call().into();
    FORK = fork() -> pid_t, else no_such_call();
    // glibc 2.34 on. Nobody who has it to call can be missing it; who looks for it gets the next best.
    UFORK = _Fork() -> pid_t, else fork_instead();
    VFORK = vfork() -> pid_t, else no_such_call();
    FORKPTY = forkpty(terminal: Any, name: Any, settings: Any, size: Any) -> pid_t, else no_such_call();
    DAEMON = daemon(no_chdir: c_int, no_close: c_int) -> c_int, else no_such_call();
    EXECVE = execve(path: *const c_char, argv: Argv, envp: Argv) -> c_int, else no_such_call();
    EXECV = execv(path: *const c_char, argv: Argv) -> c_int, else no_such_call();
    EXECVP = execvp(file: *const c_char, argv: Argv) -> c_int, else no_such_call();
    EXECVPE = execvpe(file: *const c_char, argv: Argv, envp: Argv) -> c_int, else no_such_call();
    FEXECVE = fexecve(fd: c_int, argv: Argv, envp: Argv) -> c_int, else no_such_call();
    // glibc 2.34 on.
    EXECVEAT = execveat(dir: c_int, path: *const c_char, argv: Argv, envp: Argv, flags: c_int) -> c_int,
        else raw_execveat(dir, path, argv, envp, flags);
    POSIX_SPAWN = posix_spawn(pid: *mut pid_t, path: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int,
        else libc::ENOSYS;
    POSIX_SPAWNP = posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int,
        else libc::ENOSYS;
    // glibc 2.39 on.
    PIDFD_SPAWN = pidfd_spawn(fd: *mut c_int, path: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int,
        else with_pidfd(fd, posix_spawn(), path, actions, attr, argv, envp);
    PIDFD_SPAWNP = pidfd_spawnp(fd: *mut c_int, file: *const c_char, actions: Any, attr: Any, argv: Argv, envp: Argv) -> c_int,
        else with_pidfd(fd, posix_spawnp(), file, actions, attr, argv, envp);
    UEXIT = _exit(status: c_int) -> c_int, else sys::exit(status);
    UUEXIT = _Exit(status: c_int) -> c_int, else sys::exit(status);
    SYSTEM = system(command: *const c_char) -> c_int, else no_such_call();
    POPEN = popen(command: *const c_char, mode: *const c_char) -> Any, else core::ptr::null_mut();
    WORDEXP = wordexp(words: *const c_char, expanded: Any, flags: c_int) -> c_int, else 1; // WRDE_NOSPACE
    CLONE = clone(start: Option<CloneStart>, stack: Any, flags: c_int, arg: Any, tid: Any, tls: Any, child: Any) -> c_int,
        else no_such_call();
    PTHREAD_CREATE = pthread_create(thread: Any, attr: Any, start: Start, arg: Any) -> c_int, else libc::EAGAIN;
    PTHREAD_ATTR_INIT = pthread_attr_init(attr: Any) -> c_int, else libc::ENOSYS;
    PTHREAD_ATTR_SETSTACKSIZE = pthread_attr_setstacksize(attr: Any, size: size_t) -> c_int, else libc::ENOSYS;
    PTHREAD_ATTR_SETDETACHSTATE = pthread_attr_setdetachstate(attr: Any, state: c_int) -> c_int, else libc::ENOSYS;
    PTHREAD_GETSPECIFIC = pthread_getspecific(key: u32) -> Any, else core::ptr::null_mut();
    THRD_CREATE = thrd_create(thread: Any, start: Start, arg: Any) -> c_int, else 2; // thrd_error
    TIMER_CREATE = timer_create(clock: c_int, event: Any, timer: Any) -> c_int, else no_such_call();
    MQ_NOTIFY = mq_notify(queue: c_int, event: Any) -> c_int, else no_such_call();
    AIO_READ = aio_read(request: Any) -> c_int, else no_such_call();
    AIO_READ64 = aio_read64(request: Any) -> c_int, else no_such_call();
    AIO_WRITE = aio_write(request: Any) -> c_int, else no_such_call();
    AIO_WRITE64 = aio_write64(request: Any) -> c_int, else no_such_call();
    AIO_FSYNC = aio_fsync(operation: c_int, request: Any) -> c_int, else no_such_call();
    AIO_FSYNC64 = aio_fsync64(operation: c_int, request: Any) -> c_int, else no_such_call();
    LIO_LISTIO = lio_listio(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int, else no_such_call();
    LIO_LISTIO64 = lio_listio64(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int, else no_such_call();
    GETADDRINFO_A = getaddrinfo_a(mode: c_int, requests: Any, count: c_int, event: Any) -> c_int, else libc::EAI_SYSTEM;
    CLOCK_GETTIME = clock_gettime(clock: c_int, time: *mut libc::timespec) -> c_int, else no_such_call();
    SYSCONF = sysconf(name: c_int) -> c_long, else no_such_call().into();
    GET_NPROCS = get_nprocs() -> c_int, else 1;
    GET_NPROCS_CONF = get_nprocs_conf() -> c_int, else 1;
    // In libdl before glibc 2.34.
    DLOPEN = dlopen(path: *const c_char, flags: c_int) -> Any, else core::ptr::null_mut();
    DLCLOSE = dlclose(handle: Any) -> c_int, else 0;
    DLSYM = dlsym(handle: Any, name: *const c_char) -> Any, else core::ptr::null_mut();
    // glibc 2.35 on: which object an address is in, without the loader's lock.
    DL_FIND_OBJECT = _dl_find_object(address: usize, found: Any) -> c_int, else -1;
}

fn fork_instead() -> pid_t {
    // SAFETY: the caller's own call, by another name.
    unsafe { fork()() }
}

fn raw_execveat(dir: c_int, path: *const c_char, argv: Argv, envp: Argv, flags: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    unsafe {
        syscall()(libc::SYS_execveat, dir as usize, path as usize, argv as usize, envp as usize, flags as usize, 0)
            as c_int
    }
}

type Spawn = unsafe extern "C" fn(*mut pid_t, *const c_char, Any, Any, Argv, Argv) -> c_int;

/// What `pidfd_spawn()` does, for a libc that has none: a program that looks for the name finds ours.
fn with_pidfd(
    fd: *mut c_int,
    spawn: Spawn,
    path: *const c_char,
    actions: Any,
    attr: Any,
    argv: Argv,
    envp: Argv,
) -> c_int {
    // A kernel without them is found out before there is a child.
    match sys::pidfd_open(sys::getpid()) {
        Ok(probe) => sys::close(probe),
        Err(error) => return error,
    }
    let mut pid = 0;
    // SAFETY: the caller's own arguments.
    let error = unsafe { spawn(&raw mut pid, path, actions, attr, argv, envp) };
    if error != 0 {
        return error;
    }
    // The one race that libc's own does not have: somebody else reaps the child first.
    match sys::pidfd_open(pid) {
        // SAFETY: the caller's own place for it.
        Ok(opened) if !fd.is_null() => unsafe { *fd = opened },
        Ok(opened) => sys::close(opened),
        Err(error) => return error,
    }
    0
}

/// Whether this libc has `_dl_find_object`.
pub(crate) fn has_dl_find_object() -> bool {
    DL_FIND_OBJECT.address() != 0
}

static SEARCHED: AtomicBool = AtomicBool::new(false);

/// Looks all definitions up, if that has not been done.
pub(crate) extern "C" fn find_all_once() {
    if !SEARCHED.load(Ordering::Acquire) {
        find_all();
    }
}

/// Looks every missing definition up. Idempotent, so threads may do it at once.
fn find_all() {
    // Default versions first, and last the objects before ours: that is where libc is when we were dlopened.
    for search in [
        Search { behind_us: true, any_version: false },
        Search { behind_us: true, any_version: true },
        Search { behind_us: false, any_version: true },
    ] {
        if ALL.iter().any(|next| next.at.load(Ordering::Relaxed) == 0) {
            let mut walk = Walk { search, passed_us: false };
            // SAFETY: `visit` gets the walk back, and it outlives the call.
            unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut walk).cast()) };
        }
    }
    SEARCHED.store(true, Ordering::Release);
}

#[derive(Clone, Copy)]
struct Search {
    behind_us: bool,
    any_version: bool,
}

struct Walk {
    search: Search,
    passed_us: bool,
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: size_t, walk: Any) -> c_int {
    // SAFETY: the walk that `find_all` passed, and the loader's own record.
    let (walk, info) = unsafe { (&mut *walk.cast::<Walk>(), &*info) };
    if crate::dso::spans(info, &raw const SYSCALL as usize) {
        walk.passed_us = true;
    } else if walk.passed_us || !walk.search.behind_us {
        // SAFETY: the loader keeps the object mapped while it visits it; libc's stay for good.
        if let Some(object) = unsafe { Object::of(info) } {
            for next in ALL.iter().filter(|next| next.at.load(Ordering::Relaxed) == 0) {
                if let Some(address) = object.function(next.name, walk.search.any_version) {
                    next.at.store(address, Ordering::Release);
                }
            }
        }
    }
    0
}
