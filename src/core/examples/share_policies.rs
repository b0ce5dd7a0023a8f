//! Chooses the share policy and its constants: candidate policies on a simulated node.
//!
//! `cargo run --release -p knlfix-core --example share_policies [-- --markdown]`
//!
//! A discrete-event simulation with processor sharing, fixed seeds and no clock: the same tables on every machine.
//! `docs/budget-policy.md` describes the model and what was concluded from it. The chosen policy is the library's own
//! `share` and `Held`; the other candidates call them too, with claims or clocks altered.

use knlfix_core::share::{Claim, HOLD_MS, Held, LATELY_MS, REFRESH_MS, Share, WHOLE, share};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

// All times of the simulation are in microseconds.
const MS: f64 = 1000.0;

/// What things cost, from measurements on libgomp: see the page.
mod cost {
    /// An empty region, and its barrier per thread.
    pub(crate) const REGION: f64 = 0.3;
    pub(crate) const REGION_PER_THREAD: f64 = 0.02;
    /// A spinning team that waits for a thread without a CPU waits for about a slice of the scheduler.
    pub(crate) const SLICE: f64 = 3000.0;
    /// Sleeping and waking at a barrier, on busy CPUs; and what waking an idle CPU adds.
    pub(crate) const PASSIVE: f64 = 12.0;
    pub(crate) const WAKE_IDLE: f64 = 180.0;
    /// libgomp replaces a team.
    pub(crate) const RESIZE: f64 = 800.0;
    pub(crate) const RESIZE_PER_THREAD: f64 = 10.0;
    /// libgomp is made to wait in another way than before: a parked team is made or ended.
    pub(crate) const SWITCH: f64 = 200.0;
}

/// Between regions.
#[derive(Clone, Copy)]
enum Gap {
    None,
    /// Waits for something: no CPU.
    Sleep(f64),
    /// Serial code: one CPU.
    Serial(f64),
}

#[derive(Clone, Copy)]
struct Program {
    start: f64,
    ask: u32,
    /// CPU time of one region, all threads together.
    work: f64,
    /// Regions back to back before each gap.
    burst: u32,
    gap: Gap,
    /// Ends after this much region work.
    total: f64,
    /// Its runtime pays for a change of team size.
    dear_resize: bool,
    /// It sets its thread counts itself: they stay, only its waiting can be changed.
    explicit: bool,
}

struct Scenario {
    group: usize,
    name: String,
    cpus: u32,
    duration: f64,
    programs: Vec<Program>,
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// Everyone takes what it asks for.
    All,
    /// `OMP_NUM_THREADS=1`.
    One,
    /// `OMP_NUM_THREADS` at the CPUs over the processes.
    Static,
    /// Equal parts among all processes that ever joined and still live.
    Members,
    /// Equal parts among the lately active.
    Equal,
    /// The same, and what small askers leave goes to the others: the library's `share`.
    Fill,
    /// The same, and the parts that active processes do not use at the moment are lent.
    Lend,
    /// Whatever nobody holds at the moment.
    Free,
}

/// When teams wait passively.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Never,
    Always,
    /// While another process is active.
    Crowded,
    /// While more threads are held than there are CPUs.
    Over,
}

#[derive(Clone, Copy, PartialEq)]
enum Hold {
    /// Every change of the share is followed.
    Follow,
    /// A size is kept this long, in milliseconds: the library's `Held`.
    Keep(u32),
    /// The same, but one thread while the share is less than the size.
    OneMeanwhile(u32),
    /// A smaller share is followed at once, a larger one not before this time after the last change.
    Shrink(u32),
    /// A change is followed when the share has differed for this time.
    Settle(u32),
}

#[derive(Clone, Copy)]
struct Policy {
    name: &'static str,
    rule: Rule,
    lately: u32,
    refresh: u32,
    hold: Hold,
    wait: Wait,
    /// Whether looking again early is signalled when a process becomes active or ends.
    signals: bool,
    chosen: bool,
}

