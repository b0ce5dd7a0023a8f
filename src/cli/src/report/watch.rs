//! Runs a program, and looks at its processes from time to time.

use super::model::Sample;
use super::records::{Seen, monotonic, seconds};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks; doubled when there are too many of them.
const EVERY: Duration = Duration::from_millis(50);
const MOST_SAMPLES: usize = 2000;

pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) status: u8,
    pub(crate) ended: u64,
    pub(crate) cpu_s: f64,
    pub(crate) pressure_s: Option<f64>,
    pub(crate) migrations: Option<u64>,
    /// When a process was there last.
    pub(crate) last_seen: BTreeMap<u32, Seen>,
    pub(crate) samples: Vec<Sample>,
}

static CHILD: AtomicI32 = AtomicI32::new(0);

/// Asks the program to end, as we were asked.
extern "C" fn pass_on(signal: libc::c_int) {
    // SAFETY: kill(2) is async-signal-safe.
    unsafe { libc::kill(CHILD.load(Ordering::Relaxed), signal) };
}

pub(crate) fn watch(command: &mut Command) -> io::Result<Watched> {
    // Orphans come to us, so that the kernel adds their times up for us too.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let pressure = pressure();
    let migrations = Migrations::open();
    let begun = monotonic();
    let mut child = command.spawn()?;
    let pid = child.id();
    CHILD.store(pid as i32, Ordering::Relaxed);
    // SAFETY: a handler that is async-signal-safe, and the kernel's own way to ignore: what the terminal sends, the
    // program gets itself.
    unsafe {
        libc::signal(libc::SIGTERM, pass_on as *const () as libc::sighandler_t);
        libc::signal(libc::SIGHUP, pass_on as *const () as libc::sighandler_t);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
    }
    let (mut last_seen, mut samples, mut every, mut next) = (BTreeMap::new(), Vec::new(), EVERY, EVERY);
    let mut nap = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let elapsed = Duration::from_nanos(monotonic() - begun);
        if elapsed >= next {
            samples.push(sample(begun, &mut last_seen));
            if samples.len() >= MOST_SAMPLES {
                let mut keep = false;
                samples.retain(|_| {
                    keep = !keep;
                    keep
                });
                every *= 2;
            }
            next = elapsed + every;
        }
        thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(10));
    };
    let ended = monotonic();
    reap();
    Ok(Watched {
        pid,
        status: shells(status),
        ended,
        cpu_s: children_cpu_s(),
        pressure_s: self::pressure().zip(pressure).map(|(after, before)| seconds(after.saturating_sub(before) * 1000)),
        migrations: migrations.and_then(|migrations| migrations.read()),
        last_seen,
        samples,
    })
}

/// The kernel's counter of threads that went to another CPU, for all programs that this process starts.
struct Migrations(File);

impl Migrations {
    /// `None` where the kernel doesn't let us (`/proc/sys/kernel/perf_event_paranoid`).
    fn open() -> Option<Self> {
        /// `struct perf_event_attr` of its first version.
        #[repr(C)]
        struct Attributes {
            kind: u32,
            size: u32,
            config: u64,
            sampling: [u64; 3],
            flags: u64,
            rest: [u64; 2],
        }
        const SOFTWARE: u32 = 1;
        const CPU_MIGRATIONS: u64 = 4;
        const DISABLED: u64 = 1;
        const INHERIT: u64 = 1 << 1;
        const ENABLE_ON_EXEC: u64 = 1 << 12;
        const CLOSE_ON_EXEC: usize = 1 << 3;
        let attributes = Attributes {
            kind: SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: CPU_MIGRATIONS,
            sampling: [0; 3],
            flags: DISABLED | INHERIT | ENABLE_ON_EXEC,
            rest: [0; 2],
        };
        // SAFETY: attributes to read, as long as they say; of this process, on any CPU, in no group.
        let file = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, CLOSE_ON_EXEC) };
        // SAFETY: it is new, and ours.
        (file >= 0).then(|| Self(unsafe { File::from_raw_fd(file as i32) }))
    }

    fn read(mut self) -> Option<u64> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}

/// Orphans that have ended, and that nobody else waits for.
fn reap() {
    // SAFETY: no place for an answer, and no waiting.
    while unsafe { libc::waitpid(-1, core::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// The exit status as a shell has it.
fn shells(status: ExitStatus) -> u8 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1) as u8
}

fn children_cpu_s() -> f64 {
    // SAFETY: plain numbers are a valid `rusage`, and there is a place for the answer.
    let usage = unsafe {
        let mut usage = core::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// How long some task of this node has waited for a CPU, in microseconds; `None` where the kernel does not tell.
fn pressure() -> Option<u64> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    text.lines().next()?.split("total=").nth(1)?.trim().parse().ok()
}

/// All processes below us, and their threads that run.
fn sample(begun: u64, last_seen: &mut BTreeMap<u32, Seen>) -> Sample {
    let now = monotonic();
    let mut sample = Sample { at_s: seconds(now - begun), running: 0, cpus: BTreeMap::new() };
    let mut waiting = vec![std::process::id()];
    while let Some(pid) = waiting.pop() {
        for task in tasks(pid) {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                last_seen.insert(child, Seen { at: now, cpu_s: cpu_s(child) });
                waiting.push(child);
            }
            if pid != std::process::id()
                && let Some(cpu) = runs_on(&task)
            {
                sample.running += 1;
                *sample.cpus.entry(cpu).or_default() += 1;
            }
        }
    }
    sample
}

fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// The CPU time of a process so far.
fn cpu_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>().ok()?;
    Some(ticks as f64 / 100.0)
}

/// The CPU of a thread that runs or waits for it.
fn runs_on(task: &Path) -> Option<u32> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // Fields 3 and 39 of proc(5).
    (fields.next()? == "R").then(|| fields.nth(35)?.parse().ok()).flatten()
}
