//! libc's `clone()`: the child runs a function on a stack of its own.

use crate::affinity::repair::{self, Widened};
use crate::next::{self, Any, CloneStart};
use crate::state;
use libc::c_int;

/// `clone()`. The last three arguments are there or not, as the flags say; passing on what is not there does no harm.
///
/// # Safety
/// As `clone(2)`.
pub(crate) unsafe fn clone(
    start: Option<CloneStart>,
    stack: Any,
    flags: c_int,
    argument: Any,
    parent_tid: Any,
    tls: Any,
    child_tid: Any,
) -> c_int {
    let real = next::clone();
    let (true, Some(inner)) = (state::active() && state::is_owner(), start) else {
        // SAFETY: the caller's own arguments.
        return unsafe { real(start, stack, flags, argument, parent_tid, tls, child_tid) };
    };
    let is_thread = flags & libc::CLONE_THREAD != 0;
    // Before glibc 2.34 pthread_create comes by here, and its hook has done what there is to do.
    let is_pthread = is_thread && flags & libc::CLONE_SETTLS != 0 && flags & libc::CLONE_CHILD_CLEARTID != 0;
    let widened = match () {
        () if is_pthread => None,
        () if is_thread => Widened::for_thread("clone"),
        () => Widened::for_child("clone"),
    };
    let mut child = Child { start: inner, argument };
    let (start, argument) = if flags & libc::CLONE_VM == 0 {
        // The child has a copy of this frame.
        (adopted as CloneStart, (&raw mut child).cast())
    } else {
        (inner, argument)
    };
    // SAFETY: the caller's own arguments, or ours around them.
    let answer = unsafe { real(Some(start), stack, flags, argument, parent_tid, tls, child_tid) };
    drop(widened);
    answer
}

struct Child {
    start: CloneStart,
    argument: Any,
}

/// The first function of a child that has memory of its own.
unsafe extern "C" fn adopted(child: Any) -> c_int {
    repair::settle_born_wide();
    // SAFETY: the parent's frame, of which this process has its copy.
    let child = unsafe { &*child.cast::<Child>() };
    // SAFETY: what the caller of clone() asked for.
    unsafe { (child.start)(child.argument) }
}
