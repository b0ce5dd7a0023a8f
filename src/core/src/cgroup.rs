//! The CPU quota of the process's cgroup.
//!
//! A quota is so many microseconds of CPU time in each period: `cpu.max` in the unified hierarchy (v2),
//! `cpu.cfs_quota_us` and `cpu.cfs_period_us` in the `cpu` controller's own (v1). The quota of every ancestor holds as
//! well, so the tightest counts; container runtimes and batch systems like to set it one or more levels up.
//!
//! The kernel has each controller in one hierarchy at a time. If `/proc/self/cgroup` has a line for `cpu`, that is
//! where quotas are, also on hybrid systems that have v2 beside it; otherwise they are in v2.
//!
//! Where that hierarchy is mounted, `/proc/self/mountinfo` says. A mount may begin below the hierarchy's root (bind
//! mounts, as in containers without a cgroup namespace), in which case that root is stripped from our own path; or above
//! the root of our cgroup namespace (a root of `/..`), in which case the names between are unknown and the mount's own
//! root is all that can be asked; or elsewhere, and then it says nothing about us. In a container the levels above its
//! mount are out of sight: a quota there can't be seen by anybody inside.

use crate::files::{Files, Path, for_each_line, number, read_small};
use crate::text::Text;
use core::ops::ControlFlow;

/// CPUs that the cgroup's CPU quota is worth, from 1 up; `None` without a quota.
///
/// A part of a CPU counts as a whole one: 1.5 CPUs are 2, half a CPU is 1. A thread less would leave a part of the quota
/// unused for good, a thread more is throttled for a part of each period and together they use all of it. Go, OpenJDK
/// and joblib (loky) round so too; with another rule than theirs a pool of as many workers would not fit the budget.
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
    for_each_line(files, c"/proc/self/cgroup", |line| {
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
        for_each_line(self.files, c"/proc/self/mountinfo", |line| {
            let Some(mount) = Mount::parse(line).filter(|mount| mount.is_of(self.hierarchy)) else {
                return ControlFlow::Continue(());
            };
            mounted = true;
            let Some(below) = seen_from(own, mount.root) else {
                return ControlFlow::Continue(());
            };
            // One that shows the whole hierarchy, and isn't hidden by another mount, shows all there is.
            if self.levels(unescaped(mount.point), below) && mount.root == b"/" {
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
            if self.levels(place.iter().copied(), below) {
                return;
            }
        }
    }

    /// Reads the quotas of the cgroup at `below` a mount point, and of its ancestors up to the mount point. Whether
    /// there is any level with a quota to read; "no limit" is one, too.
    fn levels(&mut self, mount: impl Iterator<Item = u8>, below: &[u8]) -> bool {
        let mut path = Path::new();
        for byte in mount {
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
