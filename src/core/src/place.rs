//! On which CPUs a process's pins and a placed worker go, given what other processes have claimed.
//!
//! A pinned thread claims one CPU, however wide its mask, and so does a placed worker. `load` counts, for each position in
//! the topology, the *other* processes that claim the CPU there: nothing in here knows who they are, or who has to give way
//! when two chose the same CPU at once. Who does calls again.
//!
//! **Pins** of one process move together, by one [shift](Place::Moved): core `c`, thread `t` to core `c + k`, thread
//! `t + s`. That keeps what the runtime meant: threads that shared a core share one, close ones stay adjacent and spread
//! ones apart. A shift will do if each thread gets a CPU that no other process claims and that is its own in the team, as
//! far as the masks that the runtime asked for allow that at all: two threads that were pinned to one and the same CPU are
//! the program's own wish, stay together and count as one claim. Of the shifts that will do, the best one tears no place
//! that was within a tile or node, then has the fewest claims of others on its cores (so SMT siblings come last), then
//! keeps the nodes, does not go over the end of the topology, keeps the tiles, is the shortest.
//! If none will do, each thread that cannot stay gets a shift of its own, and those for whom no CPU is free are dropped:
//! they run on the user mask.
//!
//! **Workers** take the least claimed core, tile or node.

use crate::cpumask::{Bits, CpuMask, SparseMask};
use crate::topology::{Cpu, Topology};
use core::cmp::Ordering;
use core::ops::Range;
use core::slice;

/// No CPU is claimed.
pub const NONE: u16 = u16::MAX;

/// Where a runtime's pin went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the runtime wanted it.
    AsAsked,
    /// Elsewhere.
    Moved {
        /// So many cores further, over the end of the topology to its beginning.
        cores: u16,
        /// So many SMT threads further, over the last of the core to its first.
        threads: u8,
    },
    /// Nowhere: the thread has its user mask.
    Dropped,
}

/// A pinned thread of this process: what the runtime asked for, and what it got.
#[derive(Clone)]
pub struct Pinned {
    /// The mask that the runtime set.
    pub asked: SparseMask,
    /// Where that went.
    pub place: Place,
    /// The position of the CPU that the thread claims, or [`NONE`]: new, dropped, or no pin.
    pub cpu: u16,
    /// The last [`plan`] changed its place, so that it has to be pinned anew, to its [mask](mask_of).
    pub changed: bool,
    /// CPUs in `asked`; 0 for a mask that is no pin.
    width: u16,
    /// The position of the first of them.
    home: u16,
    /// The first and the last core that they are on, in topological order.
    ends: (u16, u16),
    /// They are all CPUs of their cores.
    is_whole: bool,
}

impl Pinned {
    /// A thread that the runtime pins to `asked`. A mask with a CPU outside the topology, and one that is all of the
    /// topology, is no pin: it stays as it is and claims nothing.
    pub fn new(topology: &Topology, asked: SparseMask) -> Self {
        let mut new = Self {
            place: Place::AsAsked,
            cpu: NONE,
            changed: false,
            width: 0,
            home: NONE,
            ends: (u16::MAX, 0),
            is_whole: true,
            asked,
        };
        new.width = new.measure(topology).unwrap_or(0);
        new
    }

    /// Finds out where the mask is; its width, if it is a pin.
    fn measure(&mut self, topology: &Topology) -> Option<u16> {
        let width = self.asked.count() as usize;
        if width >= topology.cpus().len() {
            return None;
        }
        for number in numbers(&self.asked) {
            let position = topology.position(number)?;
            let core = topology.cpus().get(position)?.core;
            self.home = self.home.min(position as u16);
            self.ends = (self.ends.0.min(core), self.ends.1.max(core));
            self.is_whole &= topology.core(core).iter().all(|cpu| {
                let number = usize::from(cpu.number);
                self.asked.word(number / 64) >> (number % 64) & 1 == 1
            });
        }
        Some(width as u16)
    }

