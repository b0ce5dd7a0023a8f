//! The system calls we make ourselves: straight to the kernel, so that they touch neither `errno` nor any hook, and are
//! safe in signal handlers, in vfork children and before libc is ready.

use core::arch::asm;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU32;
use knlfix_core::cpumask::{self, BYTES, CpuMask, SparseMask};
use knlfix_core::pins::Thread;
use libc::{c_int, c_long};

/// What the kernel answers: a value from 0 up, or an error number.
pub(crate) type Result<T> = core::result::Result<T, c_int>;

/// A raw system call.
///
/// # Safety
/// As the call itself: pointers must be good for what the kernel does with them.
unsafe fn call<const N: usize>(number: c_long, args: [usize; N]) -> Result<usize> {
    let answer: isize;
    let mut args = args.into_iter();
    let mut next = || args.next().unwrap_or(0);
    let (a, b, c, d, e, f) = (next(), next(), next(), next(), next(), next());
    // SAFETY: the x86-64 system call convention; rcx and r11 are what the kernel changes besides rax.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&answer) { Err(-answer as c_int) } else { Ok(answer as usize) }
}

/// The process's number, never cached: a vfork child must see its own.
pub(crate) fn getpid() -> c_int {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_getpid, []) }.unwrap_or(0) as c_int
}

/// The calling thread's number.
pub(crate) fn gettid() -> c_int {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_gettid, []) }.unwrap_or(0) as c_int
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
    let sent = unsafe { call(libc::SYS_tgkill, [getpid() as usize, tid as usize, 0]) };
    sent != Err(libc::ESRCH)
}

/// The mask of a thread (0: the calling one), as the kernel has it. 1 kB: not for hooks that run on small stacks.
pub(crate) fn mask_of(tid: c_int) -> Result<CpuMask> {
    let mut mask = CpuMask::EMPTY;
    // SAFETY: the mask has room for BYTES bytes.
    unsafe { call(libc::SYS_sched_getaffinity, [tid as usize, BYTES, mask.as_mut_ptr() as usize]) }?;
    Ok(mask)
}

// Signal handlers fork on stacks of a few kilobytes, and forked children pay for every page and kilobyte. So the
// functions below hold a mask on the stack one at a time, no more of it than the kernel has, and hand out what is small.

#[inline(always)]
fn with_mask_of<R>(tid: c_int, see: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let mut buffer = MaybeUninit::<[u8; BYTES]>::uninit();
    let to = buffer.as_mut_ptr();
    // SAFETY: the buffer has room for BYTES bytes.
    let written = unsafe { call(libc::SYS_sched_getaffinity, [tid as usize, BYTES, to as usize]) }?;
    // SAFETY: the kernel has written so many bytes, and not more than there is room for.
    Ok(see(unsafe { core::slice::from_raw_parts(to.cast(), written.min(BYTES)) }))
}

/// Reads the calling thread's mask into what the kernel has filled before, and leaves that if it can't be read.
pub(crate) fn read_mask(to: &mut [u8]) {
    // SAFETY: so many bytes are ours to write.
    let _ = unsafe { call(libc::SYS_sched_getaffinity, [0, to.len(), to.as_mut_ptr() as usize]) };
}

/// The fingerprint of a thread's mask.
#[inline(never)]
pub(crate) fn fingerprint_of(tid: c_int) -> Result<u64> {
    with_mask_of(tid, cpumask::fingerprint_of_bytes)
}

/// The calling thread's mask, for setting it again.
#[inline(never)]
pub(crate) fn sparse_mask() -> Option<SparseMask> {
    with_mask_of(0, SparseMask::from_bytes).ok()?
}

/// Sets the calling thread's mask.
#[inline(never)]
pub(crate) fn set_sparse_mask(mask: &SparseMask) -> Result<()> {
    set_mask(&mask.to_mask())
}

/// Sets the calling thread's mask. The kernel cuts it to the cpuset and refuses (`EINVAL`) if nothing is left.
pub(crate) fn set_mask(mask: &CpuMask) -> Result<()> {
    set_mask_of(0, mask)
}

