//! A mask is set. The real call is always made, with the caller's own arguments; afterwards we note what it was.

use super::Target;
use crate::caller::{self, Caller, Kind, Via};
use crate::process::fork;
use crate::state::{self, PINS};
use crate::sys;
use knlfix_core::cpumask::CpuMask;
use knlfix_core::pins::Seen;

/// Makes the call `set`, which returns whether it succeeded with its result, and notes who set what.
pub(crate) fn set<R>(target: Target, via: Via, return_address: usize, set: impl FnOnce() -> (bool, R)) -> R {
    if !state::config().enabled {
        return set().1;
    }
    let caller = caller::who_sets(return_address, via);
    if !matches!(caller.kind, Kind::Runtime(_) | Kind::Counter) {
        if let (Target::Tid(pid), true) = (target, state::active()) {
            fork::let_it_be_repaired(pid);
        }
        let (done, result) = set();
        // A vfork child's own mask is no business of the thread whose memory it runs on.
        if done && caller.kind == Kind::User && state::is_owner() {
            respect(target, &caller);
        }
        return result;
    }
    // A runtime that acts in a forked child before we did (LLVM's atfork handler, ahead of ours).
    if !state::is_owner() {
        super::repair::adopt();
    }
    let before = mask_of(target);
    let (done, result) = set();
    if let (true, Some(before), Some(after)) = (done, before, mask_of(target)) {
        pin(&caller, &before, &after);
    }
    result
}

fn mask_of(target: Target) -> Option<CpuMask> {
    match target {
        Target::Myself => sys::mask_of(0).ok(),
        // No runtime is known to pin a thread but the one it runs on: such a mask is left alone, and so is the record.
        Target::Tid(_) | Target::Key(_) => None,
    }
}

fn pin(caller: &Caller, before: &CpuMask, after: &CpuMask) {
    let runtime = match caller.kind {
        Kind::Runtime(id) => id,
        _ => 0,
    };
    state::activate();
    let thread = sys::this_thread();
    match PINS.set_by_runtime(thread, before, after, runtime, sys::alive) {
        Seen::Pinned => log::debug!("pin: thread {}, {before} -> {after}, set by {}", thread.tid, caller.name),
        Seen::Lifted => log::debug!("pin: thread {}, lifted, back to {after} by {}", thread.tid, caller.name),
        Seen::Unchanged => log::trace!("pin: thread {}, none: {} set {after} again", thread.tid, caller.name),
        Seen::NoRoom => {
            log::warn!("pin: thread {}, no room to remember {before}: its children stay on {after}", thread.tid);
        }
    }
}

fn respect(target: Target, caller: &Caller) {
    let was_pinned = match target {
        Target::Myself => PINS.forget(sys::thread_key()),
        Target::Key(key) => PINS.forget(key),
        Target::Tid(tid) => state::active() && PINS.forget_tid(tid),
    };
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let (tid, mask) = match target {
        Target::Myself => (sys::gettid(), sys::mask_of(0)),
        Target::Tid(tid) => (tid, sys::mask_of(tid)),
        Target::Key(key) => {
            return log::debug!("user mask: thread {key:#x} set by {}, respected", caller.name);
        }
    };
    let over = if was_pinned { " over a pin" } else { "" };
    if let Ok(mask) = mask {
        log::debug!("user mask: thread {tid} set to {mask} by {}{over}, respected", caller.name);
    }
}
