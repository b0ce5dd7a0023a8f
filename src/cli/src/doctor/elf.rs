//! ELF files, as far as it matters here: will the loader preload anything, and which functions does it define?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PT_INTERP: u32 = 3;
const SHT_DYNSYM: u32 = 11;
const X86_64: u16 = 62;

/// Longest table that is read: larger ones are no library's.
const LONGEST: u64 = 256 << 20;

/// An ELF file.
pub(crate) struct Elf {
    /// A 64-bit file for x86-64. Of others nothing more is known.
    pub(crate) is_ours: bool,
    /// It names a program interpreter: the dynamic loader.
    pub(crate) has_loader: bool,
    /// The functions and variables that it defines for others, each with a NUL before and behind it.
    defined: Vec<u8>,
    /// Those that it uses and does not define, in the same form.
    used: Vec<u8>,
}

impl Elf {
    /// `None` if it is no ELF file.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut header = [0; 64];
        if !file.metadata()?.is_file() || read_up_to(&file, &mut header)? < 20 || !header.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let is_ours = header[4] == 2 && header[5] == 1 && half(&header, 18) == X86_64;
        let mut elf = Self { is_ours, has_loader: false, defined: vec![0], used: vec![0] };
        if is_ours {
            // A file that ends too early, as one that is being written does, has no tables.
            let _ = elf.tables(&file, &header);
        }
        Ok(Some(elf))
    }

    pub(crate) fn defines(&self, name: &str) -> bool {
        holds(&self.defined, name)
    }

    pub(crate) fn uses(&self, name: &str) -> bool {
        holds(&self.used, name)
    }

    fn tables(&mut self, file: &File, header: &[u8]) -> io::Result<()> {
        let programs = table(file, long(header, 32), u64::from(half(header, 56)) * 56)?;
        self.has_loader = programs.chunks_exact(56).any(|entry| word(entry, 0) == PT_INTERP);
        let sections = table(file, long(header, 40), u64::from(half(header, 60)) * 64)?;
        let sections: Vec<_> = sections.chunks_exact(64).collect();
        let Some(symbols) = sections.iter().find(|section| word(section, 4) == SHT_DYNSYM) else {
            return Ok(());
        };
        let Some(names) = sections.get(word(symbols, 40) as usize) else {
            return Ok(());
        };
        let names = table(file, long(names, 24), long(names, 32))?;
        for symbol in table(file, long(symbols, 24), long(symbols, 32))?.chunks_exact(24) {
            let name = names.get(word(symbol, 0) as usize..).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let list = if half(symbol, 6) == 0 { &mut self.used } else { &mut self.defined };
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(())
    }
}

fn holds(list: &[u8], name: &str) -> bool {
    list.split(|&byte| byte == 0).any(|other| other == name.as_bytes())
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn table(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let end = file.metadata()?.len();
    if len > LONGEST || offset.checked_add(len).is_none_or(|last| last > end) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

fn half(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(from, at))
}

fn word(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(from, at))
}

fn long(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(from, at))
}
