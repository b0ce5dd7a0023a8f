//! `knlfix gc`: takes away what killed processes left behind.

use crate::Failure;
use crate::domains::{self, Domain};
use crate::report::records;
use std::fs;
use std::io;
use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn gc(arguments: &Arguments) -> Result<(), Failure> {
    let paths = domains::paths().map_err(|error| Failure::new(format!("/dev/shm: {error}")))?;
    let mut failed = false;
    for path in paths {
        match clean(&path, arguments.dry_run) {
            Ok(line) => println!("{}: {line}", path.display()),
            // Its last process has just left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                eprintln!("knlfix: {}: {error}; left as it is", path.display());
                failed = true;
            }
        }
    }
    for directory in records::directories().map_err(|error| Failure::new(format!("/dev/shm: {error}")))? {
        if records::is_over(&directory) {
            let would = if arguments.dry_run { "would be " } else { "" };
            println!("{}: {would}removed, records of a run that nobody reported on", directory.display());
            if !arguments.dry_run {
                records::remove(&directory);
            }
        }
    }
    if failed { Err(Failure::new("some ledgers could not be looked at")) } else { Ok(()) }
}

/// Frees dead owners' slots in the ledger at `path`, and removes it if nobody is left. Says what was done.
fn clean(path: &Path, dry_run: bool) -> io::Result<String> {
    let domain = Domain::open(path)?;
    if !domain.is_linked() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (mut alive, mut dead) = (0, 0);
    if let Some(ledger) = domain.ledger() {
        alive = ledger.owners().filter(|&(_, owner)| domains::is_alive(owner)).count();
        dead = ledger.owners().count().saturating_sub(alive);
        if !dry_run {
            ledger.reap(domains::is_alive);
        }
    }
    let would = if dry_run { "would be " } else { "" };
    if alive == 0 {
        if !dry_run {
            fs::remove_file(path)?;
        }
        return Ok(format!("{would}removed, no process of it is alive"));
    }
    Ok(match dead {
        0 => format!("in use by {}", processes(alive)),
        _ => format!("in use by {}, {would}freed of {dead} dead", processes(alive)),
    })
}

fn processes(count: usize) -> String {
    if count == 1 { "1 process".into() } else { format!("{count} processes") }
}
