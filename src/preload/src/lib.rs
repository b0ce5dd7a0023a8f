//! `libknlfix.so`: preloaded into a program, it gives every child process and thread the CPUs that the user allowed,
//! while the program's own OpenMP team stays where its runtime pinned it, and lets all processes of a job share one
//! budget of compute threads.
//!
//! One call through the library:
//!
//! 1. ld.so loads us before the program's libraries, and [`start`] reads the environment. A process without a runtime
//!    stays with that: every hook is one load, a branch and a jump.
//! 2. A runtime pins its thread with `sched_setaffinity`, `pthread_setaffinity_np` or `syscall`. The hook ([`hooks`])
//!    makes the real call ([`next`]) and asks who called ([`caller`]): the object that the return address lies in ([`site`], [`dso`]).
//! 3. A mask set by a runtime is a pin. The table of pins ([`state::PINS`], [`knlfix_core::pins`]) remembers the user
//!    mask under it ([`affinity::observe`]), and from now on the hooks are [active](state::ACTIVE).
//! 4. A mask set by anybody else is the user's: the record goes, and the mask stays.
//! 5. The pinned thread makes a child, in one of the ways that [`hooks`] lists. A record that still fits the thread's
//!    mask says that it is pinned: the child gets the user mask ([`affinity::repair`], [`process`]), and the parent
//!    keeps its pin.
//! 6. A program that asks for the mask of its pinned thread, outside parallel regions, hears the user mask
//!    ([`affinity::query`]).
//! 7. It pins a thread to CPUs that another process of the job has pinned one to: the pin is moved ([`places::team`]). A
//!    worker is given a place of its own, if the user wants it ([`places::worker`]).
//! 8. A runtime that counts the CPUs to make threads hears this process's start share ([`budget::start_share`]).
//! 9. The program enters a parallel region, a BLAS or LAPACK routine or a TBB algorithm: its governor ([`budget`]) asks the
//!    ledger ([`knlfix_core::ledger`]) how many threads it may have, lets it run with so many, and gives them back.
//!
//! Nothing here allocates, panics on purpose or needs `std`, and no lock of ours exists; the loader's is taken on the
//! first call of a hook, and on a libc before 2.35 to tell who called, but never in a forked child: the library lives in
//! signal handlers, in the children of multi-threaded forks and on the stacks of vfork children.
#![cfg_attr(not(test), no_std)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
compile_error!("libknlfix hooks glibc on x86-64 Linux: its hooks are written for that calling convention");

mod affinity;
mod budget;
mod caller;
mod dso;
mod elf;
mod hooks;
mod log;
mod next;
mod observe;
mod places;
mod process;
mod runtimes;
mod site;
mod state;
mod sys;

/// Reads the environment.
#[ctor::ctor(unsafe)]
fn start() {
    state::config();
    places::worker::started();
    observe::started();
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Every index is checked and no arithmetic can overflow unseen, so this is for what nobody foresaw. There is no way
    // back into the host from here.
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
