//! Forked children of a process that ran libgomp regions.
//!
//! libgomp keeps the team of a thread that ran a region, in a pool that this thread's block of thread-local data points
//! to, and wakes it for the next region. A forked child has the pool but not the team: its next region waits for
//! threads that are not there, for ever (GCC bugzilla 58378, LightGBM 4751), and so does the end of its thread. Nothing
//! in libgomp's interface helps; `omp_pause_resource` waits for the same threads.
//!
//! So the child forgets the pool: the pointer to it becomes null, as in a thread that has never run a region, and the
//! next region makes a new one. Everything else stays as it was: the thread, its settings, its thread-local data.
//!
//! Where that pointer is depends on libgomp's version, and that it is the right one is not guessed but checked, in
//! memory that the kernel copies for us, so that no wrong guess can do harm:
//!
//! * libgomp's destructor key (a `pthread_key_t`) holds the address of the thread's block, for each copy of libgomp.
//! * The third word of the block is the team that the thread is in: none, or nothing is forgotten.
//! * One of the words after it points to the pool, which begins with the list of its threads, the list's size and the
//!   number of threads in use. The second thread in the list has a block of its own (gone with it, but still in memory
//!   right after the fork), with the same pool in the same place.
//!
//! It was found so in libgomp of GCC 12, 14 and 16, and in those of wheels since OpenMP 3.1 (GCC 4.8). Where it is not
//! found, nothing is changed.
//!
//! One thing remains: libgomp goes on counting the lost threads among those it manages, so it takes its CPUs for
//! overcommitted, and the child's teams wait with little spinning, as if `OMP_WAIT_POLICY` were passive.

use crate::next;
use crate::state;
use crate::sys;
use core::sync::atomic::{AtomicBool, Ordering};

/// glibc's `PTHREAD_KEYS_MAX`.
const KEYS: u32 = 1024;
/// Thread-local data of libraries that the program starts with is this near to the thread's control block.
const NEAR: usize = 1 << 20;
/// Words of a thread's block; the pool has been the 12th to 14th of them so far.
const WORDS: usize = 20;
const TEAM: usize = 2;

static WATCHED: AtomicBool = AtomicBool::new(false);

/// A region is about to run for the first time.
pub(super) fn watch() {
    if !WATCHED.swap(true, Ordering::Relaxed) {
        // Found now: a forked child does not ask the loader.
        next::pthread_getspecific();
        state::at_fork(None, in_child);
    }
}

extern "C" fn in_child() {
    super::libgomp::forget_threads();
    if state::config().forked_regions {
        forget_teams();
    }
}

fn forget_teams() {
    let control_block = sys::thread_key();
    // A thread has one team of each copy of libgomp at most, and their keys are among the first.
    let (copies, mut found) = (super::libgomp::copies(), 0);
    for key in 0..KEYS {
        // SAFETY: a key that nobody has made has no value.
        let block = unsafe { next::pthread_getspecific()(key) } as usize;
        let is_near = (control_block.saturating_sub(NEAR)..control_block).contains(&block);
        if is_near && block.is_multiple_of(8) && forget_team(block) {
            found += 1;
            if found == copies {
                break;
            }
        }
    }
}

/// Forgets the pool that the block points to, if it is one of libgomp's.
fn forget_team(block: usize) -> bool {
    let mut words = [0; WORDS];
    let there = sys::peek(block, &mut words);
    if words.get(TEAM) != Some(&0) {
        return false;
    }
    let mut pools = words.iter().enumerate().take(there).skip(TEAM + 1);
    let Some((at, _)) = pools.find(|&(at, &pool)| is_pool(pool, at)) else { return false };
    // SAFETY: a word of this thread's own block, which nobody else writes.
    unsafe { *(block as *mut usize).add(at) = 0 };
    log::debug!("fork: forgot the libgomp team of process {}", sys::getpid());
    true
}

/// Whether `pool` is a pool of threads whose blocks point to it with the word `at`.
fn is_pool(pool: usize, at: usize) -> bool {
    let second_of = || {
        let [threads, counts] = words_at(pool)?;
        let (room, used) = (counts & 0xffff_ffff, counts >> 32);
        (2..room).contains(&used).then_some(())?;
        words_at(threads.wrapping_add(8))
    };
    second_of().and_then(|[second]| words_at(second.wrapping_add(8 * at))) == Some([pool])
}

/// The words at an address that may be any number.
fn words_at<const N: usize>(address: usize) -> Option<[usize; N]> {
    let mut words = [0; N];
    let is_address = address > 0xffff && address.is_multiple_of(8);
    (is_address && sys::peek(address, &mut words) == N).then_some(words)
}
