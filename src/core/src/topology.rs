//! Which of the allowed CPUs share a core, a tile, a NUMA node and a package, as `/sys/devices/system` says.
//!
//! The kernel names a group by the list of its CPUs, in a file of each of its members. One member's list settles all
//! of them, so what is read are a few files for each group, not for each CPU. Lists are not to be trusted: a CPU may
//! have gone offline since, a container may hide or fake them. Whatever they say, every allowed CPU is in the topology
//! once, and its groups are one inside the other: a group that a higher one divides is two.
//!
//! A group is known by its lowest CPU while files are read, be that allowed or not. That orders groups as hwloc does.

use crate::cpumask::{CPUS, CpuMask};
use crate::files::{Files, Path, number, read_small};
use core::ffi::CStr;
use core::fmt::{self, Write};

/// One CPU that this process may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpu {
    /// The kernel's number.
    pub number: u16,
    /// The physical core, counted over the whole topology as all these are.
    pub core: u16,
    /// The cores that share the smallest cache wider than one of them: on a Xeon Phi the two of an L2, on an EPYC those
    /// of an L3. Where no cache is narrower than the NUMA node, the node.
    pub tile: u16,
    /// The NUMA node.
    pub node: u16,
    /// The package, or socket.
    pub package: u16,
    /// Which of its core's CPUs it is, in the order of their numbers. CPUs that are not allowed count.
    pub thread: u8,
    /// Cores of equal kind are interchangeable: as fast, of the same design, and of as many threads.
    pub kind: u8,
}

impl Cpu {
    fn key(&self) -> [u16; 5] {
        [self.package, self.node, self.tile, self.core, self.number]
    }
}

/// Stands for the group of a CPU of which nothing is known; all these are together.
const NONE: u16 = u16::MAX;

/// Kinds of cores that are told apart: real nodes have no more than four. From the last on, all are one.
const KINDS: usize = 32;

/// What makes cores interchangeable.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    threads: u16,
    // A bit for each of `DESIGNS`.
    designs: u8,
    // Of a thread, relative to the fastest one's 1024; 0 where the kernel doesn't say.
    capacity: u32,
}

/// Where the kernel lists the CPUs of each design, on processors with more than one.
const DESIGNS: [&CStr; 3] =
    [c"/sys/devices/cpu_core/cpus", c"/sys/devices/cpu_atom/cpus", c"/sys/devices/cpu_lowpower/cpus"];

/// The allowed CPUs in topological order: by package, node, tile, core and thread.
///
/// Cores, tiles, nodes and packages are numbered from 0 in that order, so what is not allowed leaves no gap; CPUs of a
/// group are neighbours. It is 112 kB, made to be a static: all zeros when new, and only what is used is touched.
pub struct Topology {
    // The first `count`.
    cpus: [Cpu; CPUS],
    // Behind the position, so that 0 is none.
    by_number: [u16; CPUS],
    count: usize,
    // The first `kind_count`.
    kinds: [Kind; KINDS],
    kind_count: usize,
}

impl Topology {
    /// The topology of no CPU.
    pub const fn new() -> Self {
        let cpu = Cpu { number: 0, core: 0, tile: 0, node: 0, package: 0, thread: 0, kind: 0 };
        let kind = Kind { threads: 0, designs: 0, capacity: 0 };
        Self { cpus: [cpu; CPUS], by_number: [0; CPUS], count: 0, kinds: [kind; KINDS], kind_count: 0 }
    }

    /// The topology of these CPUs: a simulated node. Their numbers of groups say what is together, and may have gaps.
    pub fn of(cpus: &[Cpu]) -> Self {
        let mut topology = Self::new();
        for (to, &cpu) in topology.cpus.iter_mut().zip(cpus) {
            *to = cpu;
            topology.count += 1;
        }
        topology.sort();
        topology.count_groups();
        topology
    }

    /// Reads the topology of the `allowed` CPUs, in place of what was read before. What can't be known is flat: a CPU
    /// is a core, and all are in one tile, node and package.
    pub fn read(&mut self, files: &impl Files, allowed: &CpuMask) {
        self.begin(allowed);
        self.read_cores(files);
        self.read_packages(files);
        self.read_nodes(files);
        self.read_tiles(files);
        self.sort();
        self.count_groups();
    }

    /// The allowed CPUs in topological order.
    pub fn cpus(&self) -> &[Cpu] {
        self.cpus.get(..self.count).unwrap_or(&[])
    }

    /// Where the CPU of this number is in [`Self::cpus`]; `None` if it isn't allowed.
    pub fn position(&self, number: usize) -> Option<usize> {
        usize::from(*self.by_number.get(number)?).checked_sub(1)
    }

