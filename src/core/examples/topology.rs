//! The topology of the CPUs that this process may use, a line for each: number, package, node, tile, core, thread, kind.
//! Then how many files were opened for it, and how long that took.
//!
//!     taskset -c 0-3 cargo run --release -p knlfix-core --example topology

use knlfix_core::cpumask::{BYTES, CpuMask};
use knlfix_core::files::Files;
use knlfix_core::topology::Topology;
use std::cell::Cell;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::unix::{ffi::OsStrExt, fs::FileExt};
use std::time::Instant;

/// The files of this node.
struct Node {
    opened: Cell<usize>,
}

impl Files for Node {
    type File = File;

    fn open(&self, path: &CStr) -> Option<File> {
        let file = File::open(OsStr::from_bytes(path.to_bytes())).ok()?;
        self.opened.set(self.opened.get() + 1);
        Some(file)
    }

    fn read(&self, file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        file.read_at(buffer, offset).ok()
    }
}

fn main() {
    let mut allowed = CpuMask::EMPTY;
    // SAFETY: it is BYTES long, and any bytes are a mask.
    let written = unsafe { libc::sched_getaffinity(0, BYTES, allowed.as_mut_ptr().cast()) };
    assert_eq!(written, 0, "sched_getaffinity: {}", std::io::Error::last_os_error());

    let files = Node { opened: Cell::new(0) };
    let mut topology = Box::new(Topology::new());
    let begin = Instant::now();
    topology.read(&files, &allowed);
    let took = begin.elapsed();
    for cpu in topology.cpus() {
        println!("{} {} {} {} {} {} {}", cpu.number, cpu.package, cpu.node, cpu.tile, cpu.core, cpu.thread, cpu.kind);
    }
    println!("# {} files, {} us", files.opened.get(), took.as_micros());
}
