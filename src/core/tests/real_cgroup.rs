//! Quotas of cgroups that are made here, as the kernel shows them: v1 or v2, nested, in containers with and without a
//! cgroup namespace. Needs root and a cgroup file system with the cpu controller; where that can't be had, it says so.

use knlfix_core::cgroup::cpu_quota;
use knlfix_core::files::Files;
use std::ffi::{CStr, OsStr};
use std::io::Write;
use std::os::unix::{ffi::OsStrExt, fs::FileExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

struct Kernel;

impl Files for Kernel {
    type File = fs::File;

    fn open(&self, path: &CStr) -> Option<fs::File> {
        fs::File::open(OsStr::from_bytes(path.to_bytes())).ok()
    }

    fn read(&self, file: &fs::File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        file.read_at(buffer, offset).ok()
    }
}

/// Set in a copy of this program that only tells its quota.
const TELL: &str = "KNLFIX_TEST_TELL";

/// Runs what follows in the cgroup that its first word is the directory of.
const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// Shows the cgroups from $1 on at $2, and no others, as a container without a cgroup namespace has them.
const BIND: &str = r#"mount --bind "$1" "$2" && umount -l "$0" && shift 2 && exec "$@""#;

/// Mounts the cgroup namespace's own view, of type $0 with options $1, at $2.
const MOUNT: &str = r#"mount -t "$0" -o "$1" none "$2" && shift 2 && exec "$@""#;

/// Three cgroups, each in the one before it.
struct Groups {
    v2: bool,
    mount: PathBuf,
    top: PathBuf,
    job: PathBuf,
    step: PathBuf,
    /// Where to mount something.
    spot: PathBuf,
    enabled: bool,
}

impl Groups {
    fn new() -> Result<Self, String> {
        let (v2, mount) = mount_of_cpu().ok_or("no cgroup file system with the cpu controller is mounted")?;
        let top = mount.join(format!("knlfix-test-{}", std::process::id()));
        let (job, step) = (top.join("job 1"), top.join("job 1/step"));
        let spot = env::temp_dir().join(format!("knlfix test {}", std::process::id()));
        let control = mount.join("cgroup.subtree_control");
        let enabled =
            v2 && !fs::read_to_string(&control).unwrap_or_default().split_whitespace().any(|word| word == "cpu");
        let groups = Self { v2, mount, top, job, step, spot, enabled };
        if groups.enabled {
            fs::write(&control, "+cpu").map_err(|error| format!("{}: {error}", control.display()))?;
        }
        for group in [&groups.top, &groups.job, &groups.step] {
            fs::create_dir(group).map_err(|error| format!("{}: {error}", group.display()))?;
            if v2 && *group != groups.step {
                fs::write(group.join("cgroup.subtree_control"), "+cpu").unwrap();
            }
        }
        fs::create_dir(&groups.spot).unwrap();
        let namespaces = Command::new("unshare").args(["-C", "-m", "true"]).output();
        if !namespaces.is_ok_and(|output| output.status.success()) {
            return Err("namespaces can't be made".into());
        }
        Ok(groups)
    }

    /// Sets the quotas of the three, in CPUs.
    fn set(&self, top: Option<f64>, job: Option<f64>, step: Option<f64>) {
        let all = [(&self.top, top), (&self.job, job), (&self.step, step)];
        // v1 refuses a child more than its parent has: first none, then the outermost.
        for (group, _) in all {
            self.write(group, None);
        }
        for (group, cpus) in all {
            self.write(group, cpus);
        }
    }

    fn write(&self, group: &Path, cpus: Option<f64>) {
        let quota = cpus.map(|cpus| (cpus * 50_000.0).to_string());
        if self.v2 {
            let quota = quota.unwrap_or("max".into());
            fs::write(group.join("cpu.max"), format!("{quota} 50000")).unwrap();
        } else {
            fs::write(group.join("cpu.cfs_period_us"), "50000").unwrap();
            fs::write(group.join("cpu.cfs_quota_us"), quota.unwrap_or("-1".into())).unwrap();
        }
    }

    /// What a process in the innermost cgroup takes for its quota, started through `launcher`.
    fn told(&self, launcher: &[&OsStr]) -> Option<u32> {
        let output = Command::new("sh")
            .args([OsStr::new("-c"), OsStr::new(ENTER), self.step.as_os_str()])
            .args(launcher)
            .arg(env::current_exe().unwrap())
            .args(["--exact", "quotas_of_real_cgroups", "--nocapture"])
            .env(TELL, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let told = text.lines().find_map(|line| line.split_once("quota: "));
        let (_, quota) =
            told.unwrap_or_else(|| panic!("{launcher:?}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        quota.parse().ok()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in [&self.step, &self.job, &self.top, &self.spot] {
            let _ = fs::remove_dir(group);
        }
        if self.enabled {
            let _ = fs::write(self.mount.join("cgroup.subtree_control"), "-cpu");
        }
    }
}

/// Whether the cpu controller is in v2, and where that is mounted.
fn mount_of_cpu() -> Option<(bool, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of = |kind: &str, has_cpu: &dyn Fn(&str, &str) -> bool| {
        let found = mounts.clone().find(|mount| mount[2] == kind && has_cpu(mount[1], mount[3]));
        found.map(|mount| PathBuf::from(mount[1]))
    };
    let v1 = of("cgroup", &|_, options| options.split(',').any(|option| option == "cpu"));
    let v2 = of("cgroup2", &|point, _| {
        let controllers = fs::read_to_string(Path::new(point).join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|controller| controller == "cpu")
    });
    v1.map(|mount| (false, mount)).or(v2.map(|mount| (true, mount)))
}

#[test]
fn quotas_of_real_cgroups() {
    if env::var_os(TELL).is_some() {
        println!("quota: {}", cpu_quota(&Kernel).map_or("none".into(), |cpus| cpus.to_string()));
        return;
    }
    // Written past the test harness, which shows nothing of a test that passes.
    let say = |text: &str| writeln!(io::stderr(), "real_cgroup: {text}").unwrap();
    let groups = match Groups::new() {
        Ok(groups) => groups,
        Err(why) => return say(&format!("NOT TESTED, as {why}")),
    };
    // What holds around these cgroups, as in a container that has a quota itself.
    let around = groups.told(&[]);
    let with_around = |cpus: u32| around.into_iter().chain([cpus]).min();

    for (top, job, step, cpus) in [
        (Some(7.5), None, None, 8),
        (Some(7.5), Some(3.0), None, 3),
        (Some(7.5), Some(3.0), Some(1.5), 2),
        (Some(3.0), None, Some(3.0), 3),
        (None, None, Some(0.5), 1),
    ] {
        groups.set(top, job, step);
        assert_eq!(groups.told(&[]), with_around(cpus), "top {top:?}, job {job:?}, step {step:?}");
    }
    if groups.v2 {
        groups.set(Some(2.0), Some(3.0), Some(4.0));
        assert_eq!(groups.told(&[]), with_around(2), "children with more than their parent");
    }

    let spot = groups.spot.as_os_str();
    let [unshare, shell, command] = ["unshare", "sh", "-c"].map(OsStr::new);
    let container = [
        unshare,
        OsStr::new("-m"),
        shell,
        command,
        OsStr::new(BIND),
        groups.mount.as_os_str(),
        groups.job.as_os_str(),
        spot,
    ];
    groups.set(Some(9.0), Some(3.0), None);
    assert_eq!(groups.told(&container), Some(3), "the mount's root is the job");
    groups.set(Some(9.0), Some(4.0), Some(2.0));
    assert_eq!(groups.told(&container), Some(2), "and the step is below it");
    groups.set(Some(2.0), None, None);
    assert_eq!(groups.told(&container), None, "what is above a container's mount is out of sight");

    groups.set(Some(2.0), None, Some(1.0));
    assert_eq!(groups.told(&[unshare, OsStr::new("-C")]), around, "nobody knows the names below the mount");
    let (kind, options) = if groups.v2 { ("cgroup2", "rw") } else { ("cgroup", "cpu") };
    let [both, mount, kind, options] = ["-Cm", MOUNT, kind, options].map(OsStr::new);
    let namespaced = [unshare, both, shell, command, mount, kind, options, spot];
    assert_eq!(groups.told(&namespaced), with_around(1), "the namespace's own mount");
    say(&format!("tested with cgroup {}", if groups.v2 { "v2" } else { "v1" }));
}