impl Policy {
    const fn new(name: &'static str, rule: Rule) -> Self {
        let (lately, refresh) = (LATELY_MS, REFRESH_MS);
        let wait = if matches!(rule, Rule::All | Rule::One | Rule::Static) { Wait::Never } else { Wait::Crowded };
        Self { name, rule, lately, refresh, hold: Hold::Keep(HOLD_MS), wait, signals: true, chosen: false }
    }
    const fn lately(self, lately: u32) -> Self {
        Self { lately, ..self }
    }
    const fn refresh(self, refresh: u32) -> Self {
        Self { refresh, ..self }
    }
    const fn chosen(self) -> Self {
        Self { chosen: true, ..self }
    }
    const fn wait(self, wait: Wait) -> Self {
        Self { wait, ..self }
    }
    const fn unsignalled(self) -> Self {
        Self { signals: false, ..self }
    }
    const fn hold(self, hold: Hold) -> Self {
        Self { hold, ..self }
    }
}

fn share_policies() -> Vec<Policy> {
    use Rule::*;
    let p = Policy::new;
    vec![
        p("default: everyone takes all", All),
        p("default, passive waiting", All).wait(Wait::Always),
        p("one thread each", One),
        p("static parts", Static),
        p("equal parts, all members", Members),
        p("equal parts, in a region now", Equal).lately(0),
        p("equal parts, lately 10 ms", Equal),
        p("equal parts, lately 100 ms", Equal).lately(100),
        p("filling, in a region now", Fill).lately(0),
        p("filling, lately 2 ms", Fill).lately(2),
        p("filling, lately 5 ms", Fill).lately(5),
        p("filling, lately 10 ms", Fill).chosen(),
        p("filling, lately 20 ms", Fill).lately(20),
        p("filling, lately 50 ms", Fill).lately(50),
        p("filling, lately 200 ms", Fill).lately(200),
        p("filling, refresh 1 ms", Fill).refresh(1),
        p("filling, refresh 20 ms", Fill).refresh(20),
        p("filling, refresh 1 ms, no signals", Fill).refresh(1).unsignalled(),
        p("filling, refresh 5 ms, no signals", Fill).unsignalled(),
        p("filling, refresh 20 ms, no signals", Fill).refresh(20).unsignalled(),
        p("filling, passive when over", Fill).wait(Wait::Over),
        p("filling, never passive", Fill).wait(Wait::Never),
        p("filling and lending, lately 10 ms", Lend),
        p("whatever is free", Free).refresh(0),
    ]
}

fn wait_policies() -> Vec<Policy> {
    use Rule::*;
    let p = Policy::new;
    vec![
        p("default: everyone takes all", All),
        p("default, passive waiting", All).wait(Wait::Always),
        p("default, passive when crowded", All).wait(Wait::Crowded),
        p("static parts where they can be set", Static),
        p("filling, never passive", Fill).wait(Wait::Never),
        p("filling, passive when crowded", Fill).chosen(),
        p("filling, passive when over", Fill).wait(Wait::Over),
    ]
}

fn hold_policies() -> Vec<Policy> {
    use Hold::*;
    let p = |name| Policy::new(name, Rule::Fill);
    vec![
        Policy::new("default: everyone takes all", Rule::All),
        Policy::new("one thread each", Rule::One),
        Policy::new("static parts", Rule::Static),
        p("every change").hold(Follow),
        p("kept 5 ms").hold(Keep(5)),
        p("kept 20 ms").chosen(),
        p("kept 50 ms").hold(Keep(50)),
        p("kept 200 ms").hold(Keep(200)),
        p("shrinks at once, grows after 20 ms").hold(Shrink(20)),
        p("shrinks at once, grows after 200 ms").hold(Shrink(200)),
        p("1 while it should shrink, 20 ms").hold(OneMeanwhile(20)),
        p("1 while it should shrink, 50 ms").hold(OneMeanwhile(50)),
        p("share differed for 20 ms").hold(Settle(20)),
        p("share differed for 100 ms").hold(Settle(100)),
        p("kept 20 ms, lately 2 ms").lately(2),
        p("kept 20 ms, lately 5 ms").lately(5),
        p("kept 20 ms, lately 20 ms").lately(20),
        p("kept 20 ms, lately 100 ms").lately(100),
        p("kept 20 ms, passive when over").wait(Wait::Over),
    ]
}

struct Random(u64);

