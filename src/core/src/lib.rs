//! The decisions of libknlfix, without a single hook.
//!
//! Everything here runs inside foreign processes, also between `fork` and `exec` and in signal handlers. So nothing
//! allocates, locks, blocks or calls libc; all state is plain memory with atomics, and the hooks in `knlfix-preload`
//! pass in what the kernel said. That also makes every decision testable without a preload.
//!
//! * [`cpumask`]: sets of CPUs, their textual forms and their algebra
//! * [`pins`]: which thread carries a runtime's pin, and the user mask under it
//! * [`budget`], [`cgroup`]: how many compute threads a domain may run
//! * [`ledger`]: the processes of a domain, and the compute threads that each runs
//! * [`share`]: how many of the budget's threads a process may take
//! * [`config`]: the one table of environment variables
//! * [`files`], [`process`]: the kernel's small text files, and processes as they show them
//! * [`record`]: what a process writes down of itself for the report
//! * [`topology`]: which CPUs share a core, a tile, a NUMA node and a package
//! * [`text`]: formatting into a fixed buffer
#![cfg_attr(not(test), no_std)]

mod atomics;
pub mod budget;
pub mod cgroup;
pub mod config;
pub mod cpumask;
pub mod files;
pub mod ledger;
pub mod pins;
pub mod place;
pub mod process;
pub mod record;
pub mod share;
pub mod text;
pub mod topology;
