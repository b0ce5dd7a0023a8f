//! A pinned thread makes a child, and the child gets the user mask.
//!
//! * a fork is repaired in the child ([`adopt`], [`settle`]): the parent is not touched
//! * every other child inherits the right mask: the calling thread is [`widened`](Widened) for the length of the call

use crate::observe;
use crate::places::{self, worker};
use crate::state::{self, PINS};
use crate::sys;
use core::sync::atomic::{AtomicBool, Ordering};
use knlfix_core::cpumask::{CpuMask, SparseMask};
use knlfix_core::pins::RuntimeId;
use knlfix_core::record::Event;

/// The user mask under the calling thread's pin, and the pin's fingerprint, if it is pinned and its children are to be
/// repaired.
pub(crate) fn user_mask_under_pin() -> Option<(&'static CpuMask, u64)> {
    let Some(allowed) = worker::allowed_to_children() else {
        return under_pin().map(|(user, _, pin)| (user, pin));
    };
    if !state::is_owner() {
        return None;
    }
    let (myself, pin) = (sys::this_thread(), sys::fingerprint_of(0).ok()?);
    // A thread that libc made for itself is in the place, and nothing is known of it. One that is known and has no pin
    // was given its mask by the user.
    let is_in_place = || worker::is_place(pin) && !PINS.is_known(myself.key);
    (PINS.user_of(myself, pin).is_some() || is_in_place()).then_some((allowed, pin))
}

/// The user mask under the calling thread's pin, who pinned it, and the pin's fingerprint.
fn under_pin() -> Option<(&'static CpuMask, RuntimeId, u64)> {
    if !state::active() || !state::is_owner() {
        return None;
    }
    let myself = sys::this_thread();
    if !PINS.is_on_record(myself) {
        return None;
    }
    let pin = sys::fingerprint_of(0).ok()?;
    let (user, runtime) = PINS.user_of(myself, pin)?;
    is_repaired(runtime).then_some((user, runtime, pin))
}

/// Whether children of a thread that `runtime` pinned are to be repaired. A place is no runtime's doing.
fn is_repaired(runtime: RuntimeId) -> bool {
    state::config().affinity || runtime == worker::PLACE
}

/// Sets the calling thread's mask to `user`. Says why not, once.
fn restore(what: &str, user: &CpuMask) -> bool {
    if log::log_enabled!(log::Level::Debug) {
        return restore_and_tell(what, user);
    }
    let done = sys::set_mask(user);
    if let Err(error) = done {
        tell_refused(what, user, error);
    }
    done.is_ok()
}

#[cold]
#[inline(never)]
fn restore_and_tell(what: &str, user: &CpuMask) -> bool {
    let pin = sys::mask_of(0).unwrap_or(CpuMask::EMPTY);
    let done = sys::set_mask(user);
    match done {
        Ok(()) => log::debug!("repair: {what}, {pin} -> {user}"),
        Err(error) => tell_refused(what, user, error),
    }
    done.is_ok()
}

#[cold]
#[inline(never)]
fn tell_refused(what: &str, user: &CpuMask, error: i32) {
    // The cpuset may have shrunk to nothing of it, or a sandbox forbids the call.
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        log::warn!("repair: {what}: sched_setaffinity({user}) failed (error {error}); it keeps the pin");
    }
}

/// The calling thread, with its user mask for as long as this lives, and then with its pin again.
pub(crate) struct Widened {
    pin: SparseMask,
    /// The fingerprint of the user mask as the kernel took it: less, if the cpuset is smaller today.
    wide: u64,
}

impl Widened {
    /// Widens the calling thread to make a thread, if it is pinned and threads are to be repaired.
    pub(crate) fn for_thread(what: &str) -> Option<Self> {
        if !state::config().threads {
            return None;
        }
        let (user, runtime, pin) = under_pin()?;
        // A worker's threads stay in its place.
        if runtime == worker::PLACE { None } else { Self::to(user, pin, what) }
    }

    /// Widens the calling thread, if it is pinned.
    pub(crate) fn for_child(what: &str) -> Option<Self> {
        let (user, pin) = user_mask_under_pin()?;
        Self::to(user, pin, what)
    }

