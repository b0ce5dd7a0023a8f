//! The report for people.

use super::model::{Report, Totals};
use std::fmt::Write;

/// Rows of a table, at most.
const ROWS: usize = 12;

pub(crate) fn text(report: &Report) -> String {
    let totals = &report.totals;
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = table(&mut out, report, totals);
    for line in advice(report).iter().flat_map(|advice| textwrap::wrap(advice, 76)) {
        let _ = writeln!(out, "  {line}");
    }
    out
}

fn table(out: &mut String, report: &Report, totals: &Totals) -> std::fmt::Result {
    let what = match report.runs.as_slice() {
        [run] => shortened(&run.command, 60),
        runs => format!("{} runs merged", runs.len()),
    };
    writeln!(out, "knlfix report: {what}")?;
    let processes = totals.process_count;
    writeln!(
        out,
        "  wall {}, CPU {}, {processes} process{}, budget {}",
        time(totals.wall_s),
        time(totals.cpu_s),
        if processes == 1 { "" } else { "es" },
        totals.budget.map_or("-".into(), |budget| format!("{budget} threads"))
    )?;
    writeln!(
        out,
        "  in regions {} of {} computed: {} parallel, {} serial",
        time(totals.region_s),
        time(totals.computing_s),
        percent(1.0 - totals.serial_fraction),
        percent(totals.serial_fraction)
    )?;
    if !totals.sources.is_empty() {
        writeln!(out, "\n  {:<38} {:<17} {:>9} {:>8}", "regions entered by", "runtime", "regions", "time")?;
        for source in totals.sources.iter().take(ROWS) {
            let library = shortened(&source.library, 38);
            writeln!(out, "  {library:<38} {:<17} {:>9} {:>8}", source.runtime, source.regions, time(source.time_s))?;
        }
        rest(out, totals.sources.len())?;
        writeln!(
            out,
            "  mean threads {:.1}; asked: {}; got: {}",
            totals.mean_threads,
            sizes(&totals.asks),
            sizes(&totals.grants)
        )?;
    }
    if report.processes.len() > 1 {
        writeln!(out, "\n  {:>8} {:>8} {:>8} {:>8} {:>7}  command", "process", "wall", "CPU", "regions", "serial")?;
        let mut processes: Vec<_> = report.processes.iter().collect();
        processes.sort_by(|one, other| other.wall_s.total_cmp(&one.wall_s));
        for process in processes.iter().take(ROWS) {
            writeln!(
                out,
                "  {:>8} {:>8} {:>8} {:>8} {:>7}  {}{}",
                process.pid,
                time(process.wall_s),
                process.cpu_s.map_or("?".into(), time),
                time(process.region_s),
                percent(process.serial_fraction),
                shortened(&process.command, 28),
                if process.ended { "" } else { " (killed)" }
            )?;
        }
        rest(out, processes.len())?;
    }
    let counts = &totals.counts;
    writeln!(
        out,
        "\n  pins seen {}, children repaired {}, user masks respected {}, pins moved {}",
        counts.pins_seen, counts.children_repaired, counts.user_masks_respected, counts.pins_moved
    )?;
    write!(out, "  context switches {} + {} forced", counts.voluntary_switches, counts.involuntary_switches)?;
    let migrations: Vec<_> = report.runs.iter().filter_map(|run| run.cpu_migrations).collect();
    if !migrations.is_empty() {
        write!(out, ", migrations to another CPU {}", migrations.iter().sum::<u64>())?;
    }
    if totals.avoided_thread_s > 0.0 {
        write!(out, "\n  oversubscription avoided: {} of threads", time(totals.avoided_thread_s))?;
    }
    let pressure: f64 = report.runs.iter().filter_map(|run| run.cpu_pressure_s).sum();
    if pressure > 0.0 {
        write!(out, "\n  somebody on the node waited for a CPU: {}", time(pressure))?;
    }
    writeln!(out, "\n")
}

fn rest(out: &mut String, all: usize) -> std::fmt::Result {
    if all > ROWS { writeln!(out, "  ... and {} more", all - ROWS) } else { Ok(()) }
}

/// What to do about it.
pub(crate) fn advice(report: &Report) -> Vec<String> {
    let totals = &report.totals;
    let mut advice = Vec::new();
    let serial = totals.serial_fraction;
    let several = report.processes.iter().filter(|process| process.region_s > 0.0 || process.wall_s > 0.0).count() > 1;
    if totals.regions == 0 {
        advice.push(
            "No parallel region was seen: all of the time is serial, and more threads give nothing; use processes."
                .into(),
        );
    } else if serial > 0.5 {
        let limit = totals.amdahl_limit.unwrap_or(1.0);
        let cure = if several { "more processes" } else { "processes" };
        advice.push(format!(
            "{} of the time is serial (Python, I/O, waiting): more threads give at most {limit:.1} x; use {cure}.",
            percent(serial)
        ));
    } else if serial > 0.1 {
        let limit = totals.amdahl_limit.unwrap_or(1.0);
        advice.push(format!(
            "{} of the time is serial: with any number of threads it would be {limit:.1} x as fast at most.",
            percent(serial)
        ));
    } else {
        advice.push("Nearly all of the time is parallel: threads are well used here, more CPUs will help.".into());
    }
    let is_shared = totals.avoided_thread_s > 0.1 * totals.thread_s;
    if totals.regions > 0 && totals.mean_threads < 1.05 && totals.budget.is_some_and(|budget| budget > 1) && !is_shared
    {
        advice.push("The regions ran on one thread each: look at OMP_NUM_THREADS and its like.".into());
    }
    if let Some(each) = mean_region(totals).filter(|&each| each < 20e-6) {
        advice.push(format!(
            "A region lasts {:.0} us on average: so short ones gain little from threads; give each more work.",
            each * 1e6
        ));
    }
    if is_shared {
        advice.push(
            "Regions asked for more threads than there was room for: the processes share the CPUs, so more threads \
             in each give nothing."
                .into(),
        );
    }
    advice
}

fn mean_region(totals: &Totals) -> Option<f64> {
    let time: f64 = totals.sources.iter().map(|source| source.time_s).sum();
    (totals.regions > 1000).then(|| time / totals.regions as f64)
}

fn sizes(histogram: &std::collections::BTreeMap<String, u64>) -> String {
    let first = |name: &str| name.split('-').next().and_then(|first| first.parse::<u32>().ok()).unwrap_or(0);
    let mut rows: Vec<_> = histogram.iter().collect();
    rows.sort_by_key(|(name, _)| first(name));
    rows.iter().map(|(name, count)| format!("{count} x {name}")).collect::<Vec<_>>().join(", ")
}

/// A time, with a unit that fits.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 600.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds >= 10.0 => format!("{seconds:.1} s"),
        _ if seconds >= 1.0 => format!("{seconds:.2} s"),
        _ if seconds >= 0.001 => format!("{:.0} ms", seconds * 1e3),
        0.0 => "0".into(),
        _ => format!("{:.0} us", seconds * 1e6),
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// The beginning of a long text.
fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let begin: String = text.chars().take(most.saturating_sub(3)).collect();
    format!("{begin}...")
}
