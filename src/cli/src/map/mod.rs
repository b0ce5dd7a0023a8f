//! `knlfix map`: draws which process may run on which CPU, from what `/proc` tells of any program.

pub(crate) mod chart;
mod json;
mod layout;
#[cfg(test)]
mod made_up;
pub(crate) mod processes;
mod svg;
pub(crate) mod text;

use crate::node::Node;
use crate::{Failure, print};
use chart::Chart;
use knlfix_core::cpumask::CpuMask;
use knlfix_core::topology::{Cpu, Topology};
use processes::Process;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

const ONLINE: &str = "/sys/devices/system/cpu/online";

const USAGE: &str =
    "knlfix map [OPTIONS] PID...\n       knlfix map [OPTIONS] [--wait SECONDS] -- PROGRAM [ARGUMENT]...";

/// How often to look whether the command has ended before its picture.
const TICK: Duration = Duration::from_millis(10);

/// Draws which process may run on which CPU.
///
/// Shown are the processes whose threads are pinned: those that may not run on all the CPUs that the program may use.
/// The picture comes from /proc alone, so any program can be looked at, with and without the library.
#[derive(clap::Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Arguments {
    /// Write the picture as SVG to FILE, and no text unless --text is given too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the picture as text (the default)
    #[arg(long)]
    text: bool,
    /// Write every process, thread and CPU as JSON instead of the text
    #[arg(long, conflicts_with = "text")]
    json: bool,
    /// Draw PROGRAM when it has run for so long
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds, conflicts_with = "pids")]
    wait: Duration,
    /// Draw these processes and all that descend from them
    #[arg(value_name = "PID", required_unless_present = "program", conflicts_with = "program")]
    pids: Vec<u32>,
    /// Start this program, draw it and all its processes, and go on until it ends
    #[arg(last = true, value_names = ["PROGRAM", "ARGUMENT"], num_args = 1..)]
    program: Vec<OsString>,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// The exit status is the program's own, or 0.
pub(crate) fn map(arguments: &Arguments) -> Result<u8, Failure> {
    let [program, rest @ ..] = arguments.program.as_slice() else {
        return draw(arguments, &arguments.pids).map(|()| 0);
    };
    let mut child = Command::new(program).args(rest).spawn().map_err(|error| Failure::not_started(program, &error))?;
    let drawn = if ends_within(&mut child, arguments.wait) {
        let (shown, seconds) = (program.display(), arguments.wait.as_secs_f64());
        Err(Failure::new(format!("{shown}: ended within {seconds} s, so there is no picture; use a shorter --wait")))
    } else {
        draw(arguments, &[child.id()])
    };
    // Said now, as the program may go on for hours.
    if let Err(failure) = &drawn {
        eprintln!("knlfix: {}", failure.message);
    }
    let status = child.wait().map_err(|error| Failure::new(format!("{}: {error}", program.display())))?;
    Ok(match (shells(status), drawn) {
        (0, Err(failure)) => failure.status,
        (status, _) => status,
    })
}

fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let begin = Instant::now();
    loop {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        match limit.checked_sub(begin.elapsed()) {
            None | Some(Duration::ZERO) => return false,
            Some(left) => thread::sleep(left.min(TICK)),
        }
    }
}

/// What a shell would make of it.
pub(crate) fn shells(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(crate::FAILED)
}

fn draw(arguments: &Arguments, roots: &[u32]) -> Result<(), Failure> {
    let own =
        processes::own_mask().ok_or_else(|| Failure::new("/proc/self/status: can't be read; is /proc mounted?"))?;
    let processes = processes::trees(roots)?;
    let cpus = drawn(cpus_of(&processes, &own), &processes, &own);
    let chart = Chart::new(cpus, &processes);
    if let Some(file) = &arguments.svg {
        fs::write(file, svg::svg(&chart)).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    }
    if arguments.json {
        print(&json::json(&chart, &processes))
    } else if arguments.text || arguments.svg.is_none() {
        print(&text::text(&chart))
    } else {
        Ok(())
    }
}

/// The online CPUs that we or any of the processes may use.
fn cpus_of(processes: &[Process], own: &CpuMask) -> Vec<Cpu> {
    online_cpus(own.or(&union(processes)))
}

/// Those of `masks` that are online.
pub(crate) fn online_cpus(mut masks: CpuMask) -> Vec<Cpu> {
    // Threads may be allowed CPUs that are offline, or that this node could have and hasn't.
    if let Some(online) = fs::read_to_string(ONLINE).ok().and_then(|list| CpuMask::parse_list(&list).ok()) {
        masks = masks.and(&online);
    }
    // Too large for a stack.
    let mut topology = Box::new(const { Topology::new() });
    topology.read(&Node, &masks);
    topology.cpus().to_vec()
}

fn union(processes: &[Process]) -> CpuMask {
    let masks = processes.iter().flat_map(|process| &process.threads).map(|thread| &thread.mask);
    masks.fold(CpuMask::EMPTY, |all, mask| all.or(mask))
}

/// What the processes were allowed, as far as it can be told from outside: the widest mask that a thread of theirs has,
/// if none reaches beyond that and it is more than one core; else, as then all are pinned, what we are allowed too.
fn drawn(mut cpus: Vec<Cpu>, processes: &[Process], own: &CpuMask) -> Vec<Cpu> {
    let online = CpuMask::of(cpus.iter().map(|cpu| usize::from(cpu.number)));
    let widest = union(processes).and(&online);
    let has_it = |process: &Process| process.threads.iter().any(|thread| thread.mask.and(&online) == widest);
    let mut cores = cpus.iter().filter(|cpu| widest.contains(cpu.number.into())).map(|cpu| cpu.core);
    let first = cores.next();
    let is_allowed = cores.any(|core| Some(core) != first) && processes.iter().any(has_it);
    let shown = if is_allowed { widest } else { widest.or(own) };
    cpus.retain(|cpu| shown.contains(cpu.number.into()));
    cpus
}
