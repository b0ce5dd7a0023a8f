//! The kernel's files on this node, for the decisions of the core.

use knlfix_core::files::Files;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// The files of this node.
pub(crate) struct Node;

impl Files for Node {
    type File = File;

    fn open(&self, path: &CStr) -> Option<File> {
        File::open(OsStr::from_bytes(path.to_bytes())).ok()
    }

    fn read(&self, file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        file.read_at(buffer, offset).ok()
    }
}
