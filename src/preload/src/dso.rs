//! The loaded object that an address lies in.

use crate::elf::Object;
use crate::next;
use crate::state;
use core::ffi::{CStr, c_int, c_void};
use knlfix_core::text::Text;

/// An object the loader has mapped.
pub(crate) struct Dso {
    pub(crate) object: Option<Object>,
    /// The address of its dynamic section, which tells it from any other.
    pub(crate) dynamic: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The program itself, not a library.
    pub(crate) is_program: bool,
    /// Its file name, for the log and for the user's list of runtimes.
    pub(crate) name: Text<64>,
    /// The loader's name for it, which stays as long as the object does; empty for the program.
    path: &'static CStr,
}

impl Dso {
    /// Its loaded segments with their flags; none in a forked child, where the loader can't be asked.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut search = Visit { address: self.dynamic, found: None, headers: &[] };
        if !state::forked() {
            // SAFETY: `visit` gets the search back, and it outlives the call.
            unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        }
        let base = self.object.as_ref().map_or(self.start, Object::base);
        let loaded = search.headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        loaded.filter(|header| header.p_flags & libc::PF_R != 0).map(move |header| {
            let address = (base + header.p_vaddr as usize) as *const u8;
            // SAFETY: the loader mapped this segment readable.
            (header.p_flags, unsafe { core::slice::from_raw_parts(address, header.p_filesz as usize) })
        })
    }

    /// The bytes from `address` to the end of its segment, if that segment can hold what `flags` say.
    pub(crate) fn bytes_at(&self, address: usize, flags: u32) -> Option<&[u8]> {
        let mut segments = self.segments().filter(|(has, _)| has & flags == flags);
        segments.find_map(|(_, bytes)| bytes.get(address.checked_sub(bytes.as_ptr() as usize)?..))
    }

    /// The object around `address`.
    pub(crate) fn around(address: usize) -> Option<Self> {
        if next::has_dl_find_object() {
            return Self::found_by_loader(address);
        }
        if state::forked() {
            return Self::found_in_list(address);
        }
        let mut search = Visit { address, found: None, headers: &[] };
        // SAFETY: `visit` gets the search back, and it outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    /// Before glibc 2.35 the loader can be asked only under its lock, which a thread that did not survive the fork may
    /// have held. A forked child reads the list that the loader keeps for debuggers.
    fn found_in_list(address: usize) -> Option<Self> {
        let mut map = loaded_objects()?;
        loop {
            // SAFETY: the list goes on to a null pointer.
            let LinkMap { base, name, dynamic, next } = unsafe { &*map };
            let headers = mapped_headers(*base);
            let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
            let spans = |header: &libc::Elf64_Phdr| {
                let start = base + header.p_vaddr as usize;
                (start..start + header.p_memsz as usize).contains(&address)
            };
            if loads().any(spans) {
                let end = loads().map(|header| base + (header.p_vaddr + header.p_memsz) as usize).max();
                // SAFETY: the loader's own list, of an object that can't go while it waits for us.
                let (path, object) = unsafe { (CStr::from_ptr(*name), Object::at(*base, *dynamic)) };
                return Some(Self::new(object, *dynamic as usize, *base..end.unwrap_or(*base), path));
            }
            map = if next.is_null() { return None } else { *next };
        }
    }

    fn found_by_loader(address: usize) -> Option<Self> {
        /// `struct dl_find_object` of `<dlfcn.h>`
        #[repr(C)]
        struct Found {
            flags: u64,
            start: usize,
            end: usize,
            map: *const LinkMap,
            eh_frame: usize,
            reserved: [u64; 7],
        }
        let mut found = Found { flags: 0, start: 0, end: 0, map: core::ptr::null(), eh_frame: 0, reserved: [0; 7] };
        // SAFETY: the structure is glibc's.
        let error = unsafe { next::_dl_find_object()(address, (&raw mut found).cast()) };
        if error != 0 || found.map.is_null() {
            return None;
        }
        // SAFETY: the object we were called from stays loaded while it waits for us.
        let map = unsafe { &*found.map };
        // SAFETY: as above.
        let object = unsafe { Object::at(map.base, map.dynamic) };
        // SAFETY: the loader's name of the object is a C string.
        let path = unsafe { map.name.as_ref().map(|name| CStr::from_ptr(name)) }.unwrap_or(c"");
        Some(Self::new(object, map.dynamic as usize, found.start..found.end, path))
    }

    /// The definition of `name` that the object's own scope holds: its own, or that of something it needs. Takes the
    /// loader's lock.
    pub(crate) fn lookup(&self, name: &CStr) -> Option<usize> {
        if self.is_program {
            return None;
        }
        let errno = crate::sys::errno();
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        // SAFETY: it is loaded and stays so, so that this only gives us a handle; and names are C strings.
        let found = unsafe {
            let handle = next::dlopen()(self.path.as_ptr(), flags);
            if handle.is_null() {
                0
            } else {
                let found = next::dlsym()(handle, name.as_ptr()) as usize;
                next::dlclose()(handle);
                found
            }
        };
        crate::sys::set_errno(errno);
        (found != 0).then_some(found)
    }

    /// Has the loader keep it for good. Takes the loader's lock.
    pub(crate) fn keep(&self) -> bool {
        let errno = crate::sys::errno();
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: it is loaded, so that this only gives us a handle; its name is a C string. A program is always kept.
        let is_kept = self.is_program
            || unsafe {
                let handle = next::dlopen()(self.path.as_ptr(), flags);
                !handle.is_null() && next::dlclose()(handle) == 0
            };
        crate::sys::set_errno(errno);
        is_kept
    }

    /// The first definition of `name` behind ours, whoever has it: for code that no object holds.
    pub(crate) fn lookup_anywhere(name: &CStr) -> Option<usize> {
        struct Walk<'a> {
            name: &'a CStr,
            found: Option<usize>,
        }
        unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, walk: *mut c_void) -> c_int {
            // SAFETY: the walk below, and the loader's own record.
            let (walk, info) = unsafe { (&mut *walk.cast::<Walk<'_>>(), &*info) };
            if !spans(info, visit as *const () as usize) {
                // SAFETY: the loader keeps the object mapped while it visits it.
                walk.found = unsafe { Object::of(info) }.and_then(|object| object.function(walk.name, true));
            }
            c_int::from(walk.found.is_some())
        }
        let mut walk = Walk { name, found: None };
        // SAFETY: `visit` gets the walk back, and it outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut walk).cast()) };
        walk.found
    }

    /// The name for a report: of a Python package's library, the package too.
    pub(crate) fn label(&self) -> &[u8] {
        let path = self.path.to_bytes();
        let after = |folder: &[u8]| {
            let at = path.windows(folder.len()).rposition(|part| part == folder)?;
            path.get(at + folder.len()..)
        };
        after(b"/site-packages/").or_else(|| after(b"/dist-packages/")).unwrap_or(self.name.as_bytes())
    }

    /// The loader's path of it.
    pub(crate) fn path(&self) -> &'static CStr {
        self.path
    }

    fn new(object: Option<Object>, dynamic: usize, span: core::ops::Range<usize>, path: &'static CStr) -> Self {
        let soname = object.as_ref().map_or(c"", |object| object.soname());
        let is_program = path.is_empty();
        let file = path.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
        let name = match (is_program, file.is_empty()) {
            (true, _) => program_name(),
            (false, true) => soname.to_bytes(),
            (false, false) => file,
        };
        Self { object, dynamic, start: span.start, end: span.end, is_program, name: Text::from_bytes(name), path }
    }
}