    fn is_pin(&self) -> bool {
        self.width > 0
    }

    fn move_to(&mut self, place: Place, cpu: u16) {
        self.changed = self.place != place;
        self.place = place;
        self.cpu = cpu;
    }

    /// Whether the runtime wants both threads in one place.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        self.home == other.home
            && self.width == other.width
            && (self.width == 1 || self.asked.entries().eq(other.asked.entries()))
    }
}

fn numbers(mask: &SparseMask) -> impl Iterator<Item = usize> + '_ {
    mask.entries().flat_map(|(at, word)| Bits(word).map(move |bit| at * 64 + bit))
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Shift {
    cores: usize,
    threads: usize,
}

impl Shift {
    fn place(self) -> Place {
        if self == Self::default() {
            Place::AsAsked
        } else {
            Place::Moved { cores: self.cores as u16, threads: self.threads as u8 }
        }
    }

    fn of(place: Place) -> Option<Self> {
        match place {
            Place::AsAsked => Some(Self::default()),
            Place::Moved { cores, threads } => Some(Self { cores: cores.into(), threads: threads.into() }),
            Place::Dropped => None,
        }
    }
}

/// The mask that a place means for `asked`; `None` if it is dropped, or if there is no such place in this topology.
pub fn mask_of(topology: &Topology, asked: &SparseMask, place: Place) -> Option<CpuMask> {
    let shift = Shift::of(place)?;
    if place == Place::AsAsked {
        return Some(asked.to_mask());
    }
    let machine = Machine::new(topology, &[]);
    let is_alone = asked.count() == 1;
    let mut mask = CpuMask::EMPTY;
    for number in numbers(asked) {
        let to = machine.target(topology.position(number)?, shift, is_alone)?;
        mask.insert(machine.cpus.get(to)?.number.into());
    }
    Some(mask)
}

/// Decides on a place for every thread of `team`: all pinned threads of a process, in the order in which they were pinned.
/// `load[position]`: how many other processes claim the CPU; `is_first`: this is the domain's first process, which keeps
/// what it asked for. Says whether any place [changed](Pinned::changed).
///
/// Nothing changes while no other process claims a CPU of the team's and no member is new or dropped. A new member goes where
/// the others went; if that is not good for all, all of them move.
pub fn plan(topology: &Topology, load: &[u16], team: &mut [Pinned], is_first: bool) -> bool {
    for member in team.iter_mut() {
        member.changed = false;
    }
    let machine = Machine::new(topology, load);
    if is_first {
        machine.seat(team, Shift::default(), Some(Place::AsAsked));
    } else if !machine.keeps(team) {
        match machine.best_shift(team) {
            Some(shift) => {
                machine.seat(team, shift, Some(shift.place()));
            }
            None => machine.place_each(team),
        }
    }
    team.iter().any(|member| member.changed)
}

/// What a shift is judged by when every member has a CPU, in this order: smaller is better.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Members whose mask was within one tile or node, and no longer is.
    torn: u32,
    /// Claims of others on the cores that the team uses.
    claims: u32,
    /// Neighbours in the team that no longer are, or now are, in one node.
    nodes: u32,
    /// It goes over the end of the topology: what was adjacent is not.
    is_wrapped: bool,
    /// As `nodes`, with tiles.
    tiles: u32,
}

/// How well a shift seats a team.
#[derive(Default)]
struct Seats {
    /// Members without a CPU that is theirs alone.
    without_own: usize,
    /// Members without a CPU that no other process claims.
    without_free: usize,
}

/// What one member finds under a shift.
struct Seat {
    cpu: usize,
    /// No other process claims it.
    is_free: bool,
    /// No other member has it.
    is_own: bool,
}

/// The topology and the load on it, in the form in which a shift is quickly tried.
struct Machine<'a> {
    topology: &'a Topology,
    cpus: &'a [Cpu],
    load: &'a [u16],
    cores: usize,
    /// The most CPUs that a core has.
    threads: usize,
    /// All cores have as many.
    is_uniform: bool,
}

