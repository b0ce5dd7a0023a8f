//! What is seen of all domains at one moment.

use crate::domains::{self, Snapshot};
use crate::map::chart::Chart;
use crate::map::{online_cpus, processes};
use crate::node::Node;
use knlfix_core::budget::{self, Setting};
use knlfix_core::config::{Config, JOBS, Scope};
use knlfix_core::cpumask::CpuMask;
use knlfix_core::files::Files;
use knlfix_core::ledger::{CAPACITY, Ledger, Me, Owner};
use knlfix_core::share::{self, Claim, LATELY_MS};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Clock ticks in a second, in what `/proc` tells: the same on every x86-64 Linux.
const TICKS: u64 = 100;

/// An ask that no budget fulfils.
const MOST: u32 = u32::MAX >> 1;

/// Everything that is shown.
pub(crate) struct View {
    pub(crate) domains: Vec<Domain>,
    /// Files that can't be read as ledgers, and why.
    pub(crate) left_out: Vec<(PathBuf, String)>,
}

pub(crate) struct Domain {
    pub(crate) path: PathBuf,
    /// The variable that makes these processes one job, as `NAME=VALUE`; `None` where it can't be told, or is none.
    pub(crate) job: Option<String>,
    /// By slot.
    pub(crate) processes: Vec<Process>,
    /// Who claims which CPU; `None` if nobody claims any.
    pub(crate) chart: Option<Chart>,
}

pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Its slot.
    pub(crate) slot: usize,
    /// Empty for a dead one.
    pub(crate) command: String,
    pub(crate) age: Option<Duration>,
    pub(crate) state: State,
    /// Threads that its last region wanted.
    pub(crate) ask: u32,
    /// Threads that run in its regions now.
    pub(crate) held: u32,
    /// Threads that it may run now; `None` for a dead one.
    pub(crate) share: Option<u32>,
    /// Its start share, if it was told less than the whole.
    pub(crate) told: Option<u32>,
    /// `None` for a dead one.
    pub(crate) budget: Option<u32>,
    /// Time since it was last in a region.
    pub(crate) idle_ms: u32,
    pub(crate) allowed: CpuMask,
    /// The CPUs it has pinned threads to, or a place of its own on.
    pub(crate) claimed: CpuMask,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Region,
    /// Not in a region, but its part of the budget is kept.
    Active,
    Idle,
    /// It holds its slot until another process takes it back.
    Dead,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Dead => "dead",
        }
    }
}

impl View {
    pub(crate) fn read() -> io::Result<Self> {
        let mut view = Self { domains: vec![], left_out: vec![] };
        for path in domains::paths()? {
            match Snapshot::read(&path) {
                Ok(Some(snapshot)) => view.domains.push(Domain::new(path, snapshot.ledger())),
                Ok(None) => {}
                // Its last process has just left.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => view.left_out.push((path, error.to_string())),
            }
        }
        // One that its last process is about to remove says nothing.
        view.domains.retain(|domain| !domain.processes.is_empty());
        Ok(view)
    }
}

impl Domain {
    fn new(path: PathBuf, ledger: Ledger<'_>) -> Self {
        let (now, uptime) = (now(), uptime());
        let mut budgets = Budgets::default();
        let mut job = None;
        let mut processes = vec![];
        for (slot, owner) in ledger.owners() {
            let Some(line) = ledger.line(slot, now) else { continue };
            let allowed = ledger.allowed(slot);
            let directory = PathBuf::from(format!("/proc/{}", owner.pid()));
            let is_alive = domains::is_alive(owner);
            let environment = if is_alive { Environment::read(&directory) } else { Environment::default() };
            job = job.or(environment.job);
            processes.push(Process {
                pid: owner.pid() as u32,
                slot,
                command: if is_alive { processes::command(&directory) } else { String::new() },
                age: age(owner, uptime),
                state: match (is_alive, line.held, line.idle_ms) {
                    (false, _, _) => State::Dead,
                    (_, 1.., _) => State::Region,
                    (_, _, ..=LATELY_MS) => State::Active,
                    _ => State::Idle,
                },
                ask: line.ask,
                held: line.held,
                share: None,
                told: line.told,
                budget: is_alive.then(|| budgets.of(owner, environment.budget, line.fingerprint, &allowed)),
                idle_ms: line.idle_ms,
                allowed,
                claimed: CpuMask::of(ledger.claimed_by(slot)),
            });
        }
        shares(ledger, &mut processes, now);
        let chart = chart(&processes);
        Self { path, job, processes, chart }
    }

    pub(crate) fn count(&self, state: State) -> usize {
        self.processes.iter().filter(|process| process.state == state).count()
    }

    /// Whether it is more than what killed programs left.
    pub(crate) fn is_alive(&self) -> bool {
        self.processes.iter().any(|process| process.state != State::Dead)
    }

    /// Threads that the living run, or the dead hold.
    pub(crate) fn held(&self, by_dead: bool) -> u32 {
        let of = self.processes.iter().filter(|process| (process.state == State::Dead) == by_dead);
        of.map(|process| process.held).sum()
    }

