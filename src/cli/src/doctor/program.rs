//! A program and all its processes while they run: the threading runtimes that they load, and their masks.

use super::elf::Elf;
use super::finding::{Finding, Severity};
use super::text::{cpus, processes};
use super::{Context, preload};
use crate::Failure;
use crate::json::string;
use crate::map::processes::trees;
use knlfix_core::cpumask::CpuMask;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often to look: at first often, as a short program is over soon.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(200);

/// A kind of threading runtime.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Gnu,
    Llvm,
    Intel,
    Mkl,
    OpenBlas,
    Blis,
    Tbb,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Gnu => "GNU OpenMP",
            Self::Llvm => "LLVM OpenMP",
            Self::Intel => "Intel OpenMP",
            Self::Mkl => "MKL",
            Self::OpenBlas => "OpenBLAS",
            Self::Blis => "BLIS or FlexiBLAS",
            Self::Tbb => "TBB",
        }
    }

    const fn is_openmp(self) -> bool {
        matches!(self, Self::Gnu | Self::Llvm | Self::Intel)
    }

    /// By what it defines, as the library tells them, whatever its file is called.
    fn of(elf: &Elf, path: &str) -> Option<Self> {
        let defines = |names: &[&str]| names.iter().any(|name| elf.defines(name));
        let openblas = [
            "openblas_get_config",
            "openblas_get_config64_",
            "openblas_get_config_64",
            "scipy_openblas_get_config",
            "scipy_openblas_get_config64_",
        ];
        match () {
            () if defines(&["__kmpc_fork_call"]) => {
                Some(if build_of_intel(path).is_some() { Self::Intel } else { Self::Llvm })
            }
            () if defines(&["GOMP_parallel"]) => Some(Self::Gnu),
            () if defines(&["TBB_runtime_interface_version"]) => Some(Self::Tbb),
            () if defines(&openblas) => Some(Self::OpenBlas),
            () if defines(&["bli_thread_set_num_threads", "flexiblas_set_num_threads"]) => Some(Self::Blis),
            () if Path::new(path).file_name()?.to_str()?.starts_with("libmkl_core.") => Some(Self::Mkl),
            () => None,
        }
    }
}

/// The day on which Intel built this runtime, as `YYYYMMDD`; `None` if it is another's.
fn build_of_intel(path: &str) -> Option<u32> {
    const TEXT: &[u8] = b"Intel(R) OMP version: 5.0.";
    let bytes = fs::read(path).ok()?;
    let at = bytes.windows(TEXT.len()).position(|window| window == TEXT)? + TEXT.len();
    std::str::from_utf8(bytes.get(at..at + 8)?).ok()?.parse().ok()
}

/// A runtime's file that some of the processes have.
pub(crate) struct Runtime {
    pub(crate) kind: Kind,
    pub(crate) path: String,
    pub(crate) intel_build: Option<u32>,
}

/// A process while it ran one program.
struct Seen {
    pid: u32,
    parent: u32,
    exe: PathBuf,
    command: String,
    /// The runtimes, by their place in [`Program::runtimes`].
    runtimes: BTreeSet<usize>,
    /// It has libc, so the loader has done with what is preloaded; whether the library is among that.
    has_library: Option<bool>,
    /// Its environment named something to preload.
    is_asked_to_preload: bool,
    /// Where libc is: the same in a forked child, and by chance elsewhere after an exec.
    libc: Option<String>,
    /// The narrowest mask of its threads.
    mask: CpuMask,
    threads: usize,
}

/// What was seen of a program.
pub(crate) struct Program {
    command: Vec<String>,
    /// The file that runs: of a script its interpreter.
    file: Option<PathBuf>,
    pub(crate) runtimes: Vec<Runtime>,
    seen: Vec<Seen>,
    /// The CPU on which most processes were bound at one time, and how many.
    stacked: (usize, usize),
    /// The most threads at one time.
    threads: usize,
    has_ended: bool,
}

/// A program that is watched.
pub(crate) struct Watched {
    child: Child,
    pub(crate) program: Program,
    /// Every mapped file that was looked at, and what runtime it is.
    files: BTreeMap<String, Option<usize>>,
    libraries: BTreeMap<String, bool>,
}

