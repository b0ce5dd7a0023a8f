//! The records that the processes of a run have left in its directory.

use super::model::{Counts, Process, Source, serial};
use crate::domains;
use knlfix_core::ledger::Owner;
use knlfix_core::record::{self, Event, Moment, RUNTIMES, Record, SIZES, Times};
use memmap2::{MmapOptions, MmapRaw};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// When a process was there last, and the CPU time that it had used.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) at: u64,
    pub(crate) cpu_s: Option<f64>,
}

/// What a process without regions and pins left: one line.
pub(crate) struct Short {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) started: u64,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) children_us: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    pub(crate) command: String,
}

impl Short {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(11, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Self {
            pid: number()? as u32,
            parent: number()? as u32,
            started: number()?,
            begun: number()?,
            ended: number()?,
            user_us: number()?,
            system_us: number()?,
            children_us: number()?,
            voluntary: number()?,
            involuntary: number()?,
            command: words.next()?.trim().to_owned(),
        })
    }
}

/// A record, mapped.
pub(crate) struct Mapped(MmapRaw);

impl Mapped {
    fn open(path: &Path) -> Option<Self> {
        let file = File::options().read(true).write(true).open(path).ok()?;
        let length = file.metadata().ok()?.len() as usize;
        if length < size_of::<Record>() {
            return None;
        }
        let map = Self(MmapOptions::new().len(length).map_raw(&file).ok()?);
        (map.record().version.load(Ordering::Acquire) == record::VERSION).then_some(map)
    }

    /// What it has written for a timeline, and the room after that.
    pub(crate) fn moments(&self) -> &[Moment] {
        let room = (self.0.len() - size_of::<Record>()) / size_of::<Moment>();
        let written = usize::try_from(get(&self.record().moments)).unwrap_or(usize::MAX);
        // SAFETY: so many are mapped behind the record as long as `self` lives, which is as aligned as they have to
        // be, and all their fields are atomics.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(size_of::<Record>()).cast(), room.min(written)) }
    }

    pub(crate) fn record(&self) -> &Record {
        // SAFETY: mapped whole and writable as long as `self` lives, page-aligned, and all its fields are atomics.
        unsafe { &*self.0.as_ptr().cast() }
    }
}

/// All that is in the directory.
pub(crate) struct Records {
    pub(crate) mapped: Vec<Mapped>,
    pub(crate) short: Vec<Short>,
}

impl Records {
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        let lines = match fs::read(directory.join("short")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            mapped: paths.iter().filter_map(|path| Mapped::open(path)).collect(),
            short: lines.lines().filter_map(Short::parse).collect(),
        })
    }

    /// When the first process began.
    pub(crate) fn begun(&self) -> Option<u64> {
        let of_records = self.mapped.iter().map(|mapped| get(&mapped.record().begun));
        of_records.chain(self.short.iter().map(|short| short.begun)).min()
    }

    /// The CPU time of the tree, as its root has it: its own, and that of all that were waited for.
    pub(crate) fn cpu(&self, root: Option<u32>) -> f64 {
        let of_records = self.mapped.iter().map(Mapped::record).filter(|record| get(&record.ended) != 0);
        let of_records = of_records.map(|record| {
            let own = get(&record.user_us) + get(&record.system_us);
            (record.process.load(Ordering::Relaxed), own, get(&record.children_us))
        });
        let of_lines = self.short.iter().map(|short| (short.pid, short.user_us + short.system_us, short.children_us));
        let all: Vec<_> = of_records.chain(of_lines).collect();
        let of_root = all.iter().filter(|(pid, ..)| Some(*pid) == root).map(|(_, own, children)| own + children).max();
        // Without a root that told, those that did.
        let sum = of_root.unwrap_or_else(|| all.iter().map(|(_, own, _)| own).sum());
        sum as f64 / 1e6
    }

    /// The processes with something to tell, and how many there were in all. A process that exec'd has a record for each
    /// program it was, and counts once. `last_seen` is for those that were killed.
    pub(crate) fn processes(&self, begun: u64, now: u64, last_seen: &BTreeMap<u32, Seen>) -> (Vec<Process>, u64) {
        let clock = Clock::of(self);
        let mut images: BTreeMap<(u32, u64), Vec<&Record>> = BTreeMap::new();
        for record in self.mapped.iter().map(Mapped::record) {
            let key = (record.process.load(Ordering::Relaxed), get(&record.started));
            images.entry(key).or_default().push(record);
        }
        let mut short: BTreeMap<(u32, u64), &Short> = BTreeMap::new();
        for line in &self.short {
            short.insert((line.pid, line.started), line);
        }
        let count = images.keys().chain(short.keys()).collect::<std::collections::BTreeSet<_>>().len() as u64;
        let mut processes = Vec::new();
        for (key, records) in &mut images {
            records.sort_by_key(|record| get(&record.begun));
            let seen = last_seen.get(&key.0).copied().unwrap_or(Seen { at: now, cpu_s: None });
            processes.extend(process(records, short.remove(key), begun, seen, &clock));
        }
        processes.extend(short.values().filter(|short| is_worth_a_row(short)).map(|short| of_short(short, begun)));
        processes.sort_by(|one, other| one.begun_s.total_cmp(&other.begun_s));
        (processes, count)
    }
}