impl<'a> Machine<'a> {
    fn new(topology: &'a Topology, load: &'a [u16]) -> Self {
        let (cpus, cores) = (topology.cpus(), topology.cores());
        let threads = cpus.chunk_by(|a, b| a.core == b.core).map(<[Cpu]>::len).max().unwrap_or(0);
        Self { topology, cpus, load, cores, threads, is_uniform: cores * threads == cpus.len() }
    }

    fn load(&self, position: usize) -> u32 {
        self.load.get(position).copied().unwrap_or(0).into()
    }

    /// The positions of a core's CPUs.
    fn core(&self, core: usize) -> Range<usize> {
        if self.is_uniform {
            return core * self.threads..(core + 1) * self.threads;
        }
        let cpus = self.topology.core(core as u16);
        let start = cpus.first().and_then(|cpu| self.topology.position(cpu.number.into())).unwrap_or(0);
        start..start + cpus.len()
    }

    fn core_of(&self, position: usize) -> usize {
        self.cpus.get(position).map_or(0, |cpu| cpu.core.into())
    }

    fn moved(&self, core: usize, cores: usize) -> usize {
        let to = core + cores;
        if to < self.cores { to } else { to - self.cores }
    }

    /// Where the CPU at `position` is shifted to: on a core of the same kind. CPUs of one mask (not `is_alone`) also need
    /// as many threads there, so that no two of them become one.
    fn target(&self, position: usize, shift: Shift, is_alone: bool) -> Option<usize> {
        let cpu = self.cpus.get(position)?;
        let from = self.core(cpu.core.into());
        let to = self.core(self.moved(cpu.core.into(), shift.cores));
        let thread = position - from.start;
        let fits = self.cpus.get(to.start)?.kind == cpu.kind && (is_alone || thread < to.len());
        fits.then(|| to.start + (thread + shift.threads).checked_rem(to.len()).unwrap_or(0))
    }

    /// Claims of others on a core, and how many of its CPUs have none.
    fn core_load(&self, core: usize) -> (u32, usize) {
        let core = self.core(core);
        let none = (0, core.len());
        let loads = self.load.get(core).unwrap_or(&[]);
        loads.iter().fold(none, |(claims, free), &load| (claims + u32::from(load), free - usize::from(load > 0)))
    }

    fn core_taken(&self, core: usize, taken: &CpuMask) -> u32 {
        self.core(core).map(|position| u32::from(taken.contains(position))).sum()
    }

    /// Whether everybody can stay.
    fn keeps(&self, team: &[Pinned]) -> bool {
        team.iter().all(|member| !member.is_pin() || member.cpu != NONE && self.load(member.cpu.into()) == 0)
    }

    /// The best CPU for a member under a shift, when its team has taken those in `taken`; `None` if it does not go there.
    fn seat_of(&self, member: &Pinned, shift: Shift, taken: &CpuMask) -> Option<Seat> {
        let seat = |cpu| Seat { cpu, is_free: self.load(cpu) == 0, is_own: !taken.contains(cpu) };
        if member.width == 1 {
            return self.target(member.home.into(), shift, true).map(seat);
        }
        let mut best = None;
        for number in numbers(&member.asked) {
            let seat = seat(self.target(self.topology.position(number)?, shift, false)?);
            let core = self.core_of(seat.cpu);
            let claims = self.core_load(core).0 + self.core_taken(core, taken);
            let key = (!seat.is_free, !seat.is_own, self.load(seat.cpu), claims, seat.cpu);
            if best.as_ref().is_none_or(|&(least, _)| key < least) {
                best = Some((key, seat));
            }
        }
        best.map(|(_, seat)| seat)
    }