    #[inline(never)]
    fn to(user: &CpuMask, fingerprint: u64, what: &str) -> Option<Self> {
        let pin = sys::sparse_mask().filter(|pin| pin.fingerprint() == fingerprint)?;
        let myself = sys::this_thread();
        PINS.mark_widened(myself, fingerprint, true);
        let wide = if restore(what, user) { sys::fingerprint_of(0).ok() } else { None };
        if wide.is_some() {
            observe::count(Event::Repair, 0);
        }
        if wide.is_none() {
            PINS.mark_widened(myself, fingerprint, false);
        }
        Some(Self { wide: wide?, pin })
    }

    /// Puts the pin back, unless somebody moved the thread meanwhile: then its mask is another, or its record is gone.
    #[inline(never)]
    fn narrow(&self) {
        let (myself, pin) = (sys::this_thread(), self.pin.fingerprint());
        let has_pin = || worker::is_place(pin) || PINS.user_of(myself, pin).is_some();
        if sys::fingerprint_of(0) == Ok(self.wide) && has_pin() {
            // It was there a moment ago. If the cpuset has lost it since, the user mask is as good.
            let _ = sys::set_sparse_mask(&self.pin);
        }
        PINS.mark_widened(myself, pin, false);
    }

    /// Before another thread's mask is set: lets that thread finish what it was widened for. Between its last look at
    /// its mask and the moment it puts the pin back, a mask given to it would be lost. It lasts microseconds, or as
    /// long as the command of a `system()`; whoever waited for long enough not to meet the end of the former goes on.
    pub(crate) fn let_it_end(is_widened: impl Fn() -> bool) {
        for _ in 0..20 {
            if !is_widened() {
                break;
            }
            sys::nap();
        }
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.narrow();
    }
}

/// Takes a forked child over from its parent, and repairs its one thread.
pub(crate) fn adopt() {
    let key = sys::thread_key();
    state::own();
    crate::process::forget_births();
    places::forget_parent();
    if !PINS.was_pinned(key) {
        return;
    }
    // `before_fork` has seen to it that what is on record under this key is the forking thread's own.
    let inherited = sys::fingerprint_of(0).ok().and_then(|now| PINS.user_of_key(key, now, |_| true));
    match inherited {
        // What is under a runtime's pin in a worker is the place, and that is the parent's.
        Some((user, runtime))
            if is_repaired(runtime) && restore("forked child", worker::allowed_to_children().unwrap_or(user)) => {}
        Some(_) => PINS.inherit(sys::this_thread()),
        None => tell_moved(),
    }
}

fn tell_moved() {
    if log::log_enabled!(log::Level::Debug)
        && let Ok(now) = sys::mask_of(0)
    {
        log::debug!("user mask: forked child keeps {now}, set after the pin, respected");
    }
}

/// Ends a fork in the child, after every atfork handler: LLVM's sets the mask that it saw when it was initialised,
/// which may be a wider one than the user's, or an older one.
pub(crate) fn settle() {
    state::note_fork();
    if !state::active() {
        return;
    }
    if !state::is_owner() {
        adopt();
    }
    if let Some((user, _)) = user_mask_under_pin() {
        restore("forked child", user);
        PINS.forget(sys::thread_key());
    }
    worker::forked();
}

/// Begins a child that was born with the user mask, as its parent was widened.
pub(crate) fn settle_born_wide() {
    if state::active() && !state::is_owner() {
        state::own();
        crate::process::forget_births();
        places::forget_parent();
        worker::forget_parent();
    }
}

/// Before a fork, in the parent: what is on record for an earlier thread under the same `pthread_t` goes, as the child
/// could not tell it from the forking thread's.
pub(crate) extern "C" fn before_fork() {
    if state::active() && state::is_owner() {
        PINS.forget_earlier(sys::this_thread());
        worker::about_to_fork();
    }
}

/// The atfork handler, for forks that no hook of ours saw from outside.
pub(crate) extern "C" fn in_child() {
    state::note_fork();
    if state::active() && !state::is_owner() {
        adopt();
    }
}
