//! What the picture shows, however it is drawn: who is on which CPU, and the numbers that tell the story.

use super::processes::Process;
use knlfix_core::cpumask::CpuMask;
use knlfix_core::topology::Cpu;
use std::collections::BTreeMap;
use textwrap::core::display_width;

/// A process with pinned threads.
pub(crate) struct Worker {
    /// Which of [`Chart::workers`] it is.
    pub(crate) place: usize,
    pub(crate) label: String,
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) pinned_threads: usize,
    pub(crate) other_threads: usize,
    /// The CPUs of its pinned threads.
    pub(crate) cpus: CpuMask,
}

pub(crate) struct Chart {
    /// In topological order.
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) workers: Vec<Worker>,
    /// By CPU, who is on it, as places in `workers`.
    pub(crate) on: BTreeMap<u16, Vec<usize>>,
    /// Processes of which no thread is pinned, and their threads.
    pub(crate) free_processes: usize,
    pub(crate) free_threads: usize,
}

impl Chart {
    /// A thread is pinned if it may not run on all of `cpus`.
    pub(crate) fn new(cpus: Vec<Cpu>, processes: &[Process]) -> Self {
        let all = CpuMask::of(cpus.iter().map(|cpu| usize::from(cpu.number)));
        let mut chart = Self { cpus, workers: vec![], on: BTreeMap::new(), free_processes: 0, free_threads: 0 };
        for process in processes {
            let masks = process.threads.iter().map(|thread| thread.mask.and(&all));
            let pinned = masks.filter(|mask| *mask != all).collect::<Vec<_>>();
            if pinned.is_empty() {
                chart.free_processes += 1;
                chart.free_threads += process.threads.len();
                continue;
            }
            let held = pinned.iter().fold(CpuMask::EMPTY, |held, mask| held.or(mask));
            for cpu in held.iter() {
                chart.on.entry(cpu as u16).or_default().push(chart.workers.len());
            }
            chart.workers.push(Worker {
                place: chart.workers.len(),
                label: label(chart.workers.len()),
                pid: process.pid,
                command: process.command.clone(),
                pinned_threads: pinned.len(),
                other_threads: process.threads.len() - pinned.len(),
                cpus: held,
            });
        }
        chart
    }

    /// Processes that claim CPUs, however their threads are pinned.
    pub(crate) fn of_claims<'a>(cpus: Vec<Cpu>, claims: impl Iterator<Item = (u32, &'a str, &'a CpuMask)>) -> Self {
        let mut chart = Self { cpus, workers: vec![], on: BTreeMap::new(), free_processes: 0, free_threads: 0 };
        let drawn = CpuMask::of(chart.cpus.iter().map(|cpu| usize::from(cpu.number)));
        for (place, (pid, command, claimed)) in claims.enumerate() {
            let cpus = claimed.and(&drawn);
            for cpu in cpus.iter() {
                chart.on.entry(cpu as u16).or_default().push(place);
            }
            let (label, command) = (label(place), command.to_owned());
            chart.workers.push(Worker { place, label, pid, command, pinned_threads: 0, other_threads: 0, cpus });
        }
        chart
    }

    /// Who is on a CPU.
    pub(crate) fn on(&self, cpu: u16) -> impl ExactSizeIterator<Item = &Worker> {
        self.on.get(&cpu).map_or(&[][..], Vec::as_slice).iter().map(|&place| &self.workers[place])
    }

    /// The line above the picture.
    pub(crate) fn headline(&self) -> String {
        let (all_cores, all_cpus) = (cores(self.cpus.iter()), self.cpus.len());
        let node = format!("{} of {}", counted(all_cpus, "CPU"), counted(all_cores, "core"));
        if self.workers.is_empty() {
            return format!("no process is pinned: all may run on all {node}");
        }
        let held = cores(self.cpus.iter().filter(|cpu| self.on.contains_key(&cpu.number)));
        let processes = counted(self.workers.len(), "process");
        let head = format!(
            "{processes} on {held} of {} ({} of {})",
            counted(all_cores, "core"),
            self.on.len(),
            counted(all_cpus, "CPU")
        );
        let stacked = self.on.values().filter(|workers| workers.len() > 1).count();
        let most = self.on.values().map(Vec::len).max().unwrap_or(0);
        match stacked {
            0 => format!("{head}; no CPU holds two"),
            1 => format!("{head}; 1 CPU holds {most} of them"),
            _ if most == 2 => format!("{head}; {stacked} CPUs hold two each"),
            _ => format!("{head}; {stacked} CPUs hold several, up to {most}"),
        }
    }

    /// The line about who is not in the picture.
    pub(crate) fn not_pinned(&self) -> String {
        let others = self.workers.iter().map(|worker| worker.other_threads).sum::<usize>();
        let free = format!("{} with {}", counted(self.free_processes, "process"), counted(self.free_threads, "thread"));
        let rest = format!("{} of the pinned ones", counted(others, "thread"));
        match (self.free_processes, others) {
            (0, 0) => "not pinned: none".into(),
            (0, _) => format!("not pinned: {rest}"),
            (_, 0) => format!("not pinned: {free}"),
            (_, _) => format!("not pinned: {free}, and {rest}"),
        }
    }

    /// The workers, those together that run the same command with as many threads.
    pub(crate) fn legend(&self) -> Vec<Group<'_>> {
        let mut groups = Vec::<Group<'_>>::new();
        for worker in &self.workers {
            let is_alike = |first: &Worker| {
                let numbers = |worker: &Worker| (worker.pinned_threads, worker.other_threads);
                first.command == worker.command && numbers(first) == numbers(worker)
            };
            match groups.iter_mut().find(|group| is_alike(group.first)) {
                Some(group) => group.add(worker),
                None => groups.push(Group { first: worker, entries: vec![Entry { first: worker, last: worker }] }),
            }
        }
        groups
    }
}