impl Random {
    /// In 0..1 (splitmix64).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    NotStarted,
    Region,
    /// The team is being replaced; the region follows.
    Resize,
    Serial,
    Sleep,
    Ended,
}

struct Process {
    program: Program,
    phase: Phase,
    // What the ledger shows of it.
    held: u32,
    last_active: f64,
    joined: bool,
    // What it last saw of the ledger.
    seen: Share,
    looked_at: f64,
    generation: u64,
    // The runtime's team.
    held_size: Held,
    pool: u32,
    passive: bool,
    resized_at: f64,
    differs_since: f64,
    // The phase: useful work per unit of virtual time, and since when it is not accounted.
    useful: f64,
    since_virtual: f64,
    since: f64,
    regions_left: u32,
    batch: u32,
    done: f64,
    window_done: f64,
    window_want: f64,
}

#[derive(PartialEq, Clone, Copy)]
struct Event(f64, usize);
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

#[derive(Clone, Copy, Default)]
struct Figures {
    utilisation: f64,
    oversubscription: f64,
    fairness: f64,
}

struct Node<'a> {
    policy: &'a Policy,
    cpus: u32,
    fair: u32,
    processes: Vec<Process>,
    random: Random,
    now: f64,
    /// Grows as fast as one runnable thread gets CPU time.
    virtual_now: f64,
    runnable: u32,
    /// Processes with a runnable thread.
    busy: u32,
    generation: u64,
    by_virtual: BinaryHeap<Reverse<Event>>,
    by_time: BinaryHeap<Reverse<Event>>,
    useful: f64,
    excess: f64,
    jain: (f64, f64),
}

impl<'a> Node<'a> {
    fn new(scenario: &Scenario, policy: &'a Policy) -> Self {
        let process = |&program: &Program| Process {
            program,
            phase: Phase::NotStarted,
            held: 0,
            last_active: f64::NEG_INFINITY,
            joined: false,
            seen: Share { threads: 1, crowded: false, over: false },
            looked_at: f64::NEG_INFINITY,
            generation: 0,
            held_size: Held::default(),
            pool: 0,
            passive: false,
            resized_at: f64::NEG_INFINITY,
            differs_since: f64::INFINITY,
            useful: 0.0,
            since_virtual: 0.0,
            since: 0.0,
            regions_left: 0,
            batch: 0,
            done: 0.0,
            window_done: 0.0,
            window_want: 0.0,
        };
        let mut by_time = BinaryHeap::new();
        for (i, program) in scenario.programs.iter().enumerate() {
            by_time.push(Reverse(Event(program.start, i)));
        }
        Self {
            policy,
            cpus: scenario.cpus,
            fair: (scenario.cpus / scenario.programs.len() as u32).max(1),
            processes: scenario.programs.iter().map(process).collect(),
            random: Random(scenario.programs.len() as u64 * 1000 + u64::from(scenario.cpus)),
            now: 0.0,
            virtual_now: 0.0,
            runnable: 0,
            busy: 0,
            generation: 1,
            by_virtual: BinaryHeap::new(),
            by_time,
            useful: 0.0,
            excess: 0.0,
            jain: (0.0, 0.0),
        }
    }

    fn run(mut self, duration: f64) -> Figures {
        const WINDOW: f64 = 50.0 * MS;
        let mut window_end = WINDOW;
        loop {
            let rate = (f64::from(self.cpus) / f64::from(self.runnable.max(1))).min(1.0);
            let virtual_event = self.by_virtual.peek().map(|Reverse(e)| self.now + (e.0 - self.virtual_now) / rate);
            let timed_event = self.by_time.peek().map(|Reverse(e)| e.0);
            let (a, b) = (virtual_event.unwrap_or(f64::INFINITY), timed_event.unwrap_or(f64::INFINITY));
            let next = a.min(b);
            if next.is_infinite() {
                break;
            }
            let stop = next.min(window_end).min(duration);
            self.virtual_now += (stop - self.now) * rate;
            self.excess += (stop - self.now) * f64::from(self.runnable.saturating_sub(self.cpus.max(self.busy)));
            self.now = stop;
            if stop < next {
                self.close_window();
                window_end += WINDOW;
                if stop >= duration {
                    break;
                }
                continue;
            }
            let heap = if a <= b { &mut self.by_virtual } else { &mut self.by_time };
            if let Some(Reverse(Event(at, i))) = heap.pop() {
                if a <= b {
                    self.virtual_now = at;
                }
                self.step(i);
            }
        }
        let capacity = self.now * f64::from(self.cpus);
        Figures {
            utilisation: self.useful / capacity,
            oversubscription: self.excess / capacity,
            fairness: if self.jain.1 > 0.0 { self.jain.0 / self.jain.1 } else { 1.0 },
        }
    }

