//! The CPUs: those of the node, of the cpuset, of this process; the quota; the batch system and MPI.

use super::environment::Environment;
use super::finding::{Finding, Severity};
use crate::map::processes::own_mask;
use crate::node::Node;
use knlfix_core::budget;
use knlfix_core::cgroup::cpu_quota;
use knlfix_core::cpumask::CpuMask;
use std::fs;

/// What this process may use.
pub(crate) struct Machine {
    pub(crate) online: CpuMask,
    pub(crate) cpuset: Option<CpuMask>,
    pub(crate) allowed: CpuMask,
    pub(crate) quota: Option<u32>,
    /// The threads that the library lets a job of this process run; `None` without a budget.
    pub(crate) budget: Option<u32>,
}

impl Machine {
    pub(crate) fn look(setting: budget::Setting) -> Option<Self> {
        let allowed = own_mask()?;
        let online = list_of("/sys/devices/system/cpu/online").unwrap_or_else(|| allowed.clone());
        let budget = (setting != budget::Setting::Off).then(|| budget::size(setting, &allowed, &Node));
        Some(Self { online, cpuset: cpuset(), quota: cpu_quota(&Node), budget, allowed })
    }

    /// The threads that can run at the same time.
    pub(crate) fn room(&self) -> usize {
        let cpus = self.allowed.count().max(1);
        self.quota.map_or(cpus, |quota| cpus.min(quota as usize))
    }

    pub(crate) fn findings(&self, environment: &Environment, findings: &mut Vec<Finding>) {
        findings.push(self.cpus());
        if let Some(quota) = self.quota {
            findings.push(self.under(quota));
        }
        if let Some(budget) = self.budget {
            let threads = threads(budget as usize);
            findings.push(Finding::ok("budget", format!("The library's budget here: {threads} for the whole job")));
        }
        findings.extend(self.slurm(environment));
        findings.extend(self.mpi(environment));
    }

    fn cpus(&self) -> Finding {
        let (allowed, online) = (self.allowed.count(), self.online.count());
        let title = format!("This process may use {allowed} of {online} CPUs: {}", self.allowed);
        if self.online.is_subset(&self.allowed) {
            let finding = Finding::ok("cpus", title);
            return if online == 1 {
                finding.means("The node has no more; there is nothing to share.")
            } else {
                finding
            };
        }
        let limit = self.cpuset.as_ref().filter(|cpuset| cpuset.and(&self.online).is_subset(&self.allowed));
        if limit.is_some() {
            let meaning = "The rest is kept from it by its cpuset: a batch system's or a container's.";
            return Finding::note("cpus", title).means(meaning);
        }
        let meaning = "The rest is kept from it by a mask that it inherited: of taskset, numactl, srun, mpiexec, or of an \
                       OpenMP runtime that pinned the program which started this shell.";
        let finding = Finding::note("cpus", title).means(meaning);
        if allowed > 1 {
            return finding;
        }
        let advice = "If you did not want that, look at the mask of the programs above (`taskset -cp PID`) and at the \
                      options that bind (srun --cpu-bind, mpiexec --bind-to). The library keeps such a mask: it can't \
                      know that nobody wanted it.";
        let meaning = format!("{meaning} Everything that is started here runs on this one CPU.");
        finding.graded(Severity::Warning).means(meaning).advise(advice)
    }

    fn under(&self, quota: u32) -> Finding {
        let cpus = self.allowed.count();
        let title = format!("The cgroup's CPU quota is worth {quota} of {cpus} CPUs");
        if quota as usize >= cpus {
            return Finding::ok("quota", title);
        }
        let meaning = "The kernel stops all threads for the rest of each period once the quota is used up. OpenMP, OpenBLAS \
                       and os.cpu_count() do not know of it and start a thread for each CPU.";
        let advice = format!("Run with the library, whose budget is cut by the quota, or set OMP_NUM_THREADS={quota}.");
        Finding::warning("quota", title).means(meaning).advise(advice)
    }

    fn slurm(&self, environment: &Environment) -> Option<Finding> {
        let job = environment.get("SLURM_JOB_ID")?;
        let cpus = self.allowed.count();
        let binding = environment.get("SLURM_CPU_BIND").map_or(String::new(), |how| format!("; --cpu-bind={how}"));
        let title = format!("In Slurm job {job}{binding}");
        let Some(wanted) = environment.number("SLURM_CPUS_PER_TASK").filter(|&wanted| wanted > cpus) else {
            return Some(Finding::ok("slurm", title));
        };
        let meaning = format!("The task was to have {wanted} CPUs (SLURM_CPUS_PER_TASK) and may use {cpus}.");
        let advice = "srun no longer takes --cpus-per-task over from sbatch (Slurm 22.05 on): give it to srun too, or set \
                      SRUN_CPUS_PER_TASK.";
        Some(Finding::warning("slurm", title).means(meaning).advise(advice))
    }

    fn mpi(&self, environment: &Environment) -> Option<Finding> {
        let names = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"];
        let (name, ranks) = names.iter().find_map(|name| Some((name, environment.number(name)?)))?;
        let cpus = self.allowed.count();
        let title = format!("{ranks} MPI ranks on this node ({name}), this one with {}", super::text::cpus(cpus));
        if ranks < 2 {
            return None;
        }
        Some(if cpus == 1 && self.online.count() > ranks {
            let meaning = "The launcher binds each rank to one CPU: all threads and workers of the rank share it.";
            let advice = "Open MPI: mpiexec --map-by slot:PE=N, or --bind-to none. MPICH and Intel MPI: mpiexec -bind-to \
                          core:N. Slurm: srun --cpus-per-task=N. N is the CPUs for each rank.";
            Finding::warning("mpi", title).means(meaning).advise(advice)
        } else if cpus > 1 && self.online.is_subset(&self.allowed) {
            let meaning = "The ranks are not bound: each of them starts threads for all CPUs.";
            let advice = "Run with the library, so that the ranks share one budget, or bind them to CPUs of their own.";
            Finding::note("mpi", title).means(meaning).advise(advice)
        } else {
            Finding::ok("mpi", title)
        })
    }
}

fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}

fn list_of(path: &str) -> Option<CpuMask> {
    CpuMask::parse_list(&fs::read_to_string(path).ok()?).ok().filter(|mask| !mask.is_empty())
}

/// The CPUs of this process's cpuset, of cgroup v1 or v2, or as it is seen from inside a container.
fn cpuset() -> Option<CpuMask> {
    let own = fs::read_to_string("/proc/self/cpuset").ok()?;
    let own = own.trim().trim_end_matches('/');
    // A v2 group without the controller of its own has its ancestor's.
    let mut ancestors: Vec<_> = own.match_indices('/').map(|(at, _)| &own[..at]).collect();
    ancestors.push(own);
    ancestors.iter().rev().find_map(|group| {
        let v2 = format!("/sys/fs/cgroup{group}/cpuset.cpus.effective");
        let v1 = format!("/sys/fs/cgroup/cpuset{group}/cpuset.effective_cpus");
        list_of(&v2).or_else(|| list_of(&v1))
    })
}