/// The public part of `struct link_map` of `<link.h>`
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const libc::c_char,
    dynamic: *const c_void,
    next: *const LinkMap,
}

/// The loader's list, which the program's dynamic section points to.
fn loaded_objects() -> Option<*const LinkMap> {
    // SAFETY: takes a number.
    let (table, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if table == 0 {
        return None;
    }
    // SAFETY: the kernel's (or the loader's) word for where the program's headers are.
    let headers = unsafe { core::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count as usize) };
    let address_of = |kind| headers.iter().find(|header| header.p_type == kind).map(|header| header.p_vaddr as usize);
    let base = (table as usize).wrapping_sub(address_of(libc::PT_PHDR)?);
    let dynamic = base.wrapping_add(address_of(libc::PT_DYNAMIC)?);
    // SAFETY: the program is mapped there, and its loader has filled this in.
    let debug = unsafe { crate::elf::debug_entry(dynamic as *const c_void) }?;
    // SAFETY: `struct r_debug` of `<link.h>`: a version, padding, and the list.
    let list = unsafe { *((debug + size_of::<usize>()) as *const *const LinkMap) };
    (!list.is_null()).then_some(list)
}

/// The program headers of an object, where they are on the object's first pages, as they nearly always are.
fn mapped_headers(base: usize) -> &'static [libc::Elf64_Phdr] {
    let mut words = [0; 8]; // an ELF header
    if base == 0
        || crate::sys::peek(base, &mut words) != words.len()
        || words[0] as u32 != u32::from_le_bytes(*b"\x7fELF")
    {
        return &[];
    }
    let (table, count) = (base.wrapping_add(words[4]), words[7] & 0xffff);
    let mut last = [0];
    let end = table.wrapping_add(count * size_of::<libc::Elf64_Phdr>());
    if words[4] > 4096 || count == 0 || crate::sys::peek(end - size_of::<usize>(), &mut last) != 1 {
        return &[];
    }
    // SAFETY: it is mapped from the header to the last word, on two pages at most.
    unsafe { core::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count) }
}

