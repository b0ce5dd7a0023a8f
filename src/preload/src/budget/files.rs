//! The kernel's files, for the decisions in `knlfix_core` that read them.

use crate::sys;
use core::ffi::CStr;
use knlfix_core::files::Files;

/// The files of this node.
pub(super) struct Kernel;

impl Files for Kernel {
    fn read_at(&self, path: &CStr, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let fd = sys::open(path, libc::O_RDONLY).ok()?;
        let read = sys::read_at(fd, offset, buffer);
        sys::close(fd);
        read.ok()
    }
}
