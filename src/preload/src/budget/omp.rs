//! The questions that every OpenMP runtime answers, in C and in Fortran: how many threads a region would have, and how
//! many CPUs there are.
//!
//! The answers never change, as programs size their arrays by them. A process that was told a
//! [start share](super::start_share) hears of no more CPUs than that, and LLVM's runtimes
//! [have it as their default](Runtime::tell_start_share) before they answer for the first time.

use super::llvm::Runtime;
use super::resolve::{self, Sites};
use super::start_share;
use crate::hooks::with_stack;
use core::ffi::{CStr, c_int};

/// The questions, by number.
const QUESTIONS: [&CStr; 6] = [
    c"omp_get_max_threads",
    c"omp_get_max_threads_",
    c"omp_get_num_procs",
    c"omp_get_num_procs_",
    c"omp_set_num_threads",
    c"omp_set_num_threads_",
];

with_stack!(omp_get_max_threads, "rdi", on_get_max_threads);
with_stack!(omp_get_max_threads_, "rdi", on_get_max_threads_);
with_stack!(omp_get_num_procs, "rdi", on_get_num_procs);
with_stack!(omp_get_num_procs_, "rdi", on_get_num_procs_);
with_stack!(omp_set_num_threads, "rsi", on_set_num_threads);
with_stack!(omp_set_num_threads_, "rsi", on_set_num_threads_);

unsafe extern "C" fn on_get_max_threads(stack: *const usize) -> c_int {
    // SAFETY: the hooks' assembly passes the stack pointer they were entered with.
    unsafe { Question::new(0, stack) }.answer()
}

unsafe extern "C" fn on_get_max_threads_(stack: *const usize) -> c_int {
    // SAFETY: as above.
    unsafe { Question::new(1, stack) }.answer()
}

unsafe extern "C" fn on_get_num_procs(stack: *const usize) -> c_int {
    // SAFETY: as above.
    num_procs(unsafe { Question::new(2, stack) })
}

unsafe extern "C" fn on_get_num_procs_(stack: *const usize) -> c_int {
    // SAFETY: as above.
    num_procs(unsafe { Question::new(3, stack) })
}

/// The runtime has to hear of its start share before the program sets a number, which is then the program's.
unsafe extern "C" fn on_set_num_threads(count: usize, stack: *const usize) {
    // SAFETY: as above.
    unsafe { Question::new(4, stack) }.pass_on(count);
}

/// Fortran's, which passes the address of the number.
unsafe extern "C" fn on_set_num_threads_(count: usize, stack: *const usize) {
    // SAFETY: as above.
    unsafe { Question::new(5, stack) }.pass_on(count);
}

fn num_procs(question: Question) -> c_int {
    let count = question.answer();
    start_share().map_or(count, |share| count.min(share as c_int))
}

/// A call of one of these functions.
struct Question {
    /// The definition that the call means; 0 if there is none.
    function: usize,
}

impl Question {
    /// The call of the `which`th of [`QUESTIONS`] that was entered with this stack pointer.
    ///
    /// # Safety
    /// `stack` points to the hook's return address.
    #[inline]
    unsafe fn new(which: usize, stack: *const usize) -> Self {
        static SITES: Sites<256, 2> = Sites::new();
        // SAFETY: the caller's promise.
        let site = unsafe { *stack };
        // One place may call several functions, by their addresses: libffi does.
        let [function, runtime] = SITES.get(site | which << 48, || {
            let name = QUESTIONS.get(which).copied().unwrap_or(c"");
            let function = resolve::real(name, site).unwrap_or(0);
            [function, Runtime::around(function).map_or(0, Runtime::pack)]
        });
        if let Some(runtime) = Runtime::unpack(runtime) {
            runtime.tell_start_share();
        }
        Self { function }
    }

    /// What the runtime answers; without one, there is one thread.
    fn answer(&self) -> c_int {
        if self.function == 0 {
            return 1;
        }
        // SAFETY: `int omp_get_...(void)` of the object that the call means.
        unsafe { core::mem::transmute::<usize, unsafe extern "C" fn() -> c_int>(self.function)() }
    }

    fn pass_on(&self, argument: usize) {
        if self.function != 0 {
            // SAFETY: `void omp_set_num_threads(int)` of the object that the call means, or Fortran's with an address.
            unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize)>(self.function)(argument) }
        }
    }
}
