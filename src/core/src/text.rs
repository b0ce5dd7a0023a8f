//! Formatting into a fixed buffer: a line that does not fit is cut, never split over two writes and never allocated.

use core::fmt;

/// A text of at most `N` bytes.
#[derive(Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// A text of the first `N` bytes of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = Self::new();
        text.push(bytes);
        text
    }

    /// Appends as much of `bytes` as fits.
    pub fn push(&mut self, bytes: &[u8]) {
        for (free, byte) in self.bytes.iter_mut().skip(self.len).zip(bytes) {
            *free = *byte;
            self.len += 1;
        }
    }

    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Whether nothing was written.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the text with a newline, in place of its last byte when it is full.
    pub fn end_line(&mut self) {
        if self.len == N {
            self.len = N.saturating_sub(1);
        }
        self.push(b"\n");
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Lossy(self.as_bytes()).fmt(f)
    }
}

/// A number in decimal, written to the end of `buffer`.
pub fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or(&[])
}

/// Bytes from the environment or a file name, shown safely on one line: what is not printable ASCII becomes `?`, and
/// what is longer than 80 bytes is cut.
pub struct Lossy<'a>(pub &'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(80) {
            let shown = if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' };
            fmt::Write::write_char(f, shown)?;
        }
        if self.0.len() > 80 { f.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    #[test]
    fn a_long_line_is_cut_and_still_ends_in_a_newline() {
        let mut text = Text::<8>::new();
        text.write_str("0123456789").unwrap();
        text.end_line();
        assert_eq!(text.as_bytes(), b"0123456\n");
    }

    #[test]
    fn garbage_is_shown_on_one_line() {
        assert_eq!(Lossy(b"a\n\xff\x1b[0m").to_string(), "a???[0m");
        assert_eq!(Lossy(&[b'x'; 100]).to_string().len(), 83);
    }
}
