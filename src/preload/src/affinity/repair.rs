//! A pinned thread makes a child, and the child gets the user mask.
//!
//! * a fork is repaired in the child ([`adopt`], [`settle`]): the parent is not touched
//! * every other child inherits the right mask: the calling thread is [`widened`](Widened) for the length of the call

use crate::state::{self, PINS};
use crate::sys;
use core::sync::atomic::{AtomicBool, Ordering};
use knlfix_core::cpumask::CpuMask;

/// The calling thread's pin and the user mask under it, if it is pinned and children are to be repaired.
pub(crate) fn pin_and_user_mask() -> Option<(CpuMask, &'static CpuMask)> {
    if !state::active() || !state::config().affinity || !state::is_owner() {
        return None;
    }
    let pin = sys::mask_of(0).ok()?;
    let (user, _) = PINS.user_of(sys::this_thread(), &pin)?;
    Some((pin, user))
}

/// Sets the calling thread's mask to `user`. Says why not, once.
pub(crate) fn restore(what: &str, pin: &CpuMask, user: &CpuMask) -> bool {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    match sys::set_mask(user) {
        Ok(()) => {
            log::debug!("repair: {what}, {pin} -> {user}");
            true
        }
        Err(error) => {
            // The cpuset may have shrunk to nothing of it, or a sandbox forbids the call.
            if !REFUSED.swap(true, Ordering::Relaxed) {
                log::warn!("repair: {what}: sched_setaffinity({user}) failed (error {error}); it stays on {pin}");
            }
            false
        }
    }
}

/// The calling thread, with its user mask for as long as this lives, and then with its pin again.
pub(crate) struct Widened {
    pin: CpuMask,
    wide: CpuMask,
}

impl Widened {
    /// Widens the calling thread, if it is pinned.
    pub(crate) fn for_child(what: &str) -> Option<Self> {
        let (pin, user) = pin_and_user_mask()?;
        if !restore(what, &pin, user) {
            return None;
        }
        // What the kernel made of it: less, if the cpuset is smaller today.
        Some(Self { wide: sys::mask_of(0).ok()?, pin })
    }

    /// Puts the pin back, unless somebody moved the thread meanwhile.
    pub(crate) fn narrow(&self) {
        if sys::mask_of(0).is_ok_and(|now| now == self.wide) {
            // It was there a moment ago. If the cpuset has lost it since, the user mask is as good.
            let _ = sys::set_mask(&self.pin);
        }
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.narrow();
    }
}

/// Takes a forked child over from its parent: repairs its one thread, and forgets the parent's others.
pub(crate) fn adopt() {
    let now = sys::mask_of(0);
    let key = sys::thread_key();
    let inherited = now.as_ref().ok().and_then(|now| PINS.user_of_forked(key, now)).map(|(user, _)| user.clone());
    if inherited.is_none()
        && PINS.was_pinned(key)
        && let Ok(now) = &now
    {
        log::debug!("user mask: forked child keeps {now}, set after the pin, respected");
    }
    take_over();
    if let (Ok(now), Some(user)) = (now, inherited) {
        let repaired = state::config().affinity && restore("forked child", &now, &user);
        if !repaired && let Some(user) = PINS.intern(&user) {
            // The runtime starts anew in this process: it is not to be asked about regions.
            PINS.record(sys::this_thread(), user, 0, &now, sys::alive);
        }
    }
}

fn take_over() {
    // SAFETY: a forked child has one thread, and its callers keep no reference to what they read before.
    unsafe { PINS.clear() };
    crate::process::forget_births();
    state::own();
}

/// Ends a fork in the child, after every atfork handler: LLVM's sets the mask that it saw when it was initialised,
/// which may be a wider one than the user's, or an older one.
pub(crate) fn settle() {
    if !state::active() {
        return;
    }
    if !state::is_owner() {
        adopt();
    }
    if let Some((pin, user)) = pin_and_user_mask() {
        let user = user.clone();
        restore("forked child", &pin, &user);
        PINS.forget(sys::thread_key());
    }
}

/// Begins a child that was born with the user mask, as its parent was widened.
pub(crate) fn settle_born_wide() {
    if state::active() && !state::is_owner() {
        take_over();
    }
}

/// The atfork handler, for forks that no hook of ours saw from outside.
pub(crate) extern "C" fn in_child() {
    if state::active() && !state::is_owner() {
        adopt();
    }
}