    /// Seats everybody under a shift, those who cannot choose first; `None` if somebody does not go there. With a
    /// `place`, the members get it.
    fn seat(&self, team: &mut [Pinned], shift: Shift, place: Option<Place>) -> Option<Seats> {
        let mut taken = CpuMask::EMPTY;
        let mut seats = Seats::default();
        for has_choice in [false, true] {
            for member in team.iter_mut().filter(|member| member.is_pin() && (member.width > 1) == has_choice) {
                let seat = self.seat_of(member, shift, &taken)?;
                taken.insert(seat.cpu);
                seats.without_own += usize::from(!(seat.is_free && seat.is_own));
                seats.without_free += usize::from(!seat.is_free);
                if let Some(place) = place {
                    member.move_to(place, seat.cpu as u16);
                }
            }
        }
        Some(seats)
    }

    /// The best shift that gives everybody a CPU.
    fn best_shift(&self, team: &mut [Pinned]) -> Option<Shift> {
        let alone = Machine { load: &[], ..*self };
        let sharing = alone.seat(team, Shift::default(), None)?.without_own;
        let pins = team.iter().filter(|member| member.is_pin()).count();
        let needed = pins - sharing;
        if self.free() < needed {
            return None;
        }
        let mut used = CpuMask::EMPTY;
        for member in team.iter().filter(|member| member.is_pin()) {
            for position in numbers(&member.asked).filter_map(|number| self.topology.position(number)) {
                used.insert(self.core_of(position));
            }
        }
        let will_do = |team: &mut [Pinned], shift| {
            self.seat(team, shift, None).is_some_and(|seats| seats.without_own <= sharing && seats.without_free == 0)
        };
        let mut best = None;
        // Where the team is already, it stays, unless there is better than that.
        if let Some(shift) = present(team)
            && let Some(score) = self.score(team, &used, needed, shift.cores)
            && will_do(team, shift)
        {
            best = Some((score, shift));
        }
        let turns = self.turns(team);
        let home = team.iter().filter(|member| member.is_pin()).map(|member| member.ends.0).min()?;
        for cores in self.nearest_first(home.into()) {
            if best.is_some_and(|(score, _)| score == Score::default()) {
                break;
            }
            let Some(score) = self.score(team, &used, needed, cores) else { continue };
            if best.is_some_and(|(least, _)| least <= score) {
                continue;
            }
            let shift = (0..turns).map(|threads| Shift { cores, threads }).find(|&shift| will_do(team, shift));
            best = shift.map(|shift| (score, shift)).or(best);
        }
        best.map(|(_, shift)| shift)
    }

    /// Shifts by cores, in the order of how far they lead from the core `home`.
    fn nearest_first(&self, home: usize) -> impl Iterator<Item = usize> + use<> {
        let cores = self.cores;
        (0..cores).flat_map(move |distance| {
            let up = (distance < cores.saturating_sub(home)).then_some(distance);
            let down = (0 < distance && distance <= home).then(|| cores - distance);
            up.into_iter().chain(down)
        })
    }

    /// How many shifts by threads there are to try. Turning a whole core leads nowhere, where all cores have as many CPUs.
    fn turns(&self, team: &[Pinned]) -> usize {
        let is_whole = self.is_uniform && team.iter().all(|member| !member.is_pin() || member.is_whole);
        if is_whole { 1 } else { self.threads }
    }

    fn free(&self) -> usize {
        (0..self.cpus.len()).filter(|&position| self.load(position) == 0).count()
    }

