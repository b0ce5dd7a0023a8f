//! Whether the library is in `LD_PRELOAD`, and whether children really have it; what the `KNLFIX` variables say; what
//! killed programs left behind.

use super::elf::Elf;
use super::environment::Environment;
use super::finding::Finding;
use crate::domains::{self, Domain};
use crate::run;
use knlfix_core::config::{Complaint, Config, KNOBS};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text that is in every build of the library, whatever its file is called.
const MARK: &[u8] = b"KNLFIX_VIRTUAL_MASK";

/// No library of ours is larger.
const LARGEST: u64 = 4 << 20;

/// What `LD_PRELOAD` does here.
pub(crate) struct Preload {
    /// The library's file, where a child really has it.
    pub(crate) active: Option<PathBuf>,
    pub(crate) findings: Vec<Finding>,
}

/// The files that the loader takes from the variable.
fn named(environment: &Environment) -> Vec<String> {
    let list = environment.get("LD_PRELOAD").unwrap_or_default();
    list.split([' ', ':']).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

fn is_ours(path: &Path) -> bool {
    let is_small = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < LARGEST);
    is_small && fs::read(path).is_ok_and(|bytes| bytes.windows(MARK.len()).any(|window| window == MARK))
}

/// The library among the objects that are mapped.
pub(crate) fn among<'a>(mapped: impl Iterator<Item = &'a str>) -> Option<PathBuf> {
    let mut libraries = mapped.filter(|path| path.contains(".so")).map(Path::new);
    libraries.find(|path| is_ours(path)).map(Path::to_owned)
}

impl Preload {
    pub(crate) fn look(environment: &Environment, config: &Config) -> Self {
        let mut findings = Vec::new();
        let names = named(environment);
        for name in &names {
            findings.extend(entry(name));
        }
        let mapped = maps_of_a_child();
        let active = mapped.as_deref().and_then(|maps| among(super::program::paths(maps)));
        let names_it = |name: &String| is_ours(Path::new(name)) || name.contains("libknlfix");
        findings.push(match &active {
            Some(_) if !config.enabled => {
                let finding = Finding::warning("preload", "The library is loaded, and KNLFIX=off turns it off");
                finding.means("Every call goes straight through.").advise("Unset KNLFIX.")
            }
            Some(path) => {
                Finding::ok("preload", format!("The library is active here and in children: {}", path.display()))
            }
            None if mapped.is_none() => {
                let finding = Finding::warning("preload", "Whether children have the library could not be seen");
                finding.means("`cat /proc/self/maps` could not be run.")
            }
            None if names.iter().any(names_it) => {
                let finding = Finding::problem("preload", "LD_PRELOAD names the library, and children do not have it");
                finding.means("The loader could not load it, or it is not a file for this machine.").advise(HOW)
            }
            None => {
                let finding = Finding::note("preload", "The library is not active here");
                finding.means("LD_PRELOAD does not name it, so nothing below is mended.").advise(HOW)
            }
        });
        if let (Some(active), Ok(beside)) = (&active, run::beside_the_command())
            && fs::read(active).ok() != fs::read(&beside).ok()
        {
            let meaning = format!("The one beside this command is {}.", beside.display());
            let finding = Finding::warning("preload-other", "The library is of another build than this command");
            let advice = "Name the library and call the command of one installation; a mixture shares no budget.";
            findings.push(finding.means(meaning).advise(advice));
        }
        let ours = names.iter().filter(|name| is_ours(Path::new(name))).collect::<Vec<_>>();
        if let [first, second, ..] = ours[..] {
            let finding = Finding::warning("preload-twice", "LD_PRELOAD names the library more than once");
            findings.push(finding.means(format!("{first} and {second}.")).advise("Leave one of them."));
        }
        Self { active, findings }
    }
}

const HOW: &str = "Start the program by `knlfix run PROGRAM`, or set LD_PRELOAD to the whole path of libknlfix.so.";

