//! The man page, docs/reference.md and the shells' completions, from the definition of the command line: for those who
//! package.

use crate::{Arguments, Failure, Shown, print};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use knlfix_core::config::KNOBS;
use std::fmt::{self, Write};
use std::io;

#[derive(clap::Args)]
pub(crate) struct Completions {
    /// bash, zsh or fish
    #[arg(value_parser = shells())]
    shell: Shell,
}

fn shells() -> impl clap::builder::TypedValueParser<Value = Shell> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(["bash", "zsh", "fish"]).map(|name| match name.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    })
}

pub(crate) fn completions(arguments: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::<Shown>::command(), "knlfix", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// One page for the command and its subcommands.
pub(crate) fn man() -> Result<(), Failure> {
    let mut text = Vec::new();
    page(&mut text).map_err(|error| Failure::new(error.to_string()))?;
    print(&String::from_utf8_lossy(&text))
}

/// docs/reference.md
pub(crate) fn reference() -> Result<(), Failure> {
    let mut text = String::new();
    write_reference(&mut text).map_err(|error| Failure::new(error.to_string()))?;
    print(&text)
}

fn write_reference(out: &mut String) -> fmt::Result {
    let mut command = Arguments::<Shown>::command();
    command.build();
    writeln!(out, "# Reference\n\nWritten by `knlfix reference`, from the tables that the programs use themselves.\n")?;
    writeln!(out, "## Commands\n")?;
    for mut sub in leaves(&command) {
        writeln!(out, "### {}\n", sub.get_bin_name().unwrap_or_default())?;
        writeln!(out, "{}\n", sub.get_long_about().or(sub.get_about()).cloned().unwrap_or_default())?;
        let usage = sub.render_usage().to_string();
        for line in usage.trim_start_matches("Usage: ").lines() {
            writeln!(out, "    {}", line.trim())?;
        }
        writeln!(out, "\n| option | |\n|---|---|")?;
        for argument in sub.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
            let help = argument.get_help().cloned().unwrap_or_default().to_string();
            let mut notes = vec![help.replace('|', "\\|")];
            let values = argument.get_possible_values();
            if !values.is_empty() && argument.get_action().takes_values() {
                let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
                notes.push(format!("one of {}", names.join(", ")));
            }
            let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            if !defaults.is_empty() && argument.get_action().takes_values() {
                notes.push(format!("default: `{}`", defaults.join(" ")));
            }
            writeln!(out, "| `{}` | {} |", argument.to_string().replace('|', "\\|"), notes.join("; "))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "## Variables of the library\n\n{}", crate::env::markdown())?;
    writeln!(out, "## Exit status\n\n| exit status | meaning |\n|---|---|")?;
    for (status, meaning) in crate::STATUSES {
        writeln!(out, "| {status} | {meaning} |")?;
    }
    Ok(())
}

fn page(out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Arguments::<Shown>::command();
    command.build();
    let man = Man::new(command.clone()).manual("User commands");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for sub in leaves(&command) {
        section(&mut roff, sub);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for knob in &KNOBS {
        roff.control("TP", []);
        roff.text([bold(knob.name), roman("="), italic(knob.values)]);
        let default = if knob.default.is_empty() { "none" } else { knob.default };
        roff.text([roman(format!("{} (default: {default})", knob.doc))]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in crate::STATUSES {
        roff.control("TP", []);
        roff.text([bold(status)]);
        roff.text([roman(meaning)]);
    }
    roff.to_writer(out)
}

/// The commands that do something: `knlfix kernel install`, not `knlfix kernel`.
fn leaves(command: &clap::Command) -> Vec<clap::Command> {
    let subs = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    subs.flat_map(|sub| if sub.has_subcommands() { leaves(sub) } else { vec![sub.clone()] }).collect()
}

fn section(roff: &mut Roff, mut command: clap::Command) {
    roff.control("SS", [command.get_bin_name().unwrap_or_default()]);
    let usage = command.render_usage().to_string();
    roff.control("nf", []);
    for line in usage.trim_start_matches("Usage: ").lines() {
        roff.text([bold(line.trim_start())]);
    }
    roff.control("fi", []);
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    for paragraph in about.split("\n\n") {
        roff.control("PP", []);
        roff.text([roman(paragraph)]);
    }
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        roff.control("TP", []);
        let values = argument.get_value_names().unwrap_or_default().join(" ");
        let takes = argument.get_action().takes_values();
        roff.text(match argument.get_long() {
            Some(long) if takes => vec![bold(format!("--{long}")), roman(" "), italic(values)],
            Some(long) => vec![bold(format!("--{long}"))],
            None => vec![italic(values)],
        });
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        roff.text([roman(help)]);
    }
}