/// Starts the program. With `aside` what it prints goes to standard error.
pub(crate) fn start(command: &[OsString], aside: bool) -> Result<Watched, Failure> {
    let [program, rest @ ..] = command else {
        return Err(Failure::new("no program given"));
    };
    let stdout = if aside { Stdio::from(io::stderr()) } else { Stdio::inherit() };
    let child = Command::new(program).args(rest).stdout(stdout).spawn();
    let child = child.map_err(|error| Failure::not_started(program, &error))?;
    let program = Program {
        command: command.iter().map(|part| part.to_string_lossy().into_owned()).collect(),
        file: found(Path::new(program)).map(|file| interpreter(&file)),
        runtimes: Vec::new(),
        seen: Vec::new(),
        stacked: (0, 0),
        threads: 0,
        has_ended: false,
    };
    Ok(Watched { child, program, files: BTreeMap::new(), libraries: BTreeMap::new() })
}

/// The file that a shell would run.
fn found(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    let runs = |file: &PathBuf| fs::metadata(file).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(runs)
}

/// What runs a script; the file itself if it is none.
fn interpreter(file: &Path) -> PathBuf {
    let mut line = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(256).read_to_end(&mut line));
    let Some(rest) = line.strip_prefix(b"#!").filter(|_| read.is_ok()) else {
        return file.to_owned();
    };
    let text = String::from_utf8_lossy(rest.split(|&byte| byte == b'\n').next().unwrap_or_default()).into_owned();
    let mut words = text.split_whitespace().filter(|word| *word != "-S");
    let first = words.next().unwrap_or_default();
    let through_env = Path::new(first).file_name().is_some_and(|name| name == "env");
    let named = if through_env { words.next().and_then(|name| found(Path::new(name))) } else { None };
    named.unwrap_or_else(|| first.into())
}

/// The files that are mapped.
pub(crate) fn paths(maps: &str) -> impl Iterator<Item = &str> {
    let mut last = "";
    maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].trim_end_matches(" (deleted)"))).filter(
        move |path| {
            let is_new = *path != last;
            last = path;
            is_new
        },
    )
}

impl Watched {
    /// Until it ends, or has run for so long.
    pub(crate) fn watch(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut pause = SHORTEST;
        loop {
            self.look();
            let ended = self.child.try_wait().map_err(|error| Failure::new(error.to_string()))?;
            self.program.has_ended = ended.is_some();
            let left = limit.map_or(LONGEST, |limit| limit.saturating_sub(begin.elapsed()));
            if self.program.has_ended || left.is_zero() {
                return Ok(());
            }
            thread::sleep(pause.min(left));
            if begin.elapsed() > Duration::from_secs(5) {
                pause = LONGEST;
            }
        }
    }

    /// Waits for its end. As a shell would tell its exit status.
    pub(crate) fn end(mut self) -> Result<u8, Failure> {
        let status = self.child.wait().map_err(|error| Failure::new(error.to_string()))?;
        Ok(crate::map::shells(status))
    }

    fn look(&mut self) {
        // It may have ended.
        let Ok(found) = trees(&[self.child.id()]) else {
            return;
        };
        let mut on = BTreeMap::<usize, usize>::new();
        let mut threads = 0;
        for process in &found {
            threads += process.threads.len();
            let masks = process.threads.iter().map(|thread| &thread.mask);
            let Some(narrowest) = masks.min_by_key(|mask| mask.count()) else {
                continue;
            };
            if let Some(main) = process.threads.first().filter(|thread| thread.mask.count() == 1) {
                *on.entry(main.mask.iter().next().unwrap_or(0)).or_default() += 1;
            }
            self.look_at(process.pid, process.parent, &process.command, narrowest, process.threads.len());
        }
        self.program.threads = self.program.threads.max(threads);
        let most = on.into_iter().map(|(cpu, count)| (count, cpu)).max().unwrap_or((0, 0));
        self.program.stacked = self.program.stacked.max(most);
    }

