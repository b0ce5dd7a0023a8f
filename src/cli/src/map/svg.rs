//! The picture as SVG: one file, no script, no font of its own, for light and dark pages.

use super::chart::{Chart, Entry};
use super::layout::{Measure, Tile};
use knlfix_core::cpumask::CpuMask;
use knlfix_core::topology::Cpu;

const MEASURE: Measure = Measure { cell: 20, between_cells: 2, between_cores: 7, between_tiles: 14, room: 960 };
const MARGIN: usize = 16;
/// From the outline of a tile to its cells.
const PADDING: usize = 4;
const LINE: usize = 18;
/// Entries of the legend that are shown.
const LEGEND: usize = 72;
/// About the width of a character.
const LETTER: usize = 7;
/// Workers on one CPU that are shown by their colours; more would be too thin to see.
const STRIPES: usize = 4;
/// Workers that the title of one CPU names.
const NAMED: usize = 8;

const STYLE: &str = "\
text{font:12px sans-serif;fill:#1f2328}.h{font-size:15px;font-weight:bold}.c{font-size:10px;text-anchor:middle;\
fill:#000;pointer-events:none}.b{fill:#fff}.f{fill:#eaeef2}.t{fill:none;stroke:#afb8c1}.o{fill:none;stroke:#cf222e;\
stroke-width:2;pointer-events:all}.s{fill:#ffd7d5}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.c{fill:#000}\
.b{fill:#0d1117}.f{fill:#21262d}.t{stroke:#484f58}}";

