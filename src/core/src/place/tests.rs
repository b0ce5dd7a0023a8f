//! Processes that come, pin and leave at random, on the nodes that this is for; what each level of worker gets; and the
//! chosen shift against all others.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

// ---- Nodes -----------------------------------------------------------------------------------------------------------

/// `shape`: packages, nodes in each, tiles, cores, threads. Siblings are numbered after all cores, as Linux does.
fn regular([packages, nodes, tiles, cores, threads]: [u16; 5]) -> Vec<Cpu> {
    let all = packages * nodes * tiles * cores;
    (0..all)
        .flat_map(|core| (0..threads).map(move |thread| (core, thread)))
        .map(|(core, thread)| Cpu {
            number: core + all * thread,
            core,
            tile: core / cores,
            node: core / (cores * tiles),
            package: core / (cores * tiles * nodes),
            thread: thread as u8,
            kind: 0,
        })
        .collect()
}

/// 8 cores of two threads, then 4 tiles of 4 smaller ones.
fn hybrid() -> Vec<Cpu> {
    let large =
        (0..16).map(|number| Cpu { number, core: number / 2, thread: (number % 2) as u8, kind: 1, ..Cpu::default() });
    let small = (0..16).map(|at| Cpu { number: 16 + at, core: 8 + at, tile: 1 + at / 4, ..Cpu::default() });
    large.chain(small).collect()
}

fn knl() -> Vec<Cpu> {
    regular([1, 1, 34, 2, 4])
}

fn nodes() -> [Vec<Cpu>; 6] {
    [
        knl(),
        regular([1, 4, 8, 2, 4]), // sub-NUMA clustering
        regular([2, 1, 8, 8, 2]), // EPYC
        hybrid(),
        regular([2, 4, 11, 6, 2]), // 1056 CPUs
        regular([1, 1, 1, 2, 1]),
    ]
}

fn sparse(numbers: impl IntoIterator<Item = u16>) -> SparseMask {
    CpuMask::of(numbers.into_iter().map(usize::from)).to_sparse().expect("few CPUs")
}

// ---- Teams -----------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Neighbouring CPUs, from the first one or another.
    CloseThreads(usize),
    CloseCores(usize),
    WholeCores(usize),
    Spread,
    SpreadWholeCores,
    /// By number: one thread of each core before siblings.
    Scatter,
    Tiles,
    Numa,
    /// All on one CPU.
    Same(usize),
    /// All on one core.
    SameCore(usize),
    /// No pin.
    Everywhere,
    /// Not all of it allowed.
    Outside,
}