    /// The smallest and the largest budget.
    pub(crate) fn budgets(&self) -> Option<(u32, u32)> {
        let budgets = || self.processes.iter().filter_map(|process| process.budget);
        budgets().min().zip(budgets().max())
    }
}

fn chart(processes: &[Process]) -> Option<Chart> {
    // Who chooses a place takes back what a dead process claimed.
    let living = || processes.iter().filter(|process| process.state != State::Dead);
    let union = |mask: fn(&Process) -> &CpuMask| living().fold(CpuMask::EMPTY, |all, process| all.or(mask(process)));
    let claimed = union(|process| &process.claimed);
    if claimed.is_empty() {
        return None;
    }
    let cpus = online_cpus(claimed.or(&union(|process| &process.allowed)));
    let claims = living().filter(|process| !process.claimed.is_empty());
    let claims = claims.map(|process| (process.pid, process.command.as_str(), &process.claimed));
    Some(Chart::of_claims(cpus, claims))
}

/// Works out what each may take, as each does it for itself. The dead count as long as they have slots.
fn shares(ledger: Ledger<'_>, processes: &mut [Process], now: u32) {
    let mut by_mask = BTreeMap::<u64, Vec<(usize, Claim)>>::new();
    for process in processes.iter_mut() {
        let Some(budget) = process.budget else { continue };
        let fingerprint = process.allowed.fingerprint();
        let active = by_mask.entry(fingerprint).or_insert_with(|| {
            // An onlooker's slot is beyond the table, so the claims of all owners come, in their order.
            let mask = process.allowed.to_sparse();
            let me = Me { index: CAPACITY, fingerprint, mask: mask.as_ref() };
            let claims = ledger.owners().map(|(slot, _)| slot).zip(ledger.look(me, now));
            claims.filter(|(_, claim)| claim.is_active()).collect()
        });
        let slot = process.slot;
        let others = active.iter().filter(|(other, _)| *other != slot);
        let others = others.map(|&(other, claim)| Claim { is_before_us: other < slot, ..claim });
        let share = share::share(budget, MOST, others);
        process.share = Some(if share.crowded { share.threads } else { budget });
    }
}

/// What counts of a process's environment.
#[derive(Default)]
struct Environment {
    job: Option<String>,
    budget: Setting,
}

impl Environment {
    fn read(directory: &Path) -> Self {
        let block = fs::read(directory.join("environ")).unwrap_or_default();
        let lines = || block.split(|&byte| byte == 0);
        let mut config = Config::new();
        for line in lines().filter(|line| line.starts_with(b"KNLFIX_")) {
            // Its own library has complained already.
            let _ = config.apply(line);
        }
        let is_set = |name: &[u8]| {
            lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"=")))
        };
        let job = match config.scope {
            Scope::Job => {
                JOBS.iter().find_map(|name| is_set(name)).map(|line| String::from_utf8_lossy(line).into_owned())
            }
            Scope::Tree => Some("KNLFIX_SCOPE=tree".into()),
        };
        Self { job, budget: config.budget }
    }
}

/// Budgets that have been worked out, by what they follow from: hundreds of workers have the same.
#[derive(Default)]
struct Budgets(Vec<(Setting, u64, Vec<u8>, u32)>);

impl Budgets {
    fn of(&mut self, owner: Owner, setting: Setting, fingerprint: u64, allowed: &CpuMask) -> u32 {
        let cgroup = fs::read(format!("/proc/{}/cgroup", owner.pid())).unwrap_or_default();
        let is_known =
            |known: &&(Setting, u64, Vec<u8>, u32)| known.0 == setting && known.1 == fingerprint && known.2 == cgroup;
        if let Some(known) = self.0.iter().find(is_known) {
            return known.3;
        }
        let budget = budget::size(setting, allowed, &Elsewhere(owner.pid()));
        self.0.push((setting, fingerprint, cgroup, budget));
        budget
    }
}

/// The kernel's files as a process sees them.
struct Elsewhere(i32);

impl Files for Elsewhere {
    type File = File;

    fn open(&self, path: &CStr) -> Option<File> {
        match path.to_bytes().strip_prefix(b"/proc/self/") {
            Some(rest) => {
                let path = [format!("/proc/{}/", self.0).as_bytes(), rest].concat();
                Node.open(&CString::new(path).ok()?)
            }
            None => Node.open(path),
        }
    }

    fn read(&self, file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        Node.read(file, offset, buffer)
    }
}

/// The clock of [`Slot::seen`](knlfix_core::ledger::Slot): milliseconds, wrapping.
fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec as u32).wrapping_mul(1000).wrapping_add(time.tv_nsec as u32 / 1_000_000)
}

/// Since the node started.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

fn age(owner: Owner, uptime: Option<Duration>) -> Option<Duration> {
    let started = Some(owner.started()).filter(|&started| started != 0)?;
    Some(uptime?.saturating_sub(Duration::from_millis(started.saturating_mul(1000 / TICKS))))
}
