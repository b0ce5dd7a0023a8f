//! The configuration: one table of environment variables, from which the parser, `knlfix env`, the man page and the
//! README's list come.

use crate::budget::Setting;
use crate::place::Level;
use crate::text::{Lossy, Text};
use core::fmt;
use log::LevelFilter;

/// A row of the table.
pub struct Knob {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is unset, as one would write it.
    pub default: &'static str,
    /// The values it takes.
    pub values: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    apply: fn(&mut Config, &[u8]) -> Result<(), Malformed>,
    show: fn(&Config, &mut dyn fmt::Write) -> fmt::Result,
}

/// The value is none of [`Knob::values`].
struct Malformed;

const SWITCH: &str = "on|off";

/// The table.
pub static KNOBS: [Knob; 23] = [
    Knob {
        name: "KNLFIX",
        default: "on",
        values: SWITCH,
        doc: "off turns the whole library off: every call goes straight through",
        apply: |config, value| switch(&mut config.enabled, value),
        show: |config, out| out.write_str(on_off(config.enabled)),
    },
    Knob {
        name: "KNLFIX_AFFINITY",
        default: "on",
        values: SWITCH,
        doc: "give child processes and threads the mask that was there before a runtime pinned their creator",
        apply: |config, value| switch(&mut config.affinity, value),
        show: |config, out| out.write_str(on_off(config.affinity)),
    },
    Knob {
        name: "KNLFIX_THREADS",
        default: "on",
        values: SWITCH,
        doc: "the same for new threads; off leaves threads as they are and repairs processes alone",
        apply: |config, value| switch(&mut config.threads, value),
        show: |config, out| out.write_str(on_off(config.threads)),
    },
    Knob {
        name: "KNLFIX_VIRTUAL_MASK",
        default: "on",
        values: SWITCH,
        doc: "outside parallel regions, answer a program that asks for a pinned thread's mask with the mask under the pin",
        apply: |config, value| switch(&mut config.virtual_mask, value),
        show: |config, out| out.write_str(on_off(config.virtual_mask)),
    },
    Knob {
        name: "KNLFIX_MOVE_PINS",
        default: "on",
        values: SWITCH,
        doc: "where a runtime pins threads to CPUs that another process of the job has pinned threads to, move the pin to free ones of the same shape",
        apply: |config, value| switch(&mut config.move_pins, value),
        show: |config, out| out.write_str(on_off(config.move_pins)),
    },
    Knob {
        name: "KNLFIX_PLACE",
        default: "none",
        values: "none|core|tile|numa|spread",
        doc: "give each worker process a place: the least loaded core, group of cores that share a cache, or NUMA node; spread: cores as far apart as can be",
        apply: |config, value| word(value, &PLACE).map(|place| config.place = place),
        show: |config, out| out.write_str(name_of(config.place, &PLACE)),
    },
    Knob {
        name: "KNLFIX_BUDGET",
        default: "auto",
        values: "auto|N|N%|cores|off",
        doc: "compute threads that all processes of the job together may run: the allowed CPUs cut by the cgroup quota (auto), a number, a part of the allowed CPUs, or one for each physical core; off: no budget",
        apply: |config, value| Setting::parse(value).map(|budget| config.budget = budget).ok_or(Malformed),
        show: |config, out| write!(out, "{}", config.budget),
    },
    Knob {
        name: "KNLFIX_SHARING",
        default: "dynamic",
        values: "dynamic|static|off",
        doc: "dynamic: processes share the budget as their needs change; static: each is told its share once, at start; off: neither",
        apply: |config, value| word(value, &SHARING).map(|sharing| config.sharing = sharing),
        show: |config, out| out.write_str(name_of(config.sharing, &SHARING)),
    },
    Knob {
        name: "KNLFIX_SCOPE",
        default: "job",
        values: "job|tree",
        doc: "who shares one budget: all processes of the user's job (without a job: all of the user's), or those of one process tree in which the variable is set",
        apply: |config, value| word(value, &SCOPE).map(|scope| config.scope = scope),
        show: |config, out| out.write_str(name_of(config.scope, &SCOPE)),
    },
    Knob {
        name: "KNLFIX_WAIT",
        default: "auto",
        values: "auto|off",
        doc: "while several processes are active, let their idle threads sleep instead of spin; off leaves the runtimes' own waiting",
        apply: |config, value| word(value, &WAIT).map(|wait| config.wait = wait),
        show: |config, out| out.write_str(name_of(config.wait, &WAIT)),
    },
    Knob {
        name: "KNLFIX_LIBGOMP",
        default: "on",
        values: SWITCH,
        doc: "govern GNU OpenMP (libgomp, all copies of it)",
        apply: |config, value| switch(&mut config.libgomp, value),
        show: |config, out| out.write_str(on_off(config.libgomp)),
    },
    Knob {
        name: "KNLFIX_LLVM_OPENMP",
        default: "on",
        values: SWITCH,
        doc: "govern LLVM's and Intel's OpenMP (libomp, libiomp5)",
        apply: |config, value| switch(&mut config.llvm_openmp, value),
        show: |config, out| out.write_str(on_off(config.llvm_openmp)),
    },
    Knob {
        name: "KNLFIX_MKL",
        default: "on",
        values: SWITCH,
        doc: "govern MKL's calls",
        apply: |config, value| switch(&mut config.mkl, value),
        show: |config, out| out.write_str(on_off(config.mkl)),
    },
    Knob {
        name: "KNLFIX_OPENBLAS",
        default: "on",
        values: SWITCH,
        doc: "govern OpenBLAS (numpy's and scipy's copies too), BLIS and FlexiBLAS",
        apply: |config, value| switch(&mut config.openblas, value),
        show: |config, out| out.write_str(on_off(config.openblas)),
    },
    Knob {
        name: "KNLFIX_TBB",
        default: "on",
        values: SWITCH,
        doc: "govern oneTBB and classic TBB",
        apply: |config, value| switch(&mut config.tbb, value),
        show: |config, out| out.write_str(on_off(config.tbb)),
    },
    Knob {
        name: "KNLFIX_FORKED_REGIONS",
        default: "on",
        values: SWITCH,
        doc: "let a forked child run libgomp regions after its parent ran one: without this it hangs, as it waits for threads that it does not have",
        apply: |config, value| switch(&mut config.forked_regions, value),
        show: |config, out| out.write_str(on_off(config.forked_regions)),
    },
    Knob {
        name: "KNLFIX_RUNTIMES",
        default: "",
        values: "[+|-]NAME,...",
        doc: "libraries (by the beginning of their file name) that are (+) or are not (-) threading runtimes, whatever they export",
        apply: |config, value| RuntimeList::parse(value).map(|list| config.runtimes = list),
        show: |config, out| write!(out, "{}", Lossy(config.runtimes.text.as_bytes())),
    },
    Knob {
        name: "KNLFIX_LOG",
        default: "off",
        values: "off|error|warn|info|debug|trace",
        doc: "what the library says, one line at a time; debug tells of every pin, repair and respected user mask",
        apply: |config, value| word(value, &LEVELS).map(|level| config.log = level),
        show: |config, out| out.write_str(name_of(config.log, &LEVELS)),
    },
    Knob {
        name: "KNLFIX_LOG_FILE",
        default: "",
        values: "FILE",
        doc: "append what it says to FILE (a relative one: in each process's own directory) instead of standard error",
        apply: |config, value| path(&mut config.log_file, value),
        show: |config, out| write!(out, "{}", Lossy(config.log_file.as_bytes())),
    },
    Knob {
        name: "KNLFIX_REPORT",
        default: "off",
        values: "off|1|FILE",
        doc: "when the first program that has this variable ends, tell where the time of it and of all its children went: in a table on standard error (1), or as JSON in FILE",
        apply: |config, value| match one_of(value, &["off", "0", "no", "false"]) {
            true => path(&mut config.report, b""),
            false => path(&mut config.report, value),
        },
        show: |config, out| match config.report.is_empty() {
            true => out.write_str("off"),
            false => write!(out, "{}", Lossy(config.report.as_bytes())),
        },
    },
    Knob {
        name: "KNLFIX_REPORT_DIR",
        default: "",
        values: "DIR",
        doc: "set by `knlfix report`: the directory in which processes keep their records",
        apply: |config, value| path(&mut config.report_dir, value),
        show: |config, out| write!(out, "{}", Lossy(config.report_dir.as_bytes())),
    },
    Knob {
        name: "KNLFIX_TRACE",
        default: "",
        values: "FILE",
        doc: "when the first program that has this variable ends, write a timeline of regions, grants, forks and pins of it and all its children to FILE, for https://ui.perfetto.dev",
        apply: |config, value| path(&mut config.trace, value),
        show: |config, out| write!(out, "{}", Lossy(config.trace.as_bytes())),
    },
    Knob {
        name: "KNLFIX_TRACE_EVENTS",
        default: "32768",
        values: "N",
        doc: "room in each process for so many events of the timeline (32 bytes each); later ones are counted only",
        apply: |config, value| {
            let number = core::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            config.trace_events = number.filter(|number| (1..=MOST_EVENTS).contains(number)).ok_or(Malformed)?;
            Ok(())
        },
        show: |config, out| write!(out, "{}", config.trace_events),
    },
];

