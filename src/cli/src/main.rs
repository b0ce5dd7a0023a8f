//! `knlfix`: runs a program under libknlfix, shows what the library is told by the environment, and cleans up after
//! killed programs.
//!
//! Exit status: the program's own; 2 for a wrong command line; 125 when `knlfix` itself fails, 126 when the program can't be
//! run, 127 when it is not found.

mod domains;
mod env;
mod gc;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Gives every child process and thread of an OpenMP program its CPUs back
#[derive(Parser)]
#[command(name = "knlfix", version, max_term_width = 80)]
#[command(
    after_help = "Exit status: the program's own; 2 wrong usage, 125 knlfix failed, 126 PROGRAM can't be run, 127 PROGRAM not found."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program with libknlfix.so preloaded
    Run(run::Arguments),
    /// Show the variables that configure the library, with their current values
    Env(env::Arguments),
    /// Remove the ledgers that killed processes left in /dev/shm
    Gc(gc::Arguments),
}

/// `knlfix` itself failed.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Env(arguments) => env::env(&arguments),
        Command::Gc(arguments) => gc::gc(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
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
}
