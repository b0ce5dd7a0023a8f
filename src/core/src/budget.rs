//! The budget: how many compute threads a domain may run.

use crate::cgroup::cpu_quota;
use crate::cpumask::CpuMask;
use crate::files::{Files, Path, number, read_small};
use core::fmt::{self, Write};

/// What `KNLFIX_BUDGET` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Setting {
    /// The allowed CPUs, cut by the cgroup's CPU quota.
    #[default]
    Auto,
    /// So many threads, from 1 up.
    Count(u32),
    /// A part of the allowed CPUs: 1 to 100 per cent.
    Percent(u32),
    /// One thread for each physical core.
    Cores,
    /// No budget at all.
    Off,
}

impl Setting {
    /// Reads a value of the variable, in capitals or not; `None` for anything else, 0 and more than 100 % among it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let is = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
        let count = |digits| number(digits).and_then(|count| u32::try_from(count).ok()).filter(|&count| count > 0);
        match value {
            _ if is("auto") => Some(Self::Auto),
            _ if is("cores") => Some(Self::Cores),
            _ if is("off") => Some(Self::Off),
            [digits @ .., b'%'] => count(digits).filter(|&percent| percent <= 100).map(Self::Percent),
            digits => count(digits).map(Self::Count),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Cores => f.write_str("cores"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// The threads that a domain with these allowed CPUs may run: from 1 to as many as there are allowed CPUs.
///
/// Whatever is set, neither the allowed CPUs nor the cgroup's quota is passed: no thread beyond them could run. So a
/// count may only make the budget smaller, and a part of the CPUs is rounded down. [`Setting::Off`] gives the allowed
/// CPUs, which is what a runtime takes by default, and reads nothing.
pub fn size(setting: Setting, allowed: &CpuMask, files: &impl Files) -> u32 {
    let cpus = allowed.count() as u32;
    let wanted = match setting {
        Setting::Off => return cpus.max(1),
        Setting::Auto => cpus,
        Setting::Count(count) => count.min(cpus),
        Setting::Percent(percent) => (u64::from(cpus) * u64::from(percent.min(100)) / 100) as u32,
        Setting::Cores => cores(allowed, files),
    };
    // Below 2 no quota makes a difference.
    if wanted < 2 { 1 } else { cpu_quota(files).map_or(wanted, |quota| quota.min(wanted)) }
}

/// The physical cores that have a CPU in the mask. A CPU whose topology can't be read is a core.
pub fn cores(allowed: &CpuMask, files: &impl Files) -> u32 {
    let mut counted = CpuMask::EMPTY;
    let mut cores = 0;
    for cpu in allowed.iter() {
        if !counted.contains(cpu) {
            cores += 1;
            // A core of which another CPU was counted never comes here, so its file isn't read again.
            count_core(cpu, &mut counted, files);
        }
    }
    cores
}

/// Adds the CPUs of the core that `cpu` is of. The newer name is from Linux 5.3 on.
fn count_core(cpu: usize, counted: &mut CpuMask, files: &impl Files) {
    let siblings = ["core_cpus_list", "thread_siblings_list"].iter().find_map(|name| {
        let mut path = Path::new();
        write!(path, "/sys/devices/system/cpu/cpu{cpu}/topology/{name}").ok()?;
        let mut buffer = [0; 256];
        let text = read_small(files, path.as_c_str(), &mut buffer)?;
        CpuMask::parse_list(core::str::from_utf8(text).ok()?).ok()
    });
    if let Some(siblings) = siblings {
        for sibling in siblings.iter() {
            counted.insert(sibling);
        }
    }
}
