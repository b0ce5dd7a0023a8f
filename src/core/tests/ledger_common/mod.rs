//! A segment in this process's own memory.

use knlfix_core::ledger::{Ledger, layout};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;

/// The memory of a ledger.
pub(crate) struct Segment(*mut u8);

const LAYOUT: Layout = match Layout::from_size_align(layout::SIZE, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!(),
};

impl Segment {
    pub(crate) fn zeroed() -> Self {
        // SAFETY: the layout has a size.
        let base = unsafe { alloc_zeroed(LAYOUT) };
        if base.is_null() {
            handle_alloc_error(LAYOUT)
        }
        Self(base)
    }

    pub(crate) fn ledger(&self) -> Ledger<'_> {
        // SAFETY: so long, aligned, and ours while we are borrowed, which the result's lifetime says.
        unsafe { Ledger::at(self.0) }
    }

    /// Writes into `range` of the segment, as much as there is room.
    pub(crate) fn write(&mut self, range: Range<usize>, bytes: &[u8]) {
        let length = bytes.len().min(range.len()).min(layout::SIZE.saturating_sub(range.start));
        // SAFETY: inside the segment, which nobody else uses while it is borrowed like this.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(range.start), length) };
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0, LAYOUT) };
    }
}
