//! `knlfix top`: who shares the CPUs, live. It only reads.

mod json;
mod screen;
mod text;
mod view;

use crate::{Failure, print};
use std::cmp::Reverse;
use std::io::{self, IsTerminal};
use std::time::Duration;
use view::{Process, View};

/// Shows who shares the CPUs: the processes of all of this user's domains, live.
///
/// A domain's processes share a budget of compute threads. Shown of each are the threads that its last region asked for,
/// the threads that its regions hold now, its share, the share it was told at its start, and the CPUs that it claims.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write it once as text, as also happens where the output is no terminal
    #[arg(long)]
    once: bool,
    /// Write it once as JSON
    #[arg(long, conflicts_with = "once")]
    json: bool,
    /// Sort the processes of each domain by this
    #[arg(long, value_enum, value_name = "COLUMN", default_value = "slot")]
    sort: Sort,
    /// Look again after so long
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::map::seconds)]
    interval: Duration,
}

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Sort {
    /// As they came into the domain
    Slot,
    /// The lowest number
    Pid,
    /// The oldest
    Age,
    /// Who is in a region, then who was lately
    State,
    /// Who asked for most threads
    Ask,
    /// Who holds most threads
    Held,
    /// Who may take most threads
    Share,
    /// In the order of the alphabet
    Command,
}

impl Sort {
    fn sort(self, processes: &mut [&Process]) {
        match self {
            Self::Slot => processes.sort_by_key(|process| process.slot),
            Self::Pid => processes.sort_by_key(|process| process.pid),
            Self::Age => processes.sort_by_key(|process| Reverse(process.age)),
            Self::State => processes.sort_by_key(|process| (process.state, process.idle_ms)),
            Self::Ask => processes.sort_by_key(|process| Reverse(process.ask)),
            Self::Held => processes.sort_by_key(|process| Reverse(process.held)),
            Self::Share => processes.sort_by_key(|process| Reverse(process.share)),
            Self::Command => processes.sort_by(|a, b| a.command.cmp(&b.command)),
        }
    }
}

pub(crate) fn top(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.json {
        return print(&json::json(&read()?));
    }
    if arguments.once || !io::stdout().is_terminal() {
        let view = read()?;
        for (file, why) in &view.left_out {
            eprintln!("knlfix: {}: {why}; left out", file.display());
        }
        return print(&text::once(&view, arguments.sort, textwrap::termwidth()));
    }
    screen::show(arguments.sort, arguments.interval)
}

fn read() -> Result<View, Failure> {
    View::read().map_err(|error| Failure::new(format!("/dev/shm: {error}")))
}
