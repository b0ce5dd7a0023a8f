//! What a process writes down of itself for the report: a small file that is mapped, so that it survives however the
//! process ends. Only the process writes it; `knlfix report` reads it afterwards. Behind the [`Record`] there is room for
//! the [`Moment`]s of a timeline, where one is asked for.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The layout. A file of another one is not read.
pub const VERSION: u64 = 0x6b6e_6c66_6978_0002;
/// Who asked for threads: so many pairs of a library and a runtime; the first is for all that found no room.
pub const SOURCES: usize = 64;
/// Bytes of a library's name, the end of it where it is longer.
pub const NAME: usize = 56;
/// Bytes of a command line.
pub const COMMAND: usize = 256;
/// Buckets of numbers of threads: 1, 2, 3-4, 5-8, ..., and above 1024.
pub const SIZES: usize = 12;
/// Kinds of [`Event`].
pub const EVENTS: usize = 4;

/// What is counted besides regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Event {
    /// A runtime pinned a thread.
    Pin,
    /// A child or a thread got the user mask in place of the pin.
    Repair,
    /// Somebody else than a runtime set a mask.
    UserMask,
    /// A pin was moved to free CPUs.
    MovedPin,
}

/// Something on the timeline. It is whole once its [`kind`](Self::kind) is there.
#[repr(C)]
pub struct Moment {
    /// When it began, in ticks.
    pub begun: AtomicU64,
    /// How long it took, in ticks.
    pub length: AtomicU64,
    /// The thread.
    pub thread: AtomicU32,
    /// Not 0 once the rest is there: a [`Kind`], from bit 8 on its [`Source`]'s number from 1, and at bit 16 whether
    /// other processes were active.
    pub kind: AtomicU32,
    /// Threads that a region asked for; the process that a fork made; the first CPU of a pin.
    pub what: AtomicU32,
    /// Threads that a region was granted.
    pub granted: AtomicU32,
}

/// What a [`Moment`] tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A region, from entering to leaving it.
    Region = 1,
    /// A fork, as the parent sees it.
    Fork = 2,
    /// See [`Event::Pin`].
    Pin = 3,
    /// See [`Event::Repair`].
    Repair = 4,
    /// See [`Event::UserMask`].
    UserMask = 5,
    /// See [`Event::MovedPin`].
    MovedPin = 6,
}

impl From<Event> for Kind {
    fn from(event: Event) -> Self {
        match event {
            Event::Pin => Self::Pin,
            Event::Repair => Self::Repair,
            Event::UserMask => Self::UserMask,
            Event::MovedPin => Self::MovedPin,
        }
    }
}

/// A runtime, by the governor that sees its regions.
pub const RUNTIMES: [&str; 5] = ["GNU OpenMP", "LLVM/Intel OpenMP", "MKL", "OpenBLAS/BLIS", "TBB"];

/// The bucket of a number of threads.
#[inline]
pub const fn bucket(threads: u32) -> usize {
    let at = u32::BITS - threads.saturating_sub(1).leading_zeros();
    if (at as usize) < SIZES { at as usize } else { SIZES - 1 }
}

/// Regions that one library entered with one runtime.
#[repr(C)]
pub struct Source {
    /// Not 0 once the name is whole: the runtime's number in [`RUNTIMES`], and 1.
    pub runtime: AtomicU32,
    _reserved: AtomicU32,
    /// The calling library's file name, as bytes up to a NUL.
    pub name: [AtomicU8; NAME],
    /// What the thread that opened the record did, which needs no locked instructions, and what all others did.
    pub times: [Times; 2],
}

