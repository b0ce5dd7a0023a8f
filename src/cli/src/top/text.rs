//! The same as text, in as many columns as there are.

use super::Sort;
use super::view::{Domain, Process, State, View};
use crate::map::chart::{counted, short_command, shortened};
use crate::map::text;
use std::collections::BTreeMap;
use std::time::Duration;

/// Columns of the CPU list.
const CPUS: usize = 12;

/// A line, and what it tells of.
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// Which of [`View::domains`].
    pub(crate) domain: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Domain,
    Columns,
    Process(u32, State),
}

pub(crate) fn once(view: &View, sort: Sort, width: usize) -> String {
    let mut all = shortened(&headline(view), width) + "\n";
    for (index, domain) in living(view) {
        let mut lines = table(domain, index, sort, width).into_iter();
        all.push('\n');
        all += &lines.next().map_or_else(String::new, |line| line.text + "\n");
        if let Some(chart) = &domain.chart {
            text::picture(chart, &mut all);
            all.push('\n');
        }
        for line in lines {
            all += &line.text;
            all.push('\n');
        }
    }
    all
}

/// The domains that are shown, each with its place in the view.
pub(crate) fn living(view: &View) -> impl Iterator<Item = (usize, &Domain)> {
    view.domains.iter().enumerate().filter(|(_, domain)| domain.is_alive())
}

pub(crate) fn headline(view: &View) -> String {
    let living = || living(view).map(|(_, domain)| domain);
    let left = match view.domains.len() - living().count() {
        0 => String::new(),
        count => format!("; {} of the dead (knlfix gc)", counted(count, "ledger")),
    };
    if living().next().is_none() {
        return format!("no process of this user shares a budget now{left}");
    }
    let processes = living().map(|domain| domain.processes.len() - domain.count(State::Dead)).sum::<usize>();
    let held = living().map(|domain| domain.held(false)).sum::<u32>() as usize;
    let (domains, processes) = (counted(living().count(), "domain"), counted(processes, "process"));
    format!("{domains}, {processes}, {} in regions{left}", counted(held, "thread"))
}

/// The domain's headline, the names of the columns, and the processes.
pub(crate) fn table(domain: &Domain, index: usize, sort: Sort, width: usize) -> Vec<Line> {
    let labels = domain.chart.as_ref().map_or_else(BTreeMap::new, |chart| {
        chart.workers.iter().map(|worker| (worker.pid, worker.label.as_str())).collect()
    });
    let columns = format!(
        "{:2} {:>7} {:>6} {:6} {:>5} {:>5} {:>5} {:>5} {:CPUS$} COMMAND",
        "", "PID", "AGE", "STATE", "ASK", "HELD", "SHARE", "START", "CLAIMS"
    );
    let mut processes = domain.processes.iter().collect::<Vec<_>>();
    sort.sort(&mut processes);
    let rows = processes.into_iter().map(|process| Line {
        text: row(process, labels.get(&process.pid).copied().unwrap_or(""), width),
        kind: Kind::Process(process.pid, process.state),
        domain: index,
    });
    let line = |text: &str, kind| Line { text: shortened(text, width), kind, domain: index };
    [line(&title(domain, width), Kind::Domain), line(&columns, Kind::Columns)].into_iter().chain(rows).collect()
}

fn title(domain: &Domain, width: usize) -> String {
    let dead = domain.count(State::Dead);
    let active = domain.count(State::Region) + domain.count(State::Active);
    let processes = counted(domain.processes.len() - dead, "process");
    let budget = match domain.budgets() {
        None => "no".into(),
        Some((least, most)) if least == most => most.to_string(),
        Some((least, most)) => format!("{least} to {most}"),
    };
    let dead = match dead {
        0 => String::new(),
        1 => format!("; 1 dead holds {}", domain.held(true)),
        dead => format!("; {dead} dead hold {}", domain.held(true)),
    };
    let numbers = format!(": {processes} ({active} active), {} of {budget} threads{dead}", domain.held(false));
    // The numbers tell more than the end of a long name.
    let name = domain.job.as_deref().unwrap_or("no job");
    shortened(name, width.saturating_sub(numbers.len())) + &numbers
}

fn row(process: &Process, label: &str, width: usize) -> String {
    let or_dash = |number: Option<u32>| number.map_or("-".into(), |number| number.to_string());
    let claimed = match process.claimed.is_empty() {
        true => "-".into(),
        false => shortened(&process.claimed.to_string(), CPUS),
    };
    let before = format!(
        "{label:2} {:>7} {:>6} {:6} {:>5} {:>5} {:>5} {:>5} {claimed:CPUS$} ",
        process.pid,
        process.age.map_or("-".into(), short_age),
        process.state.name(),
        process.ask,
        process.held,
        or_dash(process.share),
        or_dash(process.told),
    );
    let command = if process.state == State::Dead { "-".into() } else { process.command.clone() };
    let room = width.saturating_sub(before.len());
    format!("{before}{}", short_command(&command, room))
}

/// In at most six characters: `59s`, `59m59s`, `23h59m`, `99d23h`, `9999d`.
fn short_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (minutes, hours, days) {
        (0, _, _) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (_, _, 0) => format!("{hours}h{:02}m", minutes % 60),
        (_, _, ..100) => format!("{days}d{:02}h", hours % 24),
        _ => format!("{days}d"),
    }
}