/// Sets a thread's mask.
pub(crate) fn set_mask_of(tid: c_int, mask: &CpuMask) -> Result<()> {
    // SAFETY: the mask is BYTES bytes to read.
    unsafe { call(libc::SYS_sched_setaffinity, [tid as usize, BYTES, mask.as_ptr() as usize]) }.map(drop)
}

/// A descriptor for a process.
pub(crate) fn pidfd_open(pid: c_int) -> Result<c_int> {
    // SAFETY: plain numbers.
    unsafe { call(libc::SYS_pidfd_open, [pid as usize, 0]) }.map(|fd| fd as c_int)
}

/// Closes one of our own descriptors.
pub(crate) fn close(fd: c_int) {
    // SAFETY: a plain number.
    let _ = unsafe { call(libc::SYS_close, [fd as usize]) };
}

/// Copies our own memory from `address` on, as far as it is readable: the kernel looks, where we would crash. Returns
/// how many words there were.
#[inline(never)]
pub(crate) fn peek(address: usize, words: &mut [usize]) -> usize {
    let end = address.saturating_add(size_of_val(words));
    let page_end = (address | 0xfff).saturating_add(1).min(end);
    let part = |from: usize, to: usize| libc::iovec { iov_base: from as *mut _, iov_len: to - from };
    let to = part(words.as_mut_ptr() as usize, words.as_mut_ptr() as usize + size_of_val(words));
    // The kernel copies whole parts or nothing.
    let from = [part(address, page_end), part(page_end, end)];
    let args = [getpid() as usize, (&raw const to) as usize, 1, from.as_ptr() as usize, 2, 0];
    // SAFETY: both lists are good, and the destination is ours to write.
    unsafe { call(libc::SYS_process_vm_readv, args) }.unwrap_or(0) / size_of::<usize>()
}

/// Which file a descriptor is open on.
pub(crate) fn file_of(fd: c_int) -> Result<(u64, u64)> {
    stat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Sleeps for 100 microseconds.
pub(crate) fn nap() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
    // SAFETY: a time to read, and nothing to write. A signal ends it early, which does no harm.
    let _ = unsafe { call(libc::SYS_nanosleep, [(&raw const time) as usize, 0]) };
}

/// Opens a file to append to, and makes it if need be. Never waits, for a FIFO's reader say.
pub(crate) fn open_to_append(path: &CStr) -> Result<c_int> {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0o644];
    // SAFETY: a C string, and plain flags.
    unsafe { call(libc::SYS_openat, args) }.map(|fd| fd as c_int)
}

/// Writes with one `write(2)`. There is nowhere to complain to: a line that can't be written is lost.
pub(crate) fn write(fd: c_int, bytes: &[u8]) {
    // SAFETY: the bytes are there to read.
    let _ = unsafe { call(libc::SYS_write, [fd as usize, bytes.as_ptr() as usize, bytes.len()]) };
}

/// `errno`, to be set again after a call of libc's that may change it.
pub(crate) fn errno() -> c_int {
    // SAFETY: libc's own `errno` of this thread.
    unsafe { *libc::__errno_location() }
}

/// Sets `errno`, for a call that fails in our own hands.
pub(crate) fn set_errno(error: c_int) {
    // SAFETY: libc's own `errno` of this thread.
    unsafe { *libc::__errno_location() = error };
}

// For the ledger: a file that processes share.

/// What `fstat(2)` tells of a descriptor.
pub(crate) fn stat(fd: c_int) -> Result<libc::stat> {
    // SAFETY: plain numbers are a valid `stat`.
    let mut stat = unsafe { core::mem::zeroed::<libc::stat>() };
    // SAFETY: a place for it.
    unsafe { call(libc::SYS_fstat, [fd as usize, (&raw mut stat) as usize]) }?;
    Ok(stat)
}

/// What `stat(2)` tells of a path.
pub(crate) fn stat_path(path: &CStr) -> Result<libc::stat> {
    // SAFETY: plain numbers are a valid `stat`.
    let mut stat = unsafe { core::mem::zeroed::<libc::stat>() };
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, (&raw mut stat) as usize, 0];
    // SAFETY: a C string, and a place for the answer.
    unsafe { call(libc::SYS_newfstatat, args) }?;
    Ok(stat)
}

