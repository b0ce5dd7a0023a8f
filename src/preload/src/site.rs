//! The place a hook was called from.
//!
//! It is the return address, unless another preload stands in front of ours and wraps the same call: then the return
//! address lies in that preload, and the caller we look for is further up the stack. Such an object is known by
//! defining the hooked name itself. Its caller is the first word up the stack that is a return address *of a call to that
//! very definition*: the instruction before it is read, and must lead there, by way of the caller's own tables.

use crate::dso::Dso;
use crate::sys;
use core::ffi::CStr;

/// The hooked function that was called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    SchedSetaffinity,
    SchedGetaffinity,
    PthreadSetaffinity,
    PthreadGetaffinity,
    PthreadCreate,
    Syscall,
    Sysconf,
    GetNprocs,
    GetNprocsConf,
}

impl Call {
    const fn name(self) -> &'static CStr {
        match self {
            Self::SchedSetaffinity => c"sched_setaffinity",
            Self::SchedGetaffinity => c"sched_getaffinity",
            Self::PthreadSetaffinity => c"pthread_setaffinity_np",
            Self::PthreadGetaffinity => c"pthread_getaffinity_np",
            Self::PthreadCreate => c"pthread_create",
            Self::Syscall => c"syscall",
            Self::Sysconf => c"sysconf",
            Self::GetNprocs => c"get_nprocs",
            Self::GetNprocsConf => c"get_nprocs_conf",
        }
    }
}

/// Where a hook was called.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    pub(crate) call: Call,
    stack: *const usize,
}

/// Words of the stack in which the wrappers' callers are looked for: redhook's wrapper takes less than half of them.
const WRAPPERS: usize = 256;

impl Site {
    /// The call of the hook that was entered with this stack pointer.
    ///
    /// # Safety
    /// `stack` points to the hook's return address.
    pub(crate) const unsafe fn new(call: Call, stack: *const usize) -> Self {
        Self { call, stack }
    }

    /// The hook's own return address.
    pub(crate) fn address(&self) -> usize {
        // SAFETY: see `new`.
        unsafe { *self.stack }
    }

    /// The object that made the call, and the return address in it.
    pub(crate) fn caller(&self) -> Option<(Dso, usize)> {
        let address = self.address();
        let caller = Dso::around(address)?;
        if self.wrapper_in(&caller).is_some() {
            return Some(self.behind_wrappers(caller, address));
        }
        Some((caller, address))
    }

    fn wrapper_in(&self, dso: &Dso) -> Option<usize> {
        dso.object.as_ref()?.function(self.call.name(), true)
    }

    #[cold]
    #[inline(never)]
    fn behind_wrappers(&self, mut caller: Dso, mut address: usize) -> (Dso, usize) {
        // The stack may end here: a fiber's, a signal's.
        let mut stack = [0; WRAPPERS];
        let words = sys::peek(self.stack as usize, &mut stack);
        let mut stack = stack.iter().take(words).skip(1).copied();
        while let Some(wrapper) = self.wrapper_in(&caller) {
            let outside = |word: &usize| !(caller.start..caller.end).contains(word);
            let found = stack.by_ref().filter(outside).find_map(|word| {
                let dso = Dso::around(word)?;
                calls(&dso, word, wrapper).then_some((dso, word))
            });
            let Some(found) = found else { break };
            (caller, address) = found;
        }
        (caller, address)
    }
}

/// Whether `address` is where a call of `function`, from `dso`, returns to.
fn calls(dso: &Dso, address: usize, function: usize) -> bool {
    // call *disp32(%rip): through the caller's table of addresses.
    if let Some([0xff, 0x15, disp @ ..]) =
        dso.bytes_at(address - 6, libc::PF_X).and_then(|code| code.first_chunk::<6>())
    {
        return relative(address, disp).and_then(|slot| word_at(dso, slot)) == Some(function);
    }
    // call disp32: to the function, or to a stub that jumps through the table.
    if let Some([0xe8, disp @ ..]) = dso.bytes_at(address - 5, libc::PF_X).and_then(|code| code.first_chunk::<5>()) {
        let target = relative(address, disp);
        return target == Some(function) || target.and_then(|stub| stub_target(dso, stub)) == Some(function);
    }
    false
}

/// Where a stub of the procedure linkage table jumps to: `[endbr64] [bnd] jmp *disp32(%rip)`.
fn stub_target(dso: &Dso, stub: usize) -> Option<usize> {
    let mut code = dso.bytes_at(stub, libc::PF_X)?;
    let mut end = stub;
    for prefix in [&[0xf3, 0x0f, 0x1e, 0xfa][..], &[0xf2]] {
        if let Some(rest) = code.strip_prefix(prefix) {
            (code, end) = (rest, end + prefix.len());
        }
    }
    let [0xff, 0x25, disp @ ..] = code.first_chunk::<6>()? else { return None };
    word_at(dso, relative(end + 6, disp)?)
}

fn relative(end: usize, displacement: &[u8]) -> Option<usize> {
    let displacement = i32::from_le_bytes(displacement.try_into().ok()?);
    end.checked_add_signed(displacement as isize)
}

fn word_at(dso: &Dso, address: usize) -> Option<usize> {
    let bytes = dso.bytes_at(address, 0)?.first_chunk::<8>()?;
    Some(usize::from_le_bytes(*bytes))
}
