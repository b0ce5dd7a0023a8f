//! `knlfix`: runs a program under libknlfix, tells where its time went, shows what the library is told by the environment and which process may run
//! on which CPU, and cleans up after killed programs.
//!
//! Exit status: the program's own; 2 for a wrong command line; 125 when `knlfix` itself fails, 126 when the program can't be
//! run, 127 when it is not found. [`STATUSES`] is the whole table.

mod doctor;
mod domains;
mod env;
mod gc;
mod json;
mod kernel;
mod map;
mod node;
mod pages;
mod report;
mod run;
mod top;

use clap::{Parser, Subcommand};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

/// Gives every child process and thread of an OpenMP program its CPUs back
#[derive(Parser)]
#[command(name = "knlfix", version, max_term_width = 80)]
#[command(
    after_help = "Exit status: the program's own; 1 doctor found a problem, 2 wrong usage, 125 knlfix failed, 126 PROGRAM can't be run, 127 PROGRAM not found."
)]
struct Arguments<C: Subcommand> {
    #[command(subcommand)]
    command: C,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Shown(Shown),
    /// Write the man page
    #[command(hide = true)]
    Man,
    /// Write docs/reference.md
    #[command(hide = true)]
    Reference,
    /// Write the completions for a shell
    #[command(hide = true)]
    Completions(pages::Completions),
}

/// What the man page and the completions show.
#[derive(Subcommand)]
enum Shown {
    /// Run a program with libknlfix.so preloaded
    Run(run::Arguments),
    /// Tell where the time of a program and of all its children went
    Report(report::Arguments),
    /// Show the variables that configure the library, with their current values
    Env(env::Arguments),
    /// Draw which process may run on which CPU
    Map(map::Arguments),
    /// Show who shares the CPUs: the processes of all domains, live
    Top(top::Arguments),
    /// Remove what killed processes left in /dev/shm: ledgers, and records for reports
    Gc(gc::Arguments),
    Doctor(doctor::Arguments),
    /// Give Jupyter a Python kernel that has the library
    Kernel(kernel::Arguments),
}

/// The exit status of all commands.
const STATUSES: [(&str, &str); 6] = [
    ("0", "the command did what it was told; a PROGRAM that it ran ended with 0"),
    ("1", "knlfix doctor found a problem"),
    ("2", "the command line is wrong"),
    ("125", "knlfix itself failed, and says why in one line"),
    ("126, 127", "PROGRAM can't be run, PROGRAM is not found"),
    ("others", "the status of the PROGRAM; 128 + N if signal N ended it"),
];

/// `knlfix` itself failed.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let outcome = match Arguments::<Command>::parse().command {
        Command::Shown(Shown::Run(arguments)) => run::run(&arguments).map(|()| 0),
        Command::Shown(Shown::Report(arguments)) => report::report(&arguments),
        Command::Shown(Shown::Env(arguments)) => env::env(&arguments).map(|()| 0),
        Command::Shown(Shown::Map(arguments)) => map::map(&arguments),
        Command::Shown(Shown::Top(arguments)) => top::top(&arguments).map(|()| 0),
        Command::Shown(Shown::Gc(arguments)) => gc::gc(&arguments).map(|()| 0),
        Command::Shown(Shown::Doctor(arguments)) => doctor::doctor(&arguments),
        Command::Shown(Shown::Kernel(arguments)) => kernel::kernel(&arguments).map(|()| 0),
        Command::Man => pages::man().map(|()| 0),
        Command::Reference => pages::reference().map(|()| 0),
        Command::Completions(arguments) => pages::completions(&arguments).map(|()| 0),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("knlfix: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// One line for the user, and the exit status.
struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: FAILED }
    }

    /// The program could not be run; with a shell's exit status.
    fn not_started(program: &OsStr, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Self { message: format!("{}: {error}", program.display()), status }
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads us has had enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_have_the_exit_statuses_as_they_are() {
        let rows = STATUSES.iter().map(|(status, meaning)| format!("| {status} | {meaning} |\n"));
        let table = format!("| exit status | meaning |\n|---|---|\n{}", rows.collect::<String>());
        let document = include_str!("../../../docs/doctor.md");
        assert!(document.contains(&table), "put this into docs/doctor.md:\n{table}");
    }
}
