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
        let mut system = System { files, path: Path::new(), list: CpuMask::EMPTY, has_capacities: true };
        self.begin(allowed);
        self.read_cores(&mut system);
        self.each_group(&mut system, ["package_cpus_list", "core_siblings_list"], Self::add_package);
        self.read_nodes(&mut system);
        self.read_tiles(&mut system);
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

    /// Adds each group that a file of `/sys/devices/system/cpu/cpu*/topology` lists. It has one of two names: the newer
    /// one is from Linux 5.3 on.
    fn each_group<F: Files>(
        &mut self,
        system: &mut System<'_, F>,
        names: [&str; 2],
        add: impl Fn(&mut Self, &mut System<'_, F>),
    ) {
        let mut grouped = CpuMask::EMPTY;
        for position in 0..self.count {
            let Some(cpu) = self.cpus.get(position).map(|cpu| usize::from(cpu.number)) else {
                return;
            };
            let is_listed = !grouped.contains(cpu)
                && names.iter().any(|name| {
                    system.read(format_args!("cpu/cpu{cpu}/topology/{name}")).is_some()
                        && system.list.contains(cpu)
                        && !system.list.iter().any(|other| grouped.contains(other))
                });
            if is_listed {
                for other in system.list.iter() {
                    grouped.insert(other);
                }
                add(self, system);
            }
        }
    }

    fn read_cores(&mut self, system: &mut System<'_, impl Files>) {
        for (bit, path) in DESIGNS.into_iter().enumerate() {
            if read_list(system.files, path, &mut system.list).is_some() {
                for number in system.list.iter() {
                    if let Some(cpu) = self.of_number(number) {
                        cpu.kind |= 1 << bit;
                    }
                }
            }
        }
        self.each_group(system, ["core_cpus_list", "thread_siblings_list"], Self::add_core);
        for position in 0..self.count {
            if let Some(cpu) = self.cpus.get(position).filter(|cpu| cpu.core == NONE) {
                system.list = CpuMask::EMPTY;
                system.list.insert(usize::from(cpu.number));
                self.add_core(system);
            }
        }
    }

    /// Adds the core whose CPUs were listed.
    fn add_core(&mut self, system: &mut System<'_, impl Files>) {
        let Some(&cpu) = system.list.iter().find_map(|number| self.cpus.get(self.position(number)?)) else {
            return;
        };
        let (threads, capacity) = (system.list.count() as u16, system.capacity(usize::from(cpu.number)));
        let kind = self.kind(Kind { threads, designs: cpu.kind, capacity });
        let core = system.lowest();
        for (thread, number) in system.list.iter().enumerate() {
            if let Some(cpu) = self.of_number(number) {
                (cpu.core, cpu.thread, cpu.kind) = (core, thread.min(usize::from(u8::MAX)) as u8, kind);
            }
        }
    }

    fn add_package(&mut self, system: &mut System<'_, impl Files>) {
        let package = system.lowest();
        for number in system.list.iter() {
            if let Some(cpu) = self.of_number(number) {
                cpu.package = package;
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

    fn read_nodes(&mut self, system: &mut System<'_, impl Files>) {
        // Nodes of memory alone, as a Xeon Phi's MCDRAM is, are not in the first of these.
        if !["has_cpu", "online", "possible"].iter().any(|name| system.read(format_args!("node/{name}")).is_some()) {
            return;
        }
        let nodes = system.list.clone();
        let mut left = self.count;
        for node in nodes.iter() {
            if left == 0 {
                return;
            }
            if system.read(format_args!("node/node{node}/cpulist")).is_none() {
                continue;
            }
            let lowest = system.lowest();
            for number in system.list.iter() {
                // With numa=fake=4, each CPU is in all four nodes.
                if let Some(cpu) = self.of_number(number).filter(|cpu| cpu.node == NONE) {
                    cpu.node = lowest;
                    left -= 1;
                }
            }
        }
    }

    /// Cores of a kind have their tile's cache in the same place, so that is looked for once. On hybrid processors one
    /// kind shares an L2 where another has only the L3.
    fn read_tiles(&mut self, system: &mut System<'_, impl Files>) {
        for kind in 0..self.kind_count {
            let Some(index) = self.tile_cache(system, kind) else {
                continue;
            };
            for position in 0..self.count {
                let Some(&cpu) = self.cpus.get(position) else {
                    return;
                };
                if usize::from(cpu.kind) != kind
                    || cpu.tile != NONE
                    || system.read_cache(usize::from(cpu.number), index).is_none()
                {
                    continue;
                }
                // An L2 may begin with the same CPU as the L3 that is another kind's tile.
                let tile = system.lowest() * CACHES + index;
                for number in system.list.iter() {
                    let cpu = self.of_number(number);
                    if let Some(cpu) = cpu.filter(|cpu| usize::from(cpu.kind) == kind && cpu.tile == NONE) {
                        cpu.tile = tile;
                    }
                }
            }
        }
    }

    /// The index of the smallest cache that cores of a kind share. Two of them are asked: one may have lost its
    /// neighbours, as those are offline.
    fn tile_cache(&self, system: &mut System<'_, impl Files>, kind: usize) -> Option<u16> {
        let threads = usize::from(self.kinds.get(kind)?.threads);
        let mut of_kind = self.cpus().iter().filter(|cpu| usize::from(cpu.kind) == kind);
        let first = of_kind.next();
        let mut smallest = None;
        for cpu in first.into_iter().chain(of_kind.next_back()) {
            let number = usize::from(cpu.number);
            for index in 0..CACHES {
                if system.read_cache(number, index).is_none() {
                    break;
                }
                let size = system.list.count();
                if size > threads
                    && smallest.is_none_or(|(least, _)| size < least)
                    && !system.is_for_instructions(number, index)
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

/// Caches that a CPU may have: the kernel shows four or five. With a CPU's number they fit 16 bits, `NONE` left out.
const CACHES: u16 = 7;

/// `/sys/devices/system`, and room for what is read there, made once: a caller may have no more than 16 kB of stack.
struct System<'a, F> {
    files: &'a F,
    path: Path,
    // The list read last.
    list: CpuMask,
    // Where one CPU has no such file, others have none.
    has_capacities: bool,
}

impl<F: Files> System<'_, F> {
    fn go_to(&mut self, file: fmt::Arguments<'_>) -> Option<&CStr> {
        self.path.cut(0);
        self.path.push(b"/sys/devices/system/")?;
        self.path.write_fmt(file).ok()?;
        Some(self.path.as_c_str())
    }

    /// Reads a list of CPUs, or of NUMA nodes.
    fn read(&mut self, file: fmt::Arguments<'_>) -> Option<()> {
        self.go_to(file)?;
        read_list(self.files, self.path.as_c_str(), &mut self.list)
    }

    /// Stands for the group that was listed.
    fn lowest(&self) -> u16 {
        self.list.iter().next().map_or(NONE, |number| number as u16)
    }

    /// Reads the CPUs that share a cache of this one; `None` if it has no such cache.
    fn read_cache(&mut self, cpu: usize, index: u16) -> Option<()> {
        self.read(format_args!("cpu/cpu{cpu}/cache/index{index}/shared_cpu_list"))?;
        self.list.contains(cpu).then_some(())
    }

    fn is_for_instructions(&mut self, cpu: usize, index: u16) -> bool {
        let files = self.files;
        self.go_to(format_args!("cpu/cpu{cpu}/cache/index{index}/type"))
            .is_some_and(|path| read_small(files, path, &mut [0; 32]) == Some(b"Instruction"))
    }

    /// How fast a CPU is; 0 if that isn't said.
    fn capacity(&mut self, cpu: usize) -> u32 {
        if !self.has_capacities {
            return 0;
        }
        let (files, mut buffer) = (self.files, [0; 32]);
        let path = self.go_to(format_args!("cpu/cpu{cpu}/cpu_capacity"));
        let capacity = path.and_then(|path| number(read_small(files, path, &mut buffer)?));
        self.has_capacities = capacity.is_some();
        capacity.unwrap_or(0) as u32
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{Memory, Tree};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    const CPU: &str = "/sys/devices/system/cpu";
    const NODE: &str = "/sys/devices/system/node";

    fn read(files: &impl Files, allowed: impl IntoIterator<Item = usize>) -> Box<Topology> {
        let mut topology = Box::new(Topology::new());
        topology.read(files, &CpuMask::of(allowed));
        topology
    }

    fn list(cpus: impl IntoIterator<Item = usize>) -> String {
        let mask = CpuMask::of(cpus);
        if mask.is_empty() { "\n".into() } else { format!("{mask}\n") }
    }

    /// A node for tests: what of it is online, and the CPUs with which each CPU shares its core, package and caches.
    struct Machine {
        files: Memory,
        online: Vec<usize>,
    }

    impl Machine {
        fn new(online: impl IntoIterator<Item = usize>) -> Self {
            Self { files: Memory { piece: 4096, ..Memory::default() }, online: online.into_iter().collect() }
        }

        fn with(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
            self.files.files.insert(path.into(), text.into());
            self
        }

        /// The same file of each CPU, which lists the online ones that `group` says the same of.
        fn groups<K: Ord>(mut self, file: &str, group: impl Fn(usize) -> K) -> Self {
            let mut groups: BTreeMap<K, Vec<usize>> = BTreeMap::new();
            for &cpu in &self.online {
                groups.entry(group(cpu)).or_default().push(cpu);
            }
            for cpus in groups.values() {
                for cpu in cpus {
                    let path = format!("{CPU}/cpu{cpu}/{file}");
                    self = self.with(&path, list(cpus.iter().copied()));
                }
            }
            self
        }

        fn cache<K: Ord>(mut self, index: usize, kind: &str, group: impl Fn(usize) -> K) -> Self {
            for cpu in self.online.clone() {
                self = self.with(&format!("{CPU}/cpu{cpu}/cache/index{index}/type"), format!("{kind}\n"));
            }
            self.groups(&format!("cache/index{index}/shared_cpu_list"), group)
        }

        /// Cores with caches of their own, up to the L2 that `shared` may share.
        fn cores<K: Ord, L: Ord>(self, core: impl Fn(usize) -> K, shared: impl Fn(usize) -> L) -> Self {
            self.groups("topology/core_cpus_list", &core)
                .cache(0, "Data", &core)
                .cache(1, "Instruction", &core)
                .cache(2, "Unified", shared)
        }

        fn nodes(mut self, has_cpu: &str, of: impl Fn(usize) -> usize) -> Self {
            self = self.with(&format!("{NODE}/has_cpu"), format!("{has_cpu}\n"));
            for node in CpuMask::parse_list(has_cpu).unwrap().iter() {
                let cpus = self.online.clone().into_iter().filter(|&cpu| of(cpu) == node);
                self = self.with(&format!("{NODE}/node{node}/cpulist"), list(cpus));
            }
            self
        }

        fn packages(self, of: impl Fn(usize) -> usize) -> Self {
            self.groups("topology/package_cpus_list", of)
        }

        fn read(&self, allowed: impl IntoIterator<Item = usize>) -> Box<Topology> {
            let topology = read(&self.files, allowed);
            check(&topology);
            topology
        }
    }

    /// Each CPU once, all groups neighbours and counted from 0.
    fn check(topology: &Topology) {
        let cpus = topology.cpus();
        for (position, cpu) in cpus.iter().enumerate() {
            assert_eq!(topology.position(usize::from(cpu.number)), Some(position));
        }
        if let Some(first) = cpus.first() {
            assert_eq!((first.package, first.node, first.tile, first.core), (0, 0, 0, 0));
        }
        for pair in cpus.windows(2) {
            let steps = [
                pair[1].package - pair[0].package,
                pair[1].node - pair[0].node,
                pair[1].tile - pair[0].tile,
                pair[1].core - pair[0].core,
            ];
            assert!(steps.iter().all(|&step| step <= 1) && steps.is_sorted(), "{pair:?}");
            if steps[3] == 0 {
                assert!(pair[0].number < pair[1].number && pair[0].kind == pair[1].kind, "{pair:?}");
                assert!(pair[0].thread < pair[1].thread || pair[1].thread == u8::MAX, "{pair:?}");
            }
        }
        let sum = |count: usize, of: &dyn Fn(u16) -> usize| (0..count).map(|number| of(number as u16)).sum::<usize>();
        assert_eq!(sum(topology.cores(), &|core| topology.core(core).len()), cpus.len());
        assert_eq!(sum(topology.tiles(), &|tile| topology.tile(tile).len()), cpus.len());
        assert_eq!(sum(topology.nodes(), &|node| topology.node(node).len()), cpus.len());
        assert_eq!(sum(topology.packages(), &|package| topology.package(package).len()), cpus.len());
        assert!(topology.core(topology.cores() as u16).is_empty());
    }

    fn counts(topology: &Topology) -> (usize, usize, usize, usize) {
        (topology.packages(), topology.nodes(), topology.tiles(), topology.cores())
    }

    fn numbers(cpus: &[Cpu]) -> Vec<u16> {
        cpus.iter().map(|cpu| cpu.number).collect()
    }

    /// A Xeon Phi 7250: tiles of two cores, cores n, n + 68, n + 136, n + 204.
    fn knl(online: impl IntoIterator<Item = usize>) -> Machine {
        Machine::new(online).cores(|cpu| cpu % 68, |cpu| cpu % 68 / 2).packages(|_| 0)
    }

    fn knl_quadrant() -> Machine {
        knl(0..272).nodes("0", |_| 0).with(&format!("{NODE}/node1/cpulist"), "\n")
    }

    /// Tiles 0 to 8 in node 0, to 17 in node 1, to 25 in node 2, to 33 in node 3; the MCDRAM is nodes 4 to 7.
    fn knl_snc4(online: impl IntoIterator<Item = usize>) -> Machine {
        let node = |cpu| match cpu % 68 / 2 {
            0..9 => 0,
            9..18 => 1,
            18..26 => 2,
            _ => 3,
        };
        let machine = knl(online).nodes("0-3", node);
        (4..8).fold(machine, |machine, node| machine.with(&format!("{NODE}/node{node}/cpulist"), "\n"))
    }

    /// Two EPYC 7763: CPUs from 128 on are second threads; an L3 for 8 cores.
    fn epyc() -> Machine {
        Machine::new(0..256)
            .cores(|cpu| cpu % 128, |cpu| cpu % 128)
            .cache(3, "Unified", |cpu| cpu % 128 / 8)
            .packages(|cpu| cpu % 128 / 64)
            .nodes("0-1", |cpu| cpu % 128 / 64)
    }

    /// 4 cores of two threads, and 8 of one in clusters with an L2.
    fn hybrid() -> Machine {
        let core = |cpu| if cpu < 8 { cpu / 2 } else { cpu };
        Machine::new(0..16)
            .cores(core, |cpu| if cpu < 8 { cpu / 2 } else { cpu / 4 * 4 })
            .cache(3, "Unified", |_| 0)
            .packages(|_| 0)
            .nodes("0", |_| 0)
            .with("/sys/devices/cpu_core/cpus", "0-7\n")
            .with("/sys/devices/cpu_atom/cpus", "8-15\n")
    }

    #[test]
    fn a_xeon_phi_in_quadrant_mode() {
        let topology = knl_quadrant().read(0..272);
        assert_eq!(counts(&topology), (1, 1, 34, 68));
        assert_eq!(numbers(topology.core(1)), [1, 69, 137, 205]);
        assert_eq!(numbers(topology.tile(1)), [2, 70, 138, 206, 3, 71, 139, 207]);
        assert_eq!(topology.position(271), Some(271));
        let last = Cpu { number: 271, core: 67, tile: 33, node: 0, package: 0, thread: 3, kind: 0 };
        assert_eq!(topology.cpus().last(), Some(&last));
    }

    #[test]
    fn a_xeon_phi_with_nodes_of_memory_alone() {
        let topology = knl_snc4(0..272).read(0..272);
        assert_eq!(counts(&topology), (1, 4, 34, 68));
        assert_eq!([0, 1, 2, 3].map(|node| topology.node(node).len()), [72, 72, 64, 64]);
        assert_eq!(numbers(topology.tile(9)), [18, 86, 154, 222, 19, 87, 155, 223]);

        // A kernel without has_cpu, and a gap in the nodes that have CPUs.
        let machine = Machine::new(0..4)
            .with(&format!("{NODE}/online"), "0-1,6\n")
            .with(&format!("{NODE}/node0/cpulist"), "0-1\n")
            .with(&format!("{NODE}/node1/cpulist"), "\n")
            .with(&format!("{NODE}/node6/cpulist"), "2-3\n");
        assert_eq!(counts(&machine.read(0..4)), (1, 2, 2, 4));
    }

    #[test]
    fn an_epyc_has_a_tile_for_each_l3() {
        let topology = epyc().read(0..256);
        assert_eq!(counts(&topology), (2, 2, 16, 128));
        let wanted: Vec<u16> = (8..16).flat_map(|core| [core, core + 128]).collect();
        assert_eq!(numbers(topology.tile(1)), wanted);
        assert!(topology.cpus().iter().all(|cpu| cpu.kind == 0));
    }

    #[test]
    fn caches_no_narrower_than_the_node_are_no_tiles() {
        // An L3 for a package of two nodes each, and caches that only their cores have.
        let clustered = Machine::new(0..32)
            .cores(|cpu| cpu, |cpu| cpu)
            .cache(3, "Unified", |cpu| cpu / 16)
            .packages(|cpu| cpu / 16)
            .nodes("0-3", |cpu| cpu / 8);
        assert_eq!(counts(&clustered.read(0..32)), (2, 4, 4, 32));
        let private = Machine::new(0..8).cores(|cpu| cpu, |cpu| cpu).nodes("0-1", |cpu| cpu / 4);
        assert_eq!(counts(&private.read(0..8)), (1, 2, 2, 8));
    }

    #[test]
    fn caches_for_instructions_are_no_tiles() {
        let machine = Machine::new(0..8)
            .groups("topology/core_cpus_list", |cpu| cpu)
            .cache(0, "Data", |cpu| cpu)
            .cache(1, "Instruction", |cpu| cpu / 2)
            .cache(2, "Unified", |cpu| cpu / 4);
        assert_eq!(counts(&machine.read(0..8)), (1, 1, 2, 8));
    }

    #[test]
    fn hybrid_processors_have_two_kinds_of_cores() {
        let topology = hybrid().read(0..16);
        assert_eq!(counts(&topology), (1, 1, 3, 12));
        assert_eq!([0, 1, 2].map(|tile| numbers(topology.tile(tile)).len()), [8, 4, 4]);
        assert!(topology.cpus().iter().all(|cpu| cpu.kind == u8::from(cpu.number >= 8)));

        // The smaller cores come first, so the L3 begins with the same CPU as the first L2.
        let turned = Machine::new(0..8)
            .cores(|cpu| if cpu < 4 { cpu } else { cpu / 2 * 2 }, |cpu| if cpu < 4 { 0 } else { cpu / 2 * 2 })
            .cache(3, "Unified", |_| 0);
        let topology = turned.read(0..8);
        assert_eq!(counts(&topology), (1, 1, 2, 6));
        assert_eq!(numbers(topology.tile(1)), [4, 5, 6, 7]);
    }

    #[test]
    fn capacity_design_and_threads_each_make_a_kind() {
        let capacities = |machine: Machine, of: &dyn Fn(usize) -> usize| {
            (0..4).fold(machine, |machine, cpu| {
                machine.with(&format!("{CPU}/cpu{cpu}/cpu_capacity"), format!("{}\n", of(cpu)))
            })
        };
        let kinds = |machine: Machine| machine.read(0..4).cpus().iter().map(|cpu| cpu.kind).collect::<Vec<_>>();
        let flat = || Machine::new(0..4).cores(|cpu| cpu, |cpu| cpu);
        assert_eq!(kinds(flat()), [0, 0, 0, 0]);
        assert_eq!(kinds(capacities(flat(), &|_| 1024)), [0, 0, 0, 0]);
        assert_eq!(kinds(capacities(flat(), &|cpu| 1024 - cpu / 2 * 578)), [0, 0, 1, 1]);
        assert_eq!(kinds(flat().with("/sys/devices/cpu_atom/cpus", "1,3\n")), [0, 1, 0, 1]);
        assert_eq!(kinds(Machine::new(0..4).groups("topology/core_cpus_list", |cpu| cpu.max(1))), [0, 0, 1, 1]);
    }

    #[test]
    fn more_kinds_than_are_told_apart() {
        let machine = (0..40).fold(Machine::new(0..40), |machine, cpu| {
            machine.with(&format!("{CPU}/cpu{cpu}/cpu_capacity"), format!("{}\n", 100 + cpu))
        });
        let topology = machine.read(0..40);
        assert!(topology.cpus().iter().all(|cpu| usize::from(cpu.kind) == usize::from(cpu.number).min(KINDS - 1)));
    }

    #[test]
    fn offline_cpus() {
        // The second threads of the first two cores, and all of core 3, which leaves core 2 alone in its tile.
        let online = || (0..272).filter(|cpu| ![68, 69, 3, 71, 139, 207].contains(cpu));
        let topology = knl_snc4(online()).read(online());
        assert_eq!(counts(&topology), (1, 4, 34, 67));
        let threads: Vec<_> = topology.core(0).iter().map(|cpu| (cpu.number, cpu.thread)).collect();
        assert_eq!(threads, [(0, 0), (136, 1), (204, 2)]);
        assert_eq!(topology.tile(1).len(), 4);
        // Cores 0 and 1 have a thread less than the others.
        assert_eq!(topology.cpus().iter().filter(|cpu| cpu.kind == 1).count(), 65 * 4);

        // Core 1 is offline, so core 0 has no neighbour; the caches of others tell that it has a tile.
        let online = || (0..272).filter(|cpu| cpu % 68 != 1);
        let topology = knl(online()).read(online());
        assert_eq!(counts(&topology), (1, 1, 34, 67));
        assert_eq!(numbers(topology.tile(0)), [0, 68, 136, 204]);

        // CPUs that went offline after the mask was read: no topology, and in no node's list.
        let topology = knl_snc4(2..272).read(0..272);
        assert_eq!(topology.cpus().len(), 272);
        assert_eq!(numbers(topology.core(topology.cores() as u16 - 1)), [1]);
    }

    #[test]
    fn what_is_not_allowed_leaves_no_gap() {
        let topology = knl_snc4(0..272).read([271, 67, 138, 70, 2, 3]);
        let all = |cpu: Cpu| (cpu.number, cpu.node, cpu.tile, cpu.core, cpu.thread);
        let seen: Vec<_> = topology.cpus().iter().copied().map(all).collect();
        let tile0 = [(2, 0, 0, 0, 0), (70, 0, 0, 0, 1), (138, 0, 0, 0, 2), (3, 0, 0, 1, 0)];
        assert_eq!(seen, [&tile0[..], &[(67, 1, 1, 2, 0), (271, 1, 1, 2, 3)]].concat());
        assert_eq!(topology.position(1), None);
        assert_eq!(topology.position(CPUS), None);

        // Core 0 comes before core 1, although its lowest CPU is not allowed.
        assert_eq!(numbers(knl_quadrant().read([1, 204]).cpus()), [204, 1]);
    }

    #[test]
    fn without_sysfs_all_is_flat() {
        let topology = read(&Tree::new(), [0, 5, 8191]);
        check(&topology);
        assert_eq!(counts(&topology), (1, 1, 1, 3));
        assert_eq!(numbers(topology.cpus()), [0, 5, 8191]);
        assert!(topology.cpus().iter().all(|cpu| (cpu.thread, cpu.kind) == (0, 0)));
    }

    #[test]
    fn no_cpus() {
        let topology = epyc().read([]);
        assert_eq!(counts(&topology), (0, 0, 0, 0));
        assert_eq!((topology.core(0), topology.position(0)), (&[][..], None));
    }

    #[test]
    fn reading_again_forgets_what_was() {
        let mut topology = epyc().read(0..256);
        topology.read(&hybrid().files, &CpuMask::of(8..12));
        check(&topology);
        assert_eq!(counts(&topology), (1, 1, 1, 4));
        assert_eq!((topology.position(0), topology.position(12)), (None, None));
        assert!(topology.cpus().iter().all(|cpu| cpu.kind == 0));
    }

    #[test]
    fn older_kernels_have_other_names() {
        let machine = Machine::new(0..8)
            .groups("topology/thread_siblings_list", |cpu| cpu % 4)
            .groups("topology/core_siblings_list", |cpu| cpu % 2);
        let topology = machine.read(0..8);
        assert_eq!(counts(&topology), (2, 2, 2, 4));
        assert_eq!(numbers(topology.package(1)), [1, 5, 3, 7]);
    }

    #[test]
    fn more_than_a_thousand_cpus() {
        // Four packages whose CPUs are dealt out in turn: their lists are longer than a page.
        let machine = Machine::new(0..4096)
            .cores(|cpu| cpu % 2048, |cpu| cpu % 2048)
            .packages(|cpu| cpu % 4)
            .nodes("0-3", |cpu| cpu % 4);
        assert!(machine.files.files.values().any(|text| text.len() > 4096));
        let topology = machine.read(0..4096);
        assert_eq!(counts(&topology), (4, 4, 4, 2048));
        assert_eq!(numbers(&topology.cpus()[..6]), [0, 2048, 4, 2052, 8, 2056]);
        // As on a node of 8192 CPUs, without anything.
        assert_eq!(counts(&read(&Memory::default(), 0..CPUS)), (1, 1, 1, CPUS));
    }

    #[test]
    fn a_list_that_is_cut_is_none() {
        let machine = |end: &str| {
            let cut = format!("0,2,4,6,1{end}");
            let path = |cpu| format!("{CPU}/cpu{cpu}/topology/package_cpus_list");
            [0, 2, 4, 6, 10].into_iter().fold(Machine::new(0..12), |machine, cpu| machine.with(&path(cpu), &*cut))
        };
        assert_eq!(machine("").read(0..12).packages(), 1);
        assert_eq!(machine("\n").read(0..12).packages(), 2);
    }

    #[test]
    fn fake_nodes_share_their_cpus() {
        let machine = Machine::new(0..4)
            .with(&format!("{NODE}/has_cpu"), "0-1\n")
            .with(&format!("{NODE}/node0/cpulist"), "0-3\n")
            .with(&format!("{NODE}/node1/cpulist"), "0-3\n");
        assert_eq!(counts(&machine.read(0..4)), (1, 1, 1, 4));
    }

    #[test]
    fn a_group_that_a_higher_one_divides_is_two() {
        // A node of two packages, as with interleaved memory.
        let machine = Machine::new(0..8).packages(|cpu| cpu / 4).nodes("0", |_| 0);
        assert_eq!(counts(&machine.read(0..8)), (2, 2, 2, 8));
    }

    #[test]
    fn few_files_are_read() {
        struct Counting(Memory, Cell<usize>);
        impl Files for Counting {
            type File = Vec<u8>;

            fn open(&self, path: &CStr) -> Option<Vec<u8>> {
                self.1.set(self.1.get() + 1);
                self.0.open(path)
            }

            fn read(&self, file: &Vec<u8>, offset: u64, buffer: &mut [u8]) -> Option<usize> {
                self.0.read(file, offset, buffer)
            }
        }
        let count = |machine: Machine, cpus| {
            let files = Counting(machine.files, Cell::new(0));
            read(&files, 0..cpus);
            files.1.get()
        };
        // A list for each core, tile, package and node, and a dozen to see what there is.
        assert!(count(knl_snc4(0..272), 272) <= 68 + 34 + 1 + 4 + 20);
        assert!(count(epyc(), 256) <= 128 + 16 + 2 + 2 + 20);
    }

    /// Lists that are nearly the kernel's.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let cpu = || 0usize..12;
        prop_oneof![
            6 => prop::collection::btree_set(cpu(), 0..6).prop_map(|cpus| list(cpus).into_bytes()),
            2 => (cpu(), cpu()).prop_map(|(first, last)| format!("{first}-{last}\n").into_bytes()),
            1 => "[0-9,-]{0,12}\n?".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn whatever_files_say_each_allowed_cpu_is_there_once(
            files in prop::collection::btree_map((0usize..12, 0usize..9), nearly(), 0..100),
            other in prop::option::of(nearly()),
            allowed in prop::collection::btree_set(prop_oneof![9 => 0usize..12, 1 => 0..CPUS], 0..12),
            piece in 1usize..300,
        ) {
            let name = |(at, file): (usize, usize)| match file {
                0 => format!("{CPU}/cpu{at}/topology/core_cpus_list"),
                1 => format!("{CPU}/cpu{at}/topology/thread_siblings_list"),
                2 => format!("{CPU}/cpu{at}/topology/package_cpus_list"),
                3 => format!("{CPU}/cpu{at}/cpu_capacity"),
                4 => format!("{NODE}/node{at}/cpulist"),
                5 => format!("{NODE}/has_cpu"),
                6 => "/sys/devices/cpu_atom/cpus".into(),
                index => format!("{CPU}/cpu{at}/cache/index{}/shared_cpu_list", index - 7),
            };
            let files = files.into_iter().map(|(key, text)| (name(key).into_bytes(), text)).collect();
            let memory = Memory { files, other, piece };
            let mut topology = Box::new(Topology::new());
            for _ in 0..2 {
                topology.read(&memory, &CpuMask::of(allowed.iter().copied()));
                check(&topology);
                let mut seen = numbers(topology.cpus());
                seen.sort_unstable();
                prop_assert_eq!(seen, allowed.iter().map(|&cpu| cpu as u16).collect::<Vec<_>>());
            }
        }

        #[test]
        fn lists_are_read_as_masks_are(
            cpus in prop::collection::btree_set(0..CPUS, 0..2000),
            text in prop::option::of("[0-9,-]{0,12}"),
            piece in 1usize..5000,
        ) {
            let text = text.map_or_else(|| list(cpus), |text| text + "\n");
            let files = [(b"/file".to_vec(), text.clone().into_bytes())].into();
            let mut mask = CpuMask::EMPTY;
            let read = read_list(&Memory { files, piece, ..Memory::default() }, c"/file", &mut mask).map(|()| mask);
            match CpuMask::parse_list(&text) {
                // Names beyond the last CPU are no reason to refuse the others.
                Err(crate::cpumask::ParseError::TooLarge) => {}
                wanted => prop_assert_eq!(read, wanted.ok()),
            }
        }
    }
}
