//! The picture as text, 80 columns wide.

use super::chart::Chart;
use super::layout::{Measure, Row};
use knlfix_core::cpumask::CpuMask;

const WIDTH: usize = 80;

/// Rows of the legend that are shown: the picture is the point, and shall stay on the screen.
const LEGEND: usize = 16;

pub(crate) fn text(chart: &Chart) -> String {
    let mut text = format!("{}\n{}\n", textwrap::fill(&chart.headline(), WIDTH), chart.not_pinned());
    picture(chart, &mut text);
    legend(chart, &mut text);
    text
}

/// The CPUs, and who is on them.
pub(crate) fn picture(chart: &Chart, text: &mut String) {
    let numbers = chart.cpus.iter().map(|cpu| cpu.number).max().unwrap_or(0).to_string().len();
    let cell = chart.cpus.iter().map(|cpu| mark(chart, cpu.number).len()).max().unwrap_or(1);
    // Labels of one letter can be read without a gap.
    let between_cells = usize::from(cell > 1);
    let margin = "CPU ".len() + numbers + 2;
    let measure =
        Measure { cell, between_cells, between_cores: 1 + between_cells, between_tiles: 3, room: WIDTH - margin };
    let sections = measure.sections(&chart.cpus);
    for section in &sections {
        text.push('\n');
        if let ([_, _, ..], Some(cpu)) = (sections.as_slice(), section.cpus.first()) {
            let cpus = CpuMask::of(section.cpus.iter().map(|cpu| usize::from(cpu.number)));
            *text += &format!("NUMA node {}, package {}: CPUs {cpus}\n", cpu.node, cpu.package);
        }
        for row in &section.rows {
            let first = row.first().and_then(|tile| tile.first()?.first()).map_or(0, |cpu| cpu.number);
            let line = format!("CPU {first:>numbers$}  {}", line(chart, row, &measure));
            *text += line.trim_end();
            text.push('\n');
        }
    }
    let has_tiles = sections.iter().flat_map(|section| &section.rows).any(|row| row.len() > 1);
    let tiles = if has_tiles { ", | divides tiles that share a cache" } else { "" };
    let stacks = if chart.on.values().any(|workers| workers.len() > 1) { "; 2* holds two" } else { "" };
    *text += &format!("\nA block is a core{tiles}; . is free{stacks}\n");
}

fn line(chart: &Chart, row: &Row<'_>, measure: &Measure) -> String {
    let cell = |cpu: u16| format!("{:<1$}", mark(chart, cpu), measure.cell);
    let gap = |width: usize| " ".repeat(width);
    let tiles = row.iter().map(|tile| {
        let cores = tile.iter().map(|core| {
            let cells = core.iter().map(|cpu| cell(cpu.number));
            cells.collect::<Vec<_>>().join(&gap(measure.between_cells))
        });
        cores.collect::<Vec<_>>().join(&gap(measure.between_cores))
    });
    tiles.collect::<Vec<_>>().join(" | ")
}

/// Who is on a CPU: nobody, a worker, or so many.
fn mark(chart: &Chart, cpu: u16) -> String {
    let mut workers = chart.on(cpu);
    match workers.len() {
        0 => ".".into(),
        1 => workers.next().map_or_else(String::new, |worker| worker.label.clone()),
        count => format!("{count}*"),
    }
}

fn legend(chart: &Chart, text: &mut String) {
    let mut rows = vec![];
    for group in chart.legend() {
        rows.push((group.title(WIDTH), 0));
        let labels = group.entries.iter().map(|entry| entry.label().len()).max().unwrap_or(0);
        let entries = group.entries.iter().map(|entry| format!("  {:<labels$} {}", entry.label(), entry.description()));
        let entries = entries.collect::<Vec<_>>();
        let width = entries.iter().map(String::len).max().unwrap_or(0) + 1;
        for row in entries.chunks((WIDTH / width).max(1)) {
            let line = row.iter().map(|entry| format!("{entry:<width$}")).collect::<String>();
            rows.push((line.trim_end().to_owned(), row.len()));
        }
    }
    let cut = if rows.len() > LEGEND { LEGEND - 1 } else { rows.len() };
    for (line, _) in &rows[..cut] {
        *text += line;
        text.push('\n');
    }
    let left = rows[cut..].iter().map(|(_, entries)| entries).sum::<usize>();
    if left > 0 {
        *text += &format!("  and {left} more; --json names them all\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    fn lines(chart: &Chart) -> Vec<String> {
        text(chart).lines().map(str::to_owned).collect()
    }

    #[test]
    fn pictures_are_as_they_were_approved() {
        for (chart, approved) in [
            (made_up::knl_stacked(), include_str!("../../tests/pictures/knl-stacked.txt")),
            (made_up::knl_spread(), include_str!("../../tests/pictures/knl-spread.txt")),
            (made_up::epyc(), include_str!("../../tests/pictures/epyc.txt")),
        ] {
            let drawn = text(&chart);
            assert!(drawn == approved, "drawn:\n{drawn}\napproved:\n{approved}");
        }
    }

    #[test]
    fn a_node_of_272_or_256_cpus_fits_on_a_screen() {
        let one_each = (0..272).map(|cpu| made_up::team(cpu, 1, 1)).collect::<Vec<_>>();
        let all_on_one = vec![made_up::team(0, 1, 1); 272];
        for chart in [
            made_up::knl_stacked(),
            made_up::knl_spread(),
            made_up::epyc(),
            made_up::pool(made_up::knl(), "a", &one_each),
            made_up::pool(made_up::knl(), &"long ".repeat(99), &one_each[..20]),
        ] {
            let lines = lines(&chart);
            assert!(lines.len() <= 40, "{} lines:\n{}", lines.len(), lines.join("\n"));
        }
        let deepest = lines(&made_up::pool(made_up::knl(), "a", &all_on_one));
        assert!(deepest.len() <= 45, "{}", deepest.join("\n"));
    }

    #[test]
    fn no_line_is_longer_than_80_columns() {
        for chart in [made_up::knl_stacked(), made_up::knl_spread(), made_up::epyc(), made_up::big()] {
            let lines = lines(&chart);
            assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{}", lines.join("\n"));
        }
    }

    #[test]
    fn a_core_of_a_kind_with_fewer_threads_takes_less_room() {
        let mut cpus = made_up::node(1, 2, 2, 2);
        cpus.retain(|cpu| cpu.tile == 0 || cpu.thread == 0);
        let chart = made_up::pool(cpus, "a", &[made_up::team(2, 1, 4)]);
        assert_eq!(lines(&chart)[3], "CPU 0  .. .. | A .");
    }

    #[test]
    fn a_program_without_pins_is_said_to_have_none() {
        let chart = made_up::pool(made_up::node(1, 1, 2, 1), "a", &[]);
        let expected = [
            "no process is pinned: all may run on all 2 CPUs of 2 cores",
            "not pinned: 1 process with 1 thread",
            "",
            "CPU 0  . .",
        ];
        assert_eq!(lines(&chart)[..4], expected);
    }
}
