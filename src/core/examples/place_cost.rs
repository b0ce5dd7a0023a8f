//! What choosing a place costs, in microseconds, on 68 cores of 4 threads with 0 to 272 CPUs claimed by others.
//!
//!     cargo run --release -p knlfix-core --example place_cost

use knlfix_core::cpumask::{CpuMask, SparseMask};
use knlfix_core::place::{Level, Pinned, for_worker, plan};
use knlfix_core::topology::{Cpu, Topology};
use std::hint::black_box;
use std::time::Instant;

const CORES: u16 = 68;
const THREADS: u16 = 4;
const ROUNDS: usize = 21;

/// A team's masks, by the member's number: core and threads.
type Ask = fn(u16) -> (u16, std::ops::Range<u16>);

const TEAMS: [(&str, u16, Ask); 7] = [
    ("1 thread", 1, |_| (0, 0..1)),
    ("4 on a core", 4, |index| (0, index..index + 1)),
    ("4 on 4 cores", 4, |index| (index, 0..1)),
    ("4 spread", 4, |index| (index * 17, 0..1)),
    ("4 whole cores", 4, |index| (index, 0..THREADS)),
    ("4 half cores", 4, |index| (index, 0..2)),
    ("64 on 64 cores", 64, |index| (index, 0..1)),
];

fn main() {
    let topology = topology();
    let by_core: Vec<u16> = (0..CORES * THREADS).map(|at| at % THREADS * CORES + at / THREADS).collect();
    print!("{:>8}", "claims");
    TEAMS.iter().for_each(|(name, ..)| print!("{name:>16}"));
    println!("{:>16}{:>16}", "core worker", "spread worker");
    for claims in [0, 34, 68, 136, 204, 268, 271, 272] {
        // Cores fill up evenly, and in the order of the worst case: the last one is the one that is found.
        let mut load = vec![0; by_core.len()];
        for cpu in 0..claims {
            load[usize::from(cpu % CORES * THREADS + cpu / CORES)] = 1;
        }
        print!("{claims:>8}");
        for (_, size, ask) in TEAMS {
            let team: Vec<_> = (0..size).map(|index| Pinned::new(&topology, mask(ask(index)))).collect();
            let mut teams = vec![team.clone(); 200];
            print!(
                "{:>16.2}",
                median(|| {
                    teams.iter_mut().for_each(|scratch| scratch.clone_from(&team));
                    per_call(&mut teams, |team| _ = black_box(plan(&topology, &load, team, false)))
                })
            );
        }
        for level in [Level::Core, Level::Spread] {
            let mut calls = [(); 200];
            print!(
                "{:>16.2}",
                median(|| per_call(&mut calls, |()| _ = black_box(for_worker(&topology, &load, level, 0))))
            );
        }
        println!();
    }
}

fn topology() -> Topology {
    let all = (0..CORES).flat_map(|core| (0..THREADS).map(move |thread| (core, thread)));
    let cpus: Vec<_> = all
        .map(|(core, thread)| Cpu {
            number: core + CORES * thread,
            core,
            tile: core / 2,
            node: 0,
            package: 0,
            thread: thread as u8,
            kind: 0,
        })
        .collect();
    Topology::of(&cpus)
}

fn mask((core, threads): (u16, std::ops::Range<u16>)) -> SparseMask {
    CpuMask::of(threads.map(|thread| usize::from(core + CORES * thread))).to_sparse().expect("few CPUs")
}

fn per_call<T>(subjects: &mut [T], mut call: impl FnMut(&mut T)) -> f64 {
    let begin = Instant::now();
    subjects.iter_mut().for_each(&mut call);
    begin.elapsed().as_secs_f64() * 1e6 / subjects.len() as f64
}

fn median(mut measure: impl FnMut() -> f64) -> f64 {
    let mut figures: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(ROUNDS / 2).copied().unwrap_or(f64::NAN)
}
