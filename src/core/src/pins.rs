//! Which threads carry a runtime's pin, and the user mask under each.
//!
//! A *pin* is a mask that a threading runtime set; a *user mask* is a mask that anybody else set. The table remembers,
//! for each pinned thread of this process, the fingerprint of the pin and the user mask that was there before it.
//!
//! **A record counts only while the thread's mask still equals the pin.** Every question hands in the mask the kernel
//! reports now; a thread that somebody moved since (`taskset -p` from outside, which no hook sees) is not pinned any
//! more, and nothing has to notice the move.
//!
//! # Memory
//! One static table, no lock, no allocation. A thread is found by its `pthread_t` (which fork and vfork children
//! share with the thread that made them) in a window of [`WINDOW`] slots. A slot is
//!
//! | `key` | `pin` | means |
//! |---|---|---|
//! | 0 | any | free |
//! | k | 0 | thread k is known and not pinned |
//! | k | p | thread k was pinned to the mask with fingerprint p; `user` indexes the mask under it |
//!
//! `key` goes from 0 to k once, by compare-and-swap, and from a dead k to a new one in the same way. The rest is
//! written by the thread itself (a runtime pins the thread it runs on) or by a thread that sets another's mask; `pin`
//! is zeroed first and written last, so a reader that finds the same `pin` before and after it read `user` has a pair
//! that belongs together. Two threads that set one thread's mask at the same time race in the kernel too; the record
//! then holds either one's view, and the rule above discards it if the kernel decided otherwise.
//!
//! User masks are kept apart, each once (a process has one or two), and stay.
//!
//! A forked child has a copy of the table and need not clear it: its one thread has a new number, and the records of all
//! others are of threads that do not live in this process.

use crate::cpumask::CpuMask;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Threads that can be known at a time: more than the CPUs of any node, times the runtimes in a process.
const SLOTS: usize = 8192;
/// Slots in which a thread can be found, from its hash on.
const WINDOW: usize = 32;
/// Different user masks a process can have under its pins.
const USER_MASKS: usize = 256;

/// A thread as its process knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// `pthread_self()`; never 0.
    pub key: usize,
    /// `gettid()`. Tells a thread from an earlier one whose stack, and so whose `pthread_t`, it has inherited.
    pub tid: i32,
}

/// The thread has its user mask for a moment, and will put the pin back.
const WIDENED: u32 = 1 << 24;

/// An index into the user masks, handed from the creator of a thread to the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserMask(u16);

impl UserMask {
    /// A place in the table; whether there is a mask is another question.
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// Its place in the table.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Which runtime set a pin: the preload's own number for it, 0 when it has none.
pub type RuntimeId = u8;

/// What a mask set by a runtime turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A pin, now on record.
    Pinned,
    /// The user mask again: the runtime took its pin back.
    Lifted,
    /// The mask the thread had before, and that was no pin.
    Unchanged,
    /// A pin that found no room in the table: this thread's children stay as the runtime made them.
    NoRoom,
}

#[derive(Default)]
struct Slot {
    key: AtomicUsize,
    pin: AtomicU64,
    tid: AtomicI32,
    /// `UserMask` in the low 16 bits, `RuntimeId` in the next 8, then [`WIDENED`].
    user: AtomicU32,
}

impl Slot {
    const fn free() -> Self {
        Self { key: AtomicUsize::new(0), pin: AtomicU64::new(0), tid: AtomicI32::new(0), user: AtomicU32::new(0) }
    }

