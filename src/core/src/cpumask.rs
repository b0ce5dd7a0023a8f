//! Sets of CPUs, as large as any Linux kernel makes them.

use core::fmt;

/// CPUs a mask can name: the kernel's `NR_CPUS` is at most 8192 on x86-64.
pub const CPUS: usize = 8192;

/// Bytes of a mask, as `sched_getaffinity(2)` counts them.
pub const BYTES: usize = CPUS / 8;

const WORDS: usize = CPUS / 64;

/// A thread's CPU affinity mask: a set of CPU numbers from 0 to 8191.
///
/// It is 1024 bytes, so it is passed by reference and lives on the stack or in static memory.
#[derive(Clone, PartialEq, Eq)]
#[repr(transparent)]
pub struct CpuMask {
    words: [u64; WORDS],
}

/// Why a text is no list of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// A character that has no place there, or a number missing.
    Syntax,
    /// A CPU number of 8192 or more.
    TooLarge,
    /// A range that ends before it begins, or a stride of 0 CPUs.
    BadRange,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a CPU list such as 0-3,8",
            Self::TooLarge => "CPU numbers end at 8191",
            Self::BadRange => "a range must not end before it begins",
        })
    }
}

impl CpuMask {
    /// The mask of no CPU.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// The mask that holds just these CPUs. Numbers from 8192 on are left out.
    pub fn of(cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut mask = Self::EMPTY;
        for cpu in cpus {
            mask.insert(cpu);
        }
        mask
    }

    /// The mask in the kernel's form (little-endian bit order), as `sched_getaffinity(2)` writes it. Bytes after the
    /// 1024th are left out.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut mask = Self::EMPTY;
        for (to, word) in mask.words.iter_mut().zip(words_of(bytes)) {
            *to = word;
        }
        mask
    }

    /// Writes the mask in the kernel's form, filling all of `bytes`.
    pub fn to_bytes(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        for (chunk, word) in bytes.chunks_mut(8).zip(&self.words) {
            for (to, from) in chunk.iter_mut().zip(word.to_le_bytes()) {
                *to = from;
            }
        }
    }

    /// The memory to hand to `sched_setaffinity(2)` and `sched_getaffinity(2)`: [`BYTES`] bytes.
    pub const fn as_mut_ptr(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }

    /// The memory to hand to `sched_setaffinity(2)`: [`BYTES`] bytes.
    pub const fn as_ptr(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }

    /// Adds a CPU; numbers from 8192 on are left out.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Whether `cpu` is in the mask.
    pub fn contains(&self, cpu: usize) -> bool {
        self.words.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// The number of CPUs in the mask.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no CPU is in the mask.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether every CPU of this mask is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).all(|(a, b)| a & !b == 0)
    }

    /// The CPUs that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// The CPUs that are in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// The CPUs of this mask that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut mask = Self::EMPTY;
        for (to, (&a, &b)) in mask.words.iter_mut().zip(self.words.iter().zip(&other.words)) {
            *to = f(a, b);
        }
        mask
    }

    /// The word of 64 CPUs at `place`.
    pub fn word(&self, place: usize) -> u64 {
        self.words.get(place).copied().unwrap_or(0)
    }

    /// The CPUs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| Bits(word).map(move |bit| at * 64 + bit))
    }

    /// The same mask in less memory; `None` if it touches too many words.
    pub fn to_sparse(&self) -> Option<SparseMask> {
        SparseMask::from_words(self.words.iter().copied())
    }

    /// A 64-bit fingerprint, never 0. Two masks with the same fingerprint are taken for the same mask: a multiplicative
    /// hash of the words, 1 in 2^64 by chance.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.words.iter().copied().enumerate())
    }

    /// Reads the kernel's list form, as in `/sys/devices/system/cpu/online`, `taskset -c` and `Cpus_allowed_list`:
    /// `0-3,8,16-31:2`, where `a-b:s` is every s-th CPU and `a-b:u/s` the first u of every s. An empty text is the
    /// empty mask; white space around it is ignored.
    ///
    /// # Errors
    /// [`ParseError`] when the text is no such list, or names a CPU from 8192 on.
    pub fn parse_list(text: &str) -> Result<Self, ParseError> {
        let mut mask = Self::EMPTY;
        let text = text.trim();
        if text.is_empty() {
            return Ok(mask);
        }
        for part in text.split(',') {
            let (range, group) = part.split_once(':').map_or((part, None), |(range, group)| (range, Some(group)));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            let (used, size) = match group.map(|group| group.split_once('/').unwrap_or(("1", group))) {
                None => (1, 1),
                Some((used, size)) => (number(used)?, number(size)?),
            };
            if last >= CPUS {
                return Err(ParseError::TooLarge);
            }
            if last < first || size == 0 || used > size {
                return Err(ParseError::BadRange);
            }
            for cpu in (first..=last).filter(|cpu| (cpu - first) % size < used) {
                mask.insert(cpu);
            }
        }
        Ok(mask)
    }

    /// Reads the kernel's hexadecimal form, as in `Cpus_allowed` and `taskset`: 32-bit groups from the highest to the
    /// lowest, with or without commas and a leading `0x`.
    ///
    /// # Errors
    /// [`ParseError`] when there is no digit, another character, or a CPU from 8192 on.
    pub fn parse_hex(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let text = text.strip_prefix("0x").unwrap_or(text);
        let mut mask = Self::EMPTY;
        let mut bit = 0;
        for digit in text.bytes().rev().filter(|&byte| byte != b',') {
            let value = char::from(digit).to_digit(16).ok_or(ParseError::Syntax)?;
            for cpu in Bits(u64::from(value)) {
                if bit + cpu >= CPUS {
                    return Err(ParseError::TooLarge);
                }
                mask.insert(bit + cpu);
            }
            bit += 4;
        }
        if bit == 0 { Err(ParseError::Syntax) } else { Ok(mask) }
    }
}