    /// Books what a process did since it was last looked at.
    fn account(&mut self, i: usize) {
        let p = &mut self.processes[i];
        let did = (self.virtual_now - p.since_virtual) * p.useful;
        self.useful += did;
        if matches!(p.phase, Phase::Region | Phase::Resize) {
            p.done += did;
            p.window_done += did;
            p.window_want += self.now - p.since;
        }
        p.since_virtual = self.virtual_now;
        p.since = self.now;
    }

    /// Jain's index of the work rates, while they wanted to work, of those that could use more than an equal part.
    fn close_window(&mut self) {
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for i in 0..self.processes.len() {
            self.account(i);
            let p = &mut self.processes[i];
            if p.window_want > 5.0 * MS && p.program.ask >= self.fair {
                let rate = p.window_done / p.window_want;
                n += 1.0;
                sum += rate;
                squares += rate * rate;
            }
            p.window_done = 0.0;
            p.window_want = 0.0;
        }
        if n > 1.5 && squares > 0.0 {
            self.jain.0 += sum * sum / (n * squares);
            self.jain.1 += 1.0;
        }
    }

    fn step(&mut self, i: usize) {
        self.account(i);
        match self.processes[i].phase {
            Phase::NotStarted | Phase::Serial | Phase::Sleep => self.enter(i),
            Phase::Resize => {
                self.stop(1);
                self.region(i);
            }
            Phase::Region => self.leave(i),
            Phase::Ended => {}
        }
    }

    fn phase(&mut self, i: usize, phase: Phase, threads: u32, length: f64, work: f64) {
        let p = &mut self.processes[i];
        p.phase = phase;
        p.useful = work / length;
        self.runnable += threads;
        self.busy += 1;
        self.by_virtual.push(Reverse(Event(self.virtual_now + length, i)));
    }

    fn stop(&mut self, threads: u32) {
        self.runnable -= threads;
        self.busy -= 1;
    }

    /// What `i` sees of `j`.
    fn claim(&self, i: usize, j: usize) -> Claim {
        let p = &self.processes[j];
        let in_region = matches!(p.phase, Phase::Region | Phase::Resize);
        let idle_ms = ((self.now - p.last_active) / MS).min(1e9) as u32;
        let lately = match self.policy.rule {
            Rule::Members => true,
            _ => in_region || (idle_ms <= self.policy.lately && self.policy.lately > 0),
        };
        let present = p.joined && p.phase != Phase::Ended && lately;
        Claim {
            ask: if matches!(self.policy.rule, Rule::Equal | Rule::Members) { u32::MAX } else { p.program.ask },
            held: p.held,
            in_region: present && (in_region || self.policy.rule == Rule::Members),
            // The candidate's notion of lately, put in terms of the library's.
            idle_ms: if present { 0 } else { u32::MAX },
            weight: WHOLE,
            is_before_us: j < i,
        }
    }

    fn look(&self, i: usize, ask: u32) -> Share {
        let others = (0..self.processes.len()).filter(|&j| j != i).map(|j| self.claim(i, j));
        let held: u32 = others.clone().filter(|c| c.in_region).map(|c| c.held).sum();
        let free = self.cpus.saturating_sub(held).clamp(1, ask);
        let mut share = share(self.cpus, ask, others.clone());
        match self.policy.rule {
            Rule::All => share.threads = ask,
            Rule::One => share.threads = 1,
            Rule::Static => share.threads = self.fair.min(ask),
            Rule::Lend => share.threads = share.threads.max(free),
            Rule::Free => share.threads = free,
            Rule::Members | Rule::Equal | Rule::Fill => {}
        }
        if self.processes[i].program.explicit {
            share.threads = ask;
        }
        share.over = share.threads + held > self.cpus;
        share
    }

