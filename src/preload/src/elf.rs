//! Looking a name up in the dynamic symbol table of one loaded object.
//!
//! Not `dlsym`: it moved between libraries (a reference made on glibc 2.36 does not load on 2.31), takes the loader's
//! lock, may allocate, and looks into an object's dependencies too, while we ask whether *this* object is a runtime.

use core::ffi::CStr;

#[repr(C)]
struct Dyn {
    tag: i64,
    value: usize,
}

#[repr(C)]
struct Sym {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

#[repr(C)]
struct Rela {
    offset: usize,
    info: u64,
    addend: i64,
}

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_STRSZ: i64 = 10;
const DT_SONAME: i64 = 14;
const DT_DEBUG: i64 = 21;
const DT_JMPREL: i64 = 23;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
const DT_RELACOUNT: i64 = 0x6fff_fff9;

const STT_FUNC: u8 = 2;
const VERSION_HIDDEN: u16 = 0x8000;

/// Where the loader keeps what it tells debuggers.
///
/// # Safety
/// `dynamic` must be the dynamic section of the program.
pub(crate) unsafe fn debug_entry(dynamic: *const core::ffi::c_void) -> Option<usize> {
    let mut entry = dynamic.cast::<Dyn>();
    loop {
        // SAFETY: a dynamic section goes on to its DT_NULL entry.
        match unsafe { ((*entry).tag, (*entry).value) } {
            (DT_NULL, _) | (DT_DEBUG, 0) => return None,
            (DT_DEBUG, debug) => return Some(debug),
            // SAFETY: not DT_NULL yet, so there is another.
            _ => entry = unsafe { entry.add(1) },
        }
    }
}

/// The values of these entries of a dynamic section, 0 where there is none.
///
/// # Safety
/// `dynamic` must be a dynamic section, or null.
unsafe fn entries<const N: usize>(dynamic: *const core::ffi::c_void, tags: [i64; N]) -> Option<[usize; N]> {
    let mut found = [0; N];
    let mut entry = dynamic.cast::<Dyn>();
    if entry.is_null() {
        return None;
    }
    loop {
        // SAFETY: a dynamic section goes on to its DT_NULL entry.
        let (tag, value) = unsafe { ((*entry).tag, (*entry).value) };
        if tag == DT_NULL {
            return Some(found);
        }
        for (slot, _) in found.iter_mut().zip(tags).filter(|&(_, wanted)| wanted == tag) {
            *slot = value;
        }
        // SAFETY: not DT_NULL yet, so there is another.
        entry = unsafe { entry.add(1) };
    }
}

/// The address in an entry: glibc relocates it in place, except in a read-only dynamic section (the vDSO's).
const fn relocated(base: usize, value: usize) -> usize {
    match value {
        0 => 0,
        low if low < base => base + low,
        absolute => absolute,
    }
}

/// The dynamic section of an object that is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    base: usize,
    dynamic: *const core::ffi::c_void,
    symbols: *const Sym,
    strings: *const u8,
    strings_len: usize,
    versions: *const u16,
    gnu_hash: *const u32,
    hash: *const u32,
    soname: Option<usize>,
}

impl Object {
    /// The object that the loader describes.
    ///
    /// # Safety
    /// As for [`at`](Self::at).
    pub(crate) unsafe fn of(info: &libc::dl_phdr_info) -> Option<Self> {
        let dynamic = crate::dso::program_headers(info).iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
        // SAFETY: the loader's own description, and the caller's promise.
        unsafe { Self::at(info.dlpi_addr as usize, (info.dlpi_addr + dynamic.p_vaddr) as *const _) }
    }

    /// Reads the dynamic section at `dynamic` of the object loaded at `base`.
    ///
    /// # Safety
    /// `dynamic` must be the dynamic section of an object that the loader has mapped at `base`, and the object must
    /// stay mapped while the result is in use.
    pub(crate) unsafe fn at(base: usize, dynamic: *const core::ffi::c_void) -> Option<Self> {
        let tags = [DT_SYMTAB, DT_STRTAB, DT_STRSZ, DT_VERSYM, DT_GNU_HASH, DT_HASH, DT_SONAME];
        // SAFETY: the caller's promise.
        let [symbols, strings, strings_len, versions, gnu_hash, hash, soname] = unsafe { entries(dynamic, tags) }?;
        let address = |value| relocated(base, value);
        (symbols != 0 && strings != 0 && (gnu_hash != 0 || hash != 0)).then(|| Self {
            base,
            dynamic,
            symbols: address(symbols) as *const Sym,
            strings: address(strings) as *const u8,
            strings_len,
            versions: address(versions) as *const u16,
            gnu_hash: address(gnu_hash) as *const u32,
            hash: address(hash) as *const u32,
            soname: (soname != 0).then_some(soname),
        })
    }

    /// Where it is loaded.
    pub(crate) const fn base(&self) -> usize {
        self.base
    }

    fn string(&self, at: usize) -> &CStr {
        if at >= self.strings_len {
            return c"";
        }
        // SAFETY: inside the string table, which ends with a NUL.
        unsafe { CStr::from_ptr(self.strings.add(at).cast()) }
    }

    /// The object's `DT_SONAME`, empty if it has none.
    pub(crate) fn soname(&self) -> &CStr {
        self.soname.map_or(c"", |at| self.string(at))
    }

    /// Whether the object itself defines `name`.
    pub(crate) fn defines(&self, name: &CStr) -> bool {
        self.find(name, |_| true).is_some()
    }

