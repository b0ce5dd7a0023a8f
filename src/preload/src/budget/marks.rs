//! A number for each thread that needs one, without thread-local storage: a table of cache lines, in one of which a
//! thread finds its word. A word is only taken and given back by its own thread.

use crate::sys;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const LINES: usize = 64;

/// Nothing in the table is ever more than this.
const MOST: u32 = 0xffff;

/// Words of `thread key << 16 | number`; 0 is free.
#[repr(align(64))]
struct Line([AtomicU64; 8]);

pub(super) struct Marks {
    /// Whether anything was ever put here.
    is_used: AtomicBool,
    /// Lines that were too small once, one bit each.
    overflowed: AtomicU64,
    lines: [Line; LINES],
}

/// What is known of the calling thread's number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    Number(u32),
    /// There may be one, but there was no room for it.
    Unknown,
}

impl Marks {
    pub(super) const fn new() -> Self {
        Self {
            is_used: AtomicBool::new(false),
            overflowed: AtomicU64::new(0),
            lines: [const { Line([const { AtomicU64::new(0) }; 8]) }; LINES],
        }
    }

    /// Gives the calling thread a number, in place of the one it had.
    pub(super) fn put(&self, number: u32) {
        self.is_used.store(true, Ordering::Relaxed);
        let (key, at) = Self::place();
        let Some(Line(words)) = self.lines.get(at) else { return };
        let word = key << 16 | u64::from(number.min(MOST));
        if let Some(ours) = words.iter().find(|word| word.load(Ordering::Relaxed) >> 16 == key) {
            ours.store(word, Ordering::Relaxed);
            return;
        }
        let take = |free: &AtomicU64| free.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !words.iter().any(take) {
            self.overflowed.fetch_or(1 << at, Ordering::Relaxed);
        }
    }

    /// The calling thread's number, which it loses.
    #[inline]
    pub(super) fn take(&self) -> Mark {
        if !self.is_used.load(Ordering::Relaxed) {
            return Mark::None;
        }
        let (key, at) = Self::place();
        let Some(Line(words)) = self.lines.get(at) else { return Mark::None };
        for word in words {
            let found = word.load(Ordering::Relaxed);
            if found >> 16 == key {
                word.store(0, Ordering::Relaxed);
                return Mark::Number(found as u32 & MOST);
            }
        }
        if self.overflowed.load(Ordering::Relaxed) >> at & 1 == 0 { Mark::None } else { Mark::Unknown }
    }

    /// The calling thread's key, and the line it is in. Thread control blocks are 64-byte aligned.
    #[inline]
    fn place() -> (u64, usize) {
        let key = sys::thread_key() as u64 >> 6;
        (key, (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize)
    }
}