    /// The threads of the next region.
    fn decide(&mut self, i: usize) -> u32 {
        let ask = self.processes[i].program.ask;
        let stale = self.now - self.processes[i].looked_at >= f64::from(self.policy.refresh) * MS;
        if stale || (self.policy.signals && self.processes[i].generation != self.generation) {
            let seen = self.look(i, ask);
            let p = &mut self.processes[i];
            p.seen = seen;
            p.looked_at = self.now;
            p.generation = self.generation;
        }
        let now = self.now;
        let p = &mut self.processes[i];
        let share = p.seen.threads;
        if !p.program.dear_resize {
            return share;
        }
        let whole = share == 1 || share == ask || p.pool < 2;
        let passed = |since: f64, ms: u32| now - since >= f64::from(ms) * MS;
        if share == p.pool {
            p.differs_since = f64::INFINITY;
        } else {
            p.differs_since = p.differs_since.min(now);
        }
        // The library's hysteresis with another constant is the library's with another clock.
        let mut keep = |ms: u32| p.held_size.next(share, ask, (now / MS * f64::from(HOLD_MS) / f64::from(ms)) as u32);
        match self.policy.hold {
            Hold::Follow => share,
            Hold::Keep(ms) => keep(ms),
            Hold::OneMeanwhile(ms) => {
                let size = keep(ms);
                if size > share { 1 } else { size }
            }
            Hold::Shrink(ms) if whole || share < p.pool || passed(p.resized_at, ms) => share,
            Hold::Settle(ms) if whole || passed(p.differs_since, ms) => share,
            Hold::Shrink(_) | Hold::Settle(_) => p.pool,
        }
    }

    fn enter(&mut self, i: usize) {
        if self.processes[i].phase == Phase::Serial {
            self.stop(1);
        }
        // Whoever becomes active says so.
        let p = &self.processes[i];
        let idle = self.now - p.last_active > f64::from(self.policy.lately + 1) * MS;
        if idle || !p.joined {
            self.generation += 1;
            self.processes[i].joined = true;
        }
        self.next_regions(i);
    }

    fn next_regions(&mut self, i: usize) {
        if self.processes[i].regions_left == 0 {
            self.processes[i].regions_left = self.processes[i].program.burst.max(1);
        }
        let threads = self.decide(i);
        let now = self.now;
        let p = &mut self.processes[i];
        p.held = threads;
        p.last_active = now;
        let resize = p.program.dear_resize && threads > 1 && p.pool > 1 && p.pool != threads;
        if threads > 1 {
            if p.pool != threads {
                p.resized_at = now;
            }
            p.pool = threads;
        }
        let passive = match self.policy.wait {
            Wait::Never => false,
            Wait::Always => true,
            Wait::Crowded => p.seen.crowded,
            Wait::Over => p.seen.over,
        };
        let switch = p.program.dear_resize && threads > 1 && p.passive != passive;
        p.passive = passive;
        if resize || switch {
            let team = cost::RESIZE + cost::RESIZE_PER_THREAD * f64::from(threads);
            let length = if resize { team } else { 0.0 } + if switch { cost::SWITCH } else { 0.0 };
            self.phase(i, Phase::Resize, 1, length, 0.0);
        } else {
            self.region(i);
        }
    }

    /// Short regions that follow each other are simulated together, up to a millisecond of them.
    fn region(&mut self, i: usize) {
        let p = &self.processes[i];
        let threads = f64::from(p.held);
        let computing = p.program.work / threads;
        let passive = p.passive;
        let mut length = computing;
        if p.held > 1 {
            let load = f64::from(self.runnable + p.held) / f64::from(self.cpus);
            length += cost::REGION + cost::REGION_PER_THREAD * threads;
            length += match passive {
                true => cost::PASSIVE + cost::WAKE_IDLE * (1.0 - load).max(0.0),
                false => cost::SLICE * (1.0 - 1.0 / load).max(0.0),
            };
        }
        let batch = ((MS / length) as u32).clamp(1, p.regions_left);
        let (work, held) = (p.program.work, p.held);
        self.processes[i].batch = batch;
        self.phase(i, Phase::Region, held, length * f64::from(batch), work * f64::from(batch));
    }

