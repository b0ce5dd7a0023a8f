//! The start share: what a worker process is told, once, when a runtime in it first counts the CPUs.
//!
//! Hundreds of workers would otherwise make hundreds of threads each, most of them for nothing. The workers of one pool
//! (and the ranks of one launcher) start together, so each is told its part of the budget from the start: the siblings
//! that run the same program on the same CPUs count, whether they have asked yet or not. Anybody else is told the whole,
//! less what processes that are active now have a claim to.
//!
//! A forked child goes on with what its parent was told, as it goes on with what the parent made of it.

use super::member;
use super::process::{self, Sibling};
use super::{domain, shares_anything};
use crate::caller;
use crate::site::Site;
use crate::sys;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use knlfix_core::budget;
use knlfix_core::cpumask::CpuMask;

/// What this process was told; 0 until it asks.
static TOLD: AtomicU32 = AtomicU32::new(0);
/// Which process was told; a forked child goes on with it.
static WHO: AtomicI32 = AtomicI32::new(0);

/// How many threads this process was told to have; `None` if that is all that it could have.
pub(crate) fn start_share() -> Option<u32> {
    if !shares_anything() {
        return None;
    }
    let told = match TOLD.load(Ordering::Acquire) {
        0 => {
            // Threads that ask at once are told the same.
            let share = work_out().unwrap_or(u32::MAX);
            WHO.store(sys::getpid(), Ordering::Relaxed);
            match TOLD.compare_exchange(0, share, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => share,
                Err(told) => told,
            }
        }
        told => told,
    };
    (told != u32::MAX).then_some(told)
}

/// Whether it was this process that was told, and not the one that it was forked from.
pub(super) fn told_here() -> bool {
    let who = WHO.load(Ordering::Relaxed);
    who != 0 && who == sys::getpid()
}

/// What this process was told, if it has asked.
pub(super) fn told() -> Option<u32> {
    match TOLD.load(Ordering::Acquire) {
        0 => None,
        told => Some(told),
    }
}

/// The share, if it is less than the whole.
#[cold]
#[inline(never)]
fn work_out() -> Option<u32> {
    // Not this thread's: its runtime may be moving it over the CPUs, or have pinned it.
    let mask = member::allowed_mask()?;
    let budget = budget::size(crate::state::config().budget, &mask, &super::files::Kernel);
    let siblings = if is_one_of_many() { siblings(&mask) } else { 1 };
    let active = member::active_elsewhere(&mask);
    let share = (budget / siblings.max(active + 1)).max(1);
    log::debug!("budget: start share {share} of {budget} threads ({siblings} siblings, {active} others active)");
    (share < mask.count() as u32).then_some(share)
}

/// Whether this process is a worker that its parent made of itself, or a rank of a launcher.
fn is_one_of_many() -> bool {
    const RANKS: [&[u8]; 5] =
        [b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", b"PMI_RANK", b"SLURM_STEP_TASKS_PER_NODE", b"FLUX_TASK_RANK"];
    if RANKS.iter().any(|&rank| domain::variable(rank).is_some()) {
        return true;
    }
    is_made_by_itself()
}

/// Whether this process's parent runs the same program.
pub(crate) fn is_made_by_itself() -> bool {
    let myself = sys::getpid();
    let program = process::program_of(myself);
    program.is_some() && process::parent_of(myself).is_some_and(|parent| process::program_of(parent) == program)
}

/// Whether this process only looks after the workers that Python's multiprocessing or loky makes: it has nothing to compute.
pub(crate) fn is_helper() -> bool {
    process::command_has(&[b"resource_tracker import main", b"forkserver import main"])
}

/// How many processes there are like this one: of the same parent, with the same program, command and CPUs.
fn siblings(mask: &CpuMask) -> u32 {
    let myself = sys::getpid();
    let Some(parent) = process::parent_of(myself) else { return 1 };
    let like = Sibling::of(myself);
    let mut count = 0;
    process::for_each_child(parent, |child| {
        // Its runtime may have pinned it already, or be moving it over the CPUs just now to find out what they are.
        let is_within = || sys::mask_of(child).is_ok_and(|other| other.is_subset(mask));
        let is_like = child == myself || Sibling::of(child) == like && is_within();
        count += u32::from(is_like);
    });
    count.max(1)
}

/// Cuts the mask that the kernel reported to a runtime that only counts its CPUs down to this process's start share.
pub(crate) fn narrow_answer(site: Site, answer: &mut [u8]) {
    if !shares_anything() {
        return;
    }
    let Some(least) = caller::least_told(site) else { return };
    let Some(share) = start_share() else { return };
    let mut left = share.max(least);
    for byte in answer.iter_mut() {
        while byte.count_ones() > left {
            *byte &= !(1 << (7 - byte.leading_zeros()));
        }
        left -= byte.count_ones();
    }
}

/// The number of CPUs to tell a runtime that only counts them, of so many.
pub(crate) fn narrow_count(site: Site, count: i64) -> i64 {
    if count <= 1 || !shares_anything() {
        return count;
    }
    let Some(least) = caller::least_told(site) else { return count };
    start_share().map_or(count, |share| count.min(share.max(least).into()))
}
