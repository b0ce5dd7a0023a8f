//! The timeline, in the Trace Event Format: <https://ui.perfetto.dev> and chrome://tracing show it.

use super::records::{Clock, Mapped, Records, command, get};
use knlfix_core::record::{Kind, Moment, RUNTIMES, Record};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// A moment, with times in microseconds from the run's begin.
struct Slice<'a> {
    at: f64,
    length: f64,
    thread: u32,
    kind: u32,
    what: u32,
    granted: u32,
    record: &'a Record,
}

/// The events of all processes, as a JSON document; with how many found no room.
pub(crate) fn trace(records: &Records, begun: u64, now: u64) -> (Value, u64) {
    let clock = Clock::of(records);
    let all: Vec<_> = records.mapped.iter().map(|mapped| (mapped.record(), slices(mapped, &clock, begun))).collect();
    let of_kind = |kind: Kind| {
        let all = all.iter().flat_map(|(_, (slices, _))| slices);
        all.filter(move |slice| slice.kind & 0xff == kind as u32)
    };
    // By the kernel, a forked child begins at a hundredth of a second.
    let forks: BTreeMap<_, _> = of_kind(Kind::Fork).map(|fork| (fork.what, fork.at)).collect();
    let mut lives = Vec::new();
    for &(record, (ref slices, _)) in &all {
        let pid = record.process.load(Ordering::Relaxed);
        let ended = get(&record.ended);
        let mut life = Life {
            pid,
            parent: record.parent.load(Ordering::Relaxed),
            command: command(&record.command),
            at: us(get(&record.begun).saturating_sub(begun)),
            until: us(if ended != 0 { ended } else { now }.saturating_sub(begun)),
        };
        for slice in slices.iter().filter(|slice| slice.thread == pid) {
            life.at = life.at.min(slice.at);
            life.until = life.until.max(slice.at + slice.length);
        }
        lives.push(life);
    }
    lives.extend(records.short.iter().map(|short| Life {
        pid: short.pid,
        parent: short.parent,
        command: short.command.clone(),
        at: us(short.begun.saturating_sub(begun)),
        until: us(short.ended.saturating_sub(begun)),
    }));
    lives.sort_by(|one, other| one.at.total_cmp(&other.at));
    let mut events = vec![json!({"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "all processes"}})];
    let mut born = BTreeSet::new();
    for (place, life) in lives.iter_mut().enumerate() {
        if born.insert(life.pid) {
            // What a process exec'd began in the child of the fork.
            life.at = forks.get(&life.pid).map_or(life.at, |&fork| fork.max(life.at).min(life.until));
            events.extend(life.names(place));
        }
        events.push(life.slice());
    }
    events.extend(births(&lives, &forks));
    for (record, (slices, _)) in &all {
        let pid = record.process.load(Ordering::Relaxed);
        let threads: BTreeSet<_> = slices.iter().map(|slice| slice.thread).filter(|&thread| thread != pid).collect();
        events.extend(threads.into_iter().map(|thread| thread_name(pid, thread, &format!("thread {thread}"))));
        events.extend(slices.iter().map(|slice| slice.event(pid)));
    }
    let steps = of_kind(Kind::Region).flat_map(|region| {
        let (threads, pid) = (i64::from(region.granted), region.record.process.load(Ordering::Relaxed));
        [(region.at, threads, pid), (region.at + region.length, -threads, pid)]
    });
    counters(&mut events, steps.collect());
    let lost = all.iter().map(|(_, (_, lost))| lost).sum();
    let other = json!({"program": "knlfix", "events_without_room": lost, "budget": budget(records)});
    (json!({"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}), lost)
}

/// A program's life, which is on the track of its main thread.
struct Life {
    pid: u32,
    parent: u32,
    command: String,
    at: f64,
    until: f64,
}

impl Life {
    fn names(&self, place: usize) -> [Value; 3] {
        let named = |name: &str, args: Value| json!({"ph": "M", "name": name, "pid": self.pid, "args": args});
        [
            named("process_name", json!({"name": self.command})),
            named("process_sort_index", json!({"sort_index": place})),
            thread_name(self.pid, self.pid, "main thread"),
        ]
    }

    fn slice(&self) -> Value {
        let length = (self.until - self.at).max(0.0);
        json!({"ph": "X", "cat": "process", "name": self.command, "pid": self.pid, "tid": self.pid, "ts": self.at, "dur": length})
    }
}

fn thread_name(pid: u32, thread: u32, name: &str) -> Value {
    json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": thread, "args": {"name": name}})
}

fn budget(records: &Records) -> Option<u32> {
    let budgets = records.mapped.iter().map(|mapped| mapped.record().budget.load(Ordering::Relaxed));
    budgets.max().filter(|&budget| budget != 0)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// What a process has written, by threads and in the order of time; and what found no room.
fn slices<'a>(mapped: &'a Mapped, clock: &Clock, begun: u64) -> (Vec<Slice<'a>>, u64) {
    let record = mapped.record();
    let whole = |moment: &&Moment| moment.kind.load(Ordering::Acquire) != 0;
    let mut slices: Vec<_> = mapped
        .moments()
        .iter()
        .filter(whole)
        .map(|moment| Slice {
            at: clock.ns(record, get(&moment.begun)) / 1e3 - us(begun),
            length: clock.length_ns(record, get(&moment.length)) / 1e3,
            thread: moment.thread.load(Ordering::Relaxed),
            kind: moment.kind.load(Ordering::Relaxed),
            what: moment.what.load(Ordering::Relaxed),
            granted: moment.granted.load(Ordering::Relaxed),
            record,
        })
        .collect();
    slices.sort_by(|one, other| one.thread.cmp(&other.thread).then(one.at.total_cmp(&other.at)));
    // The time in a region's beginning is cut by some nanoseconds; regions of a thread do not overlap for that.
    let mut ends = BTreeMap::new();
    for slice in slices.iter_mut().filter(|slice| slice.kind & 0xff == Kind::Region as u32) {
        let end = ends.entry(slice.thread).or_insert(slice.at);
        let cut = (*end - slice.at).clamp(0.0, slice.length);
        slice.at += cut;
        slice.length -= cut;
        *end = slice.at + slice.length;
    }
    let lost = get(&record.moments).saturating_sub(mapped.moments().len() as u64);
    (slices, lost)
}

impl Slice<'_> {
    fn event(&self, pid: u32) -> Value {
        let instant = |name: &str, args: Value| json!({"ph": "i", "s": "t", "cat": "knlfix", "name": name, "pid": pid, "tid": self.thread, "ts": self.at, "args": args});
        let cpu = json!({"first_cpu": self.what});
        match self.kind & 0xff {
            kind if kind == Kind::Pin as u32 => instant("pin", cpu),
            kind if kind == Kind::MovedPin as u32 => instant("pin moved", cpu),
            kind if kind == Kind::Repair as u32 && self.what != 0 => {
                instant("child repaired", json!({"child": self.what}))
            }
            kind if kind == Kind::Repair as u32 => instant("mask repaired", json!({})),
            kind if kind == Kind::UserMask as u32 => instant("user mask", json!({})),
            kind if kind == Kind::Fork as u32 => json!({
                "ph": "X", "cat": "knlfix", "name": "fork", "pid": pid, "tid": self.thread, "ts": self.at,
                "dur": self.length, "args": {"child": self.what},
            }),
            _ => {
                let (library, runtime) = self.source();
                let is_crowded = self.kind >> 16 & 1 != 0;
                json!({
                    "ph": "X", "cat": runtime, "name": library, "pid": pid, "tid": self.thread, "ts": self.at,
                    "dur": self.length, "args": {
                        "asked": self.what, "granted": self.granted,
                        "beside_others": is_crowded,
                    },
                })
            }
        }
    }

    fn source(&self) -> (String, &'static str) {
        let source = self.record.sources.get(((self.kind >> 8 & 0xff) as usize).wrapping_sub(1));
        let runtime = source.map_or(0, |source| source.runtime.load(Ordering::Acquire)) as usize;
        let runtime = RUNTIMES.get(runtime.wrapping_sub(1)).copied().unwrap_or("?");
        (source.map_or_else(|| "?".into(), |source| command(&source.name)), runtime)
    }
}

/// Children that were not made by `fork()` (posix_spawn, vfork, clone): seen from the child.
fn births(lives: &[Life], forks: &BTreeMap<u32, f64>) -> Vec<Value> {
    let parents: BTreeSet<_> = lives.iter().map(|life| life.pid).collect();
    let mut born = BTreeSet::new();
    let is_birth =
        |life: &&Life| parents.contains(&life.parent) && !forks.contains_key(&life.pid) && born.insert(life.pid);
    let births = lives.iter().filter(is_birth).map(|life| {
        json!({
            "ph": "i", "s": "t", "cat": "knlfix", "name": "child started", "pid": life.parent, "tid": life.parent,
            "ts": life.at, "args": {"child": life.pid},
        })
    });
    births.collect()
}

/// Threads granted, in each process and in all of them.
fn counters(events: &mut Vec<Value>, mut steps: Vec<(f64, i64, u32)>) {
    // At one time, those that end come first.
    steps.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    let (mut all, mut each) = (0, BTreeMap::new());
    for (at, change, pid) in steps {
        all += change;
        let own = each.entry(pid).or_insert(0);
        *own += change;
        events.push(json!({"ph": "C", "name": "threads granted", "pid": pid, "ts": at, "args": {"threads": *own}}));
        events.push(
            json!({"ph": "C", "name": "threads granted, all processes", "pid": 0, "ts": at, "args": {"threads": all}}),
        );
    }
}
