//! The budget: how many compute threads a domain may run.

use crate::cgroup::cpu_quota;
use crate::cpumask::{CPUS, CpuMask};
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
    for name in ["core_cpus_list", "thread_siblings_list"] {
        let mut path = Path::new();
        let mut buffer = [0; 256];
        if write!(path, "/sys/devices/system/cpu/cpu{cpu}/topology/{name}").is_ok()
            && let Some(list) = read_small(files, path.as_c_str(), &mut buffer)
            && insert_list(list, counted).is_some()
        {
            return;
        }
    }
}

/// Adds the CPUs of a list such as `0,68,136-137`, up to what is none. [`CpuMask::parse_list`] knows more forms, and is
/// 3 kB of code that the preload has no other use for.
fn insert_list(list: &[u8], mask: &mut CpuMask) -> Option<()> {
    for range in list.split(|&byte| byte == b',') {
        let mut ends = range.splitn(2, |&byte| byte == b'-').map(number);
        let first = ends.next()??;
        let last = ends.next().unwrap_or(Some(first))?;
        // A mask ends there.
        for cpu in first..=last.min(CPUS as u64) {
            mask.insert(cpu as usize);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{Memory, Tree};
    use proptest::prelude::*;

    fn with_quota(tree: Tree, cpu_max: &str) -> Tree {
        tree.with("/proc/self/cgroup", "0::/\n").with("/sys/fs/cgroup/cpu.max", cpu_max)
    }

    /// A Xeon Phi 7250: 68 cores, CPU n is a thread of core n modulo 68.
    fn knl(name: &str) -> Tree {
        (0..272).fold(Tree::new(), |tree, cpu| {
            let core = cpu % 68;
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            tree.with(&path, format!("{core},{},{},{}\n", core + 68, core + 136, core + 204))
        })
    }

    #[test]
    fn values_of_the_variable() {
        for (value, setting) in [
            ("auto", Setting::Auto),
            ("AUTO", Setting::Auto),
            ("Cores", Setting::Cores),
            ("off", Setting::Off),
            ("1", Setting::Count(1)),
            ("0272", Setting::Count(272)),
            ("4294967295", Setting::Count(u32::MAX)),
            ("1%", Setting::Percent(1)),
            ("100%", Setting::Percent(100)),
        ] {
            assert_eq!(Setting::parse(value.as_bytes()), Some(setting), "{value}");
        }
        for value in
            ["", "0", "-1", "+1", " 1", "1.5", "4294967296", "%", "0%", "101%", "50 %", "5%%", "0x8", "all", "auto "]
        {
            assert_eq!(Setting::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn the_quota_cuts_every_setting_but_off() {
        let (sixteen, files) = (CpuMask::of(0..16), with_quota(Tree::new(), "350000 100000\n"));
        for (setting, threads) in [
            (Setting::Auto, 4),
            (Setting::Cores, 4),
            (Setting::Count(3), 3),
            (Setting::Count(9), 4),
            (Setting::Percent(100), 4),
            (Setting::Percent(19), 3),
            (Setting::Off, 16),
        ] {
            assert_eq!(size(setting, &sixteen, &files), threads, "{setting}");
        }
    }

    #[test]
    fn without_a_quota_the_allowed_cpus_are_the_bound() {
        let (six, files) = (CpuMask::of([0, 3, 5, 70, 71, 8191]), Tree::new());
        for (setting, threads) in [
            (Setting::Auto, 6),
            (Setting::Cores, 6),
            (Setting::Count(4), 4),
            (Setting::Count(100), 6),
            (Setting::Percent(50), 3),
            (Setting::Percent(49), 2),
            (Setting::Percent(1), 1),
            (Setting::Off, 6),
        ] {
            assert_eq!(size(setting, &six, &files), threads, "{setting}");
        }
    }

    #[test]
    fn cores_of_a_xeon_phi() {
        for name in ["core_cpus_list", "thread_siblings_list"] {
            let files = knl(name);
            assert_eq!(size(Setting::Cores, &CpuMask::of(0..272), &files), 68);
            assert_eq!(size(Setting::Cores, &CpuMask::of([1, 69, 137, 205]), &files), 1);
            assert_eq!(size(Setting::Cores, &CpuMask::of(66..70), &files), 4);
            assert_eq!(size(Setting::Cores, &CpuMask::of([271, 67, 2]), &files), 2);
        }
    }

    #[test]
    fn cores_that_can_not_be_told_are_cpus() {
        let broken = Tree::new()
            .with("/sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-\n")
            .with("/sys/devices/system/cpu/cpu1/topology/core_cpus_list", b"\xff\n")
            .with("/sys/devices/system/cpu/cpu2/topology/core_cpus_list", "2,".repeat(300))
            .with("/sys/devices/system/cpu/cpu3/topology/core_cpus_list", "")
            .with("/sys/devices/system/cpu/cpu4/topology/core_cpus_list", "")
            .with("/sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "4-5\n");
        assert_eq!(cores(&CpuMask::of(0..5), &broken), 5);
        // The older name is good for 4 and 5.
        assert_eq!(cores(&CpuMask::of(0..6), &broken), 5);
    }

    proptest! {
        #[test]
        fn lists_of_siblings_are_read_as_masks_are(
            set in prop::collection::btree_set(0..CPUS, 1..20),
            from in 0..CPUS,
            len in 0usize..70,
        ) {
            let mask = CpuMask::of(set.into_iter().chain(from..(from + len).min(CPUS)));
            let mut read = CpuMask::EMPTY;
            prop_assert_eq!(insert_list(mask.to_string().as_bytes(), &mut read), Some(()));
            prop_assert_eq!(read, mask);
        }

        #[test]
        fn settings_round_trip(setting in prop_oneof![
            Just(Setting::Auto), Just(Setting::Cores), Just(Setting::Off),
            (1..=u32::MAX).prop_map(Setting::Count), (1..=100u32).prop_map(Setting::Percent),
        ]) {
            prop_assert_eq!(Setting::parse(setting.to_string().as_bytes()), Some(setting));
        }

        #[test]
        fn any_value_is_parsed_or_refused(value in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(setting) = Setting::parse(&value) {
                prop_assert_eq!(Setting::parse(setting.to_string().as_bytes()), Some(setting));
            }
        }

        #[test]
        fn a_budget_is_never_nothing_and_never_beyond_the_allowed_cpus(
            cpus in prop::collection::btree_set(0..300usize, 0..40),
            setting in prop_oneof![
                Just(Setting::Auto), Just(Setting::Cores), Just(Setting::Off),
                any::<u32>().prop_map(Setting::Count), any::<u32>().prop_map(Setting::Percent),
            ],
            everywhere in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
            text in prop::option::of("[0-9,-]{0,12}"),
        ) {
            let other = text.map(String::into_bytes).or(everywhere);
            let files = Memory { other, piece: 4096, ..Memory::default() };
            let threads = size(setting, &CpuMask::of(cpus.iter().copied()), &files) as usize;
            prop_assert!((1..=cpus.len().max(1)).contains(&threads));
        }
    }
}
