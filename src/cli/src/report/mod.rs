//! `knlfix report`: runs a program and tells where its time went, or puts several reports together.

mod html;
mod model;
pub(crate) mod records;
mod text;
mod trace;
mod watch;

use crate::{Failure, print, run};
use model::{FORMAT, Report, Run, VERSION};
use records::Records;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(clap::Args)]
#[command(override_usage = "knlfix report [OPTIONS] -- PROGRAM [ARGUMENT]...\n       knlfix report [OPTIONS] FILE...")]
pub(crate) struct Arguments {
    /// Write the report as JSON too ("-": to standard output); %h stands for the host, %p for a process number
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write it as a web page with pictures, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a timeline for Perfetto (ui.perfetto.dev) too: regions, grants, forks and pins of each thread
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    trace: Option<PathBuf>,
    /// Preload this library instead of the one next to the command
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Tell of the records that a run left in this directory, and remove it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["files", "program"])]
    collect: Option<PathBuf>,
    /// What KNLFIX_REPORT asks for.
    #[arg(long, hide = true)]
    table: bool,
    /// See `table`.
    #[arg(long, hide = true)]
    no_table: bool,
    /// Reports in JSON to put together
    #[arg(value_name = "FILE", required_unless_present_any = ["collect", "program"])]
    files: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, value_names = ["PROGRAM", "ARGUMENT"], num_args = 1.., conflicts_with = "files")]
    program: Vec<OsString>,
}

pub(crate) fn report(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(directory) = &arguments.collect {
        return collect(arguments, directory).map(|()| 0);
    }
    if !arguments.program.is_empty() {
        return run_and_report(arguments);
    }
    let reports = arguments.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let merged = Report::merge(reports);
    if !write(arguments, &merged, "merged")? {
        print(&text::text(&merged))?;
    }
    Ok(0)
}

fn read(path: &Path) -> Result<Report, Failure> {
    let failed = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    if json["format"] != FORMAT {
        return Err(failed("not a report of knlfix".into()));
    }
    if json["version"] != VERSION {
        return Err(failed(format!("a report of version {}; this knlfix reads {VERSION}", json["version"])));
    }
    serde_json::from_value(json).map_err(|error| failed(error.to_string()))
}

/// Writes the files that are asked for. Says whether standard output is used up.
fn write(arguments: &Arguments, report: &Report, pid: impl ToString) -> Result<bool, Failure> {
    let to = |path: &Path, text: &str| {
        if path == Path::new("-") {
            return print(text).map(|()| true);
        }
        let path = filled_in(path.as_os_str(), &pid.to_string());
        fs::write(&path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(false)
    };
    let mut printed = false;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(report).map_err(|error| Failure::new(error.to_string()))?;
        printed |= to(path, &(json + "\n"))?;
    }
    if let Some(path) = &arguments.html {
        printed |= to(path, &html::html(report))?;
    }
    Ok(printed)
}

/// Writes the timeline, if it is asked for.
fn write_trace(arguments: &Arguments, records: &Records, pid: u32, times: (u64, u64)) -> Result<(), Failure> {
    let Some(path) = &arguments.trace else { return Ok(()) };
    let path = filled_in(path.as_os_str(), &pid.to_string());
    let (trace, lost) = trace::trace(records, times.0, times.1);
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut file = BufWriter::new(fs::File::create(&path).map_err(failed)?);
    serde_json::to_writer(&mut file, &trace).map_err(|error| failed(error.into()))?;
    file.flush().map_err(failed)?;
    if lost > 0 && !arguments.no_table {
        eprintln!("knlfix: {}: {lost} events found no room; KNLFIX_TRACE_EVENTS makes more", path.display());
    }
    Ok(())
}

/// The path with the host and the number in it.
fn filled_in(path: &OsStr, pid: &str) -> PathBuf {
    let mut filled = Vec::new();
    let mut bytes = path.as_bytes().iter().peekable();
    while let Some(&byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'%', Some(b'h')) => filled.extend(host().into_bytes()),
            (b'%', Some(b'p')) => filled.extend(pid.bytes()),
            (b'%', Some(b'%')) => filled.push(b'%'),
            _ => {
                filled.push(byte);
                continue;
            }
        }
        bytes.next();
    }
    PathBuf::from(OsStr::from_bytes(&filled))
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().into() }
}

