//! Children that are made by a system call and may share their parent's stack: vfork, and fork, vfork, clone and clone3
//! through `syscall()`.
//!
//! No wrapper can be around such a call: it returns twice on the same stack, and the first one to return overwrites
//! what the second needs. So the call is made here, in assembly, with everything the parent needs afterwards in
//! registers (the kernel keeps them for each side), and the return address is put back before the parent returns.
//!
//! The parent is widened before and narrowed after: the child has the user mask from its first instruction, nothing is
//! written on its side, and a mask it sets for itself before it execs is its own.

use crate::affinity::repair::{self, Widened};
use crate::state;
use crate::sys;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};
use libc::{c_long, pid_t};

/// Parents that can be inside such a call at a time; the children of any more are not repaired. More than the CPUs of
/// most nodes: each parent waits for its child.
const BIRTHS: usize = 1024;

/// One bit per slot that is taken.
#[unsafe(link_section = ".data.knlfix_fork")]
static TAKEN: [AtomicU64; BIRTHS / 64] = [const { AtomicU64::new(0) }; BIRTHS / 64];

/// A parent that was widened, for the time its stack is not its own.
struct Birth(UnsafeCell<MaybeUninit<Widened>>);

// SAFETY: it is touched only by the thread that took the slot's bit.
unsafe impl Sync for Birth {}

static SLOTS: [Birth; BIRTHS] = [const { Birth(UnsafeCell::new(MaybeUninit::uninit())) }; BIRTHS];

/// Nobody else survives a fork.
pub(crate) fn forget() {
    for word in TAKEN.iter().filter(|word| word.load(Ordering::Relaxed) != 0) {
        word.store(0, Ordering::Relaxed);
    }
}

fn take() -> Option<(usize, &'static Birth)> {
    let at = TAKEN.iter().enumerate().find_map(|(word, taken)| {
        let lowest_free = |bits: u64| (bits != u64::MAX).then_some(bits | (bits + 1));
        let before = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, lowest_free).ok()?;
        Some(word * 64 + before.trailing_ones() as usize)
    })?;
    Some((at, SLOTS.get(at)?))
}

fn free(at: usize) {
    if let Some(word) = TAKEN.get(at / 64) {
        word.fetch_and(!(1 << (at % 64)), Ordering::AcqRel);
    }
}

/// The token that goes through the call in a register: bit 0, the child has memory of its own; the rest, 1 + the slot.
const OWN_MEMORY: usize = 1;

/// Before the call: widens the calling thread. `a` and `b` are the first arguments of the system call.
unsafe extern "C" fn begin(number: c_long, a: usize, b: usize) -> usize {
    let (flags, what) = match number {
        libc::SYS_fork => (0, "syscall(SYS_fork)"),
        libc::SYS_vfork => (CLONE_VM, "vfork"),
        libc::SYS_clone => (a, "syscall(SYS_clone)"),
        // What clone3 can't read, or finds too short, makes no child.
        _ => match clone3_flags(a, b) {
            Some(flags) => (flags, "syscall(SYS_clone3)"),
            None => return 0,
        },
    };
    let shared_memory = flags & CLONE_VM != 0;
    let is_thread = flags & libc::CLONE_THREAD as usize != 0;
    if !state::is_owner() {
        // A vfork child that makes children: nothing is written, and it was born with the right mask.
        return 0;
    }
    let own_memory = if shared_memory { 0 } else { OWN_MEMORY };
    let Some((at, slot)) = take() else { return own_memory };
    let widened = if is_thread { Widened::for_thread(what) } else { Widened::for_child(what) };
    let Some(widened) = widened else {
        free(at);
        return own_memory;
    };
    // SAFETY: the slot is ours until we free it.
    unsafe { (*slot.0.get()).write(widened) };
    own_memory | (at + 1) << 1
}

const CLONE_VM: usize = libc::CLONE_VM as usize;

/// The flags that `struct clone_args` begins with.
fn clone3_flags(args: usize, size: usize) -> Option<usize> {
    let smallest = 64; // CLONE_ARGS_SIZE_VER0
    let mut flags = [0];
    (size >= smallest && sys::peek(args, &mut flags) == 1).then_some(flags[0])
}

/// After the call, in the parent.
unsafe extern "C" fn end(token: usize) {
    let Some(at) = (token >> 1).checked_sub(1) else { return };
    if let Some(slot) = SLOTS.get(at) {
        // SAFETY: `begin` filled the slot, and it is ours.
        drop(unsafe { (*slot.0.get()).assume_init_read() });
        free(at);
    }
}

/// After the call, in a child that has its own memory.
unsafe extern "C" fn adopt() {
    repair::settle_born_wide();
}

/// Turns the kernel's error into libc's -1.
unsafe extern "C" fn failed(answer: isize) -> c_long {
    crate::sys::set_errno(-answer as i32);
    -1
}

/// `vfork()`, also known as `__vfork()`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> pid_t {
    naked_asm!(
        "cmp byte ptr [rip + {active}], 0",
        "jne 3f",
        "mov r11, [rip + {next}]",
        "test r11, r11",
        "jnz 2f",
        "sub rsp, 8",
        "call {find_all_once}",
        "add rsp, 8",
        "mov r11, [rip + {next}]",
        "test r11, r11",
        "jz 3f",
        "2: jmp r11",
        "3: mov edi, {sys_vfork}",
        "jmp {make}",
        active = sym state::ACTIVE,
        next = sym crate::next::VFORK,
        find_all_once = sym crate::next::find_all_once,
        sys_vfork = const libc::SYS_vfork,
        make = sym make,
    )
}

/// `syscall(number, a, b, c, d, e)` for fork, vfork, clone and clone3.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn make() -> c_long {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "call {find_all_once}", // a child on our stack must not have to
        "mov rdi, [rsp + 48]",
        "mov rsi, [rsp + 40]",
        "mov rdx, [rsp + 32]",
        "call {begin}",
        "mov rcx, rax",
        "add rsp, 8",
        // To where the kernel wants them.
        "pop r8",
        "pop r10",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rax",
        "mov r9, rcx",       // the token: none of these calls takes a sixth argument
        "movq xmm0, [rsp]",  // the return address, out of the child's reach
        "syscall",
        "test rax, rax",
        "jz 4f",
        "movq [rsp], xmm0",
        "push rax",
        "mov rdi, r9",
        "call {end}",
        "pop rax",
        "cmp rax, -4095",
        "jae 5f",
        "ret",
        "4: test r9b, 1",
        "jz 6f",
        // The child may have been given a stack of any alignment.
        "push rbp",
        "mov rbp, rsp",
        "and rsp, -16",
        "call {adopt}",
        "mov rsp, rbp",
        "pop rbp",
        "6: xor eax, eax",
        "ret",
        "5: mov rdi, rax",
        "jmp {failed}",
        find_all_once = sym crate::next::find_all_once,
        begin = sym begin,
        end = sym end,
        adopt = sym adopt,
        failed = sym failed,
    )
}
