//! A mask is asked for. The kernel answers first; only its answer for a pinned thread may be replaced.

use super::Target;
use crate::budget;
use crate::caller::{self, Kind};
use crate::places::{team, worker};
use crate::runtimes;
use crate::site::Site;
use crate::state::{self, PINS};
use crate::sys;
use knlfix_core::cpumask;

/// Replaces `answer`, the mask that the kernel reported for `target`, by the user mask under the pin, if the caller is
/// a program outside a parallel region: it wants to know how many CPUs it may use. A runtime wants the real mask, to
/// restore it, and so does anybody inside a region.
pub(crate) fn answer(target: Target, site: Site, answer: &mut [u8]) {
    if target == Target::Myself {
        if worker::is_placed() && state::is_owner() {
            // A neighbour may have come.
            worker::refresh();
            sys::read_mask(answer);
        }
        budget::narrow_answer(site, answer);
    }
    if !state::active() || !state::config().virtual_mask || !state::is_owner() {
        return;
    }
    let current = cpumask::fingerprint_of_bytes(answer);
    if target == Target::Myself
        && let Some(asked) = team::asked_by(sys::this_thread(), current)
        && matches!(caller::who_asks(site).kind, Kind::Runtime(_))
    {
        // What it set, so that is what it expects.
        return asked.to_mask().to_bytes(answer);
    }
    let found = match target {
        Target::Myself => PINS.user_of(sys::this_thread(), current),
        // A thread that has ended leaves its number to anybody, in this process or another.
        Target::Tid(tid) if sys::alive(tid) => PINS.user_of_tid(tid, current),
        Target::Tid(_) => None,
        Target::Key(key) => PINS.user_of_key(key, current, sys::alive),
    };
    let Some((user, runtime)) = found.filter(|&(_, runtime)| runtime != worker::PLACE) else { return };
    let caller = caller::who_asks(site);
    // Only the pinned thread itself is known to the runtime that pinned it.
    let runtime = if target == Target::Myself { runtime } else { 0 };
    if matches!(caller.kind, Kind::User | Kind::Counter) && !runtimes::in_parallel_region(runtime) {
        user.to_bytes(answer);
        log::trace!("mask: {} asked for that of a pinned thread and heard {user}", caller.name);
    }
}
