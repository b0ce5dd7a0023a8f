//! A mask is set. The real call is always made, with the caller's own arguments; afterwards we note what it was.

use super::Target;
use super::repair::Widened;
use crate::caller::{self, Caller, Kind};
use crate::observe as report;
use crate::places::{self, Still, team, worker};
use crate::process::fork;
use crate::site::Site;
use crate::state::{self, PINS};
use crate::sys;
use knlfix_core::pins::Seen;
use knlfix_core::record::Event;

/// Makes the call `set`, which returns whether it succeeded with its result, and notes who set what. `size` is that of
/// the mask in bytes, as the caller gave it.
pub(crate) fn set<R>(target: Target, site: Site, size: usize, set: impl FnOnce() -> (bool, R)) -> R {
    if !state::config().enabled {
        return set().1;
    }
    let caller = caller::who_sets(site, size);
    match (caller.kind, target) {
        (Kind::Runtime(_) | Kind::Counter, Target::Myself) => by_runtime(&caller, set),
        // No runtime is known to pin a thread but the one it runs on: such a mask is left alone, and so is the record.
        (Kind::Runtime(_) | Kind::Counter, _) | (Kind::Neutral, _) => set().1,
        (Kind::User, _) => by_user(target, &caller, set),
    }
}

#[inline(never)]
fn by_runtime<R>(caller: &Caller, set: impl FnOnce() -> (bool, R)) -> R {
    if !state::active() && state::is_vfork_child() || !is_ours_to_note() {
        return set().1;
    }
    worker::make_room();
    let before = sys::mask_of(0);
    let (done, result) = set();
    let (true, Ok(before), Ok(after)) = (done, before, sys::mask_of(0)) else { return result };
    let runtime = match caller.kind {
        Kind::Runtime(id) => id,
        _ => 0,
    };
    state::activate();
    let thread = sys::this_thread();
    let (tid, name) = (thread.tid, &caller.name);
    match PINS.set_by_runtime(thread, &before, &after, runtime, sys::alive) {
        Seen::Pinned => {
            log::debug!("pin: thread {tid}, {before} -> {after}, set by {name}");
            report::count(Event::Pin, report::lowest(&after));
            team::pinned(thread, &after, runtime);
        }
        Seen::Lifted => {
            log::debug!("pin: thread {tid}, lifted, back to {after} by {name}");
            team::lifted(thread);
            worker::came_back(after.fingerprint());
        }
        Seen::Unchanged => {
            log::trace!("pin: thread {tid}, none: {name} set {after} again");
            // A pin that found no place may be lifted, too.
            team::lifted(thread);
        }
        Seen::NoRoom => {
            log::warn!("pin: thread {tid}, no room to remember {before}: its children stay on {after}");
        }
    }
    result
}

/// Whether this process is the one whose memory this is. A forked child whose atfork handlers (LLVM's, the program's)
/// set masks before ours has run becomes so now. What a vfork child does would be noted in its parent's memory.
fn is_ours_to_note() -> bool {
    if state::is_owner() {
        return true;
    }
    if state::is_vfork_child() {
        return false;
    }
    super::repair::adopt();
    true
}

fn by_user<R>(target: Target, caller: &Caller, set: impl FnOnce() -> (bool, R)) -> R {
    if !is_ours_to_note() {
        return set().1;
    }
    let _still = if state::active() { Some(Still::begin()) } else { None };
    if state::active() {
        match target {
            Target::Myself => {}
            Target::Key(key) => Widened::let_it_end(|| PINS.is_widened(key)),
            Target::Tid(tid) => {
                fork::let_it_be_repaired(tid);
                Widened::let_it_end(|| PINS.is_widened_tid(tid));
            }
        }
    }
    let (done, result) = set();
    if !done {
        return result;
    }
    if state::active() {
        places::let_go(target);
    }
    let was_pinned = match target {
        Target::Myself => PINS.forget(sys::thread_key()),
        Target::Key(key) => PINS.forget(key),
        Target::Tid(tid) => state::active() && PINS.forget_tid(tid),
    };
    report::count(Event::UserMask, 0);
    if log::log_enabled!(log::Level::Debug) {
        tell(target, caller, was_pinned);
    }
    result
}

#[cold]
#[inline(never)]
fn tell(target: Target, caller: &Caller, was_pinned: bool) {
    let (tid, mask) = match target {
        Target::Myself => (sys::gettid(), sys::mask_of(0)),
        Target::Tid(tid) => (tid, sys::mask_of(tid)),
        Target::Key(key) => return log::debug!("user mask: thread {key:#x} set by {}, respected", caller.name),
    };
    let over = if was_pinned { " over a pin" } else { "" };
    if let Ok(mask) = mask {
        log::debug!("user mask: thread {tid} set to {mask} by {}{over}, respected", caller.name);
    }
}
