//! One thread budget for all processes of a domain.
//!
//! 1. A governor (one module each: libgomp, LLVM's OpenMP, MKL, OpenBLAS, TBB) sees that a region begins, finds out how
//!    many threads it wants, and [enters](enter) it.
//! 2. The first region makes the process a [member] of its [domain]: it takes a slot in the [ledger](segment). Where
//!    there is none to be had, the process governs itself: it is always alone.
//! 3. Alone, every region gets what it asks for. While other processes are active, it gets this process's share of the
//!    budget, less what its other regions hold ([`knlfix_core::share`]).
//! 4. When the region ends, the governor [leaves](leave) it.
//!
//! What is never touched: an explicit number of threads, and what a program is told about the most it can have.

mod ballast;
mod blas;
mod blas_names;
mod domain;
mod files;
mod forked;
mod libgomp;
mod llvm;
mod marks;
mod member;
mod mkl;
mod omp;
mod process;
pub(crate) mod resolve;
mod segment;
mod start;
mod tbb;

pub(crate) use ballast::is_calling as ballast_is_calling;
pub(crate) use domain::{farthest, has_variable};
pub(crate) use files::Kernel;
pub(crate) use member::{allowed_mask, at_exit, now};
pub(crate) use resolve::objects_changed;
pub(crate) use start::{is_helper, is_made_by_itself, narrow_answer, narrow_count, start_share};

use crate::observe::{self, Begun, Source};
use crate::state;
use crate::sys;
use core::sync::atomic::AtomicU64;
use knlfix_core::budget::Setting;
use knlfix_core::config::{Sharing, Wait};
use knlfix_core::ledger::Ledger;
use member::Member;

/// A kind of runtime that has a switch of its own.
#[derive(Clone, Copy)]
pub(crate) enum Governor {
    // In the order of `knlfix_core::record::RUNTIMES`.
    Libgomp,
    LlvmOpenmp,
    Mkl,
    OpenBlas,
    Tbb,
}

/// Whether `governor` is to change the size of regions.
pub(crate) fn is_on(governor: Governor) -> bool {
    let config = state::config();
    shares_anything() && config.sharing == Sharing::Dynamic && has_switch(governor)
}

/// Whether the switch of `governor` is on.
pub(crate) fn has_switch(governor: Governor) -> bool {
    let config = state::config();
    match governor {
        Governor::Libgomp => config.libgomp,
        Governor::LlvmOpenmp => config.llvm_openmp,
        Governor::Mkl => config.mkl,
        Governor::OpenBlas => config.openblas,
        Governor::Tbb => config.tbb,
    }
}

/// Whether there is a budget at all.
fn shares_anything() -> bool {
    let config = state::config();
    config.enabled && config.sharing != Sharing::Off && config.budget != Setting::Off
}

/// A region that was entered: to be [left](leave) once.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) struct Region {
    /// Threads it may run: from 1 to what it asked for.
    pub(crate) threads: u32,
    /// The process that entered it; 0 if nothing was written down. A child forked inside a region leaves it too.
    process: i32,
    /// What the report has to know of it.
    begun: Begun,
}

impl Region {
    /// Whether threads had better sleep than spin in it.
    pub(crate) fn waits_passively(&self) -> bool {
        self.begun.is_crowded() && state::config().wait == Wait::Auto
    }

    const fn unknown(threads: u32) -> Self {
        Self { threads, process: 0, begun: Begun::NONE }
    }

    fn new(by: Source, ask: u32, member: Option<&Member>, (threads, is_crowded): (u32, bool)) -> Self {
        Self {
            threads,
            process: member.map_or(0, Member::process),
            begun: observe::begin(by, ask, threads, is_crowded),
        }
    }
}

/// Enters a region that would run `ask` threads.
pub(crate) fn enter(by: Source, ask: u32) -> Region {
    let ask = ask.max(1);
    let member = Member::here();
    Region::new(by, ask, member, member.map_or((ask, false), |member| member.enter(ask)))
}

/// Enters a region of a runtime that pays for every change of its team but one to a single thread and back; `held`
/// keeps the team's size. For a moment after the share has shrunk it may get more.
pub(crate) fn enter_held(by: Source, ask: u32, held: &AtomicU64) -> Region {
    let ask = ask.max(1);
    let member = Member::here();
    Region::new(by, ask, member, member.map_or((ask, false), |member| member.enter_held(ask, held)))
}

/// Enters a region that runs `count` threads whatever we say.
pub(crate) fn enter_fixed(by: Source, count: u32) -> Region {
    enter_explicit(by, count).0
}

/// As [`enter_fixed`]; also tells whether the region is squeezed: it runs more threads than this process's share.
pub(crate) fn enter_explicit(by: Source, count: u32) -> (Region, bool) {
    let count = count.max(1);
    let member = Member::here();
    let (is_crowded, is_squeezed) = member.map_or((false, false), |member| member.enter_fixed(count));
    (Region::new(by, count, member, (count, is_crowded)), is_squeezed)
}

/// Leaves a region.
pub(crate) fn leave(region: Region) {
    observe::end(region.begun, region.threads);
    if region.process != 0
        && let Some(member) = Member::joined()
        && member.process() == region.process
    {
        member.leave(region.threads);
    }
}

/// The ledger of this process's domain, and its slot, joining if need be.
pub(crate) fn join() -> Option<(Ledger<'static>, usize)> {
    if shares_anything() { Member::here().map(Member::slot) } else { None }
}

/// The same, if it has joined already.
pub(crate) fn joined() -> Option<(Ledger<'static>, usize)> {
    Member::joined().filter(|member| member.process() == sys::getpid()).map(Member::slot)
}

/// What [`enter`] would grant now.
pub(crate) fn share(ask: u32) -> u32 {
    let ask = ask.max(1);
    Member::here().map_or(ask, |member| member.share(ask))
}

/// What a library at its default asks for: the allowed CPUs.
pub(crate) fn whole() -> u32 {
    Member::here().map_or(u32::MAX, Member::whole)
}

/// The compute threads that the domain may run, if this process is in one.
pub(crate) fn size() -> Option<u32> {
    Member::joined().map(Member::budget)
}