    fn leave(&mut self, i: usize) {
        self.stop(self.processes[i].held);
        let now = self.now;
        let p = &mut self.processes[i];
        p.last_active = now;
        p.regions_left -= p.batch;
        if p.done >= p.program.total {
            p.phase = Phase::Ended;
            p.useful = 0.0;
            self.generation += 1;
            return;
        }
        let gap = if p.regions_left > 0 { Gap::None } else { p.program.gap };
        match gap {
            Gap::None => self.next_regions(i),
            Gap::Sleep(mean) => {
                p.phase = Phase::Sleep;
                p.useful = 0.0;
                let until = self.now + self.random.exponential(mean);
                self.by_time.push(Reverse(Event(until, i)));
            }
            Gap::Serial(mean) => {
                let length = self.random.exponential(mean) + 0.1;
                self.phase(i, Phase::Serial, 1, length, length);
            }
        }
    }
}

const GROUPS: [&str; 8] = [
    "steady: regions back to back",
    "bursty: gaps between regions",
    "imbalanced: work 8:1:1:1, to completion",
    "one long region beside short ones",
    "late starters",
    "small askers among large ones",
    "explicit counts: half of the processes keep theirs",
    "dear changes of team size (libgomp)",
];

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |group: usize, name: String, cpus: u32, duration: f64, programs: Vec<Program>| {
        let mut random = Random(all.len() as u64 + 1);
        let programs =
            programs.into_iter().map(|p| Program { start: p.start + random.unit() * 2.0 * MS, ..p }).collect();
        all.push(Scenario { group, name, cpus, duration: duration * MS, programs });
    };
    // A region of this length on an equal part of the CPUs.
    let program = |cpus: u32, n: u32, region: f64| Program {
        start: 0.0,
        ask: cpus,
        work: region * f64::from((cpus / n).max(1)),
        burst: 1_000_000,
        gap: Gap::None,
        total: f64::INFINITY,
        dear_resize: false,
        explicit: false,
    };
    let label = |us: f64| if us < MS { format!("{us}us") } else { format!("{}ms", us / MS) };

    for (cpus, ns) in [(2, &[2_u32, 4][..]), (64, &[2, 5, 64]), (272, &[24, 272])] {
        for &n in ns {
            for region in [30.0, MS, 50.0 * MS] {
                let duration = if n > 100 { 200.0 } else { 500.0 };
                add(
                    0,
                    format!("{n}/{cpus} {}", label(region)),
                    cpus,
                    duration,
                    vec![program(cpus, n, region); n as usize],
                );
            }
        }
    }
    for (cpus, n) in [(2, 3), (64, 4), (64, 24), (272, 272)] {
        let gaps: &[(u32, f64, Gap)] = &[
            (1, 0.3, Gap::Serial(0.1 * MS)),
            (1, 1.0, Gap::Serial(2.0 * MS)),
            (1, 2.0, Gap::Sleep(4.0 * MS)),
            (20, 1.0, Gap::Sleep(30.0 * MS)),
            (50, 1.0, Gap::Serial(100.0 * MS)),
            (100, 1.0, Gap::Sleep(300.0 * MS)),
        ];
        for &(burst, region, gap) in gaps {
            let p = Program { burst, gap, ..program(cpus, n, region * MS) };
            let (kind, mean) = match gap {
                Gap::Serial(mean) => ("serial", mean),
                Gap::Sleep(mean) => ("sleep", mean),
                Gap::None => ("", 0.0),
            };
            let duration = if n > 100 { 300.0 } else { 1200.0 };
            let name = format!("{n}/{cpus} {burst}x{} {kind} {}", label(region * MS), label(mean));
            add(1, name, cpus, duration, vec![p; n as usize]);
        }
    }
    for (cpus, n) in [(2, 4), (64, 4), (64, 16), (272, 64)] {
        for region in [0.1, 1.0, 20.0] {
            let one = program(cpus, n, region * MS);
            let unit = 60.0 * MS * f64::from(cpus) / f64::from(n);
            let programs =
                (0..n).map(|i| Program { total: if i % 4 == 0 { 8.0 } else { 1.0 } * unit, ..one }).collect();
            add(2, format!("{n}/{cpus} {}", label(region * MS)), cpus, 60_000.0, programs);
        }
    }
    for (cpus, n) in [(2, 2), (64, 4), (64, 32), (272, 100)] {
        for region in [0.1, 2.0] {
            let mut programs =
                vec![Program { burst: 5, gap: Gap::Serial(MS), ..program(cpus, n, region * MS) }; n as usize];
            let work = 400.0 * MS * f64::from((cpus / n).max(1));
            programs[0] = Program { work, start: 20.0 * MS, ..program(cpus, n, 1.0) };
            add(3, format!("{n}/{cpus} 400ms + {}", label(region * MS)), cpus, 1000.0, programs);
        }
    }
    for (cpus, n) in [(2, 4), (64, 6), (64, 64), (272, 200)] {
        for region in [0.1, 5.0] {
            let mut programs = vec![program(cpus, n, region * MS); n as usize];
            for (i, p) in programs.iter_mut().enumerate() {
                p.start = 400.0 * MS * i as f64 / f64::from(n);
            }
            add(4, format!("{n}/{cpus} {}", label(region * MS)), cpus, 600.0, programs);
        }
    }
    for (cpus, n) in [(64, 4), (64, 16), (272, 100)] {
        for region in [0.1, 5.0] {
            let mut programs = vec![program(cpus, n, region * MS); n as usize];
            for (i, p) in programs.iter_mut().enumerate() {
                if i % 2 == 1 {
                    let ask = 1 + (i as u32 / 2) % 2;
                    *p = Program { ask, work: region * MS * f64::from(ask), ..*p };
                }
            }
            add(5, format!("{n}/{cpus} {}", label(region * MS)), cpus, 600.0, programs);
        }
    }
    for (cpus, n) in [(2, 2), (2, 4), (64, 4), (64, 16), (272, 64)] {
        for region in [0.1, 1.0] {
            let steady = program(cpus, n, region * MS);
            let bursty = Program { burst: 20, gap: Gap::Sleep(region * 40.0 * MS), ..steady };
            for (kind, explicit) in [("steady", steady), ("bursty", bursty)] {
                let mut programs = vec![steady; n as usize];
                for p in programs.iter_mut().step_by(2) {
                    *p = Program { explicit: true, ..explicit };
                }
                add(6, format!("{n}/{cpus} {} {kind}", label(region * MS)), cpus, 400.0, programs);
            }
        }
    }
    for (cpus, n) in [(2, 3), (64, 4), (64, 24), (272, 60)] {
        let steady = Program { dear_resize: true, ..program(cpus, n, MS) };
        let bursty = Program { burst: 20, gap: Gap::Sleep(30.0 * MS), ..steady };
        let calm = Program { burst: 200, gap: Gap::Serial(100.0 * MS), ..steady };
        let kinds = [
            ("bursty", vec![bursty; n as usize]),
            ("calm", vec![calm; n as usize]),
            ("mixed", { (0..n as usize).map(|i| [steady, bursty][i % 2]).collect() }),
        ];
        for (kind, programs) in kinds {
            add(7, format!("{n}/{cpus} {kind}"), cpus, 1500.0, programs);
        }
        let mut late = vec![steady; n as usize];
        for (i, p) in late.iter_mut().enumerate() {
            p.start = 600.0 * MS * i as f64 / f64::from(n);
        }
        add(7, format!("{n}/{cpus} late"), cpus, 1500.0, late);
    }
    all
}

