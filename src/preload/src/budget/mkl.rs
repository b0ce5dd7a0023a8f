//! The governor of MKL's OpenMP layers (libmkl_intel_thread, libmkl_gnu_thread), through whatever the program calls
//! them: libmkl_rt, numpy, ctypes.
//!
//! All of MKL asks one function how many threads it may use, `mkl_serv_domain_get_max_threads(domain)`, at the beginning
//! of each call that may run parallel, LAPACK hundreds of times. In BLAS, LAPACK, FFT and VML each answer holds for what
//! follows it, so they are told the share of the moment, and at 1 they run on the caller alone, without a region. It is
//! at most what the user set (`MKL_NUM_THREADS`, `mkl_set_num_threads`, `omp_set_num_threads`).
//!
//! PARDISO and sparse BLAS ask as well, as a domain of their own or as none (`mkl_serv_get_max_threads`), but they keep
//! tables by the number of threads from one phase to the next: told different numbers they hang, or write outside their
//! arrays. They hear what they always would. So does a program that asks by `mkl_domain_get_max_threads`: its call comes
//! to the same function, but from its own code.
//!
//! The regions that follow have the number that MKL made of the answer, and the governor of the runtime counts them.

use super::resolve::{self, Sites};
use super::{Governor, is_on};
use crate::dso::Dso;
use crate::hooks::with_stack;
use crate::observe::Source;
use crate::state;
use core::ffi::c_int;

/// Whether a domain's answers may differ: `MKL_DOMAIN_ALL` (transpositions), `_BLAS`, `_FFT`, `_VML` and `_LAPACK` of
/// `<mkl_types.h>`. `_PARDISO` is 4, and `mkl_serv_get_max_threads` passes -1.
const fn is_governed_domain(domain: c_int) -> bool {
    matches!(domain, 0..=3 | 5)
}

with_stack!(mkl_serv_domain_get_max_threads, "rsi", on_get_max_threads);

unsafe extern "C" fn on_get_max_threads(domain: c_int, stack: *const usize) -> c_int {
    static SITES: Sites<1024, 2> = Sites::new();
    // SAFETY: the hook's assembly passes the stack pointer it was entered with.
    let site = unsafe { *stack };
    let [function, is_governed] = SITES.get(site, || find(site));
    if function == 0 {
        return 1;
    }
    // SAFETY: the function of this name, which MKL's libraries call with a domain.
    let max = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(c_int) -> c_int>(function)(domain) };
    if max <= 1 || is_governed == 0 || !is_governed_domain(domain) {
        return max;
    }
    let share = super::share(max as u32);
    if share < max as u32 {
        // A call on one thread runs no region, but we are active.
        super::leave(super::enter_fixed(Source::NONE, share));
    }
    share as c_int
}

#[cold]
#[inline(never)]
fn find(site: usize) -> [usize; 2] {
    let function = resolve::real(c"mkl_serv_domain_get_max_threads", site).unwrap_or(0);
    // TBB's layer asks TBB, which has a governor of its own. Whoever wants the same result bit for bit in every run needs
    // the same number of threads in every run.
    let layer = Dso::around(function);
    let is_openmp = |dso: &Dso| dso.object.as_ref().is_some_and(|object| object.imports(&[c"omp_get_max_threads"]));
    let is_mkls = |dso: &Dso| {
        let is_layers = layer.as_ref().is_some_and(|layer| layer.dynamic == dso.dynamic);
        is_layers || dso.name.as_bytes().starts_with(b"libmkl_core")
    };
    let is_reproducible = state::environment().any(|line| line.starts_with(b"MKL_CBWR="));
    let is_governed = is_on(Governor::Mkl)
        && !is_reproducible
        && layer.as_ref().is_some_and(is_openmp)
        && Dso::around(site).as_ref().is_some_and(is_mkls);
    [function, usize::from(is_governed)]
}

/// Whether the code at `address` is one of MKL's libraries.
pub(super) fn is_layer(address: usize) -> bool {
    Dso::around(address).is_some_and(|dso| dso.name.as_bytes().starts_with(b"libmkl_"))
}
