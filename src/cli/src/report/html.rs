//! The report as one page that needs nothing else: the text, and pictures of each run.

use super::model::{Process, Report, Run};
use super::text;
use std::collections::BTreeSet;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
/// Left of the pictures, for labels.
const LEFT: f64 = 60.0;
/// Rows of the picture of processes, at most.
const ROWS: usize = 60;

pub(crate) fn html(report: &Report) -> String {
    let mut out = String::from(HEAD);
    let _ = writeln!(out, "<h1>knlfix report</h1>\n<pre>{}</pre>", escaped(&text::text(report)));
    for (at, run) in report.runs.iter().enumerate() {
        let processes: Vec<_> = report.processes.iter().filter(|process| process.run == at).collect();
        let _ = writeln!(out, "<h2>{} <small>on {}</small></h2>", escaped(&run.command), escaped(&run.host));
        if run.samples.len() > 1 {
            let budget = processes.iter().filter_map(|process| process.budget).max();
            cpus(&mut out, run);
            threads(&mut out, run, budget);
        }
        bars(&mut out, run, &processes);
    }
    out + "</body></html>\n"
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>knlfix report</title>
<link rel="icon" href="data:,">
<style>
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 900px; color: #222; background: #fff }
pre { background: #f5f5f2; padding: 1em; overflow-x: auto; font-size: 13px }
h1 { font-size: 1.4em } h2 { font-size: 1.15em; margin-top: 2em; overflow-wrap: anywhere }
h3 { font-size: 1em; margin: 1.2em 0 .3em } small { color: #666; font-weight: normal }
svg { display: block; max-width: 100%; height: auto } svg text { font: 11px sans-serif; fill: #444 }
</style></head><body>
"#;

/// A row for each CPU, darker the more threads wanted it.
fn cpus(out: &mut String, run: &Run) {
    let cpus: BTreeSet<u32> = run.samples.iter().flat_map(|sample| sample.cpus.keys().copied()).collect();
    let step = (320.0 / cpus.len().max(1) as f64).clamp(1.0, 22.0);
    let height = step * cpus.len() as f64;
    picture(out, "CPUs over time: threads that ran or wanted to (1, 2, 3 and more)", height + 20.0);
    for (row, cpu) in cpus.iter().enumerate() {
        let y = row as f64 * step;
        if step >= 9.0 || row % 16 == 0 {
            label(out, y + step.min(14.0) * 0.75, &format!("CPU {cpu}"));
        }
        let mut ends = run.samples.iter().skip(1).map(|sample| sample.at_s);
        for sample in &run.samples {
            let end = ends.next().unwrap_or(run.wall_s);
            let color = match sample.cpus.get(cpu).copied().unwrap_or(0) {
                0 => continue,
                1 => "#4c9f70",
                2 => "#e0a030",
                _ => "#c0392b",
            };
            rect(out, at(run, sample.at_s), y, at(run, end) - at(run, sample.at_s), step * 0.92, color, None);
        }
    }
    axis(out, run, height);
}

/// Threads that ran, and the line that they were to stay below.
fn threads(out: &mut String, run: &Run, budget: Option<u32>) {
    const HEIGHT: f64 = 140.0;
    let running = run.samples.iter().map(|sample| sample.running);
    let most = running.chain(budget).max().unwrap_or(1).max(1);
    let y = |threads: u32| HEIGHT - f64::from(threads) / f64::from(most) * (HEIGHT - 10.0);
    picture(out, "Running threads over time, and the budget (dashed)", HEIGHT + 20.0);
    let mut points = format!("{LEFT:.1},{HEIGHT}");
    for sample in &run.samples {
        let _ = write!(points, " {:.1},{:.1}", at(run, sample.at_s), y(sample.running));
    }
    let _ = write!(points, " {:.1},{HEIGHT}", at(run, run.samples.last().map_or(0.0, |sample| sample.at_s)));
    let _ = writeln!(out, r##"<polygon points="{points}" fill="#9fc5e8" stroke="#3d7ab5"/>"##);
    label(out, y(most) + 4.0, &most.to_string());
    label(out, HEIGHT, "0");
    if let Some(budget) = budget {
        let y = y(budget);
        let _ = writeln!(
            out,
            r##"<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}" stroke="#c0392b" stroke-dasharray="6 4"/>"##
        );
    }
    axis(out, run, HEIGHT);
}

/// When each process lived, and how much of that was parallel.
fn bars(out: &mut String, run: &Run, processes: &[&Process]) {
    const STEP: f64 = 18.0;
    let mut longest = processes.to_vec();
    longest.sort_by(|one, other| other.wall_s.total_cmp(&one.wall_s));
    longest.truncate(ROWS);
    longest.sort_by(|one, other| one.begun_s.total_cmp(&other.begun_s));
    let height = STEP * longest.len() as f64;
    let title = "Processes: the part inside regions (green) and outside (grey) of each one's life";
    picture(out, title, height + 20.0);
    for (row, process) in longest.iter().enumerate() {
        let y = row as f64 * STEP;
        let (begin, end) = (at(run, process.begun_s), at(run, process.begun_s + process.wall_s));
        let parallel = (end - begin) * (1.0 - process.serial_fraction);
        let tip = format!(
            "{} {}: wall {}, CPU {}, regions {}",
            process.pid,
            process.command,
            text::time(process.wall_s),
            process.cpu_s.map_or("?".into(), text::time),
            text::time(process.region_s)
        );
        rect(out, begin, y, end - begin, STEP * 0.8, "#c8c8c4", Some(&tip));
        rect(out, begin, y, parallel, STEP * 0.8, "#4c9f70", Some(&tip));
        label(out, y + STEP * 0.65, &process.pid.to_string());
    }
    axis(out, run, height);
}

fn picture(out: &mut String, title: &str, height: f64) {
    let title = escaped(title);
    let _ = writeln!(
        out,
        r#"<h3>{title}</h3><svg role="img" aria-label="{title}" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}">"#
    );
}

/// The axis of time, which ends the picture.
fn axis(out: &mut String, run: &Run, y: f64) {
    let _ = writeln!(out, r##"<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}" stroke="#888"/>"##);
    for part in 0..=4_u8 {
        let seconds = run.wall_s * f64::from(part) / 4.0;
        let anchor = if part == 4 { "end" } else { "start" };
        let (x, y) = (at(run, seconds), y + 14.0);
        let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, text::time(seconds));
    }
    out.push_str("</svg>\n");
}

fn at(run: &Run, seconds: f64) -> f64 {
    let part = if run.wall_s > 0.0 { (seconds / run.wall_s).clamp(0.0, 1.0) } else { 0.0 };
    LEFT + part * (WIDTH - LEFT)
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, color: &str, tip: Option<&str>) {
    let _ = write!(out, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{color}">"#);
    if let Some(tip) = tip {
        let _ = write!(out, "<title>{}</title>", escaped(tip));
    }
    out.push_str("</rect>\n");
}

fn label(out: &mut String, y: f64, text: &str) {
    let x = LEFT - 6.0;
    let _ = writeln!(out, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{}</text>"#, escaped(text));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