/// Opens a file with these flags, and mode 0600 if that makes it. Closed on exec.
pub(crate) fn open(path: &CStr, flags: c_int) -> Result<c_int> {
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, (flags | libc::O_CLOEXEC) as usize, 0o600];
    // SAFETY: a C string, and plain flags.
    unsafe { call(libc::SYS_openat, args) }.map(|fd| fd as c_int)
}

/// Removes a file's name.
pub(crate) fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: a C string.
    unsafe { call(libc::SYS_unlinkat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, 0]) }.map(drop)
}

/// Locks a file for us alone if nobody else has; the kernel unlocks it when we die.
pub(crate) fn try_lock(fd: c_int) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(libc::SYS_flock, [fd as usize, (libc::LOCK_EX | libc::LOCK_NB) as usize]) }.map(drop)
}

/// Unlocks it, also where a forked child has the descriptor too.
pub(crate) fn unlock(fd: c_int) {
    // SAFETY: plain numbers.
    let _ = unsafe { call(libc::SYS_flock, [fd as usize, libc::LOCK_UN as usize]) };
}

/// The longest file that this process may write (`RLIMIT_FSIZE`); at one more byte the kernel sends a deadly signal.
pub(crate) fn longest_file() -> u64 {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let args = [0, libc::RLIMIT_FSIZE as usize, 0, (&raw mut limit) as usize];
    // SAFETY: a place for the answer.
    unsafe { call(libc::SYS_prlimit64, args) }.map_or(u64::MAX, |_| limit.rlim_cur)
}

/// Makes a file this long, of holes.
pub(crate) fn truncate(fd: c_int, length: usize) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(libc::SYS_ftruncate, [fd as usize, length]) }.map(drop)
}

/// Makes room for a part of a file, so that writing there can't fail.
pub(crate) fn allocate(fd: c_int, range: core::ops::Range<usize>) -> Result<()> {
    let args = [fd as usize, 0, range.start, range.end - range.start];
    // SAFETY: plain numbers.
    unsafe { call(libc::SYS_fallocate, args) }.map(drop)
}

/// Maps so many bytes of a file, shared; or fresh memory of our own if `fd` is `None`.
pub(crate) fn map(fd: Option<c_int>, length: usize) -> Result<*mut u8> {
    let flags = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let args = [0, length, prot, flags as usize, fd.unwrap_or(-1) as usize, 0];
    // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
    unsafe { call(libc::SYS_mmap, args) }.map(|address| address as *mut u8)
}

/// Unmaps what [`map`] mapped.
///
/// # Safety
/// Nothing may refer to it any more.
pub(crate) unsafe fn unmap(address: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { call(libc::SYS_munmap, [address as usize, length]) };
}

/// Lets forked children find zeros there (Linux 4.14 on).
pub(crate) fn wipe_on_fork(address: *mut u8, length: usize) -> Result<()> {
    // SAFETY: it changes what a child will see of memory that is ours.
    unsafe { call(libc::SYS_madvise, [address as usize, length, libc::MADV_WIPEONFORK as usize]) }.map(drop)
}

/// Reads from a place in a file.
pub(crate) fn read_at(fd: c_int, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let args = [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), offset as usize];
    // SAFETY: the buffer is ours to write.
    unsafe { call(libc::SYS_pread64, args) }
}

/// Directory entries in the kernel's form (`struct linux_dirent64`).
pub(crate) fn read_directory(fd: c_int, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is ours to write.
    unsafe { call(libc::SYS_getdents64, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len()]) }
}

/// Whether there is a process of this number: running, or dead and not yet waited for.
pub(crate) fn is_there(pid: c_int) -> bool {
    // SAFETY: signal 0 only asks.
    let sent = unsafe { call(libc::SYS_kill, [pid as usize, 0]) };
    sent != Err(libc::ESRCH)
}

/// Ends the process.
pub(crate) fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: a plain number.
        let _ = unsafe { call(libc::SYS_exit_group, [status as usize]) };
    }
}