fn program_name() -> &'static [u8] {
    unsafe extern "C" {
        static program_invocation_short_name: *const libc::c_char;
    }
    // SAFETY: libc sets it before any constructor runs; a program may point it elsewhere, but only to a C string.
    let name = unsafe { program_invocation_short_name.as_ref().map(|name| CStr::from_ptr(name)) };
    name.map_or(b"the program", |name| name.to_bytes())
}

struct Visit {
    address: usize,
    found: Option<Dso>,
    /// Its program headers, which stay as long as the object does: it waits for us.
    headers: &'static [libc::Elf64_Phdr],
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: the search that `around` passed, and the loader's own record.
    let (search, info) = unsafe { (&mut *search.cast::<Visit>(), &*info) };
    if !spans(info, search.address) {
        return 0;
    }
    let base = info.dlpi_addr as usize;
    let loads = || program_headers(info).iter().filter(|header| header.p_type == libc::PT_LOAD);
    let start = loads().map(|header| base + header.p_vaddr as usize).min().unwrap_or(base) & !0xfff;
    let end = loads().map(|header| base + (header.p_vaddr + header.p_memsz) as usize).max().unwrap_or(base);
    let dynamic = program_headers(info).iter().find(|header| header.p_type == libc::PT_DYNAMIC);
    let dynamic = dynamic.map_or(0, |header| base + header.p_vaddr as usize);
    // SAFETY: the loader's own name and record of an object that can't go while it waits for us.
    let (path, object) = unsafe { (CStr::from_ptr(info.dlpi_name), Object::of(info)) };
    // SAFETY: the table is the object's own, or the loader's copy of it.
    search.headers =
        unsafe { core::slice::from_raw_parts(program_headers(info).as_ptr(), program_headers(info).len()) };
    search.found = Some(Dso::new(object, dynamic, start..end, path));
    1
}

/// The program headers of an object the loader visits.
pub(crate) fn program_headers(info: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    if info.dlpi_phdr.is_null() {
        return &[];
    }
    // SAFETY: the loader's own table, which it keeps while it visits.
    unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
}

/// Whether `address` lies in an object the loader visits.
pub(crate) fn spans(info: &libc::dl_phdr_info, address: usize) -> bool {
    program_headers(info).iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        (start..start + header.p_memsz as usize).contains(&address)
    })
}