/// Longest [`KNLFIX_LOG_FILE`](KNOBS), in bytes, without the NUL.
const PATH: usize = 1023;

/// Most events of a timeline, in each process: half a gigabyte.
const MOST_EVENTS: u32 = 1 << 24;

/// When processes share the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// As their needs change.
    Dynamic,
    /// By the start share alone.
    Static,
    /// Not at all.
    Off,
}

/// Where a job's number is found, by launcher. The first that is set counts.
pub const JOBS: [&[u8]; 8] = [
    b"SLURM_JOB_ID",
    b"PBS_JOBID",
    b"LSB_JOBID",
    b"FLUX_JOB_ID",
    b"PMIX_NAMESPACE",
    b"OMPI_MCA_ess_base_jobid",
    b"OMPI_MCA_orte_ess_jobid",
    b"PMI_JOBID",
];

/// Which processes share one budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those of the user's job; without a job, all of the user's.
    Job,
    /// Those of one process tree.
    Tree,
}

/// How idle threads wait while several processes are active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Asleep.
    Auto,
    /// As their runtimes have them wait.
    Off,
}

const SHARING: [(&str, Sharing); 3] =
    [("dynamic", Sharing::Dynamic), ("static", Sharing::Static), ("off", Sharing::Off)];
const SCOPE: [(&str, Scope); 2] = [("job", Scope::Job), ("tree", Scope::Tree)];
const PLACE: [(&str, Option<Level>); 5] = [
    ("none", None),
    ("core", Some(Level::Core)),
    ("tile", Some(Level::Tile)),
    ("numa", Some(Level::Numa)),
    ("spread", Some(Level::Spread)),
];
const WAIT: [(&str, Wait); 2] = [("auto", Wait::Auto), ("off", Wait::Off)];