    fn take(&self, from: usize, to: usize) -> bool {
        self.key.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether there was a pin to forget.
    fn unpin(&self) -> bool {
        self.pin.swap(0, Ordering::AcqRel) != 0
    }

    fn is_widened(&self) -> bool {
        self.pin.load(Ordering::Acquire) != 0 && self.user.load(Ordering::Acquire) & WIDENED != 0
    }

    fn write(&self, tid: i32, user: u32, pin: u64) {
        self.pin.store(0, Ordering::Release);
        self.tid.store(tid, Ordering::Relaxed);
        self.user.store(user, Ordering::Relaxed);
        self.pin.store(pin, Ordering::Release);
    }

    /// `user`, if this slot says that the thread is pinned to `pin`.
    fn user_under(&self, pin: u64) -> Option<u32> {
        if self.pin.load(Ordering::Acquire) != pin {
            return None;
        }
        let user = self.user.load(Ordering::Acquire);
        (self.pin.load(Ordering::Acquire) == pin).then_some(user)
    }
}

/// The table. Make one, as a `static`.
pub struct Pins {
    slots: [Slot; SLOTS],
    /// One bit per slot that was ever taken, so that a search by thread number, and a forked child that clears the
    /// table, touch no more memory than is in use.
    used: [AtomicU64; SLOTS / 64],
    masks: [Interned; USER_MASKS],
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Pins {
    /// The empty table.
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::free() }; SLOTS],
            used: [const { AtomicU64::new(0) }; SLOTS / 64],
            masks: [const { Interned::free() }; USER_MASKS],
        }
    }

    fn window(&self, key: usize) -> impl Iterator<Item = &Slot> {
        self.window_at(key).filter_map(|at| self.slots.get(at))
    }

    fn window_at(&self, key: usize) -> impl Iterator<Item = usize> {
        // Thread stacks lie a power of two apart: Fibonacci hashing spreads them.
        let start = ((key >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) & (SLOTS - 1);
        (0..WINDOW).map(move |step| (start + step) & (SLOTS - 1))
    }

    fn used(&self) -> impl Iterator<Item = &Slot> {
        let bits = self.used.iter().enumerate().flat_map(|(at, word)| {
            let mut left = word.load(Ordering::Acquire);
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        });
        bits.filter_map(|at| self.slots.get(at))
    }

    fn known(&self, key: usize) -> impl Iterator<Item = &Slot> {
        self.window(key).filter(move |slot| slot.key.load(Ordering::Acquire) == key)
    }

    fn claim(&self, key: usize, alive: impl Fn(i32) -> bool) -> Option<&Slot> {
        self.known(key).next().or_else(|| self.take_free(key)).or_else(|| self.take_dead(key, alive))
    }

    fn take_free(&self, key: usize) -> Option<&Slot> {
        self.window_at(key).find_map(|at| {
            let slot = self.slots.get(at).filter(|slot| slot.take(0, key))?;
            self.used.get(at / 64)?.fetch_or(1 << (at % 64), Ordering::AcqRel);
            Some(slot)
        })
    }

    fn take_dead(&self, key: usize, alive: impl Fn(i32) -> bool) -> Option<&Slot> {
        self.window(key).find(|slot| {
            let old = slot.key.load(Ordering::Acquire);
            let tid = slot.tid.load(Ordering::Acquire);
            tid != 0 && !alive(tid) && slot.take(old, key)
        })
    }

    /// A runtime changed `thread`'s mask from `before` to `after` (both as the kernel reports them). `alive` says
    /// whether a thread of this process still runs; it is asked only when the table is crowded.
    pub fn set_by_runtime(
        &self,
        thread: Thread,
        before: &CpuMask,
        after: &CpuMask,
        runtime: RuntimeId,
        alive: impl Fn(i32) -> bool,
    ) -> Seen {
        let pinned = self.user_of(thread, before.fingerprint());
        let user = pinned.map_or(before, |(mask, _)| mask);
        if user == after {
            // LLVM walks through every CPU while it looks for the topology and then goes back: that was no pin.
            self.forget(thread.key);
            return if pinned.is_some() { Seen::Lifted } else { Seen::Unchanged };
        }
        let Some(mask) = self.intern(user) else {
            return Seen::NoRoom;
        };
        self.record(thread, mask, runtime, after.fingerprint(), alive)
    }

    /// Puts on record that `thread` is pinned, to the mask with the fingerprint `pin`, with the mask `user` under it: a
    /// thread that a runtime made with the pin in its attributes, or one that has inherited it.
    pub fn record(
        &self,
        thread: Thread,
        user: UserMask,
        runtime: RuntimeId,
        pin: u64,
        alive: impl Fn(i32) -> bool,
    ) -> Seen {
        let Some(slot) = self.claim(thread.key, alive) else {
            return Seen::NoRoom;
        };
        slot.write(thread.tid, u32::from(user.0) | u32::from(runtime) << 16, pin);
        Seen::Pinned
    }

    /// Somebody who is no runtime set the mask of the thread with this `pthread_t`: whatever it is now, it stays.
    /// Tells whether the thread was on record as pinned.
    pub fn forget(&self, key: usize) -> bool {
        self.known(key).filter(|slot| slot.unpin()).count() > 0
    }

    /// As [`forget`](Self::forget), for a thread known by its number alone.
    pub fn forget_tid(&self, tid: i32) -> bool {
        self.with_tid(tid).filter(|slot| slot.unpin()).count() > 0
    }

    /// Notes that `thread`, whose pin has this fingerprint, gives itself its user mask for a moment, or puts the pin back.
    pub fn mark_widened(&self, thread: Thread, pin: u64, widened: bool) {
        let mine = |slot: &&Slot| slot.tid.load(Ordering::Acquire) == thread.tid && slot.user_under(pin).is_some();
        for slot in self.known(thread.key).filter(mine) {
            let _ = if widened {
                slot.user.fetch_or(WIDENED, Ordering::AcqRel)
            } else {
                slot.user.fetch_and(!WIDENED, Ordering::AcqRel)
            };
        }
    }

    /// Whether the thread with this `pthread_t` is [widened](Self::mark_widened) just now.
    pub fn is_widened(&self, key: usize) -> bool {
        self.known(key).any(Slot::is_widened)
    }

    /// As [`is_widened`](Self::is_widened), for a thread known by its number alone.
    pub fn is_widened_tid(&self, tid: i32) -> bool {
        self.with_tid(tid).any(Slot::is_widened)
    }

    fn with_tid(&self, tid: i32) -> impl Iterator<Item = &Slot> {
        self.used().filter(move |slot| slot.tid.load(Ordering::Acquire) == tid)
    }

    /// Whether anything says that a thread with this `pthread_t` was pinned, whatever its mask is now.
    pub fn was_pinned(&self, key: usize) -> bool {
        self.known(key).any(|slot| slot.pin.load(Ordering::Acquire) != 0)
    }

    /// Whether anything is on record under this `pthread_t`, a pin or not.
    pub fn is_known(&self, key: usize) -> bool {
        self.known(key).next().is_some()
    }

    /// Whether `thread` is on record as pinned, whatever its mask is now.
    pub fn is_on_record(&self, thread: Thread) -> bool {
        let mut own = self.known(thread.key).filter(|slot| slot.tid.load(Ordering::Acquire) == thread.tid);
        own.any(|slot| slot.pin.load(Ordering::Acquire) != 0)
    }

    /// The user mask under the pin of `thread`, and who pinned it; `None` if it isn't pinned. `current` is the
    /// fingerprint of its mask now.
    pub fn user_of(&self, thread: Thread, current: u64) -> Option<(&CpuMask, RuntimeId)> {
        self.known(thread.key)
            .filter(|slot| slot.tid.load(Ordering::Acquire) == thread.tid)
            .find_map(|slot| self.unpack(slot.user_under(current)?))
    }

    /// As [`user_of`](Self::user_of), for a thread known by its `pthread_t` alone: another thread, or a forked child's
    /// only one, which has the `pthread_t` of the thread that forked and a number of its own. `right` says whether a
    /// record made for a thread of this number can be meant.
    pub fn user_of_key(&self, key: usize, current: u64, right: impl Fn(i32) -> bool) -> Option<(&CpuMask, RuntimeId)> {
        self.known(key)
            .filter(|slot| right(slot.tid.load(Ordering::Acquire)))
            .find_map(|slot| self.unpack(slot.user_under(current)?))
    }

    /// Forgets what is on record under this thread's `pthread_t` for an earlier thread, which has ended.
    pub fn forget_earlier(&self, thread: Thread) {
        for slot in self.known(thread.key).filter(|slot| slot.tid.load(Ordering::Acquire) != thread.tid) {
            slot.unpin();
        }
    }

    /// As [`user_of`](Self::user_of), for another thread of this process, known by its number alone.
    pub fn user_of_tid(&self, tid: i32, current: u64) -> Option<(&CpuMask, RuntimeId)> {
        self.with_tid(tid).find_map(|slot| self.unpack(slot.user_under(current)?))
    }

    fn unpack(&self, user: u32) -> Option<(&CpuMask, RuntimeId)> {
        Some((self.mask(UserMask(user as u16))?, (user >> 16) as u8))
    }

    /// The threads that `runtime` pinned to `pin`, with the user masks under it.
    pub fn pinned_to(&self, pin: u64, runtime: RuntimeId) -> impl Iterator<Item = (Thread, UserMask)> {
        self.used().filter_map(move |slot| {
            let user = slot.user_under(pin).filter(|user| (user >> 16) as u8 == runtime)?;
            let thread = Thread { key: slot.key.load(Ordering::Acquire), tid: slot.tid.load(Ordering::Acquire) };
            Some((thread, UserMask(user as u16)))
        })
    }

    /// Keeps a user mask for a thread about to be made; `None` when 256 different ones are kept already.
    pub fn intern(&self, mask: &CpuMask) -> Option<UserMask> {
        self.masks.iter().position(|entry| entry.is_or_becomes(mask)).map(|at| UserMask(at as u16))
    }

    /// A mask that was kept.
    pub fn mask(&self, user: UserMask) -> Option<&CpuMask> {
        self.masks.get(usize::from(user.0))?.get()
    }

    /// In a forked child, whose only thread is `myself`: the record of the thread that forked becomes its own. The
    /// runtime that pinned the parent does not know the child. (All other records are of threads that are not in this
    /// process, and so count for nobody.)
    pub fn inherit(&self, myself: Thread) {
        for slot in self.known(myself.key) {
            slot.tid.store(myself.tid, Ordering::Relaxed);
            slot.user.fetch_and(0xffff, Ordering::Relaxed);
        }
    }
}

