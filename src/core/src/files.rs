//! The kernel's small text files, read in buffers that fit a small stack. Who opens them is the caller's affair: the
//! preload by raw system calls, a test from a directory or from memory.

use core::ffi::CStr;
use core::fmt;
use core::ops::ControlFlow;

/// The longest line that [`for_each_line`] passes, and one byte: 2 kB of stack.
pub const LINE: usize = 2048;

/// The longest path that a [`Path`] holds, and its NUL.
pub const PATH: usize = 1024;

/// How much of a file [`for_each_line`] reads: one without end must not take time without end.
const LONGEST_FILE: u64 = 256 * 1024;

/// Where files are read from.
pub trait Files {
    /// A file that is open until it is dropped.
    type File;

    /// Opens the file at `path`; `None` if it can't be.
    fn open(&self, path: &CStr) -> Option<Self::File>;

    /// Reads from `offset` on, as `pread(2)` does: how many bytes, 0 at the end; `None` if it can't be read.
    fn read(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> Option<usize>;

    /// The same, of the file at `path`.
    fn read_at(&self, path: &CStr, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        self.read(&self.open(path)?, offset, buffer)
    }
}

/// Passes each line of a file to `see`, without its newline, until that breaks off. A line of [`LINE`] bytes or more is
/// left out whole, as a part of a path or a number would be a wrong one. `None` if the file can't be read.
pub fn for_each_line(files: &impl Files, path: &CStr, see: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Option<()> {
    // Opened once: where it is opened anew, the kernel writes a file of /proc from its beginning up to the offset.
    let file = files.open(path)?;
    let mut buffer = [0; LINE];
    // What of the buffer is filled, and whether that begins with the beginning of a line.
    let (mut held, mut whole) = (0, true);
    let mut offset = 0;
    while offset < LONGEST_FILE {
        let free = buffer.get_mut(held..)?;
        let room = free.len();
        let read = match files.read(&file, offset, free) {
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

/// Files for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::{ffi::OsStrExt, fs::FileExt};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A directory of its own that stands for `/`.
    pub(crate) struct Tree(PathBuf);

    impl Tree {
        pub(crate) fn new() -> Self {
            static TREES: AtomicUsize = AtomicUsize::new(0);
            let number = TREES.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("knlfix-core-{}-{number}", std::process::id()));
            std::fs::create_dir(&root).unwrap();
            Self(root)
        }

        pub(crate) fn with(self, path: &str, text: impl AsRef<[u8]>) -> Self {
            let path = self.at(path.as_bytes());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        fn at(&self, path: &[u8]) -> PathBuf {
            self.0.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap()))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    impl Files for Tree {
        type File = std::fs::File;

        fn open(&self, path: &CStr) -> Option<Self::File> {
            std::fs::File::open(self.at(path.to_bytes())).ok()
        }

        fn read(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
            file.read_at(buffer, offset).ok()
        }
    }

    /// Files in memory, read at most `piece` bytes at a time: the kernel gives less than is asked for, too. A path that
    /// isn't there is `other`.
    #[derive(Default)]
    pub(crate) struct Memory {
        pub(crate) files: BTreeMap<Vec<u8>, Vec<u8>>,
        pub(crate) other: Option<Vec<u8>>,
        pub(crate) piece: usize,
    }

    impl Files for Memory {
        type File = Vec<u8>;

        fn open(&self, path: &CStr) -> Option<Vec<u8>> {
            self.files.get(path.to_bytes()).or(self.other.as_ref()).cloned()
        }

        fn read(&self, file: &Vec<u8>, offset: u64, buffer: &mut [u8]) -> Option<usize> {
            let rest = file.get(offset as usize..).unwrap_or(&[]);
            let count = rest.len().min(buffer.len()).min(self.piece);
            buffer[..count].copy_from_slice(&rest[..count]);
            Some(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Memory, Tree};
    use super::*;
    use core::fmt::Write;
    use proptest::prelude::*;

    fn lines(files: &impl Files) -> Option<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        for_each_line(files, c"/file", &mut |line: &[u8]| {
            lines.push(line.to_vec());
            ControlFlow::Continue(())
        })?;
        Some(lines)
    }

    fn memory(text: &[u8], piece: usize) -> Memory {
        Memory { files: [(b"/file".to_vec(), text.to_vec())].into(), piece, ..Memory::default() }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_file(bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1usize..5000) {
            let text: Vec<u8> = bytes.iter().map(|&byte| if byte < 9 { b'\n' } else { byte }).collect();
            let mut wanted: Vec<Vec<u8>> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            if wanted.last().is_some_and(Vec::is_empty) {
                wanted.pop();
            }
            prop_assert_eq!(lines(&memory(&text, piece)), Some(wanted));
        }

        #[test]
        fn only_overlong_lines_are_left_out(
            lengths in prop::collection::vec(prop_oneof![0usize..40, LINE - 3..LINE + 3, 0..3 * LINE], 0..8),
            piece in 1usize..5000,
            end in any::<bool>(),
        ) {
            let line = |&length: &usize| [vec![b'x'; length], vec![b'\n']].concat();
            let mut text: Vec<u8> = lengths.iter().flat_map(line).collect();
            if !end {
                text.pop();
            }
            let mut wanted = lengths.to_vec();
            if !end && wanted.last() == Some(&0) {
                wanted.pop();
            }
            wanted.retain(|&length| length < LINE);
            let got: Vec<_> = lines(&memory(&text, piece)).unwrap().iter().map(Vec::len).collect();
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn numbers_are_what_rust_says(text in "[0-9]{0,22}|.{0,4}") {
            let wanted = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
            prop_assert_eq!(number(text.as_bytes()), wanted);
        }

        #[test]
        fn a_path_takes_a_part_whole_or_not_at_all(
            parts in prop::collection::vec(prop::collection::vec(0u8..4, 0..600), 0..8),
            cut in 0usize..1200,
        ) {
            let (mut path, mut wanted) = (Path::new(), Vec::new());
            for part in &parts {
                let fits = wanted.len() + part.len() < PATH && !part.contains(&0);
                prop_assert_eq!(path.push(part).is_some(), fits);
                if fits {
                    wanted.extend(part);
                }
            }
            prop_assert_eq!(path.as_c_str().to_bytes(), &wanted);
            wanted.truncate(cut);
            path.cut(cut);
            prop_assert_eq!(path.as_bytes(), &wanted);
            prop_assert_eq!(path.as_c_str().to_bytes(), &wanted);
        }
    }

    #[test]
    fn reading_stops_when_told() {
        let mut seen = 0;
        let read = for_each_line(&memory(b"a\nb\nc\n", 9), c"/file", &mut |_: &[u8]| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((read, seen), (Some(()), 2));
    }

    #[test]
    fn a_file_without_end_ends() {
        struct Endless;
        impl Files for Endless {
            type File = ();

            fn open(&self, _: &CStr) -> Option<()> {
                Some(())
            }

            fn read(&self, (): &(), _: u64, buffer: &mut [u8]) -> Option<usize> {
                buffer.fill(b'\n');
                Some(buffer.len())
            }
        }
        assert_eq!(lines(&Endless).unwrap().len() as u64, LONGEST_FILE);
    }

    #[test]
    fn a_file_that_is_not_there_has_no_lines() {
        assert_eq!(lines(&Tree::new()), None);
        assert_eq!(lines(&Tree::new().with("/file", "")), Some(vec![]));
    }

    #[test]
    fn a_small_file_is_read_whole_or_not_at_all() {
        let tree = Tree::new().with("/file", " 1234 \n");
        assert_eq!(read_small(&tree, c"/file", &mut [0; 8]), Some(&b"1234"[..]));
        assert_eq!(read_small(&tree, c"/file", &mut [0; 7]), None);
        assert_eq!(read_small(&tree, c"/else", &mut [0; 8]), None);
    }

    #[test]
    fn a_path_is_written_like_any_text() {
        let mut path = Path::new();
        let cpu = 271;
        write!(path, "/cpu{cpu}/topology").unwrap();
        assert_eq!(path.as_c_str(), c"/cpu271/topology");
    }
}