/// What the environment asks for.
#[derive(Clone)]
pub struct Config {
    /// `KNLFIX`
    pub enabled: bool,
    /// `KNLFIX_AFFINITY`
    pub affinity: bool,
    /// `KNLFIX_THREADS`
    pub threads: bool,
    /// `KNLFIX_VIRTUAL_MASK`
    pub virtual_mask: bool,
    /// `KNLFIX_MOVE_PINS`
    pub move_pins: bool,
    /// `KNLFIX_PLACE`
    pub place: Option<Level>,
    /// `KNLFIX_BUDGET`
    pub budget: Setting,
    /// `KNLFIX_SHARING`
    pub sharing: Sharing,
    /// `KNLFIX_SCOPE`
    pub scope: Scope,
    /// `KNLFIX_WAIT`
    pub wait: Wait,
    /// `KNLFIX_LIBGOMP`
    pub libgomp: bool,
    /// `KNLFIX_LLVM_OPENMP`
    pub llvm_openmp: bool,
    /// `KNLFIX_MKL`
    pub mkl: bool,
    /// `KNLFIX_OPENBLAS`
    pub openblas: bool,
    /// `KNLFIX_TBB`
    pub tbb: bool,
    /// `KNLFIX_FORKED_REGIONS`
    pub forked_regions: bool,
    /// `KNLFIX_RUNTIMES`
    pub runtimes: RuntimeList,
    /// `KNLFIX_LOG`
    pub log: LevelFilter,
    /// `KNLFIX_LOG_FILE`: a path, or nothing for standard error. Copied, as a program may overwrite its environment.
    pub log_file: Text<PATH>,
    /// `KNLFIX_REPORT`: empty for none, `1` for a table.
    pub report: Text<PATH>,
    /// `KNLFIX_REPORT_DIR`
    pub report_dir: Text<PATH>,
    /// `KNLFIX_TRACE`: empty for none.
    pub trace: Text<PATH>,
    /// `KNLFIX_TRACE_EVENTS`
    pub trace_events: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// What holds when no variable is set.
    pub const fn new() -> Self {
        Self {
            enabled: true,
            affinity: true,
            threads: true,
            virtual_mask: true,
            move_pins: true,
            place: None,
            budget: Setting::Auto,
            sharing: Sharing::Dynamic,
            scope: Scope::Job,
            wait: Wait::Auto,
            libgomp: true,
            llvm_openmp: true,
            mkl: true,
            openblas: true,
            tbb: true,
            forked_regions: true,
            runtimes: RuntimeList::EMPTY,
            log: LevelFilter::Off,
            log_file: Text::new(),
            report: Text::new(),
            report_dir: Text::new(),
            trace: Text::new(),
            trace_events: 32768,
        }
    }