    /// What a shift by so many cores is worth to a team that needs `needed` CPUs; `None` if there are fewer free on its
    /// cores.
    fn score(&self, team: &[Pinned], used: &CpuMask, needed: usize, cores: usize) -> Option<Score> {
        let mut score = Score::default();
        let mut free = 0;
        let mut last: Option<(&Cpu, &Cpu)> = None;
        let words = (0..self.cores.div_ceil(64)).map(|at| (at, used.word(at)));
        for core in words.flat_map(|(at, word)| Bits(word).map(move |bit| at * 64 + bit)) {
            let to = self.moved(core, cores);
            let pair = (self.cpus.get(self.core(core).start)?, self.cpus.get(self.core(to).start)?);
            let on_core = self.core_load(to);
            score.claims += on_core.0;
            free += on_core.1;
            if let Some(last) = last {
                score.nodes += u32::from((last.0.node == pair.0.node) != (last.1.node == pair.1.node));
                score.tiles += u32::from((last.0.tile == pair.0.tile) != (last.1.tile == pair.1.tile));
                score.is_wrapped |= pair.1.core < last.1.core;
            }
            last = Some(pair);
        }
        if free < needed {
            return None;
        }
        score.torn = team.iter().filter(|member| self.is_torn(member, cores)).count() as u32;
        Some(score)
    }

    /// Whether a mask that is within one tile or node is not so after the shift.
    fn is_torn(&self, member: &Pinned, cores: usize) -> bool {
        let (first, last) = (usize::from(member.ends.0), usize::from(member.ends.1));
        if !member.is_pin() || first == last {
            return false;
        }
        let cpu = |core| self.cpus.get(self.core(core).start);
        let within = |first, last| match (cpu(first), cpu(last)) {
            (Some(first), Some(last)) => (first.node == last.node, first.tile == last.tile),
            _ => (false, false),
        };
        let (before, after) = (within(first, last), within(self.moved(first, cores), self.moved(last, cores)));
        before.0 && !after.0 || before.1 && !after.1
    }

    /// Each member that cannot stay gets a place of its own.
    fn place_each(&self, team: &mut [Pinned]) {
        let mut taken = CpuMask::EMPTY;
        let mut free = self.free();
        for member in team.iter_mut().filter(|member| member.is_pin() && member.cpu != NONE) {
            let cpu = usize::from(member.cpu);
            if self.load(cpu) == 0 && !taken.contains(cpu) {
                taken.insert(cpu);
                free = free.saturating_sub(1);
            } else {
                // It looks for one below.
                member.cpu = NONE;
            }
        }
        let mut before = None;
        for index in 0..team.len() {
            let (earlier, rest) = team.split_at_mut(index);
            let Some(member) = rest.first_mut().filter(|member| member.is_pin()) else { continue };
            if member.cpu == NONE {
                let mate = self.mate(earlier, member);
                let found = match mate {
                    Some(mate) => Some((mate.place, mate.cpu)),
                    None if free == 0 => None,
                    None => self.nearest(member, before, &taken),
                };
                let (place, cpu) = found.unwrap_or((Place::Dropped, NONE));
                if cpu != NONE && mate.is_none() {
                    taken.insert(cpu.into());
                    free = free.saturating_sub(1);
                }
                member.move_to(place, cpu);
            }
            if member.cpu != NONE {
                before = Some((usize::from(member.ends.0), self.core_of(member.cpu.into())));
            }
        }
    }

    /// The member to share a CPU with, where more ask for one mask than it has CPUs.
    fn mate<'b>(&self, earlier: &'b [Pinned], member: &Pinned) -> Option<&'b Pinned> {
        let mut mates = earlier.iter().filter(|mate| mate.asks_the_same_as(member));
        let count = mates.clone().count();
        let width = usize::from(member.width);
        if count < width { None } else { mates.nth(count % width) }
    }

    /// The place with a free CPU for one member, on the least claimed core, near the core of the member `before` it (whose
    /// asked and present core that are). The team's own claims count, unless the two asked for one core.
    fn nearest(&self, member: &Pinned, before: Option<(usize, usize)>, taken: &CpuMask) -> Option<(Place, u16)> {
        let home = usize::from(member.ends.0);
        let (asked, near) = before.unwrap_or((NONE.into(), home));
        let turns = self.turns(slice::from_ref(member));
        let mut best: Option<(_, Shift, usize)> = None;
        for cores in 0..self.cores {
            let (mut claims, mut has_room) = (0, false);
            for core in (member.ends.0..=member.ends.1).map(|core| self.moved(core.into(), cores)) {
                claims += self.core_load(core).0 + if asked == home { 0 } else { self.core_taken(core, taken) };
                has_room |= self.core(core).any(|position| self.load(position) == 0 && !taken.contains(position));
            }
            let key = (self.is_torn(member, cores), claims, self.moved(home, cores).abs_diff(near));
            if !has_room || best.as_ref().is_some_and(|(least, ..)| *least <= key) {
                continue;
            }
            let seats = (0..turns).map(|threads| Shift { cores, threads }).filter_map(|shift| {
                let seat = self.seat_of(member, shift, taken).filter(|seat| seat.is_free && seat.is_own)?;
                Some((key, shift, seat.cpu))
            });
            best = { seats }.next().or(best);
        }
        best.map(|(_, shift, cpu)| (shift.place(), cpu as u16))
    }
}