/// What the first process of a tree asks for when it ends: nobody has watched the run.
fn collect(arguments: &Arguments, directory: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", directory.display()));
    let records = Records::read(directory).map_err(failed)?;
    let root = records::root_of(directory);
    let now = records::monotonic();
    let begun = records.begun().unwrap_or(now);
    let (processes, count) = records.processes(begun, now, &BTreeMap::new());
    let command = processes.iter().find(|process| Some(process.pid) == root).map(|process| process.command.clone());
    let command = command.or_else(|| Some(records.short.iter().find(|short| Some(short.pid) == root)?.command.clone()));
    let run = Run {
        host: host(),
        command: command.unwrap_or_default(),
        wall_s: records::seconds(now - begun),
        cpu_s: records.cpu(root),
        process_count: count,
        cpu_pressure_s: None,
        cpu_migrations: None,
        begun: since_1970() - records::seconds(now - begun),
        samples: Vec::new(),
    };
    let report = Report::new(vec![run], processes);
    let root = root.unwrap_or(0);
    write(arguments, &report, root)?;
    write_trace(arguments, &records, root, (begun, now))?;
    let has_file = arguments.json.is_some() || arguments.html.is_some() || arguments.trace.is_some();
    if arguments.table || !arguments.no_table && !has_file {
        eprint!("{}", text::text(&report));
    }
    records::remove(directory);
    Ok(())
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Fails before hours of work where the files can't be written after it.
fn try_files(arguments: &Arguments) -> Result<(), Failure> {
    let files = [&arguments.json, &arguments.html, &arguments.trace];
    for path in files.into_iter().flatten().filter(|path| *path != Path::new("-")) {
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}; nothing was run", path.display()));
        let has_number = path.as_os_str().as_bytes().contains(&b'%');
        if has_number {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::read_dir(directory).map_err(failed)?;
        } else {
            fs::File::options().append(true).create(true).open(path).map_err(failed)?;
        }
    }
    Ok(())
}

fn run_and_report(arguments: &Arguments) -> Result<u8, Failure> {
    try_files(arguments)?;
    let [program, rest @ ..] = arguments.program.as_slice() else {
        return Err(Failure::new("no program given"));
    };
    let preload = run::preload(arguments.library.as_deref())?;
    let directory = Path::new("/dev/shm").join(format!("knlfix-report-run-{}-{}", process::id(), records::monotonic()));
    fs::DirBuilder::new()
        .create_private(&directory)
        .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    let mut command = process::Command::new(program);
    command.args(rest).env("LD_PRELOAD", preload).env("KNLFIX_REPORT_DIR", &directory).env_remove("KNLFIX_REPORT");
    match &arguments.trace {
        // Where it goes is ours to know.
        Some(_) => command.env("KNLFIX_TRACE", "on"),
        None => command.env_remove("KNLFIX_TRACE"),
    };
    let begun = (records::monotonic(), since_1970());
    let watched = watch::watch(&mut command);
    let outcome = watched.map_err(|error| Failure::not_started(program, &error)).and_then(|watched| {
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", directory.display()));
        let records = Records::read(&directory).map_err(failed)?;
        let (processes, count) = records.processes(begun.0, watched.ended, &watched.last_seen);
        let shown: Vec<_> = arguments.program.iter().map(|word| word.to_string_lossy()).collect();
        let run = Run {
            host: host(),
            command: shown.join(" "),
            wall_s: records::seconds(watched.ended - begun.0),
            cpu_s: watched.cpu_s,
            process_count: count,
            cpu_pressure_s: watched.pressure_s,
            cpu_migrations: watched.migrations,
            begun: begun.1,
            samples: watched.samples,
        };
        let report = Report::new(vec![run], processes);
        write(arguments, &report, watched.pid)?;
        write_trace(arguments, &records, watched.pid, (begun.0, watched.ended))?;
        eprint!("{}", text::text(&report));
        Ok(watched.status)
    });
    records::remove(&directory);
    outcome
}

/// A directory that only we may enter.
trait Private {
    fn create_private(&mut self, path: &Path) -> std::io::Result<()>;
}

impl Private for fs::DirBuilder {
    fn create_private(&mut self, path: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        self.mode(0o700).create(path)
    }
}
