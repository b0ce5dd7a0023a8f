//! The next definitions: what each hooked name would mean without us, so that other preloads behind us get their turn.
//!
//! All are looked up at once, on the first call of any hook, which is before a vfork child could need one. The search
//! is that of `dlsym(RTLD_NEXT)`: the objects behind ours, in the loader's order ([`crate::elf`] says why it is not
//! `dlsym` itself).

use crate::elf::Object;
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
            0 => {
                find_all();
                self.at.load(Ordering::Acquire)
            }
            found => found,
        }
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
    ($($place:ident = $name:ident($($arg:ty),*) -> $ret:ty, else $missing:expr;)*) => {
        static ALL: &[&Next] = &[$(&$place),*];
        $(
            pub(crate) static $place: Next = Next::named(
                // SAFETY: an identifier and the one NUL that ends it.
                unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
            );

            /// The next definition, or one that fails with `ENOSYS` where this libc has none.
            #[allow(non_snake_case, reason = "libc's own name")]
            #[allow(dead_code, reason = "assembly reads the place of vfork itself")]
            pub(crate) fn $name() -> unsafe extern "C" fn($($arg),*) -> $ret {
                unsafe extern "C" fn missing($(_: $arg),*) -> $ret {
                    crate::sys::set_errno(libc::ENOSYS);
                    $missing
                }
                match $place.address() {
                    0 => missing,
                    // SAFETY: the address of the function of this name, whose C prototype this is.
                    at => unsafe { core::mem::transmute::<usize, unsafe extern "C" fn($($arg),*) -> $ret>(at) },
                }
            }
        )*
    };
}

next! {
    SCHED_SETAFFINITY = sched_setaffinity(pid_t, size_t, *const u8) -> c_int, else -1;
    SCHED_GETAFFINITY = sched_getaffinity(pid_t, size_t, *mut u8) -> c_int, else -1;
    PTHREAD_SETAFFINITY_NP = pthread_setaffinity_np(usize, size_t, *const u8) -> c_int, else libc::ENOSYS;
    PTHREAD_GETAFFINITY_NP = pthread_getaffinity_np(usize, size_t, *mut u8) -> c_int, else libc::ENOSYS;
    PTHREAD_ATTR_GETAFFINITY_NP = pthread_attr_getaffinity_np(Any, size_t, *mut u8) -> c_int, else libc::ENOSYS;
    SYSCALL = syscall(c_long, usize, usize, usize, usize, usize, usize) -> c_long, else -1;
    FORK = fork() -> pid_t, else -1;
    UFORK = _Fork() -> pid_t, else -1;
    VFORK = vfork() -> pid_t, else -1;
    FORKPTY = forkpty(Any, Any, Any, Any) -> pid_t, else -1;
    DAEMON = daemon(c_int, c_int) -> c_int, else -1;
    EXECVE = execve(*const c_char, Argv, Argv) -> c_int, else -1;
    EXECV = execv(*const c_char, Argv) -> c_int, else -1;
    EXECVP = execvp(*const c_char, Argv) -> c_int, else -1;
    EXECVPE = execvpe(*const c_char, Argv, Argv) -> c_int, else -1;
    FEXECVE = fexecve(c_int, Argv, Argv) -> c_int, else -1;
    EXECVEAT = execveat(c_int, *const c_char, Argv, Argv, c_int) -> c_int, else -1;
    POSIX_SPAWN = posix_spawn(Any, *const c_char, Any, Any, Argv, Argv) -> c_int, else libc::ENOSYS;
    POSIX_SPAWNP = posix_spawnp(Any, *const c_char, Any, Any, Argv, Argv) -> c_int, else libc::ENOSYS;
    PIDFD_SPAWN = pidfd_spawn(Any, *const c_char, Any, Any, Argv, Argv) -> c_int, else libc::ENOSYS;
    PIDFD_SPAWNP = pidfd_spawnp(Any, *const c_char, Any, Any, Argv, Argv) -> c_int, else libc::ENOSYS;
    SYSTEM = system(*const c_char) -> c_int, else -1;
    POPEN = popen(*const c_char, *const c_char) -> Any, else core::ptr::null_mut();
    CLONE = clone(Option<CloneStart>, Any, c_int, Any, Any, Any, Any) -> c_int, else -1;
    PTHREAD_CREATE = pthread_create(Any, Any, Start, Any) -> c_int, else libc::EAGAIN;
    THRD_CREATE = thrd_create(Any, Start, Any) -> c_int, else 2; // thrd_error
    // glibc 2.35 on: which object an address is in, without the loader's lock.
    DL_FIND_OBJECT = _dl_find_object(usize, Any) -> c_int, else -1;
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
    if crate::caller::spans(info, &raw const SYSCALL as usize) {
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