fn asked(topology: &Topology, ask: Ask, index: usize, size: usize) -> SparseMask {
    let cpus = topology.cpus();
    let cpu = |at: usize| cpus[at % cpus.len()];
    let core = |at: usize| topology.core((at % topology.cores()) as u16);
    let spread = index * topology.cores() / size;
    let all = |of: &dyn Fn(&Cpu) -> u16| {
        let count = of(cpus.last().unwrap()) + 1;
        sparse(cpus.iter().filter(|cpu| of(cpu) == index as u16 % count).map(|cpu| cpu.number).take(900))
    };
    match ask {
        Ask::CloseThreads(from) => sparse([cpu(from + index).number]),
        Ask::CloseCores(from) => sparse([core(from + index)[0].number]),
        Ask::WholeCores(from) => sparse(core(from + index).iter().map(|cpu| cpu.number)),
        Ask::Spread => sparse([core(spread)[0].number]),
        Ask::SpreadWholeCores => sparse(core(spread).iter().map(|cpu| cpu.number)),
        Ask::Scatter => {
            let numbers: BTreeSet<_> = cpus.iter().map(|cpu| cpu.number).collect();
            sparse(numbers.iter().copied().cycle().nth(index))
        }
        Ask::Tiles => all(&|cpu| cpu.tile),
        Ask::Numa => all(&|cpu| cpu.node),
        Ask::Same(at) => sparse([cpu(at).number]),
        Ask::SameCore(at) => sparse(core(at).iter().map(|cpu| cpu.number)),
        Ask::Everywhere => sparse(cpus.iter().map(|cpu| cpu.number).take(900)),
        Ask::Outside => sparse([cpu(index).number, 1500]),
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    let from = prop_oneof![4 => Just(0), 1 => 0..300_usize];
    prop_oneof![
        6 => from.clone().prop_map(Ask::CloseThreads),
        4 => from.clone().prop_map(Ask::CloseCores),
        4 => from.clone().prop_map(Ask::WholeCores),
        3 => Just(Ask::Spread),
        2 => Just(Ask::SpreadWholeCores),
        3 => Just(Ask::Scatter),
        1 => Just(Ask::Tiles),
        1 => Just(Ask::Numa),
        1 => from.clone().prop_map(Ask::Same),
        1 => from.prop_map(Ask::SameCore),
        1 => Just(Ask::Everywhere),
        1 => Just(Ask::Outside),
    ]
}

// ---- Processes that come and go --------------------------------------------------------------------------------------

struct Process {
    team: Vec<Pinned>,
    /// Each thread's mask, as the kernel has it.
    masks: Vec<CpuMask>,
    worker: Option<Worker>,
}

impl Process {
    fn claims(&self) -> BTreeSet<usize> {
        let pins = self.team.iter().map(|member| member.cpu);
        pins.chain(self.worker.iter().map(|worker| worker.cpu)).filter(|&cpu| cpu != NONE).map(usize::from).collect()
    }

    /// Does as the preload will with what changed.
    fn pin(&mut self, topology: &Topology) {
        for (member, mask) in self.team.iter().zip(&mut self.masks).filter(|(member, _)| member.changed) {
            *mask = mask_of(topology, &member.asked, member.place).unwrap_or(user_mask(topology));
        }
    }
}

fn user_mask(topology: &Topology) -> CpuMask {
    CpuMask::of(topology.cpus().iter().map(|cpu| cpu.number.into()))
}

struct Node {
    topology: Topology,
    /// In the order in which they came.
    processes: Vec<Process>,
}

impl Node {
    fn new(cpus: &[Cpu]) -> Self {
        Self { topology: Topology::of(cpus), processes: Vec::new() }
    }

    fn load(&self, but: usize) -> Vec<u16> {
        let mut load = vec![0; self.topology.cpus().len()];
        for (_, process) in self.processes.iter().enumerate().filter(|&(index, _)| index != but) {
            process.claims().into_iter().for_each(|cpu| load[cpu] += 1);
        }
        load
    }

    fn plan(&mut self, index: usize) -> bool {
        let load = self.load(index);
        let process = &mut self.processes[index];
        let before: Vec<_> = process.team.iter().map(|member| member.place).collect();
        let changed = plan(&self.topology, &load, &mut process.team, index == 0);
        process.pin(&self.topology);
        for (member, before) in process.team.iter().zip(before) {
            assert_eq!(member.changed, member.place != before);
        }
        changed
    }

    /// A process comes and pins its threads one after the other, or all at once.
    fn come(&mut self, ask: Ask, size: usize, one_by_one: bool) {
        self.processes.push(Process { team: Vec::new(), masks: Vec::new(), worker: None });
        let last = self.processes.len() - 1;
        for index in 0..size {
            let mask = asked(&self.topology, ask, index, size);
            self.processes[last].masks.push(mask.to_mask());
            self.processes[last].team.push(Pinned::new(&self.topology, mask));
            if one_by_one || index + 1 == size {
                self.plan(last);
            }
        }
    }

    fn work(&mut self, level: Level) {
        let worker = for_worker(&self.topology, &self.load(usize::MAX), level, 0);
        self.processes.push(Process { team: Vec::new(), masks: Vec::new(), worker });
    }

    /// Everybody looks at the others until nothing changes: those who came later give way.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut is_changed = false;
            for index in 0..self.processes.len() {
                is_changed |= self.plan(index);
                let load = self.load(index);
                if let Some(worker) = &self.processes[index].worker {
                    let is_free = |load: &[u16]| load.contains(&0);
                    if load[usize::from(worker.cpu)] > 0 && is_free(&load) {
                        self.processes[index].worker = for_worker(&self.topology, &load, Level::Core, index);
                        is_changed = true;
                    }
                }
            }
            if !is_changed {
                return;
            }
        }
        panic!("they go on moving");
    }

    fn cpu(&self, position: usize) -> Cpu {
        self.topology.cpus()[position]
    }

    /// For each core of a mask, its kind and the CPUs on it.
    fn shape(&self, mask: &CpuMask) -> Vec<(u8, usize)> {
        let mut cores = BTreeMap::<u16, (u8, usize)>::new();
        for number in mask.iter() {
            let cpu = self.cpu(self.topology.position(number).expect("allowed"));
            let core = cores.entry(cpu.core).or_insert((cpu.kind, 0));
            core.1 += 1;
        }
        let mut shape: Vec<_> = cores.into_values().collect();
        shape.sort_unstable();
        shape
    }

    fn check(&self) {
        let all = user_mask(&self.topology);
        let mut claimed = BTreeMap::<usize, usize>::new();
        for process in &self.processes {
            process.claims().into_iter().for_each(|cpu| *claimed.entry(cpu).or_default() += 1);
        }
        let is_full = claimed.len() == self.topology.cpus().len();
        for (index, process) in self.processes.iter().enumerate() {
            if let Some(worker) = &process.worker {
                assert!(worker.mask.is_subset(&all) && worker.mask.contains(self.cpu(worker.cpu.into()).number.into()));
                assert!(is_full || claimed[&worker.cpu.into()] == 1, "a worker on a claimed CPU");
            }
            for (member, mask) in process.team.iter().zip(&process.masks) {
                let asked = member.asked.to_mask();
                if !asked.is_subset(&all) || asked == all {
                    assert!(member.place == Place::AsAsked && member.cpu == NONE && *mask == asked);
                    continue;
                }
                assert!(mask.is_subset(&all), "{mask} is not all allowed");
                if index == 0 {
                    assert!(member.place == Place::AsAsked && *mask == asked && member.cpu != NONE);
                    continue;
                }
                if member.place == Place::Dropped {
                    assert!(member.cpu == NONE && *mask == all);
                    self.check_no_room(&asked, &claimed);
                    continue;
                }
                assert_eq!(Some(mask), mask_of(&self.topology, &member.asked, member.place).as_ref());
                assert_eq!(self.shape(mask), self.shape(&asked));
                assert!(mask.contains(self.cpu(member.cpu.into()).number.into()));
                assert_eq!(claimed[&usize::from(member.cpu)], 1, "claimed by another too");
            }
            self.check_team(&process.team);
        }
    }

    /// A dropped thread would have found no free CPU.
    fn check_no_room(&self, asked: &CpuMask, claimed: &BTreeMap<usize, usize>) {
        let home = self.cpu(self.topology.position(asked.iter().next().unwrap()).unwrap());
        for position in (0..self.topology.cpus().len()).filter(|position| !claimed.contains_key(position)) {
            let cpu = self.cpu(position);
            assert!(cpu.kind != home.kind || asked.count() > 1, "{asked} could be on {}", cpu.number);
            // Where all cores are alike, any free CPU would do.
            let threads = self.topology.core(0).len();
            let cores = (0..self.topology.cores()).map(|core| self.topology.core(core as u16));
            let is_uniform = cores.into_iter().all(|cpus| cpus.len() == threads && cpus[0].kind == home.kind);
            assert!(!is_uniform, "{asked} could be on a mask with {}", cpu.number);
        }
    }

    fn check_team(&self, team: &[Pinned]) {
        let pins: Vec<_> = team.iter().filter(|member| member.cpu != NONE).collect();
        let is_together = pins.iter().all(|member| member.place == pins[0].place);
        let cores = self.topology.cores();
        for (index, a) in pins.iter().enumerate() {
            for b in pins.iter().skip(index + 1) {
                assert!(a.cpu != b.cpu || a.asks_the_same_as(b), "two of a team on a CPU");
                if is_together {
                    let distance = |a: usize, b: usize| (b + cores - a) % cores;
                    let at = |member: &Pinned| {
                        let mask = mask_of(&self.topology, &member.asked, member.place).unwrap();
                        let cores = |mask: &CpuMask| -> Vec<usize> {
                            mask.iter().map(|n| self.cpu(self.topology.position(n).unwrap()).core.into()).collect()
                        };
                        (cores(&member.asked.to_mask())[0], cores(&mask))
                    };
                    let ((a_asked, a), (b_asked, b)) = (at(a), at(b));
                    assert!(a.iter().any(|&a| b.iter().any(|&b| distance(a, b) == distance(a_asked, b_asked))));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Come(Ask, usize, bool),
    Work(Level),
    Leave(usize),
    Look(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        6 => (asks(), 1..9_usize, any::<bool>()).prop_map(|(ask, size, one_by_one)| Event::Come(ask, size, one_by_one)),
        1 => Just(Event::Work(Level::Core)),
        3 => (0..1000_usize).prop_map(Event::Leave),
        1 => (0..1000_usize).prop_map(Event::Look),
    ];
    prop::collection::vec(one, 1..40)
}

/// A node, or what a cpuset leaves of it.
fn topologies() -> impl Strategy<Value = Vec<Cpu>> {
    let node = (0..nodes().len()).prop_map(|which| nodes()[which].clone());
    prop_oneof![
        1 => node.clone(),
        1 => node.prop_flat_map(|cpus| {
            let most = cpus.len().min(24);
            prop::sample::subsequence(cpus, 1..=most)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nobody_is_stacked_whoever_comes_and_goes(cpus in topologies(), events in events()) {
        let mut node = Node::new(&cpus);
        for event in events {
            let count = node.processes.len();
            match event {
                Event::Come(ask, size, one_by_one) => node.come(ask, size, one_by_one),
                Event::Work(level) => node.work(level),
                Event::Leave(which) if count > 0 => drop(node.processes.remove(which % count)),
                Event::Look(which) if count > 0 => drop(node.plan(which % count)),
                Event::Leave(_) | Event::Look(_) => {}
            }
            node.settle();
            node.check();
        }
        node.processes.clear();
        prop_assert!(node.load(usize::MAX).iter().all(|&load| load == 0));
    }

    #[test]
    fn no_other_shift_is_better(
        which in 0..4_usize,
        ask in asks(),
        size in 1..6_usize,
        claims in prop::collection::vec(0..1000_usize, 0..200),
    ) {
        let topology = Topology::of(&nodes()[which]);
        let mut load = vec![0; topology.cpus().len()];
        claims.iter().for_each(|claim| load[claim % topology.cpus().len()] += 1);
        let mut team: Vec<_> =
            (0..size).map(|index| Pinned::new(&topology, asked(&topology, ask, index, size))).collect();
        plan(&topology, &load, &mut team, false);
        // One CPU for each thread: what a shift is worth is plain to see.
        if team.iter().any(|member| member.width != 1) || team.iter().enumerate().any(|(index, a)| {
            team.iter().skip(index + 1).any(|b| a.asks_the_same_as(b))
        }) {
            return Ok(());
        }
        let worth = |place| -> Option<u32> {
            let mut cores = BTreeSet::new();
            for member in &team {
                let mask = mask_of(&topology, &member.asked, place)?;
                let position = topology.position(mask.iter().next()?)?;
                if load[position] > 0 {
                    return None;
                }
                cores.insert(topology.cpus()[position].core);
            }
            let claims_on = |core| topology.core(core).iter().map(|cpu| {
                u32::from(load[topology.position(cpu.number.into()).unwrap()])
            });
            Some(cores.into_iter().flat_map(claims_on).sum())
        };
        let shifts = (0..topology.cores() as u16).flat_map(|cores| (0..4).map(move |threads| (cores, threads)));
        let best = shifts.filter_map(|(cores, threads)| worth(Place::Moved { cores, threads })).min();
        match best {
            Some(best) => {
                prop_assert!(team.iter().all(|member| member.place == team[0].place));
                prop_assert_eq!(worth(team[0].place), Some(best));
            }
            None => {
                let home = team.iter().map(|member| topology.cpus()[usize::from(member.home)].kind);
                for (member, kind) in team.iter().zip(home) {
                    let is_room = topology.cpus().iter().enumerate().any(|(at, cpu)| {
                        cpu.kind == kind && load[at] == 0 && team.iter().all(|other| usize::from(other.cpu) != at)
                    });
                    prop_assert!(member.cpu != NONE || !is_room);
                    prop_assert!(member.cpu == NONE || load[usize::from(member.cpu)] == 0);
                }
            }
        }
    }
}

// ---- Pins ------------------------------------------------------------------------------------------------------------

fn cores_of(node: &Node, index: usize) -> BTreeSet<u16> {
    node.processes[index].claims().into_iter().map(|cpu| node.cpu(cpu).core).collect()
}

#[test]
fn close_workers_get_a_core_each() {
    for one_by_one in [false, true] {
        let mut node = Node::new(&knl());
        for _ in 0..68 {
            node.come(Ask::CloseThreads(0), 4, one_by_one);
        }
        node.check();
        let cores: Vec<_> = (0..68).map(|index| cores_of(&node, index)).collect();
        assert!(cores.iter().all(|cores| cores.len() == 1));
        assert_eq!(cores.into_iter().flatten().collect::<BTreeSet<_>>().len(), 68);
        node.come(Ask::CloseThreads(0), 4, one_by_one);
        assert!(node.processes[68].team.iter().all(|member| member.place == Place::Dropped));
        // There is room again.
        node.processes.remove(30);
        node.settle();
        node.check();
        assert_eq!(cores_of(&node, 67).len(), 1);
    }
}

#[test]
fn single_threads_take_cores_before_siblings() {
    let mut node = Node::new(&knl());
    for count in 1..=272_usize {
        node.come(Ask::CloseThreads(0), 1, false);
        let claims = node.processes.iter().flat_map(Process::claims).collect::<BTreeSet<_>>();
        assert_eq!(claims.len(), count);
        let cores = claims.iter().map(|&cpu| node.cpu(cpu).core).collect::<BTreeSet<_>>();
        assert_eq!(cores.len(), count.min(68));
    }
}

#[test]
fn a_team_moves_to_the_nearest_place_of_its_shape() {
    let cases = [
        // Cores 1 and 2 are nearer, but not in one tile.
        ([1, 1, 4, 2, 1], 1, [2, 3]),
        // Cores 2 and 3 are nearer, but not in one node.
        ([1, 4, 3, 1, 1], 2, [3, 4]),
        ([2, 1, 3, 1, 1], 2, [3, 4]),
    ];
    for (shape, claimed, expected) in cases {
        let mut node = Node::new(&regular(shape));
        node.come(Ask::CloseCores(0), claimed, false);
        node.come(Ask::CloseCores(0), 2, false);
        assert_eq!(cores_of(&node, 1), BTreeSet::from(expected));
    }
    // The last core and the first one are nearer, but no neighbours.
    let mut node = Node::new(&regular([1, 1, 8, 1, 1]));
    node.come(Ask::CloseCores(5), 2, false);
    node.come(Ask::CloseCores(6), 2, false);
    assert_eq!(cores_of(&node, 1), BTreeSet::from([3, 4]));
}

#[test]
fn a_place_that_is_a_node_or_tile_moves_to_another() {
    let mut node = Node::new(&regular([1, 4, 8, 2, 4]));
    // All nodes have claims, and there is as much room without any between two of them.
    for core in [0, 30, 32, 62] {
        node.come(Ask::CloseCores(core), 2, false);
    }
    node.processes.iter().skip(1).for_each(|process| assert_eq!(process.team[0].place, Place::AsAsked));
    node.come(Ask::Numa, 1, false);
    assert!(
        [0, 16, 32, 48].map(|cores| Shift { cores, threads: 0 }.place()).contains(&node.processes[4].team[0].place)
    );
    node.processes.clear();
    node.come(Ask::CloseCores(0), 1, false);
    node.come(Ask::Tiles, 1, false);
    assert_eq!(node.processes[1].team[0].place, Place::Moved { cores: 2, threads: 0 });
    node.come(Ask::Numa, 1, false);
    assert_eq!(node.processes[2].team[0].place, Place::Moved { cores: 16, threads: 0 });
}

#[test]
fn large_cores_are_not_traded_for_small_ones() {
    let mut node = Node::new(&hybrid());
    for _ in 0..5 {
        node.come(Ask::CloseCores(0), 4, false);
        node.check();
    }
    let cores: Vec<_> = (0..4).map(|index| cores_of(&node, index)).collect();
    assert_eq!(cores, [0..4, 4..8, 0..4, 4..8].map(BTreeSet::from_iter));
    assert!(node.processes[4].team.iter().all(|member| member.place == Place::Dropped));
}

#[test]
fn all_threads_are_found_where_a_cpuset_cuts_cores() {
    // A core of one CPU, and one of four.
    let cpus: Vec<_> = knl().into_iter().filter(|cpu| cpu.number == 0 || cpu.core == 1).collect();
    let mut node = Node::new(&cpus);
    for _ in 0..5 {
        node.come(Ask::CloseThreads(0), 1, false);
    }
    node.check();
    assert_eq!(node.processes.iter().flat_map(Process::claims).collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn where_no_shift_will_do_each_thread_finds_its_own() {
    let mut node = Node::new(&regular([1, 1, 1, 4, 1]));
    node.come(Ask::CloseCores(1), 1, false);
    node.come(Ask::CloseCores(0), 2, false);
    assert_eq!(cores_of(&node, 1), BTreeSet::from([2, 3]));
    node.processes[1].team.truncate(1);
    // 0 and 3 are free, but not beside one another in a line of two.
    node.come(Ask::CloseCores(0), 3, false);
    node.check();
    assert_eq!(cores_of(&node, 2), BTreeSet::from([0, 3]));
    assert_eq!(node.processes[2].team[2].place, Place::Dropped);
}

#[test]
fn threads_that_are_placed_one_by_one_share_a_core_only_if_they_asked_to() {
    let mut node = Node::new(&regular([1, 1, 1, 4, 2]));
    for core in [0, 2] {
        node.come(Ask::CloseThreads(2 * core), 2, false);
    }
    node.come(Ask::CloseCores(0), 2, false);
    assert_eq!(cores_of(&node, 2), BTreeSet::from([1, 3]));
}

#[test]
fn what_a_program_stacks_itself_stays_stacked() {
    let mut node = Node::new(&knl());
    node.come(Ask::CloseThreads(0), 1, false);
    node.come(Ask::Same(0), 3, true);
    node.check();
    assert_eq!(node.processes[1].claims().len(), 1);
    assert!(node.processes[1].team.iter().all(|member| member.place == Place::Moved { cores: 1, threads: 0 }));
    // Also where each thread gets a place of its own: 0 and 2 are free, and no neighbours.
    let topology = Topology::of(&regular([1, 1, 1, 4, 1]));
    let mut team = [0, 0, 1].map(|cpu| Pinned::new(&topology, sparse([cpu])));
    plan(&topology, &[0, 1, 0, 1], &mut team, false);
    assert_eq!(team.map(|member| member.cpu), [0, 0, 2]);
}

#[test]
fn a_whole_core_is_shared_when_it_must_be() {
    let mut node = Node::new(&knl());
    for _ in 0..2 * 68 {
        node.come(Ask::WholeCores(0), 1, false);
    }
    node.check();
    let claims = node.processes.iter().flat_map(Process::claims).collect::<BTreeSet<_>>();
    assert_eq!(claims.len(), 2 * 68);
    // Two threads in one core-wide place claim two CPUs of it.
    node.come(Ask::SameCore(0), 2, false);
    assert_eq!(node.processes[2 * 68].claims().len(), 2);
}

// ---- Workers ---------------------------------------------------------------------------------------------------------

fn claim_of(node: &Node, index: usize) -> Cpu {
    let worker = node.processes[index].worker.as_ref().expect("there are CPUs");
    node.cpu(worker.cpu.into())
}

#[test]
fn workers_get_whole_cores_then_cpus() {
    let mut node = Node::new(&knl());
    for level in [Level::Core, Level::Spread] {
        node.processes.clear();
        for count in 1..=272_usize {
            node.work(level);
            let cpus: Vec<_> = (0..count).map(|index| claim_of(&node, index)).collect();
            let cores = cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>();
            assert_eq!(cores.len(), count.min(68));
            assert_eq!(cpus.iter().map(|cpu| cpu.number).collect::<BTreeSet<_>>().len(), count);
            if count == 68 {
                assert_eq!(node.processes[67].worker.as_ref().map(|worker| worker.mask.count()), Some(4));
            }
        }
        let mask = |node: &Node, index: usize| {
            let cpu = node.processes[index].worker.as_ref().expect("there are CPUs").cpu;
            refresh(&node.topology, &node.load(index), level, cpu)
        };
        assert!((0..272).all(|index| mask(&node, index) == CpuMask::of([claim_of(&node, index).number.into()])));
        // One more than there are CPUs: a core that is shared already, no longer than necessary.
        node.work(level);
        assert_eq!(mask(&node, 272).count(), 4);
        node.processes.truncate(68);
        assert!((0..68).all(|index| mask(&node, index).count() == 4));
        node.processes.clear();
        assert!(node.load(usize::MAX).iter().all(|&load| load == 0));
    }
}

#[test]
fn spread_workers_take_turns_between_packages_nodes_and_tiles() {
    let mut node = Node::new(&regular([2, 2, 2, 2, 2]));
    for _ in 0..32 {
        node.work(Level::Spread);
    }
    let turns = |of: fn(&Cpu) -> u16| (0..16).map(|index| of(&claim_of(&node, index))).collect::<Vec<_>>();
    assert_eq!(turns(|cpu| cpu.package)[..4], [0, 1, 0, 1]);
    assert_eq!(turns(|cpu| cpu.node)[..5], [0, 2, 1, 3, 0]);
    assert_eq!(turns(|cpu| cpu.tile)[..8], [0, 4, 2, 6, 1, 5, 3, 7]);
    assert_eq!(turns(|cpu| cpu.core).into_iter().collect::<BTreeSet<_>>().len(), 16);
}

#[test]
fn tiles_and_nodes_are_given_whole() {
    let mut node = Node::new(&regular([1, 4, 8, 2, 4]));
    for (level, parts, size) in [(Level::Tile, 32, 8), (Level::Numa, 4, 64)] {
        node.processes.clear();
        for count in 0..3 * parts {
            node.work(level);
            let worker = node.processes[count].worker.as_ref().expect("there are CPUs");
            assert_eq!(worker.mask.count(), size);
            let (cpu, mate) = (claim_of(&node, count), claim_of(&node, count % parts));
            let part = |cpu: Cpu| usize::from(if level == Level::Tile { cpu.tile } else { cpu.node });
            assert_eq!(part(cpu), count % parts);
            assert!(count < parts || count >= 2 * parts || cpu.core != mate.core, "a sibling before a core");
        }
    }
}

#[test]
fn no_topology_no_place() {
    let topology = Topology::of(&[]);
    assert_eq!(for_worker(&topology, &[], Level::Spread, 0), None);
    assert!(refresh(&topology, &[], Level::Core, 0).is_empty());
    let mut team = [Pinned::new(&topology, sparse([0]))];
    assert!(!plan(&topology, &[], &mut team, false));
}

/// All workers of a pool see the same load, as nobody has chosen yet.
#[test]
fn workers_that_choose_at_once_choose_different_places() {
    let topology = Topology::of(&knl());
    for (level, places) in [(Level::Core, 272), (Level::Spread, 272), (Level::Tile, 272), (Level::Numa, 272)] {
        let chosen = (0..272).map(|turn| for_worker(&topology, &[0; 272], level, turn).unwrap());
        let cpus: std::collections::BTreeSet<_> = chosen.clone().map(|worker| worker.cpu).collect();
        assert_eq!(cpus.len(), places, "{level:?}");
        let first: std::collections::BTreeSet<_> =
            chosen.take(68).map(|worker| topology.cpus()[usize::from(worker.cpu)].core).collect();
        assert_eq!(first.len(), 68, "{level:?}");
    }
}

#[test]
fn a_worker_that_shares_its_core_moves_when_another_is_free() {
    let topology = Topology::of(&knl());
    let mut load = [1; 272];
    load[1] = 0; // its own, beside three others
    assert!(!should_move(&topology, &load, Level::Core, 1), "nothing is free");
    load[8..12].fill(0);
    assert!(should_move(&topology, &load, Level::Core, 1) && should_move(&topology, &load, Level::Spread, 1));
    assert!(!should_move(&topology, &load, Level::Numa, 1));
    load[..4].fill(0);
    assert!(!should_move(&topology, &load, Level::Core, 1), "it has its core for itself");
}