/// The shift under which all members are that have a CPU, if there is one.
fn present(team: &[Pinned]) -> Option<Shift> {
    let mut places = team.iter().filter(|member| member.cpu != NONE).map(|member| member.place);
    let first = places.next()?;
    places.all(|place| place == first).then_some(first).and_then(Shift::of)
}

/// What a worker is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A core.
    Core,
    /// A tile: the cores of an L2 or L3 cache.
    Tile,
    /// A NUMA node.
    Numa,
    /// A core, far from the others.
    Spread,
}

/// A place for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The position of the CPU that it claims.
    pub cpu: u16,
    /// Where it may run.
    pub mask: CpuMask,
}

/// The place for a new worker, or for one that has to give way; `None` without CPUs. Of places that are as good as each
/// other it is the first one with `turn` 0. Workers that see the same load and have different turns get different places,
/// as long as there are so many as good.
pub fn for_worker(topology: &Topology, load: &[u16], level: Level, turn: usize) -> Option<Worker> {
    let all = Part { cpus: topology.cpus(), start: 0, load };
    let mut turn = turn;
    let part = match level {
        Level::Core => all,
        Level::Tile => all.least_of(Part::key, |cpu| cpu.tile, &mut turn)?,
        Level::Numa => all.least_of(Part::key, |cpu| cpu.node, &mut turn)?,
        Level::Spread => all
            .least_of(Part::core_key, |cpu| cpu.package, &mut turn)?
            .least_of(Part::core_key, |cpu| cpu.node, &mut turn)?
            .least_of(Part::core_key, |cpu| cpu.tile, &mut turn)?,
    };
    let core = part.least_of(Part::core_key, |cpu| cpu.core, &mut turn)?;
    let least = core.loads().min()?;
    let as_good = || (core.start..).take(core.cpus.len()).filter(|&position| core.load(position) == least);
    let cpu = as_good().nth(turn % as_good().count().max(1))? as u16;
    Some(Worker { cpu, mask: refresh(topology, load, level, cpu) })
}

/// The mask that a worker which claims the CPU at position `cpu` should have now: with `Core` and `Spread`, narrower when
/// others have claimed siblings, wider when they gave them back. It never moves to another core by this.
pub fn refresh(topology: &Topology, load: &[u16], level: Level, cpu: u16) -> CpuMask {
    let load = |position: usize| load.get(position).copied().unwrap_or(0);
    // Where all of a core are claimed, those that are claimed least.
    let is_its = |position| matches!(level, Level::Tile | Level::Numa) || load(position) <= load(cpu.into());
    let part = level.part(topology, cpu).filter(|&(position, _)| is_its(position));
    CpuMask::of(part.map(|(_, other)| other.number.into()))
}

/// The CPUs that a worker which claims the one at position `cpu` wants for itself: if `should_move`.
pub fn whole(topology: &Topology, level: Level, cpu: u16) -> CpuMask {
    CpuMask::of(level.part(topology, cpu).map(|(_, other)| other.number.into()))
}