impl Source {
    /// A counter of all threads.
    pub fn sum(&self, which: impl Fn(&Times) -> &AtomicU64) -> u64 {
        self.times.iter().map(|times| which(times).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// Regions in numbers.
#[repr(C)]
pub struct Times {
    /// Time between enter and leave, all threads that entered added up.
    pub ticks: AtomicU64,
    /// The same times the threads granted beyond the first.
    pub more_thread_ticks: AtomicU64,
    /// The same times the threads asked for and not granted.
    pub avoided_ticks: AtomicU64,
    /// Regions by the threads that they were granted.
    pub grants: [AtomicU64; SIZES],
}

/// A process's record. Times: ticks are of the processor's clock, or nanoseconds where that is of no use; the rest is in
/// nanoseconds of the monotonic clock.
#[repr(C)]
pub struct Record {
    /// [`VERSION`], once the rest of the head is there.
    pub version: AtomicU64,
    /// The process's number, and its parent's.
    pub process: AtomicU32,
    /// See `process`.
    pub parent: AtomicU32,
    /// When the process started, in clock ticks after the node.
    pub started: AtomicU64,
    /// When this program image began.
    pub begun: AtomicU64,
    /// When it ended; 0 if nobody had the time to say so.
    pub ended: AtomicU64,
    /// When the record was opened, by both clocks.
    pub opened: AtomicU64,
    /// See `opened`; in ticks.
    pub opened_ticks: AtomicU64,
    /// Whether ticks are nanoseconds.
    pub ticks_are_ns: AtomicU32,
    /// Compute threads that the domain may run; 0 if not known.
    pub budget: AtomicU32,
    /// Threads that are inside a region now.
    pub inside: AtomicU32,
    /// Room for so many [`Moment`]s behind the record.
    pub room: AtomicU32,
    /// So many there were, with those that found no room.
    pub moments: AtomicU64,
    /// When the first of them entered, in ticks.
    pub since: AtomicU64,
    /// How much more the regions' own times ([`Times::ticks`]) come to than the time in which any thread was inside one.
    /// Of one thread at a time it is nothing, and nothing has to be written.
    pub overlap: AtomicU64,
    /// CPU time in user and in kernel mode, in microseconds; at the end.
    pub user_us: AtomicU64,
    /// See `user_us`.
    pub system_us: AtomicU64,
    /// The same of all children that were waited for.
    pub children_us: AtomicU64,
    /// Context switches: it waited, and it was preempted.
    pub voluntary: AtomicU64,
    /// See `voluntary`.
    pub involuntary: AtomicU64,
    /// See [`Event`].
    pub events: [AtomicU64; EVENTS],
    /// Regions that got less than they asked for: by what they asked.
    pub cut_asks: [AtomicU64; SIZES],
    /// The same, by what they got.
    pub cut_grants: [AtomicU64; SIZES],
    /// The command line, with NULs between.
    pub command: [AtomicU8; COMMAND],
    /// Who entered regions.
    pub sources: [Source; SOURCES],
}

impl Record {
    /// Another thread is inside a region from `now` on.
    #[inline]
    pub fn enter(&self, now: u64) {
        if self.inside.fetch_add(1, Ordering::AcqRel) == 0 {
            self.since.store(now, Ordering::Release);
        }
    }

    /// A thread is outside again, of which it was inside for `time`. Who leaves last stands for all since the first
    /// entered: it has read `since` before the next first one can have written it anew.
    #[inline]
    pub fn leave(&self, now: u64, time: u64) {
        /// What units of time may differ by.
        const NOTHING: u64 = 32;
        let since = self.since.load(Ordering::Acquire);
        let is_last = self.inside.fetch_sub(1, Ordering::AcqRel) == 1;
        let counts = if is_last { now.wrapping_sub(since) } else { 0 };
        let more = time.wrapping_sub(counts);
        if more.cast_signed().unsigned_abs() >= NOTHING {
            self.overlap.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Time in which any thread was inside a region, in ticks.
    pub fn region_ticks(&self) -> u64 {
        let times = self.sources.iter().map(|source| source.sum(|times| &times.ticks));
        times.sum::<u64>().saturating_sub_signed(self.overlap.load(Ordering::Relaxed).cast_signed())
    }
}

/// Writes the bytes of a name or a command line.
pub fn store_bytes(to: &[AtomicU8], from: &[u8]) {
    for (to, from) in to.iter().zip(from) {
        to.store(*from, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let numbers = [0, 1, 2, 3, 4, 5, 8, 9, 272, 1024, 1025, u32::MAX];
        assert_eq!(numbers.map(bucket), [0, 0, 1, 2, 2, 3, 3, 4, 9, 10, 11, 11]);
    }

    #[test]
    fn time_inside_is_counted_once_however_many_threads_are_inside() {
        // SAFETY: all fields are integers.
        let record: Box<Record> = unsafe { Box::new_zeroed().assume_init() };
        let mut left = [(1000, 1500), (1200, 3000), (5000, 6000)].into_iter();
        let mut leave = |now: u64| {
            let (entered, left) = left.next().unwrap();
            assert_eq!(now, left);
            record.sources[0].times[1].ticks.fetch_add(left - entered, Ordering::Relaxed);
            record.leave(left, left - entered);
        };
        record.enter(1000);
        record.enter(1200);
        leave(1500);
        leave(3000);
        record.enter(5000);
        leave(6000);
        assert_eq!(record.region_ticks(), 3000);
    }
}
