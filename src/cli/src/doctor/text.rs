//! The findings for people.

use super::finding::{Finding, Severity};

/// As wide as the terminal, up to this.
const WIDEST: usize = 100;

/// Where the text of a finding begins.
const INDENT: &str = "         ";

pub(crate) fn text(findings: &[Finding]) -> String {
    let width = textwrap::termwidth().min(WIDEST);
    let mut text = headline(findings) + "\n";
    for finding in findings {
        let is_ok = finding.severity == Severity::Ok;
        if !is_ok || finding.id == first_ok(findings) {
            text += "\n";
        }
        let first = format!("{:<9}", finding.severity);
        text += &filled(&finding.title, &first, INDENT, width);
        // What is well needs no more words.
        if is_ok {
            continue;
        }
        text += &filled(&finding.meaning, INDENT, INDENT, width);
        let (arrow, below) = (format!("{INDENT}-> "), format!("{INDENT}   "));
        text += &filled(&finding.advice, &arrow, &below, width);
    }
    text
}

fn first_ok(findings: &[Finding]) -> &str {
    findings.iter().find(|finding| finding.severity == Severity::Ok).map_or("", |finding| finding.id)
}

fn filled(text: &str, first: &str, others: &str, width: usize) -> String {
    if text.is_empty() {
        return String::new();
    }
    // Control characters of a variable's value would be a terminal's.
    let text = text.replace(|c: char| c.is_control(), "?");
    // Paths have hyphens, and are to be copied.
    let layout = textwrap::Options::new(width)
        .initial_indent(first)
        .subsequent_indent(others)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(&text, layout) + "\n"
}

fn headline(findings: &[Finding]) -> String {
    let kinds = [(Severity::Problem, "problem"), (Severity::Warning, "warning"), (Severity::Note, "note")];
    let counts = kinds.iter().filter_map(|&(severity, name)| {
        match findings.iter().filter(|finding| finding.severity == severity).count() {
            0 => None,
            1 => Some(format!("1 {name}")),
            many => Some(format!("{many} {name}s")),
        }
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    if counts.is_empty() { "All is well".into() } else { counts }
}

pub(crate) fn cpus(count: usize) -> String {
    if count == 1 { "1 CPU".into() } else { format!("{count} CPUs") }
}

pub(crate) fn processes(count: usize) -> String {
    if count == 1 { "1 process".into() } else { format!("{count} processes") }
}