/// Whether a worker that claims the CPU at position `cpu` shares its core, tile or node while another one is free: when it
/// chose, all were claimed, for a moment perhaps.
pub fn should_move(topology: &Topology, load: &[u16], level: Level, cpu: u16) -> bool {
    let load_at = |position: usize| load.get(position).copied().unwrap_or(0);
    let is_free = |cpu: u16| level.part(topology, cpu).all(|(position, _)| load_at(position) == 0);
    !is_free(cpu) && for_worker(topology, load, level, 0).is_some_and(|other| is_free(other.cpu))
}

impl Level {
    /// The core, tile or node of the CPU at position `cpu`: the CPUs with their positions.
    fn part(self, topology: &Topology, cpu: u16) -> impl Iterator<Item = (usize, &Cpu)> {
        let of = move |cpu: &Cpu| match self {
            Self::Core | Self::Spread => cpu.core,
            Self::Tile => cpu.tile,
            Self::Numa => cpu.node,
        };
        let own = topology.cpus().get(usize::from(cpu)).map(of);
        topology.cpus().iter().enumerate().filter(move |(_, other)| Some(of(other)) == own)
    }
}

/// Neighbouring CPUs.
#[derive(Clone, Copy)]
struct Part<'a> {
    cpus: &'a [Cpu],
    /// The position of the first.
    start: usize,
    load: &'a [u16],
}

/// How claimed a part is: the least key of its cores or CPUs, then the claims for each CPU.
#[derive(Clone, Copy)]
struct Key {
    least: (u16, u32),
    claims: u32,
    cpus: u32,
}

impl Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let per_cpu = |a: &Self, b: &Self| u64::from(a.claims) * u64::from(b.cpus);
        self.least.cmp(&other.least).then_with(|| per_cpu(self, other).cmp(&per_cpu(other, self)))
    }
}

impl<'a> Part<'a> {
    fn load(&self, position: usize) -> u16 {
        self.load.get(position).copied().unwrap_or(0)
    }

    fn loads(&self) -> impl Iterator<Item = u16> + '_ {
        (self.start..).take(self.cpus.len()).map(|position| self.load(position))
    }

    fn claims(&self) -> u32 {
        self.loads().map(u32::from).sum()
    }

    /// The parts of which `of` is the same.
    fn parts(self, of: impl Fn(&Cpu) -> u16 + 'a) -> impl Iterator<Item = Part<'a>> {
        self.cpus.chunk_by(move |a, b| of(a) == of(b)).scan(self.start, move |next, cpus| {
            let start = *next;
            *next += cpus.len();
            Some(Part { cpus, start, load: self.load })
        })
    }

    /// One of the least claimed parts: the one whose `turn` it is, which is divided by how many there are.
    fn least_of(
        self,
        key: impl Fn(&Self) -> Key,
        of: impl Fn(&Cpu) -> u16 + Copy + 'a,
        turn: &mut usize,
    ) -> Option<Part<'a>> {
        let least = self.parts(of).map(|part| key(&part)).min_by(Key::cmp)?;
        let as_good = || self.parts(of).filter(|part| key(part).cmp(&least).is_eq());
        let count = as_good().count().max(1);
        let part = as_good().nth(*turn % count);
        *turn /= count;
        part
    }

    /// By CPUs: a part with a CPU that is claimed less comes first.
    fn key(&self) -> Key {
        Key { least: (self.loads().min().unwrap_or(u16::MAX), 0), claims: self.claims(), cpus: self.cpus.len() as u32 }
    }

    /// By cores: a part with a whole core comes before one with siblings alone.
    fn core_key(&self) -> Key {
        let of_core = |core: Part<'_>| (core.loads().min().unwrap_or(u16::MAX), core.claims());
        Key { least: self.parts(|cpu| cpu.core).map(of_core).min().unwrap_or((u16::MAX, 0)), ..self.key() }
    }
}

#[cfg(test)]
mod tests;