    fn look_at(&mut self, pid: u32, parent: u32, command: &str, mask: &CpuMask, threads: usize) {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        // Another user's processes can't be looked into.
        let (Ok(exe), Ok(maps)) = (fs::read_link(directory.join("exe")), fs::read(directory.join("maps"))) else {
            return;
        };
        let maps = String::from_utf8_lossy(&maps);
        let mut runtimes = BTreeSet::new();
        let mut has_library = false;
        for path in paths(&maps) {
            let name = path.rsplit('/').next().unwrap_or_default();
            if !name.contains(".so") {
                continue;
            }
            if self.is_library(path) {
                has_library = true;
            } else if let Some(runtime) = self.runtime(path) {
                runtimes.insert(runtime);
            }
        }
        let is_libc = |line: &&str| line.contains("/libc.so") || line.contains("/libc-2.");
        let libc = maps.lines().find(is_libc).map(|line| line.split('-').next().unwrap_or_default().to_owned());
        let environ = fs::read(directory.join("environ")).unwrap_or_default();
        let seen = Seen {
            pid,
            parent,
            exe,
            command: command.to_owned(),
            runtimes,
            has_library: libc.is_some().then_some(has_library),
            is_asked_to_preload: environ.split(|&byte| byte == 0).any(|line| line.starts_with(b"LD_PRELOAD=/")),
            libc,
            mask: mask.clone(),
            threads,
        };
        match self.program.seen.iter_mut().find(|old| old.pid == pid && old.exe == seen.exe) {
            Some(old) => {
                old.runtimes.extend(seen.runtimes);
                old.libc = seen.libc.or(old.libc.take());
                old.has_library = seen.has_library.or(old.has_library);
                old.threads = old.threads.max(seen.threads);
                if seen.mask.count() < old.mask.count() {
                    old.mask = seen.mask;
                }
                old.command = seen.command;
            }
            None => self.program.seen.push(seen),
        }
    }

    fn is_library(&mut self, path: &str) -> bool {
        if let Some(&known) = self.libraries.get(path) {
            return known;
        }
        let is_ours = preload::among(std::iter::once(path)).is_some();
        self.libraries.insert(path.to_owned(), is_ours);
        is_ours
    }

    fn runtime(&mut self, path: &str) -> Option<usize> {
        if let Some(&known) = self.files.get(path) {
            return known;
        }
        let kind = Elf::read(Path::new(path)).ok().flatten().and_then(|elf| Kind::of(&elf, path));
        let number = kind.map(|kind| {
            let intel_build = if kind == Kind::Intel { build_of_intel(path) } else { None };
            self.program.runtimes.push(Runtime { kind, path: path.to_owned(), intel_build });
            self.program.runtimes.len() - 1
        });
        self.files.insert(path.to_owned(), number);
        number
    }
}

impl Program {
    pub(crate) fn findings(&self, context: &Context<'_>, findings: &mut Vec<Finding>) {
        findings.extend(self.unpreloadable(context));
        findings.extend(self.without_library(context));
        findings.extend(self.loaded());
        findings.extend(self.mixtures());
        findings.extend(self.forks(context));
        findings.extend(self.stacked(context));
        findings.extend(self.crowd(context));
    }

    /// Whether the loader will preload anything into the program.
    fn unpreloadable(&self, context: &Context<'_>) -> Vec<Finding> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let shown = file.display();
        let mut findings = Vec::new();
        let severity =
            if context.environment.get("LD_PRELOAD").is_some() { Severity::Problem } else { Severity::Warning };
        let mut found = |id, title: String, meaning: &str, advice: &str| {
            findings.push(Finding::problem(id, title).means(meaning).advise(advice).graded(severity));
        };
        if fs::metadata(file).is_ok_and(|metadata| runs_as_another(&metadata)) {
            let meaning = "The loader ignores LD_PRELOAD for programs that run as another user or group.";
            found("set-uid", format!("{shown} is set-uid or set-gid"), meaning, "Use an interpreter without that bit.");
        }
        match Elf::read(file) {
            Ok(Some(elf)) if !elf.is_ours => {
                let meaning = "The library is for 64-bit programs on x86-64.";
                found("not-x86-64", format!("{shown} is no x86-64 program"), meaning, "Use a 64-bit build.");
            }
            Ok(Some(elf)) if !elf.has_loader => {
                let meaning = "No loader runs, so nothing is preloaded: the library can't help it. It does inherit a \
                               repaired mask, and dynamic programs that it starts get the library.";
                found("static", format!("{shown} is a static program"), meaning, "Use a dynamically linked build.");
            }
            Ok(Some(elf)) if elf.uses("__asan_init") || elf.defines("__asan_init") => {
                let meaning = "Programs built with it refuse to start with anything preloaded.";
                found("sanitizer", format!("{shown} has AddressSanitizer"), meaning, "Use a build without it.");
            }
            _ => {}
        }
        findings
    }

