//! The CPU quota of the process's cgroup.
//!
//! A quota is so many microseconds of CPU time in each period: `cpu.max` in the unified hierarchy (v2),
//! `cpu.cfs_quota_us` and `cpu.cfs_period_us` in the `cpu` controller's own (v1). The quota of every ancestor holds as
//! well, so the tightest counts; container runtimes and batch systems like to set it one or more levels up.
//!
//! The kernel has each controller in one hierarchy at a time. If `/proc/self/cgroup` has a line for `cpu`, that is
//! where quotas are, also on hybrid systems that have v2 beside it; otherwise they are in v2.
//!
//! Where that hierarchy is mounted, `/proc/self/mountinfo` says. A mount may begin below the hierarchy's root (a bind
//! mount, as in containers without a cgroup namespace): then its root is stripped from our own path. Or above the root
//! of our cgroup namespace (a root of `/..`): then the names between are unknown, and its own root is all that can be
//! asked. Or elsewhere: then it says nothing about us. What is above a container's mount can't be seen from inside.

use crate::files::{Files, Path, for_each_line, number, read_small};
use crate::text::Text;
use core::ops::ControlFlow;

/// CPUs that the cgroup's CPU quota is worth, from 1 up; `None` without a quota.
///
/// A part of a CPU counts as a whole one: 1.5 CPUs are 2, half a CPU is 1. With a thread less, a part of the quota can
/// never be used; with the thread more, all of it is, and the kernel throttles the threads for the rest of each period.
/// Go, OpenJDK and joblib (loky) round up as well, so a pool that they size by the quota fits the budget.
pub fn cpu_quota(files: &impl Files) -> Option<u32> {
    let mut search = Search { files, hierarchy: Hierarchy::Unified, tightest: None };
    let Some((hierarchy, own)) = own_cgroup(files) else {
        // No /proc: the mounts are tried where they usually are.
        for hierarchy in [Hierarchy::Unified, Hierarchy::Cpu] {
            search.hierarchy = hierarchy;
            search.usual_places(b"/");
        }
        return search.tightest;
    };
    search.hierarchy = hierarchy;
    search.mounts(own.as_bytes());
    search.tightest
}

/// Where the cpu controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hierarchy {
    /// In a hierarchy of cgroup v1.
    Cpu,
    /// In that of cgroup v2.
    Unified,
}

impl Hierarchy {
    const fn usual_places(self) -> &'static [&'static [u8]] {
        match self {
            Self::Cpu => &[b"/sys/fs/cgroup/cpu", b"/sys/fs/cgroup/cpu,cpuacct"],
            Self::Unified => &[b"/sys/fs/cgroup", b"/sys/fs/cgroup/unified"],
        }
    }
}

/// Paths of cgroups that are longer than the kernel's own programs make them are left out.
const OWN: usize = 1024;

/// The process's own cgroup in the hierarchy that has the cpu controller.
fn own_cgroup(files: &impl Files) -> Option<(Hierarchy, Text<OWN>)> {
    let mut own = None;
    for_each_line(files, c"/proc/self/cgroup", &mut |line: &[u8]| {
        // "4:cpu,cpuacct:/a/b" in v1, "0::/a/b" in v2.
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            return ControlFlow::Continue(());
        };
        if path.len() > OWN {
            return ControlFlow::Continue(());
        }
        if has(controllers, b"cpu") {
            own = Some((Hierarchy::Cpu, Text::from_bytes(path)));
            return ControlFlow::Break(());
        }
        if number == b"0" && controllers.is_empty() {
            own = Some((Hierarchy::Unified, Text::from_bytes(path)));
        }
        ControlFlow::Continue(())
    });
    own
}

/// Whether `word` is in a list with commas.
fn has(list: &[u8], word: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|item| item == word)
}

/// What counts of a line of `/proc/self/mountinfo`. The kernel writes white space and backslashes in them as `\040`.
struct Mount<'a> {
    root: &'a [u8],
    point: &'a [u8],
    kind: &'a [u8],
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    /// `32 31 0:29 /root /point rw,relatime shared:7 - cgroup source rw,cpu`: any number of fields before the dash.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|&field| field == b"-")?;
        Some(Self { root, point, kind: fields.next()?, options: fields.next_back()? })
    }

    fn is_of(&self, hierarchy: Hierarchy) -> bool {
        match hierarchy {
            Hierarchy::Cpu => self.kind == b"cgroup" && has(self.options, b"cpu"),
            Hierarchy::Unified => self.kind == b"cgroup2",
        }
    }
}

