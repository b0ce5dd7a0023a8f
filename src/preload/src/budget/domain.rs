//! Which processes share a budget: the name of the ledger's file.
//!
//! The name holds the layout's number, the user, and a hash of the job (or of the process tree) and of the spaces of
//! process numbers and of time: a container that shares `/dev/shm` but counts processes or the time anew must not judge
//! ours by their numbers and starts.
//! The allowed mask is no part of it. Processes of one job with different masks are in one ledger, and each counts the
//! others by how far their masks overlap with its own.

use super::process::{c_path, parent_of, path};
use crate::state;
use crate::sys;
use core::ffi::CStr;
use core::fmt::Write;
use knlfix_core::config::{JOBS, Scope};
use knlfix_core::files::Files;
use knlfix_core::ledger::VERSION;
use knlfix_core::text::Text;

/// The path of this domain's ledger, with its NUL.
pub(super) fn ledger_path() -> Text<96> {
    let mut hash = Hash::new();
    match state::config().scope {
        Scope::Job => {
            if let Some((name, value)) = JOBS.iter().find_map(|&name| Some((name, variable(name)?))) {
                hash.add(name);
                hash.add(value);
            }
        }
        Scope::Tree => {
            hash.add(b"tree");
            hash.add(&root_of_tree().to_le_bytes());
        }
    }
    for space in [c"/proc/self/ns/pid", c"/proc/self/ns/time"] {
        if let Ok(space) = sys::stat_path(space) {
            hash.add(&space.st_ino.to_le_bytes());
        }
    }
    let mut text = Text::new();
    // A `Text` takes everything; this is far shorter.
    let _ = write!(text, "/dev/shm/knlfix-{VERSION}-{}-{:016x}\0", sys::user(), hash.0);
    text
}

/// The value of an environment variable, if it is set and not empty.
pub(super) fn variable(name: &[u8]) -> Option<&'static [u8]> {
    let mut lines = state::environment();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(b"=")).filter(|value| !value.is_empty())
}

/// The farthest ancestor from which this process inherited `KNLFIX_SCOPE`.
fn root_of_tree() -> i32 {
    farthest(|pid| has_variable(pid, |line| line.eq_ignore_ascii_case(b"KNLFIX_SCOPE=tree")))
}

/// The farthest ancestor in an unbroken row of those that belong to it.
pub(crate) fn farthest(belongs: impl Fn(i32) -> bool) -> i32 {
    let mut root = sys::getpid();
    // No tree is deeper than this, and a parent's number may be given out anew while we climb.
    for _ in 0..64 {
        match parent_of(root) {
            Some(parent) if parent > 1 && belongs(parent) => root = parent,
            _ => break,
        }
    }
    root
}

/// Whether a process was started with a variable that fits.
pub(crate) fn has_variable(pid: i32, fits: impl Fn(&[u8]) -> bool) -> bool {
    let environ = path(format_args!("/proc/{pid}/environ"));
    contains_line(c_path(&environ), fits)
}

/// Whether a file of lines that end in NUL has one that fits. Longer lines than 256 bytes do not.
fn contains_line(file: &CStr, fits: impl Fn(&[u8]) -> bool) -> bool {
    let mut buffer = [0; 1024];
    let (mut line, mut offset) = (Text::<256>::new(), 0);
    while let Some(read) = super::files::Kernel.read_at(file, offset, &mut buffer).filter(|&read| read > 0) {
        for &byte in buffer.iter().take(read) {
            if byte != 0 {
                line.push(&[byte]);
            } else if fits(line.as_bytes()) {
                return true;
            } else {
                line = Text::new();
            }
        }
        offset += read as u64;
    }
    false
}

/// FNV-1a, of parts.
struct Hash(u64);

impl Hash {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, part: &[u8]) {
        // The length too, so that parts can't run into each other.
        for &byte in part.len().to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