/// Over several scenarios.
#[derive(Clone, Copy)]
struct Row {
    /// Geometric mean, and the lowest, of the utilisation over the best candidate's in the same scenario.
    relative: f64,
    worst_relative: f64,
    utilisation: f64,
    oversubscription: f64,
    fairness: f64,
    worst_fairness: f64,
}

fn row(figures: &[Figures], best: &[f64]) -> Row {
    let n = figures.len() as f64;
    let ratios = || figures.iter().zip(best).map(|(f, best)| f.utilisation / best);
    Row {
        relative: (ratios().map(f64::ln).sum::<f64>() / n).exp(),
        worst_relative: ratios().fold(f64::INFINITY, f64::min),
        utilisation: figures.iter().map(|f| f.utilisation).sum::<f64>() / n,
        oversubscription: figures.iter().map(|f| f.oversubscription).sum::<f64>() / n,
        fairness: figures.iter().map(|f| f.fairness).sum::<f64>() / n,
        worst_fairness: figures.iter().map(|f| f.fairness).fold(f64::INFINITY, f64::min),
    }
}

fn simulate(policies: &[Policy], scenarios: &[&Scenario]) -> Vec<Vec<Figures>> {
    let each = |policy: &Policy| scenarios.iter().map(|s| Node::new(s, policy).run(s.duration)).collect();
    policies.iter().map(each).collect()
}