/// The words of a mask in the kernel's form; a last one that is not whole is filled with zeros.
fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    whole.iter().copied().chain((!rest.is_empty()).then_some(last)).map(u64::from_le_bytes).take(WORDS)
}

/// The [fingerprint](CpuMask::fingerprint) of a mask in the kernel's form, without a copy of it.
pub fn fingerprint_of_bytes(bytes: &[u8]) -> u64 {
    fingerprint(words_of(bytes).enumerate())
}

fn fingerprint(words: impl Iterator<Item = (usize, u64)>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (at, word) in words.filter(|&(_, word)| word != 0) {
        hash = (hash ^ at as u64).wrapping_mul(0x0100_0000_01b3);
        hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    hash ^= hash >> 32;
    if hash == 0 { 1 } else { hash }
}

/// Words of 64 CPUs that a [`SparseMask`] holds.
const SPARSE_WORDS: usize = 16;

/// A mask that touches at most 16 of the 128 words of 64 CPUs, in a seventh of the memory: for small stacks. Any mask
/// of a node with up to 1024 CPUs is one, and every pin to less than 961 neighbouring CPUs.
#[derive(Clone)]
pub struct SparseMask {
    words: [u64; SPARSE_WORDS],
    at: [u8; SPARSE_WORDS],
}

impl SparseMask {
    /// The mask in the kernel's form; `None` if it touches more words.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_words(words_of(bytes))
    }

    fn from_words(words: impl Iterator<Item = u64>) -> Option<Self> {
        let mut sparse = Self { words: [0; SPARSE_WORDS], at: [0; SPARSE_WORDS] };
        let mut free = sparse.words.iter_mut().zip(&mut sparse.at);
        for (at, word) in words.enumerate().filter(|&(_, word)| word != 0) {
            let (to, place) = free.next()?;
            (*to, *place) = (word, at as u8);
        }
        Some(sparse)
    }

    /// Its words that are not 0, each with its place in the mask.
    pub fn entries(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.at.iter().map(|&at| usize::from(at)).zip(self.words).filter(|&(_, word)| word != 0)
    }

    /// The same mask.
    pub fn to_mask(&self) -> CpuMask {
        let mut mask = CpuMask::EMPTY;
        for (at, word) in self.entries() {
            if let Some(to) = mask.words.get_mut(at) {
                *to = word;
            }
        }
        mask
    }

    /// The word of 64 CPUs at `place`.
    pub fn word(&self, place: usize) -> u64 {
        self.entries().find(|&(at, _)| at == place).map_or(0, |(_, word)| word)
    }

    /// How many CPUs it holds.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// As [`CpuMask::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.entries())
    }
}

fn number(text: &str) -> Result<usize, ParseError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Syntax);
    }
    text.parse().map_err(|_| ParseError::TooLarge)
}

/// The positions of the bits set in a word, rising.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (bit < 64).then_some(bit)
    }
}

