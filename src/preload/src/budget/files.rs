//! The kernel's files, for the decisions in `knlfix_core` that read them.

use crate::sys;
use core::ffi::CStr;
use knlfix_core::files::Files;
use libc::c_int;

/// The files of this node.
pub(crate) struct Kernel;

/// A descriptor of our own.
pub(crate) struct Open(c_int);

impl Files for Kernel {
    type File = Open;

    fn open(&self, path: &CStr) -> Option<Open> {
        sys::open(path, libc::O_RDONLY).ok().map(Open)
    }

    fn read(&self, file: &Open, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        sys::read_at(file.0, offset, buffer).ok()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}