/// Workers that differ in their CPUs alone.
pub(crate) struct Group<'a> {
    first: &'a Worker,
    pub(crate) entries: Vec<Entry<'a>>,
}

/// One worker, or several with the same CPUs.
pub(crate) struct Entry<'a> {
    first: &'a Worker,
    last: &'a Worker,
}

impl<'a> Group<'a> {
    fn add(&mut self, worker: &'a Worker) {
        match self.entries.last_mut() {
            Some(entry) if entry.first.cpus == worker.cpus => entry.last = worker,
            _ => self.entries.push(Entry { first: worker, last: worker }),
        }
    }

    /// `pool.py 16 4 (4 threads pinned)`, in at most `room` characters.
    pub(crate) fn title(&self, room: usize) -> String {
        let pinned = counted(self.first.pinned_threads, "thread");
        let threads = match self.first.other_threads {
            0 => format!(" ({pinned} pinned)"),
            others => format!(" ({pinned} pinned, {others} not)"),
        };
        format!("{}{threads}", short_command(&self.first.command, room.saturating_sub(threads.len())))
    }
}

impl Entry<'_> {
    /// The place of the one worker in [`Chart::workers`]; `None` if it stands for several.
    pub(crate) fn place(&self) -> Option<usize> {
        (self.first.pid == self.last.pid).then_some(self.first.place)
    }

    pub(crate) fn label(&self) -> String {
        range(&self.first.label, &self.last.label)
    }

    /// `4243: 0,68,136,204`
    pub(crate) fn description(&self) -> String {
        format!("{}: {}", range(&self.first.pid.to_string(), &self.last.pid.to_string()), self.first.cpus)
    }
}

fn range(first: &str, last: &str) -> String {
    if first == last { first.into() } else { format!("{first}..{last}") }
}

/// A command without its program's directory, in at most `room` characters.
pub(crate) fn short_command(command: &str, room: usize) -> String {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let program = program.rsplit_once('/').map_or(program, |(_, name)| name);
    shortened(format!("{program} {arguments}").trim(), room)
}

/// The text on one line, without control characters, and with its end left out if it is wider than so many columns.
pub(crate) fn shortened(text: &str, room: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if display_width(&line) <= room {
        return line;
    }
    let room = room.saturating_sub(3);
    let mut width = 0;
    let end = line.char_indices().find(|&(at, c)| {
        width += display_width(&line[at..at + c.len_utf8()]);
        width > room
    });
    if let Some((end, _)) = end {
        line.truncate(end);
    }
    line + "..."
}

pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if noun.ends_with('s') { "es" } else { "s" };
    format!("{count} {noun}{}", if count == 1 { "" } else { plural })
}

fn cores<'a>(cpus: impl Iterator<Item = &'a Cpu>) -> usize {
    let mut cores = cpus.map(|cpu| cpu.core).collect::<Vec<_>>();
    cores.sort_unstable();
    cores.dedup();
    cores.len()
}

/// `A` to `Z`, `a` to `z`, `0` to `9`, then `AA`, `AB` and so on.
fn label(place: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if let Some(digit) = place.checked_sub(LETTERS.len()).filter(|&digit| digit < 10) {
        return digit.to_string();
    }
    let mut rest = if place < LETTERS.len() { place } else { place - 10 };
    let mut label = vec![char::from(LETTERS[rest % LETTERS.len()])];
    while rest >= LETTERS.len() {
        rest = rest / LETTERS.len() - 1;
        label.insert(0, char::from(LETTERS[rest % LETTERS.len()]));
    }
    label.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_wide_as_a_terminal_shows_it() {
        for (text, room, line) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abc..."),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日..."),
            ("日本語日本語", 8, "日本..."),
            ("e\u{301}t\u{e9} 1", 5, "e\u{301}t\u{e9} 1"),
            ("a\x1b[31m\n", 8, "a?[31m?"),
            ("日", 0, "..."),
        ] {
            assert_eq!(shortened(text, room), line);
        }
    }

    #[test]
    fn labels_have_one_character_for_62_workers_and_are_never_the_same() {
        assert_eq!(
            [0, 25, 26, 51, 52, 61, 62, 63, 62 + 51, 62 + 52].map(label),
            ["A", "Z", "a", "z", "0", "9", "AA", "AB", "Az", "BA"]
        );
        let mut labels = (0..5000).map(label).collect::<Vec<_>>();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), 5000);
    }
}