    /// Processes that should have the library and have not.
    fn without_library(&self, context: &Context<'_>) -> Option<Finding> {
        if !context.is_preloaded {
            return None;
        }
        let without: Vec<_> = self.seen.iter().filter(|seen| seen.has_library == Some(false)).collect();
        let Some(first) = without.first() else {
            let with = self.seen.iter().filter(|seen| seen.has_library == Some(true)).count();
            return (with > 0)
                .then(|| Finding::ok("children", format!("The library was in all of {}", processes(with))));
        };
        let title = format!("{} of the program ran without the library", processes(without.len()));
        let (why, advice) = if first.is_asked_to_preload {
            (
                "LD_PRELOAD was in its environment, and the loader did not follow it: a set-uid program, or one of another kind.",
                "Start it by a program without the set-uid bit.",
            )
        } else {
            (
                "LD_PRELOAD was not in its environment: whoever started it cleaned that.",
                "Let LD_PRELOAD through (env -i, sudo, subprocess env=..., srun --export).",
            )
        };
        let meaning = format!("The first is process {}: {}. {why}", first.pid, shortened(&first.command));
        Some(Finding::warning("children", title).means(meaning).advise(advice))
    }

    fn loaded(&self) -> Vec<Finding> {
        if self.runtimes.is_empty() {
            let finding = Finding::ok("runtimes", "The program loads no threading runtime that was seen");
            return vec![finding.means("Nothing of it is pinned, and nothing governed.")];
        }
        let mut findings = Vec::new();
        for (number, runtime) in self.runtimes.iter().enumerate() {
            let count = self.seen.iter().filter(|seen| seen.runtimes.contains(&number)).count();
            let title = format!("{} in {}: {}", runtime.kind.name(), processes(count), runtime.path);
            findings.push(Finding::ok("runtimes", title));
        }
        findings
    }