/// A user mask, written once.
struct Interned {
    state: AtomicU32,
    mask: UnsafeCell<CpuMask>,
}

// SAFETY: `mask` is written only by the thread that took `state` from EMPTY to WRITING, and read only after READY.
unsafe impl Sync for Interned {}

impl Interned {
    const EMPTY: u32 = 0;
    const WRITING: u32 = 1;
    const READY: u32 = 2;

    const fn free() -> Self {
        Self { state: AtomicU32::new(Self::EMPTY), mask: UnsafeCell::new(CpuMask::EMPTY) }
    }

    fn get(&self) -> Option<&CpuMask> {
        // SAFETY: READY was stored after the mask was written, and nobody writes a READY mask.
        (self.state.load(Ordering::Acquire) == Self::READY).then(|| unsafe { &*self.mask.get() })
    }

    /// Whether this entry holds `mask`, taking the entry if it is free. One that another thread is just writing counts
    /// as another mask: a mask kept twice does no harm, and neither does one that a fork caught half written.
    fn is_or_becomes(&self, mask: &CpuMask) -> bool {
        if let Some(kept) = self.get() {
            return kept == mask;
        }
        let taken =
            self.state.compare_exchange(Self::EMPTY, Self::WRITING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if taken {
            // SAFETY: the exchange above made this thread the only one that may touch the mask until READY.
            unsafe { *self.mask.get() = mask.clone() };
            self.state.store(Self::READY, Ordering::Release);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const ME: Thread = Thread { key: 0x7f00_0000_0740, tid: 100 };
    const PEER: Thread = Thread { key: 0x7f00_0080_0740, tid: 101 };

    fn mask(list: &str) -> CpuMask {
        CpuMask::parse_list(list).unwrap()
    }

    fn pins() -> Box<Pins> {
        // SAFETY: all zeros is the empty table (`Slot::free`, `Interned::free`); on the heap, as it is 450 kB.
        unsafe { Box::<Pins>::new_zeroed().assume_init() }
    }

    fn user(pins: &Pins, thread: Thread, now: &str) -> Option<String> {
        pins.user_of(thread, mask(now).fingerprint()).map(|(user, _)| user.to_string())
    }

    fn pin(pins: &Pins, thread: Thread, before: &str, after: &str) -> Seen {
        pins.set_by_runtime(thread, &mask(before), &mask(after), 0, |_| true)
    }

    #[test]
    fn a_pin_keeps_the_user_mask_under_it() {
        let pins = pins();
        assert_eq!(pin(&pins, ME, "0-3", "0"), Seen::Pinned);
        assert_eq!(user(&pins, ME, "0").as_deref(), Some("0-3"));
        assert_eq!(user(&pins, PEER, "0"), None);
    }

    #[test]
    fn a_record_counts_only_while_the_mask_equals_the_pin() {
        let pins = pins();
        pin(&pins, ME, "0-3", "0");
        assert_eq!(user(&pins, ME, "1"), None, "moved from outside");
        assert_eq!(user(&pins, ME, "0").as_deref(), Some("0-3"), "and back");
    }

    #[test]
    fn topology_discovery_is_no_pin_and_the_last_mask_counts() {
        let pins = pins();
        for (before, after) in [("0-3", "0"), ("0", "1"), ("1", "2"), ("2", "3")] {
            assert_eq!(pin(&pins, ME, before, after), Seen::Pinned);
        }
        assert_eq!(pin(&pins, ME, "3", "0-3"), Seen::Lifted);
        assert_eq!(user(&pins, ME, "0-3"), None);
        pin(&pins, ME, "0-3", "2");
        assert_eq!(user(&pins, ME, "2").as_deref(), Some("0-3"));
    }

    #[test]
    fn norespect_never_widens_the_user_mask() {
        let pins = pins();
        assert_eq!(pin(&pins, ME, "1", "0-3"), Seen::Pinned);
        assert_eq!(user(&pins, ME, "0-3").as_deref(), Some("1"));
    }

    #[test]
    fn a_user_mask_equal_to_the_pin_is_the_users() {
        let pins = pins();
        pin(&pins, ME, "0-3", "0");
        assert!(pins.forget(ME.key));
        assert_eq!(user(&pins, ME, "0"), None);
        assert_eq!(pin(&pins, ME, "0", "0"), Seen::Unchanged, "the runtime pins there once more");
        assert_eq!(user(&pins, ME, "0"), None);
    }

    #[test]
    fn by_number_from_another_thread() {
        let pins = pins();
        pin(&pins, ME, "0-3", "0");
        assert_eq!(
            pins.user_of_tid(100, mask("0").fingerprint()).map(|(user, _)| user.to_string()).as_deref(),
            Some("0-3")
        );
        assert!(!pins.forget_tid(101));
        assert!(pins.forget_tid(100));
        assert_eq!(user(&pins, ME, "0"), None);
    }

    #[test]
    fn a_thread_with_a_dead_ones_stack_is_another_thread() {
        let pins = pins();
        pin(&pins, ME, "0-3", "0");
        let reborn = Thread { tid: 200, ..ME };
        assert_eq!(user(&pins, reborn, "0"), None);
        assert_eq!(pins.user_of_key(ME.key, mask("0").fingerprint(), |_| true).unwrap().0, &mask("0-3"));
        assert!(pins.user_of_key(ME.key, mask("0").fingerprint(), |tid| tid == 200).is_none());
        pins.forget_earlier(reborn);
        assert!(pins.user_of_key(ME.key, mask("0").fingerprint(), |_| true).is_none());
    }

    #[test]
    fn who_pinned_is_kept() {
        let pins = pins();
        pins.set_by_runtime(ME, &mask("0-3"), &mask("0"), 7, |_| true);
        assert_eq!(pins.user_of(ME, mask("0").fingerprint()).unwrap().1, 7);
    }

    #[test]
    fn dead_threads_make_room_and_living_ones_do_not() {
        let pins = pins();
        let thread = |n: usize| Thread { key: 0x1000 + n * 0x80_1000, tid: n as i32 + 1 };
        let crowd = 100_000;
        for n in 0..crowd {
            let alive = |tid: i32| tid as usize + 2000 > n;
            let seen = pins.set_by_runtime(thread(n), &mask("0-3"), &mask("0"), 0, alive);
            assert_eq!(seen, Seen::Pinned, "thread {n}");
        }
        for n in crowd - 1900..crowd {
            assert_eq!(user(&pins, thread(n), "0").as_deref(), Some("0-3"), "thread {n}");
        }
        let refused = (0..20_000).filter(|n| {
            let thread = Thread { key: 0x5000_0000_0000 + n * 0x1000, tid: 1 << 20 };
            pins.set_by_runtime(thread, &mask("0-3"), &mask("0"), 0, |_| true) == Seen::NoRoom
        });
        assert!(refused.count() > 0);
    }

    #[test]
    fn user_masks_run_out_without_harm() {
        let pins = pins();
        for cpu in 0..USER_MASKS {
            assert!(pins.intern(&CpuMask::of([cpu, 8000])).is_some());
        }
        assert_eq!(pin(&pins, ME, "0-3", "0"), Seen::NoRoom);
        assert_eq!(pins.intern(&CpuMask::of([5, 8000])), pins.intern(&CpuMask::of([5, 8000])));
    }

    #[test]
    fn widened_is_of_the_pinned_alone() {
        let pins = pins();
        let pin_of_me = mask("0").fingerprint();
        pins.mark_widened(ME, pin_of_me, true);
        assert!(!pins.is_widened(ME.key));
        pin(&pins, ME, "0-3", "0");
        pins.mark_widened(ME, pin_of_me, true);
        assert!(pins.is_widened(ME.key) && pins.is_widened_tid(ME.tid) && !pins.is_widened(PEER.key));
        assert_eq!(user(&pins, ME, "0").as_deref(), Some("0-3"));
        pins.mark_widened(ME, pin_of_me, false);
        assert!(!pins.is_widened(ME.key));
        pins.mark_widened(ME, pin_of_me, true);
        pins.forget(ME.key);
        assert!(!pins.is_widened_tid(ME.tid));
    }

    #[test]
    fn a_forked_child_has_no_pin_or_its_parents() {
        let pins = pins();
        let child = Thread { tid: 500, ..ME };
        pins.set_by_runtime(ME, &mask("0-3"), &mask("0"), 7, |_| true);
        pins.set_by_runtime(PEER, &mask("0-3"), &mask("1"), 7, |_| true);
        assert!(!pins.is_on_record(child) && pins.was_pinned(child.key));
        assert_eq!(user(&pins, child, "0"), None);
        pins.inherit(child);
        let own = pins.user_of(child, mask("0").fingerprint()).map(|(user, by)| (user.to_string(), by));
        assert_eq!(own, Some(("0-3".to_string(), 0)));
        assert!(pins.user_of_tid(PEER.tid, mask("1").fingerprint()).is_some(), "for the caller to find dead");
    }

    /// Threads pin themselves, look and forget, while one more forgets them by number: no thread ever reads a user mask
    /// that was not its own, and at the end every record is right.
    #[test]
    fn threads_at_once_never_see_each_others_masks() {
        let pins = pins();
        let pins = &*pins;
        std::thread::scope(|scope| {
            for n in 0..4usize {
                scope.spawn(move || {
                    let me = Thread { key: 0x7000_0000 + n * 0x1000, tid: n as i32 + 1 };
                    let (user, pin) = (CpuMask::of([n, 100]), CpuMask::of([n]));
                    for _ in 0..2000 {
                        pins.set_by_runtime(me, &user, &pin, n as u8, |_| true);
                        if let Some((seen, by)) = pins.user_of(me, pin.fingerprint()) {
                            assert_eq!((seen, by), (&user, n as u8));
                        }
                        pins.forget(me.key);
                    }
                    pins.set_by_runtime(me, &user, &pin, n as u8, |_| true);
                });
            }
            scope.spawn(|| {
                for n in 0..2000 {
                    pins.forget_tid(n % 4 + 1);
                }
            });
        });
        for n in 0..4usize {
            let me = Thread { key: 0x7000_0000 + n * 0x1000, tid: n as i32 + 1 };
            pins.set_by_runtime(me, &CpuMask::of([n, 100]), &CpuMask::of([n]), 0, |_| true);
            assert_eq!(pins.user_of(me, CpuMask::of([n]).fingerprint()).unwrap().0, &CpuMask::of([n, 100]));
        }
    }

    /// What happened to a thread, in the order in which it happened.
    #[derive(Debug, Clone)]
    enum Event {
        Runtime(usize, u8),
        User(usize, u8),
        Outside(usize, u8),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = (0..4usize, 1..16u8, 0..3).prop_map(|(thread, mask, who)| match who {
            0 => Event::Runtime(thread, mask),
            1 => Event::User(thread, mask),
            _ => Event::Outside(thread, mask),
        });
        prop::collection::vec(one, 0..40)
    }

    proptest! {
        /// Against a model that remembers who set what: a thread's child gets its mask unless a runtime set it last,
        /// and then the mask that was there before the runtimes came.
        #[test]
        fn agrees_with_a_model_that_remembers_everything(events in events()) {
            let pins = pins();
            let thread = |n: usize| Thread { key: 0x1000 * (n + 1), tid: n as i32 + 1 };
            let bits = |mask: u8| CpuMask::from_bytes(&[mask]);
            let mut now = HashMap::<usize, (u8, Option<u8>)>::new();
            for event in events {
                match event {
                    Event::Runtime(n, mask) => {
                        let (before, under) = now.get(&n).copied().unwrap_or((15, None));
                        pins.set_by_runtime(thread(n), &bits(before), &bits(mask), 0, |_| true);
                        let user = under.unwrap_or(before);
                        now.insert(n, (mask, (user != mask).then_some(user)));
                    }
                    Event::User(n, mask) => {
                        pins.forget(thread(n).key);
                        now.insert(n, (mask, None));
                    }
                    Event::Outside(n, mask) => {
                        // To the mask it has: nothing happened. Elsewhere, and never back: the pin is void.
                        let (before, under) = now.get(&n).copied().unwrap_or((15, None));
                        if mask != before && under.is_none() {
                            now.insert(n, (mask, None));
                            pins.forget(thread(n).key);
                        }
                    }
                }
                for (&n, &(mask, under)) in &now {
                    let got = pins.user_of(thread(n), bits(mask).fingerprint()).map(|(user, _)| user.clone());
                    prop_assert_eq!(got, under.map(bits));
                }
            }
        }
    }
}