/// What is wrong with an entry of `LD_PRELOAD`. One without a slash is searched for by the loader.
fn entry(name: &str) -> Option<Finding> {
    let path = Path::new(name);
    if !name.contains('/') {
        return None;
    }
    let unset = "Correct LD_PRELOAD, or unset it.";
    let problem = |title: String, meaning: &str| Finding::problem("preload-file", title).means(meaning).advise(unset);
    let goes_on = "The loader prints an error in every process and goes on without it.";
    match Elf::read(path) {
        Err(error) => Some(problem(format!("LD_PRELOAD: {name}: {}", super::said(&error)), goes_on)),
        Ok(None) => Some(problem(format!("LD_PRELOAD: {name} is no library"), goes_on)),
        Ok(Some(elf)) if !elf.is_ours => {
            Some(problem(format!("LD_PRELOAD: {name} is not for x86-64"), "Only programs of its own kind can load it."))
        }
        Ok(Some(_)) if path.is_relative() => {
            let finding = Finding::warning("preload-file", format!("LD_PRELOAD: {name} is a relative path"));
            let meaning = "A program that changes its directory starts children that do not find it.";
            Some(finding.means(meaning).advise("Give the whole path."))
        }
        Ok(Some(_)) => None,
    }
}

fn maps_of_a_child() -> Option<String> {
    let output = Command::new("cat").arg("/proc/self/maps").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The configuration, and what is wrong with it.
pub(crate) fn variables(environment: &Environment, findings: &mut Vec<Finding>) -> Config {
    let mut config = Config::new();
    for (name, value) in environment.iter() {
        let line = format!("{name}={value}");
        let Err(complaint) = config.apply(line.as_bytes()) else {
            continue;
        };
        let finding = Finding::warning("knlfix-variable", complaint.to_string());
        let advice = match complaint {
            Complaint::Malformed { knob, .. } => format!("{} takes {}.", knob.name, knob.values),
            Complaint::Unknown { .. } => match super::nearest(name, KNOBS.iter().map(|knob| knob.name)) {
                Some(near) => format!("Did you mean {near}? `knlfix env` lists them all."),
                None => "`knlfix env` lists those that there are.".into(),
            },
        };
        findings.push(finding.advise(advice));
    }
    let set = KNOBS.iter().filter(|knob| environment.get(knob.name).is_some()).map(|knob| {
        let value = config.shown(knob);
        format!("{}={}", knob.name, String::from_utf8_lossy(value.as_bytes()))
    });
    let set = set.collect::<Vec<_>>().join(" ");
    if !set.is_empty() {
        findings.push(Finding::ok("knlfix-settings", format!("The library is told {set}")));
    }
    config
}

/// Ledgers that nobody alive belongs to.
pub(crate) fn ledgers(findings: &mut Vec<Finding>) {
    let paths = match domains::paths() {
        Ok(paths) => paths,
        Err(error) => {
            let finding = Finding::warning("ledgers", format!("/dev/shm: {}", super::said(&error)));
            let meaning = "Without it the library gives each process its own budget.";
            findings.push(finding.means(meaning).advise("Mount a tmpfs there (containers: --shm-size)."));
            return;
        }
    };
    let (mut in_use, mut left) = (0, 0);
    for path in paths {
        match has_owner(&path) {
            Some(true) => in_use += 1,
            Some(false) => left += 1,
            None => {}
        }
    }
    if left > 0 {
        let what = if left == 1 { "A ledger".into() } else { format!("{left} ledgers") };
        let finding = Finding::note("ledgers", format!("{what} of killed programs in /dev/shm"));
        findings.push(finding.means("Some kilobytes each; they do no harm.").advise("knlfix gc"));
    }
    if in_use > 0 {
        let what = if in_use == 1 { "A job of yours shares".into() } else { format!("{in_use} jobs of yours share") };
        findings.push(Finding::ok("ledgers-in-use", format!("{what} a budget now")));
    }
}

/// `None` if it has gone meanwhile, or can't be looked at.
fn has_owner(path: &Path) -> Option<bool> {
    let domain = Domain::open(path).ok().filter(Domain::is_linked)?;
    Some(domain.ledger().is_some_and(|ledger| ledger.owners().any(|(_, owner)| domains::is_alive(owner))))
}