    /// How many cores have an allowed CPU.
    pub fn cores(&self) -> usize {
        self.count_of(|cpu| cpu.core)
    }

    /// How many tiles have one.
    pub fn tiles(&self) -> usize {
        self.count_of(|cpu| cpu.tile)
    }

    /// How many NUMA nodes have one.
    pub fn nodes(&self) -> usize {
        self.count_of(|cpu| cpu.node)
    }

    /// How many packages have one.
    pub fn packages(&self) -> usize {
        self.count_of(|cpu| cpu.package)
    }

    /// The allowed CPUs of a core; empty if there is none of this number.
    pub fn core(&self, core: u16) -> &[Cpu] {
        self.group(core, |cpu| cpu.core)
    }

    /// The allowed CPUs of a tile.
    pub fn tile(&self, tile: u16) -> &[Cpu] {
        self.group(tile, |cpu| cpu.tile)
    }

    /// The allowed CPUs of a NUMA node.
    pub fn node(&self, node: u16) -> &[Cpu] {
        self.group(node, |cpu| cpu.node)
    }

    /// The allowed CPUs of a package.
    pub fn package(&self, package: u16) -> &[Cpu] {
        self.group(package, |cpu| cpu.package)
    }

    fn count_of(&self, group: impl Fn(&Cpu) -> u16) -> usize {
        self.cpus().last().map_or(0, |cpu| usize::from(group(cpu)) + 1)
    }

    fn group(&self, number: u16, group: impl Fn(&Cpu) -> u16) -> &[Cpu] {
        let cpus = self.cpus();
        let begin = cpus.partition_point(|cpu| group(cpu) < number);
        let end = cpus.partition_point(|cpu| group(cpu) <= number);
        cpus.get(begin..end).unwrap_or(&[])
    }

    /// Takes the allowed CPUs in the order of their numbers, in no group yet.
    fn begin(&mut self, allowed: &CpuMask) {
        for cpu in self.cpus.iter().take(self.count) {
            if let Some(position) = self.by_number.get_mut(usize::from(cpu.number)) {
                *position = 0;
            }
        }
        (self.count, self.kind_count) = (0, 0);
        for (cpu, number) in self.cpus.iter_mut().zip(allowed.iter()) {
            let number = number as u16;
            *cpu = Cpu { number, core: NONE, tile: NONE, node: NONE, package: NONE, thread: 0, kind: 0 };
            self.count += 1;
        }
        self.index();
    }

    /// Notes where each CPU is.
    fn index(&mut self) {
        for (behind, cpu) in (1..).zip(self.cpus.iter().take(self.count)) {
            if let Some(position) = self.by_number.get_mut(usize::from(cpu.number)) {
                *position = behind;
            }
        }
    }

    fn of_number(&mut self, number: usize) -> Option<&mut Cpu> {
        let position = self.position(number)?;
        self.cpus.get_mut(position)
    }

    /// Passes each group that a file of `/sys/devices/system/cpu/cpu*/topology` lists. It has one of two names: the
    /// newer one is from Linux 5.3 on.
    fn each_group(&mut self, files: &impl Files, names: [&str; 2], see: &mut dyn FnMut(&mut Self, &CpuMask)) {
        let (mut grouped, mut list) = (CpuMask::EMPTY, CpuMask::EMPTY);
        for position in 0..self.count {
            let Some(cpu) = self.cpus.get(position).map(|cpu| usize::from(cpu.number)) else {
                return;
            };
            let is_listed = !grouped.contains(cpu)
                && names.iter().any(|name| {
                    read_list_at(files, format_args!("cpu/cpu{cpu}/topology/{name}"), &mut list).is_some()
                        && list.contains(cpu)
                        && list.and(&grouped).is_empty()
                });
            if is_listed {
                grouped = grouped.or(&list);
                see(self, &list);
            }
        }
    }

    fn read_cores(&mut self, files: &impl Files) {
        let mut list = CpuMask::EMPTY;
        for (bit, path) in DESIGNS.into_iter().enumerate() {
            if read_list(files, path, &mut list).is_some() {
                for number in list.iter() {
                    if let Some(cpu) = self.of_number(number) {
                        cpu.kind |= 1 << bit;
                    }
                }
            }
        }
        let mut capacities = Capacities { files, are_there: true };
        self.each_group(files, ["core_cpus_list", "thread_siblings_list"], &mut |topology, core| {
            topology.add_core(core, &mut capacities);
        });
        for position in 0..self.count {
            if let Some(cpu) = self.cpus.get(position).filter(|cpu| cpu.core == NONE) {
                let alone = CpuMask::of([usize::from(cpu.number)]);
                self.add_core(&alone, &mut capacities);
            }
        }
    }

