//! Reading the kernel's files.

use core::ffi::CStr;

/// Where files come from.
pub trait Files {
    /// Reads the file at `path` from `offset` on, as `pread(2)` does: how many bytes, or `None` if it can't be read.
    fn read_at(&self, path: &CStr, offset: u64, buffer: &mut [u8]) -> Option<usize>;
}
