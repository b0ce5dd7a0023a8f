//! The report as data: what is in the JSON file. `docs/report.schema.json` describes it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The layout of the file; a change that a reader could stumble over makes it greater.
pub(crate) const VERSION: u32 = 1;
pub(crate) const FORMAT: &str = "knlfix-report";

/// Less CPU time than this part of its life, and no region: a process that waits for others.
const IDLE: f64 = 0.05;

#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: String,
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) totals: Totals,
    pub(crate) runs: Vec<Run>,
    pub(crate) processes: Vec<Process>,
}

/// What the processes of all runs come to together.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Totals {
    /// The longest run.
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// Time inside regions, of all processes.
    pub(crate) region_s: f64,
    /// The time of processes that do more than wait for others.
    pub(crate) computing_s: f64,
    /// 1 - `region_s` / `computing_s`
    pub(crate) serial_fraction: f64,
    /// 1 / `serial_fraction`; `null` where nothing is serial.
    pub(crate) amdahl_limit: Option<f64>,
    /// Threads granted, times the time they had.
    pub(crate) thread_s: f64,
    /// `thread_s` by the time of the regions.
    pub(crate) mean_threads: f64,
    /// Threads asked for and not granted, times the time.
    pub(crate) avoided_thread_s: f64,
    pub(crate) regions: u64,
    /// Processes, those that are counted only included.
    pub(crate) process_count: u64,
    pub(crate) budget: Option<u32>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Regions by threads asked for and threads granted: "1", "2", "3-4", "5-8", ...
    pub(crate) asks: BTreeMap<String, u64>,
    pub(crate) grants: BTreeMap<String, u64>,
    pub(crate) sources: Vec<Source>,
}

#[derive(Serialize, Deserialize, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) pins_seen: u64,
    pub(crate) children_repaired: u64,
    pub(crate) user_masks_respected: u64,
    pub(crate) pins_moved: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.pins_seen += other.pins_seen;
        self.children_repaired += other.children_repaired;
        self.user_masks_respected += other.user_masks_respected;
        self.pins_moved += other.pins_moved;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
    }
}

/// A process tree that was reported on at once, on one node.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Run {
    pub(crate) host: String,
    pub(crate) command: String,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) process_count: u64,
    /// How long some thread of the node waited for a CPU, by `/proc/pressure/cpu`.
    pub(crate) cpu_pressure_s: Option<f64>,
    /// How often a thread went to another CPU, by the kernel's counter; `null` where that may not be read.
    #[serde(default)]
    pub(crate) cpu_migrations: Option<u64>,
    /// When it began, in seconds since 1970.
    pub(crate) begun: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) samples: Vec<Sample>,
}

/// The tree at one moment.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Sample {
    /// Seconds from the run's begin.
    pub(crate) at_s: f64,
    /// Threads that ran or wanted to.
    pub(crate) running: u32,
    /// By CPU: threads whose last CPU it was, of those.
    pub(crate) cpus: BTreeMap<u32, u32>,
}

#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Process {
    /// The index of its run.
    pub(crate) run: usize,
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) command: String,
    /// Seconds from the run's begin.
    pub(crate) begun_s: f64,
    pub(crate) wall_s: f64,
    /// `null` where it was killed and nobody has seen it.
    pub(crate) cpu_s: Option<f64>,
    /// Whether it ended by itself.
    pub(crate) ended: bool,
    pub(crate) region_s: f64,
    pub(crate) serial_fraction: f64,
    pub(crate) budget: Option<u32>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) asks: BTreeMap<String, u64>,
    pub(crate) grants: BTreeMap<String, u64>,
    pub(crate) sources: Vec<Source>,
}

impl Process {
    fn is_computing(&self) -> bool {
        !self.sources.is_empty() || self.cpu_s.is_none_or(|cpu| cpu > IDLE * self.wall_s)
    }
}

/// Regions of one runtime that one library entered.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Source {
    pub(crate) library: String,
    pub(crate) runtime: String,
    pub(crate) regions: u64,
    /// Time of the regions, added up.
    pub(crate) time_s: f64,
    pub(crate) thread_s: f64,
    pub(crate) avoided_thread_s: f64,
}

impl Report {
    /// The report of these runs and their processes.
    pub(crate) fn new(runs: Vec<Run>, processes: Vec<Process>) -> Self {
        let mut totals = Totals::default();
        for run in &runs {
            totals.wall_s = totals.wall_s.max(run.wall_s);
            totals.cpu_s += run.cpu_s;
            totals.process_count += run.process_count;
        }
        for process in &processes {
            totals.region_s += process.region_s;
            if process.is_computing() {
                totals.computing_s += process.wall_s;
            }
            totals.counts.add(&process.counts);
            totals.budget = totals.budget.max(process.budget);
            add(&mut totals.asks, &process.asks);
            add(&mut totals.grants, &process.grants);
            for source in &process.sources {
                totals.add_source(source);
            }
        }
        totals.sources.sort_by(|one, other| other.time_s.total_cmp(&one.time_s));
        let in_regions: f64 = totals.sources.iter().map(|source| source.time_s).sum();
        totals.serial_fraction = serial(totals.region_s, totals.computing_s);
        totals.amdahl_limit = (totals.serial_fraction > 0.0).then(|| 1.0 / totals.serial_fraction);
        totals.mean_threads = if in_regions > 0.0 { totals.thread_s / in_regions } else { 0.0 };
        Self { format: FORMAT.into(), version: VERSION, totals, runs, processes }
    }

    /// One report of several.
    pub(crate) fn merge(reports: Vec<Self>) -> Self {
        let (mut runs, mut processes) = (Vec::new(), Vec::new());
        for report in reports {
            let first = runs.len();
            runs.extend(report.runs);
            processes
                .extend(report.processes.into_iter().map(|process| Process { run: process.run + first, ..process }));
        }
        Self::new(runs, processes)
    }
}

/// The part of `wall` that was not inside regions.
pub(crate) fn serial(region: f64, wall: f64) -> f64 {
    if wall > 0.0 { (1.0 - region / wall).clamp(0.0, 1.0) } else { 1.0 }
}

fn add(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (bucket, count) in from {
        *to.entry(bucket.clone()).or_default() += count;
    }
}

impl Totals {
    fn add_source(&mut self, source: &Source) {
        self.regions += source.regions;
        self.thread_s += source.thread_s;
        self.avoided_thread_s += source.avoided_thread_s;
        let is_it = |known: &&mut Source| known.library == source.library && known.runtime == source.runtime;
        match self.sources.iter_mut().find(is_it) {
            Some(known) => {
                known.regions += source.regions;
                known.time_s += source.time_s;
                known.thread_s += source.thread_s;
                known.avoided_thread_s += source.avoided_thread_s;
            }
            None => self.sources.push(source.clone()),
        }
    }
}
