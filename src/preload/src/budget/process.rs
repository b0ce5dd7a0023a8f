//! Other processes, as `/proc` shows them.

use super::files::Kernel;
use crate::sys;
use core::ffi::CStr;
use core::fmt::Write;
use knlfix_core::files::{Files, number};
use knlfix_core::ledger::Owner;
use knlfix_core::process::{self, Process};
use knlfix_core::text::Text;

/// A path below `/proc`, with the NUL that ends it.
pub(super) fn path(arguments: core::fmt::Arguments<'_>) -> Text<96> {
    let mut path = Text::new();
    // A `Text` takes everything; these paths are far shorter.
    let _ = path.write_fmt(arguments);
    let _ = path.write_char('\0');
    path
}

/// The path as C has it.
pub(super) fn c_path<const N: usize>(path: &Text<N>) -> &CStr {
    CStr::from_bytes_until_nul(path.as_bytes()).unwrap_or(c"")
}

/// This process, as the ledger names it.
pub(super) fn myself() -> Option<Owner> {
    let pid = sys::getpid();
    Owner::new(pid, Process::read(&Kernel, pid).map_or(0, |process| process.started))
}

/// The process that made `pid`.
pub(super) fn parent_of(pid: i32) -> Option<i32> {
    Process::read(&Kernel, pid).map(|process| process.parent)
}

/// Whether the owner of a slot still runs; in doubt it does.
pub(super) fn is_alive(owner: Owner) -> bool {
    process::is_alive(&Kernel, owner, sys::is_there)
}

/// Which program a process runs: the file's device and number.
pub(super) fn program_of(pid: i32) -> Option<(u64, u64)> {
    let stat = sys::stat_path(c_path(&path(format_args!("/proc/{pid}/exe")))).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// What workers of one pool have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sibling {
    program: Option<(u64, u64)>,
    command: u64,
}

impl Sibling {
    /// What is known of the process. Its command counts up to the first digit: multiprocessing and loky number their
    /// workers there, and their helpers (a resource tracker) differ before it.
    pub(super) fn of(pid: i32) -> Self {
        let mut buffer = [0; 256];
        let file = path(format_args!("/proc/{pid}/cmdline"));
        let read = Kernel.read_at(c_path(&file), 0, &mut buffer).unwrap_or(0);
        // The interpreter's own name may have digits.
        let arguments = buffer.iter().take(read).skip_while(|&&byte| byte != 0);
        let constant = arguments.take_while(|byte| !byte.is_ascii_digit());
        let command = constant.fold(5381_u64, |hash, &byte| hash.wrapping_mul(33) ^ u64::from(byte));
        Self { program: program_of(pid), command }
    }
}

/// Whether one of `texts` is in the first kilobyte of this process's command line.
pub(super) fn command_has(texts: &[&[u8]]) -> bool {
    let mut buffer = [0; 1024];
    let read = Kernel.read_at(c"/proc/self/cmdline", 0, &mut buffer).unwrap_or(0);
    let command = buffer.get(..read).unwrap_or(&[]);
    texts.iter().any(|&text| command.windows(text.len()).any(|part| part == text))
}

/// Calls `see` with every child of `parent`, whichever of its threads made it.
pub(super) fn for_each_child(parent: i32, mut see: impl FnMut(i32)) {
    for_each_number_in(c_path(&path(format_args!("/proc/{parent}/task"))), |thread| {
        let file = path(format_args!("/proc/{parent}/task/{thread}/children"));
        let (mut buffer, mut offset, mut pid) = ([0; 512], 0, 0_i32);
        while let Some(read) = Kernel.read_at(c_path(&file), offset, &mut buffer).filter(|&read| read > 0) {
            for &byte in buffer.iter().take(read) {
                if byte.is_ascii_digit() {
                    pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
                } else if pid != 0 {
                    see(core::mem::take(&mut pid));
                }
            }
            offset += read as u64;
        }
        if pid != 0 {
            see(pid);
        }
    });
}

/// Calls `see` with every entry of a directory that is a number.
fn for_each_number_in(directory: &CStr, mut see: impl FnMut(u64)) {
    let Ok(fd) = sys::open(directory, libc::O_RDONLY | libc::O_DIRECTORY) else { return };
    let mut buffer = [0; 1024];
    while let Ok(read) = sys::read_directory(fd, &mut buffer)
        && read > 0
    {
        let mut entries = buffer.get(..read).unwrap_or(&[]);
        // struct linux_dirent64: two 8-byte fields, the record's length, the type, and the name.
        while let Some(&[low, high]) = entries.get(16..18) {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let (Some(entry), Some(rest)) = (entries.get(19..length), entries.get(length..)) else { break };
            if let Some(found) = entry.split(|&byte| byte == 0).next().and_then(number) {
                see(found);
            }
            entries = rest;
        }
    }
    sys::close(fd);
}