/// The bytes that a field of `/proc/self/mountinfo` stands for.
fn unescaped(field: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = field;
    core::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        if let Some((code, behind)) = after.split_at_checked(3)
            && first == b'\\'
            && let Some(byte) = octal(code)
        {
            rest = behind;
            return Some(byte);
        }
        rest = after;
        Some(first)
    })
}

fn octal(code: &[u8]) -> Option<u8> {
    code.iter().try_fold(0_u8, |value, &digit| {
        let digit = char::from(digit).to_digit(8)?;
        value.checked_mul(8)?.checked_add(digit as u8)
    })
}

/// Splits the steps above a cgroup namespace's root from a path: `/../../a` into 2 and `/a`; `/` is 0 and nothing.
fn steps_up(mut path: &[u8]) -> (usize, &[u8]) {
    let mut steps = 0;
    while let Some(rest) = path.strip_prefix(b"/..")
        && (rest.is_empty() || rest.starts_with(b"/"))
    {
        (steps, path) = (steps + 1, rest);
    }
    (steps, path.strip_suffix(b"/").unwrap_or(path))
}

/// The cgroup `own` as seen from a mount of `root`, nothing being that root itself. `None` if it can't be seen there.
fn seen_from<'a>(own: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let (own_steps, own_rest) = steps_up(own);
    let (root_steps, root_rest) = steps_up(root);
    if own_steps < root_steps && root_rest.is_empty() {
        // An ancestor of ours, with unknown names between.
        return Some(b"");
    }
    if own_steps != root_steps {
        return None;
    }
    let mut below = own_rest;
    for byte in unescaped(root_rest) {
        below = below.strip_prefix(&[byte])?;
    }
    (below.is_empty() || below.starts_with(b"/")).then_some(below)
}

struct Search<'a, F> {
    files: &'a F,
    hierarchy: Hierarchy,
    tightest: Option<u32>,
}

