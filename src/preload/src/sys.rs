//! The system calls we make ourselves: straight to the kernel, so that they touch neither `errno` nor any hook, and are
//! safe in signal handlers, in vfork children and before libc is ready.

use core::arch::asm;
use knlfix_core::cpumask::{BYTES, CpuMask, SparseMask};
use knlfix_core::pins::Thread;
use libc::{c_int, c_long};

/// What the kernel answers: a value from 0 up, or an error number.
pub(crate) type Result<T> = core::result::Result<T, c_int>;

/// A raw system call.
///
/// # Safety
/// As the call itself: pointers must be good for what the kernel does with them.
unsafe fn call(number: c_long, args: [usize; 4]) -> Result<usize> {
    let answer: isize;
    let [a, b, c, d] = args;
    // SAFETY: the x86-64 system call convention; rcx and r11 are what the kernel changes besides rax.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&answer) { Err(-answer as c_int) } else { Ok(answer as usize) }
}

/// The process's number, never cached: a vfork child must see its own.
pub(crate) fn getpid() -> c_int {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_getpid, [0; 4]) }.unwrap_or(0) as c_int
}

/// The calling thread's number.
pub(crate) fn gettid() -> c_int {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_gettid, [0; 4]) }.unwrap_or(0) as c_int
}

/// The calling thread's `pthread_t`: glibc keeps it at `%fs:16`. A fork or vfork child reads the value of the thread
/// that made it.
pub(crate) fn thread_key() -> usize {
    let key: usize;
    // SAFETY: the thread control block is there from before the first constructor on.
    unsafe { asm!("mov {}, qword ptr fs:[16]", out(reg) key, options(nostack, pure, readonly, preserves_flags)) };
    key
}

/// The calling thread.
pub(crate) fn this_thread() -> Thread {
    Thread { key: thread_key(), tid: gettid() }
}

/// Whether a thread of this process still runs; in doubt it does.
pub(crate) fn alive(tid: c_int) -> bool {
    // SAFETY: signal 0 only asks.
    let sent = unsafe { call(libc::SYS_tgkill, [getpid() as usize, tid as usize, 0, 0]) };
    sent != Err(libc::ESRCH)
}

/// The mask of a thread (0: the calling one), as the kernel has it. 1 kB: not for hooks that run on small stacks.
pub(crate) fn mask_of(tid: c_int) -> Result<CpuMask> {
    let mut mask = CpuMask::EMPTY;
    // SAFETY: the mask has room for BYTES bytes.
    unsafe { call(libc::SYS_sched_getaffinity, [tid as usize, BYTES, mask.as_mut_ptr() as usize, 0]) }?;
    Ok(mask)
}

// Signal handlers fork on stacks of a few kilobytes. So the functions below hold a whole mask on the stack one at a
// time, and hand out what is small.

/// The fingerprint of a thread's mask.
#[inline(never)]
pub(crate) fn fingerprint_of(tid: c_int) -> Result<u64> {
    mask_of(tid).map(|mask| mask.fingerprint())
}

/// The calling thread's mask, for setting it again.
#[inline(never)]
pub(crate) fn sparse_mask() -> Option<SparseMask> {
    SparseMask::of(&mask_of(0).ok()?)
}

/// Sets the calling thread's mask.
#[inline(never)]
pub(crate) fn set_sparse_mask(mask: &SparseMask) -> Result<()> {
    set_mask(&mask.to_mask())
}

/// Sets the calling thread's mask. The kernel cuts it to the cpuset and refuses (`EINVAL`) if nothing is left.
pub(crate) fn set_mask(mask: &CpuMask) -> Result<()> {
    // SAFETY: the mask is BYTES bytes to read.
    unsafe { call(libc::SYS_sched_setaffinity, [0, BYTES, mask.as_ptr() as usize, 0]) }.map(drop)
}

/// Sleeps for 100 microseconds.
pub(crate) fn nap() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
    // SAFETY: a time to read, and nothing to write. A signal ends it early, which does no harm.
    let _ = unsafe { call(libc::SYS_nanosleep, [(&raw const time) as usize, 0, 0, 0]) };
}

/// Appends to a file (an empty path: standard error) with one `write(2)`. No descriptor stays open: programs close and
/// reuse descriptors they do not know.
pub(crate) fn append(path: &core::ffi::CStr, bytes: &[u8]) {
    let stderr = 2;
    let mode = 0o644;
    let flags = (libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOCTTY) as usize;
    let fd = if path.is_empty() {
        Ok(stderr)
    } else {
        // SAFETY: a C string, and plain flags.
        unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags, mode]) }
    };
    // Nowhere to complain to: a line that can't be written is lost.
    let Ok(fd) = fd else { return };
    // SAFETY: the bytes are there to read.
    let _ = unsafe { call(libc::SYS_write, [fd, bytes.as_ptr() as usize, bytes.len(), 0]) };
    if fd != stderr {
        // SAFETY: our own descriptor.
        let _ = unsafe { call(libc::SYS_close, [fd, 0, 0, 0]) };
    }
}

/// Sets `errno`, for a call that fails in our own hands.
pub(crate) fn set_errno(error: c_int) {
    // SAFETY: libc's own `errno` of this thread.
    unsafe { *libc::__errno_location() = error };
}