    /// The address of the function `name` in its default version, or in any.
    pub(crate) fn function(&self, name: &CStr, any_version: bool) -> Option<usize> {
        // An indirect function (glibc 2.31's libpthread has them for fork and system) only leads to libc's own.
        let index =
            self.find(name, |index| self.symbol(index).info & 0xf == STT_FUNC && (any_version || !self.hidden(index)))?;
        Some(self.base + self.symbol(index).value)
    }

    /// Whether the object takes one of these names from another. Its relocations say so: the symbol table of a program
    /// that defines nothing for others does not tell its own length.
    pub(crate) fn imports(&self, names: &[&CStr]) -> bool {
        let tags = [DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_RELACOUNT];
        // SAFETY: this object's own.
        let Some([calls, calls_size, others, others_size, nameless]) = (unsafe { entries(self.dynamic, tags) }) else {
            return false;
        };
        // The relocations that name no symbol come first.
        [(calls, calls_size, 0), (others, others_size, nameless)].into_iter().any(|(table, size, skipped)| {
            let table = relocated(self.base, table) as *const Rela;
            (skipped..size / size_of::<Rela>()).any(|at| {
                // SAFETY: so many relocations are there.
                let symbol = self.symbol(unsafe { (*table.add(at)).info >> 32 } as usize);
                symbol.section == 0 && names.contains(&self.string(symbol.name as usize))
            })
        })
    }

    /// The name of what the object exports at `address`.
    pub(crate) fn name_of(&self, address: usize) -> Option<&CStr> {
        if self.gnu_hash.is_null() {
            return None;
        }
        // SAFETY: the layout of DT_GNU_HASH: four words, the Bloom filter in 64-bit words, the buckets, the chains. The
        // lowest bit of an entry says that its chain ends there.
        unsafe {
            let table = self.gnu_hash;
            let (buckets, first, bloom_words) = (*table as usize, *table.add(1) as usize, *table.add(2) as usize);
            let bucket = table.add(4 + 2 * bloom_words);
            let chain = bucket.add(buckets);
            for start in (0..buckets).map(|at| *bucket.add(at) as usize).filter(|&start| start >= first) {
                for index in start.. {
                    let symbol = self.symbol(index);
                    if self.base + symbol.value == address {
                        return Some(self.string(symbol.name as usize));
                    }
                    if *chain.add(index - first) & 1 == 1 {
                        break;
                    }
                }
            }
        }
        None
    }

    fn symbol(&self, index: usize) -> &Sym {
        // SAFETY: indices come from the object's own hash table or relocations.
        unsafe { &*self.symbols.add(index) }
    }

    fn hidden(&self, index: usize) -> bool {
        // SAFETY: one entry per symbol.
        !self.versions.is_null() && unsafe { *self.versions.add(index) } & VERSION_HIDDEN != 0
    }

    fn is(&self, index: usize, name: &CStr) -> bool {
        let symbol = self.symbol(index);
        symbol.section != 0 && symbol.value != 0 && self.string(symbol.name as usize) == name
    }

    fn find(&self, name: &CStr, accept: impl Fn(usize) -> bool) -> Option<usize> {
        if self.gnu_hash.is_null() { self.find_sysv(name, accept) } else { self.find_gnu(name, accept) }
    }

    fn find_gnu(&self, name: &CStr, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = name.to_bytes().iter().fold(5381_u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
        // SAFETY: the layout of DT_GNU_HASH: four words, the Bloom filter in 64-bit words, the buckets, the chains.
        unsafe {
            let table = self.gnu_hash;
            let (buckets, first) = (*table as usize, *table.add(1) as usize);
            let (bloom_words, shift) = (*table.add(2) as usize, *table.add(3));
            if buckets == 0 || bloom_words == 0 {
                return None;
            }
            let bloom = table.add(4).cast::<u64>();
            let word = bloom.add(hash as usize / 64 % bloom_words).read_unaligned();
            if word >> (hash % 64) & word >> ((hash >> (shift % 32)) % 64) & 1 == 0 {
                return None;
            }
            let bucket = table.add(4 + 2 * bloom_words);
            let chain = bucket.add(buckets);
            let mut index = *bucket.add(hash as usize % buckets) as usize;
            if index < first {
                return None;
            }
            loop {
                let entry = *chain.add(index - first);
                if entry | 1 == hash | 1 && self.is(index, name) && accept(index) {
                    return Some(index);
                }
                if entry & 1 == 1 {
                    return None;
                }
                index += 1;
            }
        }
    }

    fn find_sysv(&self, name: &CStr, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = name.to_bytes().iter().fold(0_u32, |hash, &byte| {
            let hash = (hash << 4).wrapping_add(byte.into());
            let high = hash & 0xf000_0000;
            (hash ^ high >> 24) & !high
        });
        // SAFETY: the layout of DT_HASH: bucket count, symbol count, the buckets, one chain entry per symbol.
        unsafe {
            let (buckets, symbols) = (*self.hash as usize, *self.hash.add(1) as usize);
            if buckets == 0 {
                return None;
            }
            let bucket = self.hash.add(2);
            let chain = bucket.add(buckets);
            let mut index = *bucket.add(hash as usize % buckets) as usize;
            while index != 0 && index < symbols {
                if self.is(index, name) && accept(index) {
                    return Some(index);
                }
                index = *chain.add(index) as usize;
            }
            None
        }
    }
}