    /// Applies `NAME=value` to the configuration. A variable that is not in the table, or whose value is malformed,
    /// changes nothing but what [`Complaint`] says is used instead. An empty value is an unset variable.
    pub fn apply<'a>(&mut self, variable: &'a [u8]) -> Result<(), Complaint<'a>> {
        let Some((name, value)) = split(variable) else {
            return Ok(());
        };
        if !name.starts_with(b"KNLFIX") {
            return Ok(());
        }
        let Some(knob) = KNOBS.iter().find(|knob| knob.name.as_bytes() == name) else {
            // Only names of our own shape: KNLFIXTURE_PATH may be somebody else's.
            return if name.starts_with(b"KNLFIX_") { Err(Complaint::Unknown { name }) } else { Ok(()) };
        };
        if value.is_empty() {
            return Ok(());
        }
        (knob.apply)(self, value).map_err(|Malformed| {
            if knob.name == "KNLFIX_LOG" {
                // Whoever sets it wants to hear something, this complaint first.
                self.log = LevelFilter::Warn;
                return Complaint::Malformed { knob, value, used: "warn" };
            }
            Complaint::Malformed { knob, value, used: knob.default }
        })
    }

    /// The value of `knob` in this configuration, as one would write it.
    pub fn shown(&self, knob: &Knob) -> Text<96> {
        let mut text = Text::new();
        // A `Text` takes everything, so this can't fail.
        let _ = (knob.show)(self, &mut text);
        text
    }
}

fn split(variable: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = variable.iter().position(|&byte| byte == b'=')?;
    Some((variable.get(..at)?, variable.get(at + 1..)?))
}

/// What is wrong with a variable, and what is done instead: one line.
pub enum Complaint<'a> {
    /// A value that the variable doesn't take.
    Malformed {
        /// The variable.
        knob: &'static Knob,
        /// Its value.
        value: &'a [u8],
        /// What is used instead.
        used: &'static str,
    },
    /// `KNLFIX_...`, but not in the table.
    Unknown {
        /// The variable.
        name: &'a [u8],
    },
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { knob, value, used } => {
                write!(f, "{}: \"{}\" is not {}; using ", knob.name, Lossy(value), knob.values)?;
                f.write_str(if used.is_empty() { "nothing" } else { used })
            }
            Self::Unknown { name } => {
                write!(f, "{}: there is no such variable; ignored", Lossy(name))
            }
        }
    }
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn switch(to: &mut bool, value: &[u8]) -> Result<(), Malformed> {
    *to = match () {
        () if one_of(value, &["on", "1", "yes", "true"]) => true,
        () if one_of(value, &["off", "0", "no", "false"]) => false,
        () => return Err(Malformed),
    };
    Ok(())
}

fn one_of(value: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// The meaning of a word, by a table of words.
fn word<T: Copy>(value: &[u8], words: &[(&str, T)]) -> Result<T, Malformed> {
    let found = words.iter().find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|&(_, meaning)| meaning).ok_or(Malformed)
}

fn name_of<T: Copy + PartialEq>(meaning: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| *other == meaning).map_or("", |(name, _)| name)
}

fn path<const N: usize>(to: &mut Text<N>, value: &[u8]) -> Result<(), Malformed> {
    if value.len() > N {
        return Err(Malformed);
    }
    *to = Text::from_bytes(value);
    Ok(())
}