/// The effective user.
pub(crate) fn user() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_geteuid, []) }.unwrap_or(0) as u32
}

// For the ballast: a thread that sleeps.

/// Blocks all signals of the calling thread, and returns those that were blocked. But for libc's own two: `setuid()`
/// waits until every thread has handled one.
pub(crate) fn block_signals() -> u64 {
    const LIBCS: u64 = 0b11 << 31;
    let (all, mut before) = (!LIBCS, 0_u64);
    let args = [libc::SIG_BLOCK as usize, (&raw const all) as usize, (&raw mut before) as usize, size_of::<u64>()];
    // SAFETY: two sets of the kernel's size.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, args) };
    before
}

/// Blocks just these signals of the calling thread.
pub(crate) fn set_blocked_signals(set: u64) {
    let args = [libc::SIG_SETMASK as usize, (&raw const set) as usize, 0, size_of::<u64>()];
    // SAFETY: a set of the kernel's size.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, args) };
}

/// Sleeps while `word` is `value`, at most so many seconds. Returns whether they have gone by.
pub(crate) fn sleep_while(word: &AtomicU32, value: u32, seconds: i64) -> bool {
    let time = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let args = [word.as_ptr() as usize, operation as usize, value as usize, (&raw const time) as usize];
    // SAFETY: a word and a time to read.
    let slept = unsafe { call(libc::SYS_futex, args) };
    slept == Err(libc::ETIMEDOUT)
}

/// Wakes the thread that sleeps on `word`.
pub(crate) fn wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the address is only a name.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, operation as usize, 1]) };
}

// For the report.

/// Makes a directory of our own.
pub(crate) fn make_directory(path: &CStr) -> Result<()> {
    // SAFETY: a C string, and a plain number.
    unsafe { call(libc::SYS_mkdirat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, 0o700]) }.map(drop)
}

/// The directory that the process is in, into the buffer; the length without the NUL that ends it.
pub(crate) fn current_directory(buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is ours to write.
    let length = unsafe { call(libc::SYS_getcwd, [buffer.as_mut_ptr() as usize, buffer.len()]) }?;
    Ok(length.saturating_sub(1))
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { crate::next::clock_gettime()(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// What the process has used (`RUSAGE_SELF`), or its children that were waited for (`RUSAGE_CHILDREN`).
pub(crate) fn usage(who: c_int) -> libc::rusage {
    // SAFETY: plain numbers are a valid `rusage`.
    let mut usage = unsafe { core::mem::zeroed::<libc::rusage>() };
    // SAFETY: a place for the answer.
    let _ = unsafe { call(libc::SYS_getrusage, [who as usize, (&raw mut usage) as usize]) };
    usage
}

/// Runs the first of these programs that is there, and waits for it. It is forked without a handler of anybody's, and
/// no signal tells of its end.
pub(crate) fn run(
    programs: &[&CStr],
    arguments: &[*const core::ffi::c_char],
    environment: &[*const core::ffi::c_char],
) -> bool {
    const NOT_THERE: usize = 127;
    let before = block_signals();
    // SAFETY: a copy of this process, which goes on here, on a copy of this stack, and does nothing but what follows.
    let child = unsafe { call(libc::SYS_clone, [0, 0, 0, 0, 0]) };
    if child == Ok(0) {
        set_blocked_signals(before);
        for program in programs {
            let args = [program.as_ptr() as usize, arguments.as_ptr() as usize, environment.as_ptr() as usize];
            // SAFETY: C strings, and lists of them that end in null.
            let _ = unsafe { call(libc::SYS_execve, args) };
        }
        exit(NOT_THERE as c_int);
    }
    let mut status: c_int = -1;
    if let Ok(child) = child {
        // SAFETY: a place for the answer.
        let wait = || unsafe { call(libc::SYS_wait4, [child, (&raw mut status) as usize, libc::__WALL as usize, 0]) };
        let mut wait = wait;
        while wait() == Err(libc::EINTR) {}
    }
    set_blocked_signals(before);
    child.is_ok() && (status >> 8) as usize != NOT_THERE
}