impl fmt::Display for CpuMask {
    /// The kernel's list form, `0-3,8`; `none` for the empty mask.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut first = true;
        while let Some(begin) = cpus.next() {
            let mut end = begin;
            while let Some(next) = cpus.next_if(|&next| next == end + 1) {
                end = next;
            }
            if !first {
                f.write_str(",")?;
            }
            first = false;
            if begin == end {
                write!(f, "{begin}")?;
            } else {
                write!(f, "{begin}-{end}")?;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuMask({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn cpus() -> impl Strategy<Value = BTreeSet<usize>> {
        prop_oneof![
            prop::collection::btree_set(0..CPUS, 0..64),
            prop::collection::btree_set(0..272usize, 0..272),
            (0..CPUS, 0..512usize).prop_map(|(from, len)| (from..(from + len).min(CPUS)).collect()),
        ]
    }

    proptest! {
        #[test]
        fn list_form_round_trips(set in cpus()) {
            let mask = CpuMask::of(set.iter().copied());
            let text = if set.is_empty() { String::new() } else { mask.to_string() };
            prop_assert_eq!(CpuMask::parse_list(&text), Ok(mask));
        }

        #[test]
        fn hex_form_agrees_with_list_form(set in cpus()) {
            let mask = CpuMask::of(set.iter().copied());
            let mut bytes = vec![0; BYTES];
            mask.to_bytes(&mut bytes);
            let hex: String = bytes.chunks(4).rev()
                .map(|group| format!("{:08x}", u32::from_le_bytes(group.try_into().unwrap())))
                .collect::<Vec<_>>().join(",");
            prop_assert_eq!(CpuMask::parse_hex(&hex), Ok(mask));
        }

        #[test]
        fn kernel_form_round_trips_and_pads(set in cpus(), len in 0usize..1100) {
            let mask = CpuMask::of(set.iter().copied());
            let mut bytes = vec![0xa5; len];
            mask.to_bytes(&mut bytes);
            let kept = CpuMask::of(set.into_iter().filter(|cpu| cpu / 8 < len));
            prop_assert_eq!(CpuMask::from_bytes(&bytes), kept);
        }

        #[test]
        fn algebra_is_that_of_sets(a in cpus(), b in cpus()) {
            let (ma, mb) = (CpuMask::of(a.iter().copied()), CpuMask::of(b.iter().copied()));
            prop_assert_eq!(ma.and(&mb), CpuMask::of(a.intersection(&b).copied()));
            prop_assert_eq!(ma.or(&mb), CpuMask::of(a.union(&b).copied()));
            prop_assert_eq!(ma.minus(&mb), CpuMask::of(a.difference(&b).copied()));
            prop_assert_eq!(ma.is_subset(&mb), a.is_subset(&b));
            prop_assert_eq!(ma.count(), a.len());
            prop_assert_eq!(ma.is_empty(), a.is_empty());
            prop_assert_eq!(ma.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(ma == mb, a == b);
            prop_assert_eq!(ma.fingerprint() == mb.fingerprint(), a == b);
        }

        #[test]
        fn sparse_and_kernel_forms_have_the_masks_fingerprint(set in cpus()) {
            let mask = CpuMask::of(set.iter().copied());
            let mut bytes = [0; BYTES];
            mask.to_bytes(&mut bytes);
            prop_assert_eq!(fingerprint_of_bytes(&bytes), mask.fingerprint());
            let words = set.iter().map(|cpu| cpu / 64).collect::<BTreeSet<_>>().len();
            let sparse = SparseMask::from_bytes(&bytes);
            prop_assert_eq!(sparse.is_some(), words <= SPARSE_WORDS);
            if let Some(sparse) = sparse {
                prop_assert_eq!(sparse.fingerprint(), mask.fingerprint());
                prop_assert_eq!(sparse.to_mask(), mask);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            // Parsing never panics, and what it takes it also writes.
            if let Ok(mask) = CpuMask::parse_list(&text) && !mask.is_empty() {
                prop_assert_eq!(CpuMask::parse_list(&mask.to_string()), Ok(mask));
            }
            let _ = CpuMask::parse_hex(&text);
        }
    }

    #[test]
    fn the_kernels_own_forms() {
        assert_eq!(CpuMask::parse_list("0-3,8\n"), Ok(CpuMask::of([0, 1, 2, 3, 8])));
        assert_eq!(CpuMask::parse_list("0-8:4"), Ok(CpuMask::of([0, 4, 8])));
        assert_eq!(CpuMask::parse_list("0-7:2/4"), Ok(CpuMask::of([0, 1, 4, 5])));
        assert_eq!(CpuMask::parse_hex("00000001,00000000"), Ok(CpuMask::of([32])));
        assert_eq!(CpuMask::parse_hex("0x3"), Ok(CpuMask::of([0, 1])));
    }

    #[test]
    fn refusals_say_why() {
        assert_eq!(CpuMask::parse_list("8192"), Err(ParseError::TooLarge));
        assert_eq!(CpuMask::parse_list("99999999999999999999999"), Err(ParseError::TooLarge));
        assert_eq!(CpuMask::parse_list("3-1"), Err(ParseError::BadRange));
        assert_eq!(CpuMask::parse_list("0-3:0"), Err(ParseError::BadRange));
        assert_eq!(CpuMask::parse_list("1,,2"), Err(ParseError::Syntax));
        assert_eq!(CpuMask::parse_list("+1"), Err(ParseError::Syntax));
        assert_eq!(CpuMask::parse_hex(""), Err(ParseError::Syntax));
        assert_eq!(CpuMask::parse_hex("g"), Err(ParseError::Syntax));
    }

    #[test]
    fn no_mask_has_fingerprint_zero() {
        assert_ne!(CpuMask::EMPTY.fingerprint(), 0);
    }
}