    fn add_core(&mut self, core: &CpuMask, capacities: &mut Capacities<'_, impl Files>) {
        let mut kind = None;
        let first = lowest(core);
        for (thread, number) in core.iter().enumerate() {
            let Some(&mut Cpu { kind: designs, .. }) = self.of_number(number) else {
                continue;
            };
            let kind = *kind.get_or_insert_with(|| {
                let capacity = capacities.of(number);
                self.kind(Kind { threads: core.count() as u16, designs, capacity })
            });
            if let Some(cpu) = self.of_number(number) {
                (cpu.core, cpu.thread, cpu.kind) = (first, thread.min(usize::from(u8::MAX)) as u8, kind);
            }
        }
    }

    /// The number of a kind.
    fn kind(&mut self, kind: Kind) -> u8 {
        let known = self.kinds.iter().take(self.kind_count).position(|&other| other == kind);
        let number = known.unwrap_or(self.kind_count).min(KINDS - 1);
        if let Some(to) = self.kinds.get_mut(number)
            && number == self.kind_count
        {
            *to = kind;
            self.kind_count += 1;
        }
        number as u8
    }

    fn read_packages(&mut self, files: &impl Files) {
        self.each_group(files, ["package_cpus_list", "core_siblings_list"], &mut |topology, package| {
            for number in package.iter() {
                if let Some(cpu) = topology.of_number(number) {
                    cpu.package = lowest(package);
                }
            }
        });
    }

    fn read_nodes(&mut self, files: &impl Files) {
        let (mut nodes, mut list) = (CpuMask::EMPTY, CpuMask::EMPTY);
        // Nodes of memory alone, as a Xeon Phi's MCDRAM is, are not in the first of these.
        let has_nodes = ["has_cpu", "online", "possible"]
            .iter()
            .any(|name| read_list_at(files, format_args!("node/{name}"), &mut nodes).is_some());
        if !has_nodes {
            return;
        }
        let mut left = self.count;
        for node in nodes.iter() {
            if left == 0 {
                return;
            }
            if read_list_at(files, format_args!("node/node{node}/cpulist"), &mut list).is_none() {
                continue;
            }
            for number in list.iter() {
                // With numa=fake=4, each CPU is in all four nodes.
                if let Some(cpu) = self.of_number(number).filter(|cpu| cpu.node == NONE) {
                    cpu.node = lowest(&list);
                    left -= 1;
                }
            }
        }
    }

    /// Cores of a kind have their tile's cache in the same place, so that is looked for once. On hybrid processors one
    /// kind shares an L2 where another has only the L3.
    fn read_tiles(&mut self, files: &impl Files) {
        let mut list = CpuMask::EMPTY;
        for kind in 0..self.kind_count {
            let Some(index) = self.tile_cache(files, kind, &mut list) else {
                continue;
            };
            for position in 0..self.count {
                let Some(&cpu) = self.cpus.get(position) else {
                    return;
                };
                if usize::from(cpu.kind) != kind || cpu.tile != NONE {
                    continue;
                }
                let number = usize::from(cpu.number);
                if read_cache(files, number, index, &mut list).is_none() {
                    continue;
                }
                for number in list.iter() {
                    let cpu = self.of_number(number);
                    if let Some(cpu) = cpu.filter(|cpu| usize::from(cpu.kind) == kind && cpu.tile == NONE) {
                        cpu.tile = lowest(&list);
                    }
                }
            }
        }
    }

    /// The index of the smallest cache that cores of a kind share. Two of them are asked: one may have lost its
    /// neighbours, as those are offline.
    fn tile_cache(&self, files: &impl Files, kind: usize, list: &mut CpuMask) -> Option<usize> {
        let threads = usize::from(self.kinds.get(kind)?.threads);
        let mut of_kind = self.cpus().iter().filter(|cpu| usize::from(cpu.kind) == kind);
        let first = of_kind.next();
        let mut smallest = None;
        for cpu in first.into_iter().chain(of_kind.next_back()) {
            let number = usize::from(cpu.number);
            for index in 0..CACHES {
                if read_cache(files, number, index, list).is_none() {
                    break;
                }
                let size = list.count();
                if size > threads
                    && smallest.is_none_or(|(least, _)| size < least)
                    && !is_for_instructions(files, number, index)
                {
                    smallest = Some((size, index));
                }
            }
        }
        smallest.map(|(_, index)| index)
    }

    /// Shell's: there are at most 8192, mostly in order, and it needs no memory and little code.
    fn sort(&mut self) {
        let mut gap = self.count;
        while gap > 1 {
            gap = (gap * 4 / 9).max(1);
            for from in gap..self.count {
                let Some(&cpu) = self.cpus.get(from) else {
                    return;
                };
                let mut to = from;
                while let Some(before) = to.checked_sub(gap)
                    && let Some(&other) = self.cpus.get(before)
                    && other.key() > cpu.key()
                {
                    self.put(to, other);
                    to = before;
                }
                self.put(to, cpu);
            }
        }
        self.index();
    }

