//! `knlfix env`: the configuration table.

use crate::Failure;
use knlfix_core::config::{Config, KNOBS, Knob};
use std::os::unix::ffi::OsStrExt;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// As a table for a document, with defaults instead of current values
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn env(arguments: &Arguments) -> Result<(), Failure> {
    let text = if arguments.markdown { markdown() } else { current() };
    crate::print(&text)
}

fn current() -> String {
    let mut config = Config::new();
    for (name, value) in std::env::vars_os() {
        let mut line = name;
        line.push("=");
        line.push(value);
        if let Err(complaint) = config.apply(line.as_bytes()) {
            eprintln!("knlfix: {complaint}");
        }
    }
    KNOBS.iter().map(|knob| row(knob, &config.shown(knob).to_string())).collect()
}

fn row(knob: &Knob, value: &str) -> String {
    let setting = format!("{}={value}", knob.name);
    let origin = match (value == knob.default, std::env::var_os(knob.name).is_some()) {
        (_, false) => "default",
        (true, true) => "set, as by default",
        (false, true) => "set",
    };
    let layout = textwrap::Options::with_termwidth().initial_indent("    ").subsequent_indent("    ");
    let doc = textwrap::fill(knob.doc, layout);
    format!("{setting:<40} {origin}\n{doc}\n    values: {}\n", knob.values)
}

pub(crate) fn markdown() -> String {
    let escape = |text: &str| text.replace('|', "\\|");
    let mut table = String::from("| variable | values | default | what it does |\n|---|---|---|---|\n");
    for knob in &KNOBS {
        let default = if knob.default.is_empty() { "none".into() } else { format!("`{}`", knob.default) };
        table += &format!("| `{}` | `{}` | {default} | {} |\n", knob.name, escape(knob.values), escape(knob.doc));
    }
    table
}
