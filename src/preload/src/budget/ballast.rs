//! The waiting policy of libgomp, switched while it runs.
//!
//! Where several processes together run more threads than there are CPUs, nearly all that is lost is lost to spinning: a
//! thread that waits for another holds the CPU that the other one needs. libgomp decides how long to spin when it is
//! loaded, but for one case: while the process manages more threads than it has CPUs, it spins next to nothing. So a
//! thread of ours runs one empty region, just large enough to tip that balance, and sleeps: its team stays parked in
//! libgomp, and counts. When this process is no longer squeezed, the thread ends, its team with it, and everything is as
//! before.
//!
//! One word says what is going on; the thread sleeps on it:
//!
//! | state | means | goes on to |
//! |---|---|---|
//! | `OFF` | no thread | `ON`, by a region that is squeezed: it makes the thread |
//! | `ON` | the thread is there, or about to be | `END`, by a region that is not squeezed; by the thread after an idle second |
//! | `END` | the thread is to end | `OFF`, by the thread, as the last thing it does |
//! | `NEVER` | no thread can be made, or the user has decided how to wait | |
//!
//! A forked child starts at `OFF`: the thread is not there. A parked team keeps no process alive for longer than two
//! seconds, and has all signals blocked.

use super::domain::variable;
use super::libgomp::Copy;
use crate::next::{self, Any};
use crate::sys;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

const OFF: u32 = 0;
const ON: u32 = 1;
const END: u32 = 2;
const NEVER: u32 = 3;

/// The thread's own stack; thread-local data and the arguments of a large team lie there too.
const STACK: usize = 1 << 20;
/// The thread looks this often whether regions still run, in seconds.
const LOOK: i64 = 1;
/// No team is larger than this, however much there is to tip.
const MOST: u32 = 512;

pub(super) struct Ballast {
    state: AtomicU32,
    /// Threads of the regions that it was made for; smaller ones would need more of it.
    count: AtomicU32,
    /// Whether a squeezed region was entered since the thread looked.
    is_used: AtomicBool,
    /// The thread, while libgomp makes its team.
    caller: AtomicUsize,
}

impl Ballast {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU32::new(OFF),
            count: AtomicU32::new(0),
            is_used: AtomicBool::new(false),
            caller: AtomicUsize::new(0),
        }
    }

    /// In a forked child, where every write copies a page: only if there is something to forget.
    pub(super) fn forget(&self) {
        if [ON, END].contains(&self.state.load(Ordering::Relaxed)) {
            self.state.store(OFF, Ordering::Relaxed);
            self.is_used.store(false, Ordering::Relaxed);
            self.caller.store(0, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        if self.state.compare_exchange(ON, END, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            sys::wake(&self.state);
        }
    }
}

/// A region of `count` threads, which nobody may change, is about to begin, and squeezed or not.
#[inline]
pub(super) fn weigh(copy: &'static Copy, count: u32, is_squeezed: bool) {
    let ballast = &copy.ballast;
    let state = ballast.state.load(Ordering::Relaxed);
    match (is_squeezed, state) {
        // A process that runs but one region is not worth a team.
        (true, OFF) if !ballast.is_used.swap(true, Ordering::Relaxed) => {}
        (true, OFF) => begin(copy, count),
        (true, ON) if count < ballast.count.load(Ordering::Relaxed) => ballast.end(),
        (true, ON) if !ballast.is_used.load(Ordering::Relaxed) => ballast.is_used.store(true, Ordering::Relaxed),
        (false, ON) => ballast.end(),
        _ => {}
    }
}

#[cold]
#[inline(never)]
fn begin(copy: &'static Copy, count: u32) {
    let ballast = &copy.ballast;
    // More threads than CPUs tip the balance by themselves.
    if count > copy.cpus() || ballast.state.compare_exchange(OFF, ON, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    ballast.count.store(count, Ordering::Relaxed);
    // How to wait is the user's to say; and every team that is made would be displayed.
    let is_said = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_DISPLAY_AFFINITY"]
        .iter()
        .any(|name| variable(name.as_bytes()).is_some());
    if is_said || make_thread(copy) != 0 {
        ballast.state.store(NEVER, Ordering::Relaxed);
    }
}

/// Makes the thread; returns an error number.
fn make_thread(copy: &'static Copy) -> i32 {
    // SAFETY: bytes; libc makes attributes of them.
    let mut attributes = unsafe { core::mem::zeroed::<libc::pthread_attr_t>() };
    let attributes: Any = (&raw mut attributes).cast();
    let mut thread = 0_usize;
    let argument: Any = core::ptr::from_ref(copy).cast_mut().cast();
    let errno = sys::errno();
    let blocked = sys::block_signals();
    // SAFETY: attributes and a place for the thread, and an argument that stays.
    let error = unsafe {
        next::pthread_attr_init()(attributes);
        next::pthread_attr_setstacksize()(attributes, STACK);
        next::pthread_attr_setdetachstate()(attributes, libc::PTHREAD_CREATE_DETACHED);
        next::pthread_create()((&raw mut thread).cast(), attributes, park, argument)
    };
    sys::set_blocked_signals(blocked);
    sys::set_errno(errno);
    error
}

unsafe extern "C" fn park(copy: *mut c_void) -> *mut c_void {
    // SAFETY: `make_thread` passed it.
    let copy = unsafe { &*copy.cast::<Copy>() };
    let ballast = &copy.ballast;
    let missing = (copy.cpus() + 1).saturating_sub(ballast.count.load(Ordering::Relaxed));
    ballast.caller.store(sys::thread_key(), Ordering::Relaxed);
    copy.run_nothing(1 + missing.clamp(1, MOST));
    ballast.caller.store(0, Ordering::Relaxed);
    log::debug!("budget: libgomp waits passively");
    while ballast.state.load(Ordering::Acquire) == ON {
        let is_over = sys::sleep_while(&ballast.state, ON, LOOK);
        if is_over && !ballast.is_used.swap(false, Ordering::Relaxed) {
            ballast.end();
        }
    }
    log::debug!("budget: libgomp waits as ever");
    ballast.is_used.store(false, Ordering::Relaxed);
    ballast.state.store(OFF, Ordering::Release);
    core::ptr::null_mut()
}

/// Whether it is a ballast's team that the calling thread could not make a thread for. libgomp would end the process. If
/// it is told that the thread was made, it waits for it: the ballast thread sleeps for good, which does no harm, and the
/// balance is tipped.
pub(crate) fn is_calling() -> bool {
    super::libgomp::ballasts().any(|ballast| ballast.caller.load(Ordering::Relaxed) == sys::thread_key())
}