/// The names of `KNLFIX_RUNTIMES`.
#[derive(Clone)]
pub struct RuntimeList {
    text: Text<512>,
}

impl RuntimeList {
    const EMPTY: Self = Self { text: Text::new() };

    fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let list = Self { text: Text::from_bytes(value) };
        let sane = |name: &[u8]| !name.is_empty() && !name.iter().any(|byte| b"/ \t".contains(byte));
        if value.len() > 512 || !list.entries().all(|(_, name)| sane(name)) {
            return Err(Malformed);
        }
        Ok(list)
    }

    /// (is a runtime, beginning of the file name)
    fn entries(&self) -> impl Iterator<Item = (bool, &[u8])> {
        let words = self.text.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let words = words.filter(|word| !word.is_empty());
        words.map(|word| match word {
            [b'-', name @ ..] => (false, name),
            [b'+', name @ ..] | name => (true, name),
        })
    }

    /// Whether the user says that the library with this file name is a runtime; `None` if the user says nothing. The
    /// last entry that fits wins.
    pub fn verdict(&self, file_name: &[u8]) -> Option<bool> {
        self.entries().filter(|(_, name)| file_name.starts_with(name)).last().map(|(is, _)| is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[&str]) -> (Config, Vec<String>) {
        let mut config = Config::new();
        let complaints =
            variables.iter().filter_map(|one| config.apply(one.as_bytes()).err()).map(|one| one.to_string()).collect();
        (config, complaints)
    }

    #[test]
    fn every_default_is_what_an_empty_environment_gives() {
        let config = Config::new();
        for knob in &KNOBS {
            assert_eq!(config.shown(knob).to_string(), knob.default, "{}", knob.name);
            let variable = format!("{}={}", knob.name, knob.default);
            let mut again = Config::new();
            assert!(again.apply(variable.as_bytes()).is_ok(), "{variable}");
            assert_eq!(again.shown(knob).to_string(), knob.default, "{variable}");
        }
    }

    #[test]
    fn every_malformed_value_is_named_with_what_is_used_instead() {
        for knob in KNOBS.iter().filter(|knob| knob.values == SWITCH) {
            let (config, complaints) = read(&[&format!("{}=maybe", knob.name)]);
            assert_eq!(complaints, [format!("{}: \"maybe\" is not on|off; using on", knob.name)]);
            assert_eq!(config.shown(knob).to_string(), "on");
        }
        let (config, complaints) = read(&["KNLFIX_LOG=loud"]);
        assert_eq!(complaints, ["KNLFIX_LOG: \"loud\" is not off|error|warn|info|debug|trace; using warn"]);
        assert_eq!(config.log, LevelFilter::Warn);
        assert_eq!(read(&["KNLFIX_RUNTIMES=/usr/lib/x.so"]).1.len(), 1);
        assert_eq!(read(&["KNLFIX_RUNTIMES=+a b"]).1.len(), 1);
        assert_eq!(read(&[&format!("KNLFIX_LOG_FILE={}", "x".repeat(1024))]).1.len(), 1);
        assert_eq!(read(&[&format!("KNLFIX_RUNTIMES={}", "x".repeat(513))]).1.len(), 1);
    }

    #[test]
    fn switches_take_the_usual_words() {
        for (word, on) in [("0", false), ("OFF", false), ("No", false), ("false", false), ("1", true), ("Yes", true)] {
            assert_eq!(read(&[&format!("KNLFIX={word}")]).0.enabled, on, "{word}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        assert_eq!(read(&["KNLFIX_AFINITY=0"]).1, ["KNLFIX_AFINITY: there is no such variable; ignored"]);
        assert_eq!(read(&["KNLFIXTURES=0", "OTHER=1", "KNLFIX", "="]).1, Vec::<String>::new());
    }

    #[test]
    fn the_runtime_list_adds_and_removes_and_the_last_word_wins() {
        let (config, _) = read(&["KNLFIX_RUNTIMES=libmine, -libgomp ,+libgomp-x"]);
        assert_eq!(config.runtimes.verdict(b"libmine.so.3"), Some(true));
        assert_eq!(config.runtimes.verdict(b"libgomp.so.1"), Some(false));
        assert_eq!(config.runtimes.verdict(b"libgomp-x.so.1"), Some(true));
        assert_eq!(config.runtimes.verdict(b"libomp.so"), None);
    }
}
