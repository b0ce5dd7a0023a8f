//! Nodes and pools for the tests of the pictures.

use super::chart::Chart;
use super::processes::{Process, Thread};
use knlfix_core::cpumask::CpuMask;
use knlfix_core::topology::Cpu;

/// A node whose CPUs are numbered as Linux does: first all cores' first threads, then their second ones.
pub(crate) fn node(packages: u16, tiles: u16, cores: u16, threads: u16) -> Vec<Cpu> {
    let all = packages * tiles * cores;
    let cpu = |core: u16, thread: u16| {
        let package = core / (tiles * cores);
        Cpu {
            number: thread * all + core,
            core,
            tile: core / cores,
            node: package,
            package,
            thread: thread as u8,
            kind: 0,
        }
    };
    (0..all).flat_map(|core| (0..threads).map(move |thread| cpu(core, thread))).collect()
}

/// A parent whose one thread may run everywhere, and a worker for each of `masks`, whose threads have these.
pub(crate) fn pool(cpus: Vec<Cpu>, command: &str, masks: &[Vec<CpuMask>]) -> Chart {
    let all = CpuMask::of(cpus.iter().map(|cpu| usize::from(cpu.number)));
    let process = |pid: u32, masks: &[CpuMask]| {
        let threads = (pid..).zip(masks).map(|(tid, mask)| Thread { tid, mask: mask.clone() });
        Process { pid, parent: 1, command: command.into(), threads: threads.collect() }
    };
    let workers = (1001..).zip(masks).map(|(pid, masks)| process(pid, masks));
    let processes = std::iter::once(process(1000, &[all])).chain(workers).collect::<Vec<_>>();
    Chart::new(cpus, &processes)
}

/// The masks of a team of `threads` that has the core from `cpu` on, a thread on each of its CPUs.
pub(crate) fn team(cpu: usize, threads: usize, cores: usize) -> Vec<CpuMask> {
    (0..threads).map(|thread| CpuMask::of([cpu + thread * cores])).collect()
}

pub(crate) fn knl() -> Vec<Cpu> {
    node(1, 34, 2, 4)
}

/// 68 workers that each pinned their team to the first core.
pub(crate) fn knl_stacked() -> Chart {
    pool(knl(), "python3 pinned_pool.py 68 4", &vec![team(0, 4, 68); 68])
}

/// The same with a core for each.
pub(crate) fn knl_spread() -> Chart {
    let masks = (0..68).map(|core| team(core, 4, 68)).collect::<Vec<_>>();
    pool(knl(), "python3 pinned_pool.py 68 4", &masks)
}

/// Two sockets with 16 workers, each on a whole core, and four of them on a core of which one already is.
pub(crate) fn epyc() -> Chart {
    let core = |core: usize| vec![CpuMask::of([core, core + 128]); 2];
    let masks =
        (0..12).map(|worker| core(worker * 8)).chain((0..4).map(|worker| core(worker * 32))).collect::<Vec<_>>();
    pool(node(2, 8, 8, 2), "/opt/app/bin/solve --mesh <a> & b", &masks)
}

/// 1056 CPUs, and a worker on each.
pub(crate) fn big() -> Chart {
    let masks = (0..1056).map(|cpu| vec![CpuMask::of([cpu])]).collect::<Vec<_>>();
    pool(node(4, 1, 132, 2), "python3 pool.py", &masks)
}
