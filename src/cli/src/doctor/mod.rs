//! `knlfix doctor`: what this machine, this environment and a program hold against its CPUs, and what to do.

mod elf;
mod environment;
mod finding;
mod json;
mod machine;
mod preload;
mod program;
mod text;
mod variables;

use crate::{Failure, print};
use environment::Environment;
use finding::Severity;
use machine::Machine;
use preload::Preload;
use program::Program;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

/// `knlfix doctor` found a problem, and the program ended well.
const FOUND_A_PROBLEM: u8 = 1;

/// Look for what takes a program's CPUs away, and say what to do.
///
/// Looks at the CPUs, the quota, Slurm and MPI, the variables that pin threads or limit their number, whether the
/// library is loaded here and in children, and what killed programs left. With a PROGRAM it runs that as it is, and
/// watches which threading runtimes it and its children load. Without the library and with it: `knlfix doctor -- PROGRAM`
/// and `knlfix run knlfix doctor -- PROGRAM`.
///
/// Exit status: the program's own; else 1 if a problem was found, and 0 for warnings and notes.
#[derive(clap::Args)]
#[command(override_usage = "knlfix doctor [OPTIONS] [-- PROGRAM [ARGUMENT]...]")]
pub(crate) struct Arguments {
    /// Write the findings as JSON; what PROGRAM prints goes to standard error
    #[arg(long)]
    json: bool,
    /// Report when PROGRAM has run for so long, not when it ends: for one that is long, or hangs
    #[arg(long, value_name = "SECONDS", value_parser = crate::map::seconds, requires = "program")]
    wait: Option<Duration>,
    /// Run this program and watch it and all its processes
    #[arg(last = true, value_names = ["PROGRAM", "ARGUMENT"], num_args = 1..)]
    program: Vec<OsString>,
}

/// What findings are made from.
struct Context<'a> {
    environment: &'a Environment,
    machine: &'a Machine,
    program: Option<&'a Program>,
    is_preloaded: bool,
}

pub(crate) fn doctor(arguments: &Arguments) -> Result<u8, Failure> {
    let environment = Environment::own();
    let mut findings = Vec::new();
    let config = preload::variables(&environment, &mut findings);
    let machine = Machine::look(config.budget)
        .ok_or_else(|| Failure::new("/proc/thread-self/status: can't be read; is /proc mounted?"))?;
    let preload = Preload::look(&environment, &config);
    let is_preloaded = preload.active.is_some() && config.enabled && config.affinity;
    preload::ledgers(&mut findings);
    let mut watched = match arguments.program.as_slice() {
        [] => None,
        command => Some(program::start(command, arguments.json)?),
    };
    if let Some(watched) = &mut watched {
        watched.watch(arguments.wait)?;
    }
    let program = watched.as_ref().map(|watched| &watched.program);
    let context = Context { environment: &environment, machine: &machine, program, is_preloaded };
    machine.findings(&environment, &mut findings);
    findings.extend(preload.findings);
    variables::findings(&context, &mut findings);
    if let Some(program) = program {
        program.findings(&context, &mut findings);
    }
    // The worst first, and in each group the order above.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    let report = if arguments.json { json::json(&context, &findings) } else { text::text(&findings) };
    print(&report)?;
    let own = if worst == Severity::Problem { FOUND_A_PROBLEM } else { 0 };
    let status = watched.map_or(Ok(0), program::Watched::end)?;
    Ok(if status == 0 { own } else { status })
}

/// The message of an error without its number.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The candidate that `word` was probably meant to be.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = candidates.map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate)).min()?;
    Some(near.1).filter(|_| near.0 <= 3)
}

/// The letters to change, take out or put in to make one of the other (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_find_the_right_one() {
        let names = ["OMP_PROC_BIND", "OMP_PLACES", "OMP_NUM_THREADS"];
        assert_eq!(nearest("OMP_PROCBIND", names.into_iter()), Some("OMP_PROC_BIND"));
        assert_eq!(nearest("OMP_NUM_THREAD", names.into_iter()), Some("OMP_NUM_THREADS"));
        assert_eq!(nearest("OMP_PLACE", names.into_iter()), Some("OMP_PLACES"));
        assert_eq!(nearest("OMP_OF_MY_OWN", names.into_iter()), None);
    }
}