    /// Several runtimes in one process.
    fn mixtures(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let kinds = [Kind::Gnu, Kind::Llvm, Kind::Intel, Kind::OpenBlas, Kind::Blis, Kind::Tbb];
        for kind in kinds {
            let of = |seen: &Seen| seen.runtimes.iter().filter(|&&at| self.runtimes[at].kind == kind).count();
            let Some((copies, process)) = self.seen.iter().map(|seen| (of(seen), seen)).max_by_key(|(count, _)| *count)
            else {
                continue;
            };
            if copies < 2 {
                continue;
            }
            let files = process.runtimes.iter().map(|&at| &self.runtimes[at]).filter(|runtime| runtime.kind == kind);
            let files = files.map(|runtime| runtime.path.as_str()).collect::<Vec<_>>().join(", ");
            let title = format!("{copies} copies of {} in one process", kind.name());
            let meaning = format!("Each has threads of its own and knows nothing of the others: {files}.");
            let is_bad = matches!(kind, Kind::Llvm | Kind::Intel);
            let advice = if is_bad {
                "Install the packages from one source (all conda or all pip)."
            } else {
                "Wheels bring their own copies, and that works. Where they run at the same time, the library makes them \
                 share the budget; packages of one source (conda, Debian) share one copy."
            };
            let finding = Finding::note("duplicates", title).means(meaning).advise(advice);
            findings.push(if is_bad { finding.graded(Severity::Warning) } else { finding });
        }
        let several = |seen: &Seen| {
            let kinds = seen.runtimes.iter().map(|&at| self.runtimes[at].kind).filter(|kind| kind.is_openmp());
            Some(kinds.collect::<BTreeSet<_>>()).filter(|kinds| kinds.len() > 1)
        };
        if let Some(kinds) = self.seen.iter().find_map(several) {
            let names = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" and ");
            let is_bad = kinds.contains(&Kind::Llvm) && kinds.contains(&Kind::Intel);
            let meaning = "Each has threads of its own; where one's region calls the other's, they multiply. LLVM's and \
                           Intel's define the same names, and a program that has both may abort (OMP Error 15).";
            let finding = Finding::note("openmp-mixture", format!("{names} in one process"));
            let advice = "Build or install with one OpenMP (MKL: MKL_THREADING_LAYER=GNU or INTEL).";
            let finding = finding.means(meaning).advise(advice);
            findings.push(if is_bad { finding.graded(Severity::Warning) } else { finding });
        }
        findings
    }

    /// libgomp in a forked child.
    fn forks(&self, context: &Context<'_>) -> Option<Finding> {
        let has_gnu = |seen: &Seen| seen.runtimes.iter().any(|&at| self.runtimes[at].kind == Kind::Gnu);
        let is_forked_from = |child: &Seen, other: &Seen| {
            other.pid == child.parent && other.exe == child.exe && other.libc == child.libc && has_gnu(other)
        };
        let is_child = |seen: &&Seen| has_gnu(seen) && self.seen.iter().any(|other| is_forked_from(seen, other));
        let children = self.seen.iter().filter(is_child).count();
        if children == 0 {
            return None;
        }
        let title = format!("GNU OpenMP in a process, and in {children} forked from it");
        let finding = Finding::warning("libgomp-fork", title);
        if context.is_preloaded {
            return Some(finding.graded(Severity::Ok));
        }
        let meaning = "If parent and child both run a region, the child hangs for ever: it waits for threads that only \
                       its parent has.";
        let advice = "Run with the library, which mends it, or use multiprocessing's spawn or forkserver.";
        Some(finding.means(meaning).advise(advice))
    }

    fn stacked(&self, context: &Context<'_>) -> Option<Finding> {
        let (count, cpu) = self.stacked;
        if count < 2 || context.machine.allowed.count() < 2 {
            return None;
        }
        let title = format!("{count} processes of the program were bound to the one CPU {cpu}");
        let meaning = "They shared it, while others may have been idle.";
        let advice = if context.is_preloaded {
            "The library leaves masks that programs set on purpose. KNLFIX_LOG=debug tells who set them; `knlfix map` \
             draws who is where."
        } else {
            "Run with the library (knlfix run PROGRAM); `knlfix map` draws who is where."
        };
        Some(Finding::warning("stacked", title).means(meaning).advise(advice))
    }

    fn crowd(&self, context: &Context<'_>) -> Option<Finding> {
        let with: Vec<_> = self.seen.iter().filter(|seen| !seen.runtimes.is_empty() && seen.threads > 1).collect();
        let room = context.machine.room();
        if with.len() < 2 || self.threads <= 2 * room {
            return None;
        }
        let title = format!("Up to {} threads at a time on {}", self.threads, cpus(room));
        let meaning = format!(
            "{} have threads of a runtime. If they work at the same time, they are in each other's way.",
            processes(with.len())
        );
        let finding = Finding::warning("crowd", title);
        if context.is_preloaded {
            return Some(finding.graded(Severity::Ok));
        }
        let advice = "Run with the library (knlfix run PROGRAM): all processes of a job share one budget of threads.";
        Some(finding.means(meaning).advise(advice))
    }

    pub(crate) fn json(&self) -> String {
        let command = self.command.iter().map(|part| string(part)).collect::<Vec<_>>().join(", ");
        let runtimes = self.runtimes.iter().enumerate().map(|(number, runtime)| {
            let pids = self.seen.iter().filter(|seen| seen.runtimes.contains(&number)).map(|seen| seen.pid.to_string());
            let pids = pids.collect::<Vec<_>>().join(", ");
            format!(
                "{{\"kind\": {}, \"file\": {}, \"pids\": [{pids}]}}",
                string(runtime.kind.name()),
                string(&runtime.path)
            )
        });
        let seen = self.seen.iter().map(|seen| {
            format!(
                "{{\"pid\": {}, \"parent\": {}, \"command\": {}, \"library\": {}, \"narrowest\": \"{}\", \"threads\": {}}}",
                seen.pid,
                seen.parent,
                string(&seen.command),
                seen.has_library.map_or("null".into(), |has| has.to_string()),
                seen.mask,
                seen.threads
            )
        });
        format!(
            "{{\"command\": [{command}], \"ended\": {}, \"most_threads\": {},\n  \"runtimes\": [\n   {}],\n  \
             \"processes\": [\n   {}]}}",
            self.has_ended,
            self.threads,
            runtimes.collect::<Vec<_>>().join(",\n   "),
            seen.collect::<Vec<_>>().join(",\n   ")
        )
    }
}

/// Set-uid or set-gid, and not to what we are anyway.
fn runs_as_another(file: &fs::Metadata) -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| {
        (file.mode() & 0o4000 != 0 && file.uid() != own.uid()) || (file.mode() & 0o2000 != 0 && file.gid() != own.gid())
    })
}

/// The beginning of a command.
fn shortened(command: &str) -> String {
    let mut short: String = command.chars().take(60).collect();
    if short.len() < command.len() {
        short += "...";
    }
    short
}