    fn put(&mut self, position: usize, cpu: Cpu) {
        if let Some(to) = self.cpus.get_mut(position) {
            *to = cpu;
        }
    }

    /// Numbers the groups in the order in which they come now. A new group begins one on each level below.
    fn count_groups(&mut self) {
        let mut before: Option<(Cpu, Cpu)> = None;
        for cpu in self.cpus.iter_mut().take(self.count) {
            let read = *cpu;
            (cpu.core, cpu.tile, cpu.node, cpu.package) = (0, 0, 0, 0);
            if let Some((last_read, last)) = before {
                let package = last_read.package != read.package;
                let node = package || last_read.node != read.node;
                let tile = node || last_read.tile != read.tile;
                let core = tile || last_read.core != read.core;
                cpu.package = last.package + u16::from(package);
                cpu.node = last.node + u16::from(node);
                cpu.tile = last.tile + u16::from(tile);
                cpu.core = last.core + u16::from(core);
            }
            before = Some((read, *cpu));
        }
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

/// The lowest CPU of a group.
fn lowest(group: &CpuMask) -> u16 {
    group.iter().next().map_or(NONE, |number| number as u16)
}

/// How fast CPUs are; where one has no such file, others have none.
struct Capacities<'a, F> {
    files: &'a F,
    are_there: bool,
}

impl<F: Files> Capacities<'_, F> {
    fn of(&mut self, cpu: usize) -> u32 {
        if !self.are_there {
            return 0;
        }
        let mut buffer = [0; 32];
        let capacity = path_to(format_args!("cpu/cpu{cpu}/cpu_capacity"))
            .and_then(|path| number(read_small(self.files, path.as_c_str(), &mut buffer)?));
        self.are_there = capacity.is_some();
        capacity.unwrap_or(0) as u32
    }
}

/// Caches that a CPU may have: the kernel shows four or five.
const CACHES: usize = 8;

/// The CPUs that share a cache of a CPU; `None` if it has no such cache.
fn read_cache(files: &impl Files, cpu: usize, index: usize, list: &mut CpuMask) -> Option<()> {
    read_list_at(files, format_args!("cpu/cpu{cpu}/cache/index{index}/shared_cpu_list"), list)?;
    list.contains(cpu).then_some(())
}

fn is_for_instructions(files: &impl Files, cpu: usize, index: usize) -> bool {
    path_to(format_args!("cpu/cpu{cpu}/cache/index{index}/type"))
        .is_some_and(|path| read_small(files, path.as_c_str(), &mut [0; 32]) == Some(b"Instruction"))
}

/// A path in `/sys/devices/system`.
fn path_to(file: fmt::Arguments<'_>) -> Option<Path> {
    let mut path = Path::new();
    path.push(b"/sys/devices/system/")?;
    path.write_fmt(file).ok()?;
    Some(path)
}

fn read_list_at(files: &impl Files, file: fmt::Arguments<'_>, list: &mut CpuMask) -> Option<()> {
    read_list(files, path_to(file)?.as_c_str(), list)
}

/// How much of a list is read: all 8192 CPUs, one by one, take 40 kB.
const LONGEST_LIST: u64 = 64 * 1024;

/// Reads a list such as `0,68,136-137`, of any length. `None` if it is none, or lacks its newline: kernels before 5.16
/// cut it to a page, maybe within a number. Numbers from 8192 on are left out.
fn read_list(files: &impl Files, path: &CStr, list: &mut CpuMask) -> Option<()> {
    *list = CpuMask::EMPTY;
    let file = files.open(path)?;
    let mut buffer = [0; 256];
    let mut offset = 0;
    // The numbers before and behind a dash.
    let (mut first, mut last) = (None, None);
    while offset < LONGEST_LIST {
        let read = files.read(&file, offset, &mut buffer).filter(|&read| read > 0)?;
        for &byte in buffer.get(..read)? {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    last = Some(last.unwrap_or(0_u64).saturating_mul(10).saturating_add(digit));
                }
                b'-' if first.is_none() && last.is_some() => first = last.take(),
                // The list of no CPU.
                b'\n' if offset == 0 && buffer.first() == Some(&b'\n') => return Some(()),
                b',' | b'\n' => {
                    let last = last.take()?;
                    let first = first.take().unwrap_or(last);
                    if first > last {
                        return None;
                    }
                    for number in first..=last.min(CPUS as u64 - 1) {
                        list.insert(number as usize);
                    }
                    if byte == b'\n' {
                        return Some(());
                    }
                }
                _ => return None,
            }
        }
        offset += read as u64;
    }
    None
}
