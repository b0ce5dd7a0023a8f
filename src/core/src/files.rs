//! The kernel's small text files, read in buffers that fit a small stack. Who opens them is the caller's affair: the
//! preload by raw system calls, a test from a directory or from memory.

use core::ffi::CStr;
use core::fmt;
use core::ops::ControlFlow;

/// The longest line that [`for_each_line`] passes, and one byte: 2 kB of stack.
pub const LINE: usize = 2048;

/// The longest path that a [`Path`] holds, and its NUL.
pub const PATH: usize = 1024;

/// How much of a file [`for_each_line`] reads. Each piece opens the file anew, and the kernel writes `/proc` files from
/// their beginning each time: a file without end must not take time without end.
const LONGEST_FILE: u64 = 256 * 1024;

/// Where files are read from.
pub trait Files {
    /// Reads the file at `path` from `offset` on, as `pread(2)` does: how many bytes, 0 at its end; `None` if it can't
    /// be read.
    fn read_at(&self, path: &CStr, offset: u64, buffer: &mut [u8]) -> Option<usize>;
}

/// Passes each line of a file to `see`, without its newline, until that breaks off. A line of [`LINE`] bytes or more is
/// left out whole, as a part of a path or a number would be a wrong one. `None` if the file can't be read.
pub fn for_each_line(files: &impl Files, path: &CStr, mut see: impl FnMut(&[u8]) -> ControlFlow<()>) -> Option<()> {
    let mut buffer = [0; LINE];
    // What of the buffer is filled, and whether that begins with the beginning of a line.
    let (mut held, mut whole) = (0, true);
    let mut offset = 0;
    while offset < LONGEST_FILE {
        let free = buffer.get_mut(held..)?;
        let room = free.len();
        let read = match files.read_at(path, offset, free) {
            None if offset == 0 => return None,
            read => read.unwrap_or(0).min(room),
        };
        offset += read as u64;
        held += read;
        let mut rest = buffer.get(..held)?;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at_checked(end)?;
            if whole && see(line).is_break() {
                return Some(());
            }
            whole = true;
            rest = after.get(1..)?;
        }
        if read == 0 {
            if whole && !rest.is_empty() {
                let _ = see(rest);
            }
            return Some(());
        }
        let left = rest.len();
        move_to_front(&mut buffer, held - left, left);
        held = left;
        if held == LINE {
            (held, whole) = (0, false);
        }
    }
    Some(())
}

/// `copy_within` without its way to panic.
fn move_to_front(buffer: &mut [u8], from: usize, count: usize) {
    for at in 0..count {
        if let Some(&byte) = buffer.get(from + at)
            && let Some(to) = buffer.get_mut(at)
        {
            *to = byte;
        }
    }
}

/// All of a small file, without the white space around it; `None` if it can't be read or fills the buffer, so that it
/// may be longer.
pub fn read_small<'a>(files: &impl Files, path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let read = files.read_at(path, 0, buffer).filter(|&read| read < buffer.len())?;
    buffer.get(..read).map(<[u8]>::trim_ascii)
}

/// A decimal number: digits alone, no sign and no white space, and not more than a `u64` holds.
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = char::from(digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A path put together from parts. What doesn't fit is refused, never cut: a part of a path is another path.
pub struct Path {
    // NUL from `len` on.
    bytes: [u8; PATH],
    len: usize,
}

impl Path {
    /// The empty path.
    pub const fn new() -> Self {
        Self { bytes: [0; PATH], len: 0 }
    }

    /// Appends `part`; `None`, and nothing is appended, if it has a NUL or doesn't fit.
    pub fn push(&mut self, part: &[u8]) -> Option<()> {
        let free = self.bytes.get_mut(self.len..PATH - 1)?.get_mut(..part.len())?;
        if part.contains(&0) {
            return None;
        }
        for (to, from) in free.iter_mut().zip(part) {
            *to = *from;
        }
        self.len += part.len();
        Some(())
    }

    /// Takes off what is behind the first `len` bytes.
    pub fn cut(&mut self, len: usize) {
        for byte in self.bytes.iter_mut().take(self.len).skip(len) {
            *byte = 0;
        }
        self.len = self.len.min(len);
    }

    /// The path, for a system call.
    pub fn as_c_str(&self) -> &CStr {
        // There is a NUL: no part reaches the last byte.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// The path without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl Default for Path {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Path {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes()).ok_or(fmt::Error)
    }
}