fn best(results: &[Vec<Figures>]) -> Vec<f64> {
    let scenarios = results.first().map_or(0, Vec::len);
    (0..scenarios).map(|s| results.iter().map(|r| r[s].utilisation).fold(0.0, f64::max)).collect()
}

fn print_summary(title: &str, policies: &[Policy], results: &[Vec<Figures>], markdown: bool) {
    let best = best(results);
    if markdown {
        println!("| {title} | utilisation | of the best | worst case | oversubscription | fairness | worst case |");
        println!("|---|---|---|---|---|---|---|");
    } else {
        println!(
            "{title:36} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "util", "of best", "worst", "oversub", "fair", "worst"
        );
    }
    for (policy, figures) in policies.iter().zip(results) {
        let r = row(figures, &best);
        let over = 100.0 * r.oversubscription;
        let (name, util) = (policy.name, r.utilisation);
        if markdown {
            let name = if policy.chosen { format!("**{name}**") } else { name.to_string() };
            println!(
                "| {name} | {util:.3} | {:.3} | {:.3} | {over:.1} % | {:.3} | {:.3} |",
                r.relative, r.worst_relative, r.fairness, r.worst_fairness
            );
        } else {
            let name = if policy.chosen { format!("{name} *") } else { name.to_string() };
            println!(
                "{name:36} {util:8.3} {:8.3} {:8.3} {over:7.1}% {:8.3} {:8.3}",
                r.relative, r.worst_relative, r.fairness, r.worst_fairness
            );
        }
    }
    println!();
}

fn print_group(group: usize, policies: &[Policy], scenarios: &[&Scenario], results: &[Vec<Figures>]) {
    println!("== {} ==", GROUPS[group]);
    println!("Processes/CPUs; utilisation in per cent of the capacity, then means of oversubscription and fairness.");
    for (k, s) in scenarios.iter().enumerate() {
        println!("  ({}) {}", k + 1, s.name);
    }
    print!("{:36}", "");
    for k in 0..scenarios.len() {
        print!("{:>5}", format!("({})", k + 1));
    }
    println!("  oversub   fair");
    let best = best(results);
    for (policy, figures) in policies.iter().zip(results) {
        print!("{:36}", policy.name);
        for f in figures {
            print!("{:5.0}", 100.0 * f.utilisation);
        }
        let r = row(figures, &best);
        println!("  {:6.1}% {:6.3}", 100.0 * r.oversubscription, r.fairness);
    }
    println!();
}

fn main() {
    let markdown = std::env::args().any(|a| a == "--markdown");
    let scenarios = scenarios();
    let questions = [
        ("share policy", 0..6, share_policies()),
        ("waiting, beside explicit counts", 6..7, wait_policies()),
        ("team size of libgomp", 7..8, hold_policies()),
    ];
    let mut summaries = Vec::new();
    for (title, groups, policies) in questions {
        let mut all = vec![Vec::new(); policies.len()];
        for group in groups {
            let scenarios: Vec<_> = scenarios.iter().filter(|s| s.group == group).collect();
            let results = simulate(&policies, &scenarios);
            if !markdown {
                print_group(group, &policies, &scenarios, &results);
            }
            for (all, results) in all.iter_mut().zip(results) {
                all.extend(results);
            }
        }
        summaries.push((title, policies, all));
    }
    for (title, policies, results) in summaries {
        print_summary(title, &policies, &results, markdown);
    }
}
