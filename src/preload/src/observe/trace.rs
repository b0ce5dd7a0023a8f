//! The timeline: what happens goes into the room behind the process's record, one [`Moment`] after the other. Whoever
//! writes takes a number, which is his alone; when the room is full, moments are only counted.

use super::{here, page, ticks};
use crate::state;
use crate::sys;
use core::sync::atomic::{AtomicBool, Ordering};
use knlfix_core::record::{Kind, Moment, Record};

/// Whether a timeline is asked for.
static ON: AtomicBool = AtomicBool::new(false);

pub(super) fn started() {
    if !state::config().trace.is_empty() {
        ON.store(true, Ordering::Relaxed);
        // Forks are to be seen where nothing is pinned, too.
        state::activate();
    }
}

#[inline]
pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Room for so many moments in each process.
pub(super) fn room() -> u32 {
    if is_on() { state::config().trace_events } else { 0 }
}

/// Writes a moment.
#[inline(never)]
pub(super) fn write(record: &Record, kind: u32, (begun, length): (u64, u64), (what, granted): (u32, u32)) {
    let number = record.moments.fetch_add(1, Ordering::Relaxed);
    let Some(page) = page() else { return };
    let first = page.moments.load(Ordering::Relaxed);
    if first.is_null() || number >= u64::from(record.room.load(Ordering::Relaxed)) {
        return;
    }
    // SAFETY: so many are mapped behind the record, all atomics.
    let moment: &Moment = unsafe { &*first.add(number as usize) };
    moment.begun.store(begun, Ordering::Relaxed);
    moment.length.store(length, Ordering::Relaxed);
    // Half of the cost is to ask the kernel, and the main thread's number is the process's.
    let is_main = page.main.load(Ordering::Relaxed) == sys::thread_key();
    let thread = if is_main { record.process.load(Ordering::Relaxed) } else { sys::gettid() as u32 };
    moment.thread.store(thread, Ordering::Relaxed);
    moment.what.store(what, Ordering::Relaxed);
    moment.granted.store(granted, Ordering::Relaxed);
    moment.kind.store(kind, Ordering::Release);
}

/// A fork is about to be made.
#[inline]
pub(crate) fn before_fork() -> u64 {
    if is_on() { ticks() } else { 0 }
}

/// It was, in the parent.
#[inline]
pub(crate) fn forked(begun: u64, child: i32) {
    if is_on() {
        note_fork(begun, child);
    }
}

#[cold]
#[inline(never)]
fn note_fork(begun: u64, child: i32) {
    if !state::is_vfork_child()
        && let Some(record) = here()
    {
        write(record, Kind::Fork as u32, (begun, ticks().wrapping_sub(begun)), (child as u32, 0));
    }
}
