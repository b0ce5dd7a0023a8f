//! A second preload for the tests, built on the redhook crate.
//!
//! Every hook writes its function's name as a line to the file that `REDHOOK_TRACE` names, then calls the next
//! definition: with both preloads loaded, in either order, a test sees that this one was called and judges
//! libknlfix by its results. The line is one write(2), because execve and posix_spawn are also called by forked
//! children, where nothing may be locked or allocated.

#![allow(clippy::missing_safety_doc)]

use libc::{c_char, c_int, c_void, cpu_set_t, pid_t, pthread_attr_t, pthread_t, size_t};
use redhook::{hook, real};

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Strings = *const *const c_char;
type Actions = *const libc::posix_spawn_file_actions_t;
type SpawnAttr = *const libc::posix_spawnattr_t;

fn trace(line: &'static str) {
    // SAFETY: plain system calls on a path and a line that outlive them; getenv is read only.
    unsafe {
        let errno = *libc::__errno_location();
        let path = libc::getenv("REDHOOK_TRACE\0".as_ptr().cast());
        if !path.is_null() {
            let fd = libc::open(path, libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC, 0o600);
            libc::write(fd, line.as_ptr().cast(), line.len());
            libc::close(fd);
        }
        *libc::__errno_location() = errno;
    }
}

hook! {
    unsafe fn fork() -> pid_t => traced_fork {
        trace("fork\n");
        real!(fork)()
    }
}

hook! {
    unsafe fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int => traced_execve {
        trace("execve\n");
        real!(execve)(path, argv, envp)
    }
}

hook! {
    unsafe fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: Actions, attr: SpawnAttr, argv: Strings,
                          envp: Strings) -> c_int => traced_posix_spawn {
        trace("posix_spawn\n");
        real!(posix_spawn)(pid, path, actions, attr, argv, envp)
    }
}

hook! {
    unsafe fn pthread_create(thread: *mut pthread_t, attr: *const pthread_attr_t, start: Start,
                             arg: *mut c_void) -> c_int => traced_pthread_create {
        trace("pthread_create\n");
        real!(pthread_create)(thread, attr, start, arg)
    }
}

hook! {
    unsafe fn sched_setaffinity(pid: pid_t, size: size_t, mask: *const cpu_set_t) -> c_int => traced_sched_setaffinity {
        trace("sched_setaffinity\n");
        real!(sched_setaffinity)(pid, size, mask)
    }
}

hook! {
    unsafe fn pthread_setaffinity_np(thread: pthread_t, size: size_t, mask: *const cpu_set_t) -> c_int =>
                          traced_pthread_setaffinity_np {
        trace("pthread_setaffinity_np\n");
        real!(pthread_setaffinity_np)(thread, size, mask)
    }
}

hook! {
    unsafe fn getpid() -> pid_t => traced_getpid {
        trace("getpid\n");
        real!(getpid)()
    }
}