pub(crate) fn svg(chart: &Chart) -> String {
    let mut body = String::new();
    let mut y = MARGIN + LINE;
    text(&mut body, "h", MARGIN, y, &chart.headline());
    y += LINE;
    text(&mut body, "", MARGIN, y, &chart.not_pinned());
    y += MARGIN;
    let mut width = 780;
    let sections = MEASURE.sections(&chart.cpus);
    for section in &sections {
        if let ([_, _, ..], Some(cpu)) = (sections.as_slice(), section.cpus.first()) {
            let cpus = CpuMask::of(section.cpus.iter().map(|cpu| usize::from(cpu.number)));
            y += LINE;
            text(&mut body, "", MARGIN, y, &format!("NUMA node {}, package {}: CPUs {cpus}", cpu.node, cpu.package));
            y += LINE / 2;
        }
        for row in &section.rows {
            let mut x = MARGIN + PADDING;
            for tile in row {
                tile_at(&mut body, chart, tile, x, y + PADDING);
                x += MEASURE.tile(tile) + MEASURE.between_tiles;
            }
            width = width.max(x - MEASURE.between_tiles + PADDING + MARGIN);
            y += MEASURE.cell + MEASURE.between_tiles;
        }
    }
    y += LINE;
    let key =
        "A square is a CPU, a block of squares a core, a frame a tile of cores. Red: several processes, and how many.";
    text(&mut body, "", MARGIN, y, key);
    body.push('\n');
    legend(&mut body, chart, &mut y, width);
    let height = y + MARGIN;
    let headline = escaped(&chart.headline());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title>{headline}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"b\" width=\"{width}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

fn tile_at(body: &mut String, chart: &Chart, tile: &Tile<'_>, left: usize, top: usize) {
    let (width, height) = (MEASURE.tile(tile) + 2 * PADDING, MEASURE.cell + 2 * PADDING);
    let (x, y) = (left - PADDING, top - PADDING);
    *body += &format!("<rect class=\"t\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>\n");
    let mut x = left;
    for core in tile {
        for cpu in *core {
            cell_at(body, chart, cpu, x, top);
            x += MEASURE.cell + MEASURE.between_cells;
        }
        x += MEASURE.between_cores - MEASURE.between_cells;
    }
}

fn cell_at(body: &mut String, chart: &Chart, cpu: &Cpu, x: usize, y: usize) {
    let places = chart.on.get(&cpu.number).map_or(&[][..], Vec::as_slice);
    let style = match places {
        [] => "class=\"f\"".into(),
        [place] => format!("fill=\"{}\"", colour(*place)),
        _ if places.len() <= STRIPES => {
            let edge = |stripe: usize| stripe * MEASURE.cell / places.len();
            for (stripe, &place) in places.iter().enumerate() {
                let path = path(x + edge(stripe), y, edge(stripe + 1) - edge(stripe));
                *body += &format!("<path fill=\"{}\" {path}/>", colour(place));
            }
            "class=\"o\"".into()
        }
        _ => "class=\"o s\"".into(),
    };
    let (path, title) = (path(x, y, MEASURE.cell), title(chart, cpu, places));
    *body += &format!("<path {style} {path}><title>{title}</title></path>");
    match places {
        [] => {}
        [place] => text(body, "c", x + MEASURE.cell / 2, y + 14, &chart.workers[*place].label),
        _ => text(body, "c", x + MEASURE.cell / 2, y + 14, &places.len().to_string()),
    }
    body.push('\n');
}

/// A cell, or a stripe of it. There are hundreds, and a `rect` would take more characters.
fn path(x: usize, y: usize, width: usize) -> String {
    format!("d=\"M{x} {y}h{width}v{}h-{width}z\"", MEASURE.cell)
}

/// What a browser shows where the pointer rests.
fn title(chart: &Chart, cpu: &Cpu, places: &[usize]) -> String {
    let workers = places.iter().take(NAMED).map(|&place| &chart.workers[place]);
    let names = workers.map(|worker| format!("{} ({})", worker.label, worker.pid)).collect::<Vec<_>>().join(", ");
    let rest = places.len().saturating_sub(NAMED);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let names = if names.is_empty() { "free" } else { &names };
    format!("CPU {}, core {}: {names}{more}", cpu.number, cpu.core)
}

fn legend(body: &mut String, chart: &Chart, y: &mut usize, width: usize) {
    let named = |entry: &Entry<'_>| format!("{} {}", entry.label(), entry.description());
    let room = width - 2 * MARGIN;
    let (mut shown, mut left) = (0, 0);
    for group in chart.legend() {
        let (entries, rest) = group.entries.split_at(group.entries.len().min(LEGEND - shown));
        shown += entries.len();
        left += rest.len();
        if entries.is_empty() {
            continue;
        }
        *y += LINE;
        text(body, "", MARGIN, *y, &group.title(room / LETTER));
        body.push('\n');
        let column = entries.iter().map(|entry| named(entry).len()).max().unwrap_or(0) * LETTER + 2 * LINE;
        for row in entries.chunks((room / column).max(1)) {
            *y += LINE;
            for (x, entry) in (MARGIN..).step_by(column).zip(row) {
                let style = match entry.place() {
                    Some(place) => format!("fill=\"{}\"", colour(place)),
                    None => "class=\"s\"".into(),
                };
                *body += &format!("<rect {style} x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\"/>", *y - 11);
                text(body, "", x + LINE, *y, &named(entry));
                body.push('\n');
            }
        }
    }
    if left > 0 {
        *y += LINE;
        text(body, "", MARGIN, *y, &format!("and {left} more"));
        body.push('\n');
    }
}

fn text(body: &mut String, class: &str, x: usize, y: usize, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    *body += &format!("<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escaped(text));
}

/// What XML allows; of the control characters it knows hardly any.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A hue of its own for each worker: neighbours' are a golden angle apart. Light enough for black letters.
fn colour(place: usize) -> String {
    let hue = (place as f64 * 137.508).rem_euclid(360.0);
    let lightness = [0.70, 0.78, 0.62][place % 3];
    let chroma = 0.65 * (1.0 - (2.0 * lightness - 1.0_f64).abs());
    let channel = |offset: f64| {
        // The usual formula from hue, saturation and lightness.
        let k = (offset + hue / 30.0).rem_euclid(12.0);
        let value = lightness - chroma / 2.0 * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(0.0), channel(8.0), channel(4.0))
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_picture_of_272_cpus_is_small() {
        let one_each = (0..272).map(|cpu| made_up::team(cpu, 1, 1)).collect::<Vec<_>>();
        let four_each = (0..272).map(|cpu| made_up::team(cpu / 4, 1, 1)).collect::<Vec<_>>();
        for chart in [
            made_up::knl_stacked(),
            made_up::knl_spread(),
            made_up::pool(made_up::knl(), "a", &one_each),
            made_up::pool(made_up::knl(), "a", &four_each),
        ] {
            let svg = svg(&chart);
            assert!(svg.len() < 60_000, "{} bytes", svg.len());
        }
    }

    #[test]
    fn every_cpu_has_its_title_and_several_on_one_a_red_outline() {
        let drawn = svg(&made_up::epyc());
        for cpu in 0..256 {
            assert_eq!(drawn.matches(&format!("<title>CPU {cpu}, core ")).count(), 1, "CPU {cpu}");
        }
        assert!(drawn.contains("<title>CPU 0, core 0: A (1001), M (1013)</title>"));
        assert!(drawn.contains("<title>CPU 1, core 1: free</title>"));
        assert_eq!(drawn.matches("class=\"o\" ").count(), 6);
        assert!(drawn.contains("solve --mesh &lt;a&gt; &amp; b"));
    }

    #[test]
    fn what_stands_over_workers_that_stack_names_a_few_of_them() {
        let drawn = svg(&made_up::knl_stacked());
        assert!(drawn.contains("H (1008) and 60 more</title>"), "{drawn}");
    }

    #[test]
    fn workers_have_colours_of_their_own() {
        let colours = (0..272).map(colour).collect::<BTreeSet<_>>();
        assert!(colours.len() > 264, "{}", colours.len());
    }
}
