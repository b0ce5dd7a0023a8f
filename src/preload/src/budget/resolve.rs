//! The real definition of a hooked function, for one call of it.
//!
//! Several copies of a runtime may be loaded (each wheel brings its own), and a call must reach the copy that it would
//! have reached without us: the loader looks in the global scope first, and then in the calling object and what that
//! needs. So it can't be found once for all.

use crate::dso::Dso;
use crate::next;
use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// The address of the definition of `name` that a call from `site` (its return address) means; `None` if there is none.
/// It takes the loader's lock: callers remember it for the call site.
#[cold]
#[inline(never)]
pub(crate) fn real(name: &CStr, site: usize) -> Option<usize> {
    /// `RTLD_NEXT`: what comes after us in the global scope.
    const NEXT: *mut c_void = -1_isize as *mut c_void;
    let errno = crate::sys::errno();
    // SAFETY: a C string, and the handle of that meaning.
    let global = unsafe { next::dlsym()(NEXT, name.as_ptr()) } as usize;
    crate::sys::set_errno(errno);
    if global != 0 {
        return Some(global);
    }
    Dso::around(site).and_then(|caller| caller.lookup(name)).or_else(|| Dso::lookup_anywhere(name))
}

/// How often `dlclose()` was called. What was found out before may be of objects that are gone.
static CLOSES: AtomicUsize = AtomicUsize::new(0);

/// Another object may now be where one was.
pub(crate) fn objects_changed() {
    CLOSES.fetch_add(1, Ordering::Release);
}

/// Call sites with what was found out about them, until objects are unloaded.
pub(crate) struct Sites<const N: usize, const WORDS: usize> {
    /// [`CLOSES`] when the table was last emptied.
    closes: AtomicUsize,
    keys: [AtomicUsize; N],
    values: [[AtomicUsize; WORDS]; N],
}

/// A call site whose values are being found out.
const BUSY: usize = 1;

impl<const N: usize, const WORDS: usize> Sites<N, WORDS> {
    pub(crate) const fn new() -> Self {
        Self {
            closes: AtomicUsize::new(0),
            keys: [const { AtomicUsize::new(0) }; N],
            values: [const { [const { AtomicUsize::new(0) }; WORDS] }; N],
        }
    }

    /// Empties the table. Places that are just being filled belong to calls in progress, whose objects stay.
    #[cold]
    #[inline(never)]
    fn forget(&self, closes: usize) {
        for place in &self.keys {
            let key = place.load(Ordering::Relaxed);
            if key > BUSY {
                let _ = place.compare_exchange(key, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        self.closes.store(closes, Ordering::Release);
    }

    /// What is known of the call site `key` (not 0 or 1), asking `find` on its first call. Where the table is full, or
    /// another thread is just filling the place, `find` is asked again.
    #[inline]
    pub(crate) fn get(&self, key: usize, find: impl FnOnce() -> [usize; WORDS]) -> [usize; WORDS] {
        let closes = CLOSES.load(Ordering::Acquire);
        if self.closes.load(Ordering::Acquire) != closes {
            self.forget(closes);
        }
        let start = (key ^ key >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        match self.keys.get(start % N) {
            Some(at) if at.load(Ordering::Acquire) == key => {
                let found = self.read(start % N);
                // Another thread may have emptied the place and filled it with another site's.
                fence(Ordering::Acquire);
                if at.load(Ordering::Relaxed) == key { found } else { find() }
            }
            _ => self.probe(start, key, find),
        }
    }

    fn read(&self, at: usize) -> [usize; WORDS] {
        match self.values.get(at) {
            Some(words) => core::array::from_fn(|word| words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))),
            None => [0; WORDS],
        }
    }

    #[inline(never)]
    fn probe(&self, start: usize, key: usize, find: impl FnOnce() -> [usize; WORDS]) -> [usize; WORDS] {
        const PROBES: usize = 16;
        let places = || (start..start + PROBES).map(|at| at % N);
        if let Some(at) = places().find(|&at| self.keys.get(at).is_some_and(|at| at.load(Ordering::Acquire) == key)) {
            let found = self.read(at);
            fence(Ordering::Acquire);
            if self.keys.get(at).is_some_and(|at| at.load(Ordering::Relaxed) == key) {
                return found;
            }
        }
        let found = find();
        for at in places() {
            let (Some(place), Some(words)) = (self.keys.get(at), self.values.get(at)) else { continue };
            if place.compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                for (word, value) in words.iter().zip(found) {
                    word.store(value, Ordering::Relaxed);
                }
                place.store(key, Ordering::Release);
                break;
            }
        }
        found
    }
}