const DIRECTORY: &str = "/dev/shm";
const PREFIX: &str = "knlfix-report-";

/// This user's directories of records: `knlfix-report-USER-PROCESS-START` of a run with a variable, and
/// `knlfix-report-run-PROCESS-TIME` of one under `knlfix report`.
pub(crate) fn directories() -> io::Result<Vec<PathBuf>> {
    let user = fs::metadata("/proc/self")?.uid();
    let is_ours = |entry: &fs::DirEntry| {
        let is_directory = entry.metadata().is_ok_and(|file| file.is_dir() && file.uid() == user);
        is_directory && entry.file_name().to_string_lossy().starts_with(PREFIX)
    };
    let mut paths: Vec<_> =
        fs::read_dir(DIRECTORY)?.filter_map(Result::ok).filter(is_ours).map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Whether the process that was to report on it is gone.
pub(crate) fn is_over(directory: &Path) -> bool {
    let Some(pid) = root_of(directory) else { return false };
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    // Only of the program that has the variable the directory tells when it started.
    let has_start = !name.starts_with("knlfix-report-run-");
    let started = name.rsplit('-').next().and_then(|start| start.parse().ok()).filter(|_| has_start);
    Owner::new(pid as i32, started.unwrap_or(0)).is_some_and(|owner| !domains::is_alive(owner))
}

/// The number in the directory's name: knlfix-report-USER-PROCESS-START.
pub(crate) fn root_of(directory: &Path) -> Option<u32> {
    directory.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('-').nth(1)?.parse().ok()
}

/// Removes what we know of, and nothing else.
pub(crate) fn remove(directory: &Path) {
    let is_ours = |name: &str| {
        name == "short" || !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(is_ours) {
            // Whoever is still there goes on with what it has mapped.
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// The many that only live for a moment are in the totals.
fn is_worth_a_row(short: &Short) -> bool {
    const MOMENT_US: u64 = 100_000;
    short.user_us + short.system_us > MOMENT_US
}

fn of_short(short: &Short, begun: u64) -> Process {
    Process {
        run: 0,
        pid: short.pid,
        parent: short.parent,
        command: short.command.clone(),
        begun_s: seconds(short.begun.saturating_sub(begun)),
        wall_s: seconds(short.ended.saturating_sub(short.begun)),
        cpu_s: Some((short.user_us + short.system_us) as f64 / 1e6),
        ended: true,
        region_s: 0.0,
        serial_fraction: 1.0,
        budget: None,
        counts: Counts {
            voluntary_switches: short.voluntary,
            involuntary_switches: short.involuntary,
            ..Counts::default()
        },
        asks: BTreeMap::new(),
        grants: BTreeMap::new(),
        sources: Vec::new(),
    }
}

/// A process of one or more records, the earliest first, and perhaps a line where its last program had no record.
fn process(records: &[&Record], line: Option<&Short>, begun: u64, seen: Seen, clock: &Clock) -> Option<Process> {
    let (first, last) = (records.first()?, records.last()?);
    let ended = get(&last.ended).max(line.map_or(0, |line| line.ended));
    let until = if ended != 0 { ended } else { seen.at.max(get(&last.begun)) };
    let begin = get(&first.begun);
    let wall = seconds(until.saturating_sub(begin));
    let (mut region, mut counts, mut sources) = (0.0, Counts::default(), Vec::new());
    let (mut asks, mut grants) = ([0; SIZES], [0; SIZES]);
    for record in records {
        let per_second = clock.per_second(record);
        region += record.region_ticks() as f64 / per_second;
        if ended == 0 && record.inside.load(Ordering::Relaxed) > 0 {
            // It was killed inside a region.
            let entered = get(&record.since).saturating_sub(get(&record.opened_ticks)) as f64 / per_second;
            region += (seconds(until.saturating_sub(get(&record.opened))) - entered).max(0.0);
        }
        counts.add(&events(record));
        for source in &record.sources {
            let granted: [u64; SIZES] = std::array::from_fn(|at| source.sum(|times| &times.grants[at]));
            for (sum, count) in grants.iter_mut().zip(granted) {
                *sum += count;
            }
            sources.extend(source_of(source, per_second));
        }
        for (at, sum) in asks.iter_mut().enumerate() {
            *sum += get(&record.cut_asks[at]);
            *sum = sum.wrapping_sub(get(&record.cut_grants[at]));
        }
    }
    for (sum, granted) in asks.iter_mut().zip(grants) {
        *sum = sum.wrapping_add(granted);
    }
    let cpu_us = match line {
        Some(line) => line.user_us + line.system_us,
        None => get(&last.user_us) + get(&last.system_us),
    };
    counts.voluntary_switches = get(&last.voluntary).max(line.map_or(0, |line| line.voluntary));
    counts.involuntary_switches = get(&last.involuntary).max(line.map_or(0, |line| line.involuntary));
    Some(Process {
        run: 0,
        pid: last.process.load(Ordering::Relaxed),
        parent: last.parent.load(Ordering::Relaxed),
        command: command(&last.command),
        begun_s: seconds(begin.saturating_sub(begun)),
        wall_s: wall,
        cpu_s: if ended != 0 { Some(cpu_us as f64 / 1e6) } else { seen.cpu_s },
        ended: ended != 0,
        region_s: region,
        serial_fraction: serial(region, wall),
        budget: Some(last.budget.load(Ordering::Relaxed)).filter(|&budget| budget != 0),
        counts,
        asks: histogram(asks),
        grants: histogram(grants),
        sources,
    })
}

fn events(record: &Record) -> Counts {
    let event = |event: Event| get(&record.events[event as usize]);
    Counts {
        pins_seen: event(Event::Pin),
        children_repaired: event(Event::Repair),
        user_masks_respected: event(Event::UserMask),
        pins_moved: event(Event::MovedPin),
        ..Counts::default()
    }
}

fn source_of(source: &record::Source, per_second: f64) -> Option<Source> {
    let runtime = source.runtime.load(Ordering::Acquire).checked_sub(1)?;
    let regions = (0..SIZES).map(|at| source.sum(|times| &times.grants[at])).sum();
    let time = |which: fn(&Times) -> &AtomicU64| source.sum(which) as f64 / per_second;
    (regions > 0).then(|| Source {
        library: command(&source.name),
        runtime: RUNTIMES.get(runtime as usize).copied().unwrap_or("?").into(),
        regions,
        time_s: time(|times| &times.ticks),
        thread_s: time(|times| &times.ticks) + time(|times| &times.more_thread_ticks),
        avoided_thread_s: time(|times| &times.avoided_ticks),
    })
}

fn histogram(counts: [u64; SIZES]) -> BTreeMap<String, u64> {
    let name = |at: usize| match at {
        0 | 1 => (at + 1).to_string(),
        _ if at == SIZES - 1 => format!("{}-", (1 << (at - 1)) + 1),
        _ => format!("{}-{}", (1 << (at - 1)) + 1, 1 << at),
    };
    counts.into_iter().enumerate().filter(|&(_, count)| count > 0).map(|(at, count)| (name(at), count)).collect()
}

pub(crate) fn command(bytes: &[AtomicU8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\0').replace(|c: char| c.is_control(), " ")
}

pub(crate) fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// How fast the processor's clock goes, in ticks per second.
pub(crate) struct Clock(f64);

impl Clock {
    /// By the oldest record, if that is from long enough ago.
    pub(crate) fn of(records: &Records) -> Self {
        const LONG_NS: u64 = 20_000_000;
        // SAFETY: every x86-64 has it.
        let read = || (monotonic(), unsafe { core::arch::x86_64::_rdtsc() });
        let has_tsc = |record: &&Record| record.ticks_are_ns.load(Ordering::Relaxed) == 0;
        let all = records.mapped.iter().map(Mapped::record).filter(has_tsc);
        let oldest = all.map(|record| (get(&record.opened), get(&record.opened_ticks))).min();
        let now = read();
        let (from, first) = oldest.filter(|&(at, _)| at + LONG_NS <= now.0).unwrap_or_else(|| {
            std::thread::sleep(Duration::from_nanos(LONG_NS));
            now
        });
        let (to, second) = read();
        Self(second.wrapping_sub(first) as f64 / seconds(to - from))
    }

    fn per_second(&self, record: &Record) -> f64 {
        if record.ticks_are_ns.load(Ordering::Relaxed) != 0 { 1e9 } else { self.0 }
    }

    /// So many ticks, in nanoseconds.
    pub(crate) fn length_ns(&self, record: &Record, ticks: u64) -> f64 {
        ticks as f64 * (1e9 / self.per_second(record))
    }

    /// A moment of the record's, by the monotonic clock.
    pub(crate) fn ns(&self, record: &Record, ticks: u64) -> f64 {
        let since = ticks.wrapping_sub(get(&record.opened_ticks)).cast_signed();
        get(&record.opened) as f64 + since as f64 * (1e9 / self.per_second(record))
    }
}

/// The clock that records are kept by, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