impl<F: Files> Search<'_, F> {
    /// Looks at every mount that shows us; where there is none at all, at the usual places.
    fn mounts(&mut self, own: &[u8]) {
        let mut mounted = false;
        for_each_line(self.files, c"/proc/self/mountinfo", &mut |line: &[u8]| {
            let Some(mount) = Mount::parse(line).filter(|mount| mount.is_of(self.hierarchy)) else {
                return ControlFlow::Continue(());
            };
            mounted = true;
            let Some(below) = seen_from(own, mount.root) else {
                return ControlFlow::Continue(());
            };
            // One that shows the whole hierarchy, and isn't hidden by another mount, shows all there is.
            if self.levels(mount.point, below) && mount.root == b"/" {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if !mounted {
            self.usual_places(own);
        }
    }

    fn usual_places(&mut self, own: &[u8]) {
        let Some(below) = seen_from(own, b"/") else {
            return;
        };
        for place in self.hierarchy.usual_places() {
            if self.levels(place, below) {
                return;
            }
        }
    }

    /// Reads the quotas of the cgroup at `below` a mount point, and of its ancestors up to the mount point. Whether
    /// there is any level with a quota to read; "no limit" is one, too.
    fn levels(&mut self, mount: &[u8], below: &[u8]) -> bool {
        let mut path = Path::new();
        for byte in unescaped(mount) {
            if path.push(&[byte]).is_none() {
                return false;
            }
        }
        let top = path.as_bytes().len();
        if path.push(below).is_none() {
            return false;
        }
        let mut any = false;
        loop {
            any |= self.level(&mut path).is_some();
            let Some(up) = path.as_bytes().get(top..).and_then(|below| below.iter().rposition(|&byte| byte == b'/'))
            else {
                return any;
            };
            path.cut(top + up);
        }
    }

    /// Reads the quota of the cgroup at `path`; `None` if it has no file for it.
    fn level(&mut self, path: &mut Path) -> Option<()> {
        // Two numbers of 20 digits at most.
        let mut buffer = [0; 64];
        let quota = match self.hierarchy {
            Hierarchy::Unified => {
                let text = self.read(path, b"/cpu.max", &mut buffer)?;
                let mut words = text.split(u8::is_ascii_whitespace);
                whole_cpus(words.next(), words.next())
            }
            Hierarchy::Cpu => {
                let (quota, period) = buffer.split_at_mut(32);
                let quota = self.read(path, b"/cpu.cfs_quota_us", quota)?;
                whole_cpus(Some(quota), self.read(path, b"/cpu.cfs_period_us", period))
            }
        };
        self.tightest = self.tightest.into_iter().chain(quota).min();
        Some(())
    }

    fn read<'b>(&self, path: &mut Path, file: &[u8], buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let directory = path.as_bytes().len();
        path.push(file)?;
        let text = read_small(self.files, path.as_c_str(), buffer);
        path.cut(directory);
        text
    }
}

/// The whole CPUs of a quota; `None` for `max`, `-1` and what the kernel doesn't write.
fn whole_cpus(quota: Option<&[u8]>, period: Option<&[u8]>) -> Option<u32> {
    let (quota, period) = (number(quota?)?, number(period?)?);
    if quota == 0 || period == 0 {
        return None;
    }
    Some(u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::LINE;
    use crate::files::testing::{Memory, Tree};
    use proptest::prelude::*;

    const ROOT_MOUNTS: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                               23 22 0:5 / /proc rw shared:2 master:1 - proc proc rw\n";
    const V2: &str =
        "31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    const V1: &str = "31 22 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      32 31 0:28 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n\
                      33 31 0:29 / /sys/fs/cgroup/cpuset rw shared:7 - cgroup cgroup rw,cpuset\n\
                      34 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n";

    /// A machine with these mounts, and us in these cgroups.
    fn machine(cgroups: &str, mounts: &str) -> Tree {
        Tree::new().with("/proc/self/cgroup", cgroups).with("/proc/self/mountinfo", format!("{ROOT_MOUNTS}{mounts}"))
    }

    impl Tree {
        fn v1(self, cgroup: &str, quota: &str) -> Self {
            self.with(&format!("{cgroup}/cpu.cfs_quota_us"), format!("{quota}\n"))
                .with(&format!("{cgroup}/cpu.cfs_period_us"), "100000\n")
        }

        fn v2(self, cgroup: &str, quota: &str) -> Self {
            self.with(&format!("{cgroup}/cpu.max"), format!("{quota}\n"))
        }
    }

    #[test]
    fn v2_takes_the_tightest_of_all_ancestors() {
        let machine = machine("0::/user.slice/job/step\n", V2)
            .v2("/sys/fs/cgroup/user.slice/job/step", "max 100000")
            .v2("/sys/fs/cgroup/user.slice/job", "300000 100000")
            .v2("/sys/fs/cgroup/user.slice", "800000 100000");
        assert_eq!(cpu_quota(&machine), Some(3));
        assert_eq!(cpu_quota(&machine.v2("/sys/fs/cgroup/user.slice", "100000 50000")), Some(2));
    }

    #[test]
    fn v2_without_the_controller_in_the_own_group_asks_its_ancestors() {
        let machine = machine("0::/job/step\n", V2).with("/sys/fs/cgroup/job/step/cgroup.procs", "1\n");
        assert_eq!(cpu_quota(&machine), None);
        assert_eq!(cpu_quota(&machine.v2("/sys/fs/cgroup/job", "200000 100000")), Some(2));
    }

    #[test]
    fn v2_in_a_cgroup_namespace_is_the_mounts_root() {
        assert_eq!(cpu_quota(&machine("0::/\n", V2).v2("/sys/fs/cgroup", "400000 100000")), Some(4));
    }

    #[test]
    fn no_limit_is_no_quota() {
        assert_eq!(cpu_quota(&machine("0::/job\n", V2).v2("/sys/fs/cgroup/job", "max 100000")), None);
        assert_eq!(cpu_quota(&machine("4:cpu:/job\n", V1).v1("/sys/fs/cgroup/cpu,cpuacct/job", "-1")), None);
        assert_eq!(cpu_quota(&machine("", "")), None);
        assert_eq!(cpu_quota(&Tree::new()), None);
    }

    #[test]
    fn v1_takes_the_tightest_of_all_ancestors() {
        let machine = machine("9:memory:/other\n4:cpu,cpuacct:/slurm/job\n3:cpuset:/\n", V1)
            .v1("/sys/fs/cgroup/cpu,cpuacct/slurm/job", "600000")
            .v1("/sys/fs/cgroup/cpu,cpuacct/slurm", "250000")
            .v1("/sys/fs/cgroup/cpu,cpuacct", "-1")
            .v1("/sys/fs/cgroup/memory/other", "100000");
        assert_eq!(cpu_quota(&machine), Some(3));
    }

    #[test]
    fn hybrid_systems_have_quotas_where_the_controller_is() {
        let unified = "38 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let mounts = format!("{unified}{V1}");
        let in_v1 = machine("4:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n", &mounts)
            .v1("/sys/fs/cgroup/cpu,cpuacct/a", "200000")
            .v2("/sys/fs/cgroup/unified/a", "100000 100000");
        assert_eq!(cpu_quota(&in_v1), Some(2));
        let in_v2 = machine("9:memory:/a\n0::/a\n", &mounts).v2("/sys/fs/cgroup/unified/a", "100000 100000");
        assert_eq!(cpu_quota(&in_v2), Some(1));
    }

    #[test]
    fn a_containers_mount_has_its_root_stripped() {
        let mounts = "90 80 0:30 /docker/abc /sys/fs/cgroup/cpu ro master:8 - cgroup cgroup rw,cpu,cpuacct\n";
        let of = |own: &str| {
            let machine = machine(&format!("4:cpu,cpuacct:{own}\n"), mounts)
                .v1("/sys/fs/cgroup/cpu", "700000")
                .v1("/sys/fs/cgroup/cpu/inner", "500000")
                .v1("/sys/fs/cgroup/cpu/docker/abc", "100000")
                .v1("/sys/fs/cgroup/cpud", "100000");
            cpu_quota(&machine)
        };
        assert_eq!(of("/docker/abc"), Some(7));
        assert_eq!(of("/docker/abc/inner"), Some(5));
        // Neighbours and ancestors of the mount's root are not under it.
        assert_eq!(of("/docker/abcd"), None);
        assert_eq!(of("/docker/abd"), None);
        assert_eq!(of("/docker"), None);
        assert_eq!(of("/"), None);
    }

    #[test]
    fn mounts_from_outside_of_the_cgroup_namespace() {
        let of = |own: &str, root: &str| {
            let mount = format!("90 80 0:30 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
            let machine = machine(&format!("0::{own}\n"), &mount)
                .v2("/sys/fs/cgroup", "700000 100000")
                .v2("/sys/fs/cgroup/a", "500000 100000")
                .v2("/a", "100000 100000");
            cpu_quota(&machine)
        };
        // An ancestor, and names that nobody knows between.
        assert_eq!(of("/", "/.."), Some(7));
        assert_eq!(of("/a", "/../.."), Some(7));
        assert_eq!(of("/../a", "/../.."), Some(7));
        // The same level, outside of the namespace.
        assert_eq!(of("/../a", "/.."), Some(5));
        assert_eq!(of("/../x/a", "/../x"), Some(5));
        // Not ours.
        assert_eq!(of("/../a", "/"), None);
        assert_eq!(of("/..", "/"), None);
        assert_eq!(of("/", "/../x"), None);
        // A name that only begins like a step up.
        assert_eq!(of("/..a/a", "/..a"), Some(5));
    }

    #[test]
    fn names_with_white_space_and_backslashes() {
        let mounts = "90 80 0:30 /my\\040job\\134x /mnt/c\\040g\\011s rw - cgroup2 odd\\040source rw\n";
        let machine = machine("0::/my job\\x/step 1\n", mounts).v2("/mnt/c g\ts/step 1", "200000 100000");
        assert_eq!(cpu_quota(&machine), Some(2));
    }

    #[test]
    fn a_cgroups_name_may_have_colons() {
        let machine = machine("0::/a:b::c\n", V2).v2("/sys/fs/cgroup/a:b::c", "200000 100000");
        assert_eq!(cpu_quota(&machine), Some(2));
    }

    #[test]
    fn every_mount_that_shows_us_counts() {
        let mounts = "90 80 0:30 /elsewhere /mnt/0 rw - cgroup2 cgroup2 rw\n\
                      91 80 0:30 / /mnt/hidden rw - cgroup2 cgroup2 rw\n\
                      93 80 0:30 /a/b /mnt/2 rw - cgroup2 cgroup2 rw\n\
                      92 80 0:30 /a /mnt/1 rw - cgroup2 cgroup2 rw\n";
        let machine = machine("0::/a/b\n", mounts)
            .v2("/mnt/0", "100000 100000")
            .v2("/mnt/0/a/b", "100000 100000")
            .v2("/mnt/1", "300000 100000")
            .v2("/mnt/1/b", "max 100000")
            .v2("/mnt/2", "max 100000");
        assert_eq!(cpu_quota(&machine), Some(3));
    }

    #[test]
    fn without_a_mount_the_usual_places_are_tried() {
        for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let machine = machine("0::/job\n", "").v2(&format!("{place}/job"), "200000 100000");
            assert_eq!(cpu_quota(&machine), Some(2), "{place}");
            let bare = Tree::new().with("/proc/self/cgroup", "0::/job\n").v2(place, "200000 100000");
            assert_eq!(cpu_quota(&bare), Some(2), "{place}");
            assert_eq!(cpu_quota(&Tree::new().v2(place, "200000 100000")), Some(2), "{place}");
        }
        for place in ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"] {
            let machine = machine("4:cpu:/job\n", "").v1(&format!("{place}/job"), "200000");
            assert_eq!(cpu_quota(&machine), Some(2), "{place}");
            assert_eq!(cpu_quota(&Tree::new().v1(place, "200000")), Some(2), "{place}");
        }
        // What is outside of the namespace would be read in the wrong directory.
        assert_eq!(cpu_quota(&machine("0::/../job\n", "").v2("/sys/fs/cgroup", "100000 100000")), None);
        // And a mount that doesn't show us is no reason to believe in another one's quota.
        let other = "90 80 0:30 /b /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cpu_quota(&machine("0::/a\n", other).v2("/sys/fs/cgroup", "100000 100000")), None);
    }

    #[test]
    fn a_part_of_a_cpu_counts_as_a_whole_one() {
        for (text, cpus) in [
            ("150000 100000", 2),
            ("50000 100000", 1),
            ("1000 1000000", 1),
            ("200000 100000", 2),
            ("200001 100000", 3),
            ("27200000 100000", 272),
            ("1 18446744073709551615", 1),
            ("18446744073709551615 1", u32::MAX),
        ] {
            assert_eq!(cpu_quota(&machine("0::/\n", V2).v2("/sys/fs/cgroup", text)), Some(cpus), "{text}");
        }
    }

    #[test]
    fn a_broken_quota_is_none_and_hides_no_other() {
        let long = "9".repeat(10_000);
        for text in ["", "max", "100000", "100000 0", "0 100000", "-5 100000", "1e5 100000", "100000 max", "\0", &long]
        {
            let machine = machine("0::/a/b\n", V2).v2("/sys/fs/cgroup/a/b", text);
            assert_eq!(cpu_quota(&machine), None, "{text}");
            assert_eq!(cpu_quota(&machine.v2("/sys/fs/cgroup/a", "200000 100000")), Some(2), "{text}");
        }
        let no_period = machine("4:cpu:/a\n", V1).with("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "100000\n");
        assert_eq!(cpu_quota(&no_period), None);
        for text in ["", "0", "-1", "many"] {
            assert_eq!(cpu_quota(&machine("4:cpu:/\n", V1).v1("/sys/fs/cgroup/cpu,cpuacct", text)), None, "{text}");
        }
    }

    #[test]
    fn broken_tables_are_as_good_as_none() {
        for mounts in
            ["90\n", "90 80 0:30 / /x rw cgroup2\n", "90 80 0:30 / /x rw -\n", "90 80 0:30 / /x rw - cgroup2\n", "\n\n"]
        {
            assert_eq!(cpu_quota(&machine("0::/\n", mounts).v2("/x", "100000 100000")), None, "{mounts}");
        }
        for cgroups in ["0\n", "0:\n", "::\n", "0:cpu\n", "1::/\n", "4:cpu2,xcpu:/\n"] {
            // As without /proc.
            let machine = machine(cgroups, V2).v2("/sys/fs/cgroup", "200000 100000");
            assert_eq!(cpu_quota(&machine), Some(2), "{cgroups}");
        }
    }

    #[test]
    fn a_long_table_and_huge_lines() {
        let mut mounts = String::new();
        for layer in 0..40 {
            let lowers = "/var/lib/docker/overlay2/l/QWERTYUIOPASDFGHJKLZXCVBNM:".repeat(layer * 4);
            mounts +=
                &format!("{} 22 0:99 / /overlay/{layer} rw - overlay overlay rw,lowerdir={lowers}\n", 100 + layer);
        }
        assert!(mounts.lines().any(|line| line.len() > 2 * LINE));
        mounts += V2;
        assert_eq!(cpu_quota(&machine("0::/a\n", &mounts).v2("/sys/fs/cgroup/a", "200000 100000")), Some(2));

        // A path that has no room is left out, and the ancestors under a nearer mount are found all the same.
        let deep = "/0123456789abcdef".repeat(80);
        let near = format!("{V2}40 22 0:27 {} /near rw - cgroup2 cgroup2 rw\n", "/0123456789abcdef".repeat(40));
        let deep_machine = machine(&format!("0::{deep}\n"), &near).v2("/near", "100000 100000");
        assert_eq!(cpu_quota(&deep_machine), None);
        let fitting = "/0123456789abcdef".repeat(60);
        let machine = machine(&format!("0::{fitting}\n"), &near).v2("/near", "200000 100000");
        assert_eq!(cpu_quota(&machine), Some(2));
    }

    /// Texts that are nearly the kernel's.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "0::",
            "4:cpu:",
            "/",
            "/..",
            "/a",
            " ",
            " - ",
            "cgroup2 ",
            "cgroup ",
            ",cpu",
            "\\040",
            "\\9",
            "\\",
            "\n",
            "90 80 0:30 ",
            "max",
            "100000 ",
            "-1",
            "9999999999999999999",
        ];
        let word = prop_oneof![
            8 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
            1 => (any::<u8>(), 0..3000usize).prop_map(|(byte, count)| vec![byte; count]),
        ];
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
    }

    /// A cgroup's name, and its quota and period.
    type Level = (&'static str, Option<(u64, u64)>);

    fn level() -> impl Strategy<Value = Level> {
        let name = prop::sample::select(vec!["a", "job 1", "x\\y", "..b", "0123456789abcdef"]);
        (name, prop::option::of((1u64..5_000_000, 1_000u64..1_000_000)))
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_quota_or_none(
            cgroups in nearly(), mounts in nearly(), other in prop::option::of(nearly()), piece in 1usize..5000,
        ) {
            let files = [(b"/proc/self/cgroup".to_vec(), cgroups), (b"/proc/self/mountinfo".to_vec(), mounts)].into();
            prop_assert_ne!(cpu_quota(&Memory { files, other, piece }), Some(0));
        }

        #[test]
        fn the_tightest_level_in_sight_wins(
            levels in prop::collection::vec(level(), 0..6),
            shown in any::<prop::sample::Index>(),
            v1 in any::<bool>(),
            piece in 64usize..5000,
        ) {
            // The mount begins at the cgroup of the first `shown` names.
            let shown = shown.index(levels.len() + 1);
            let path = |levels: &[Level]| levels.iter().map(|(name, _)| format!("/{name}")).collect::<String>();
            let rooted = |path: String| if path.is_empty() { "/".into() } else { path };
            let (own, root) = (rooted(path(&levels)), rooted(path(&levels[..shown])));
            let root = root.replace('\\', "\\134").replace(' ', "\\040");
            let (line, kind) = if v1 { ("2:cpuacct,cpu:", "cgroup x rw,cpuacct,cpu") } else { ("0::", "cgroup2 x rw") };

            let mut memory = Memory { piece, ..Memory::default() };
            let mut write = |path: String, text: String| {
                memory.files.insert(path.into_bytes(), text.into_bytes());
            };
            write("/proc/self/cgroup".into(), format!("7:pids:/p\n{line}{own}\n"));
            write("/proc/self/mountinfo".into(), format!("5 1 0:9 {root} /c\\040g rw - {kind}\n"));
            // The mount's root itself has the quota of the last name above it.
            for below in shown.max(1)..=levels.len() {
                let directory = format!("/c g{}", path(&levels[shown..below]));
                let (quota, period) = levels[below - 1].1.unwrap_or((0, 100_000));
                if v1 {
                    let quota = if quota == 0 { "-1".into() } else { quota.to_string() };
                    write(format!("{directory}/cpu.cfs_quota_us"), format!("{quota}\n"));
                    write(format!("{directory}/cpu.cfs_period_us"), format!("{period}\n"));
                } else {
                    let quota = if quota == 0 { "max".into() } else { quota.to_string() };
                    write(format!("{directory}/cpu.max"), format!("{quota} {period}\n"));
                }
            }
            let in_sight = levels.iter().skip(shown.saturating_sub(1)).filter_map(|&(_, quota)| quota);
            let wanted = in_sight.map(|(quota, period)| (quota as f64 / period as f64).ceil() as u32).min();
            prop_assert_eq!(cpu_quota(&memory), wanted);
        }
    }
}
