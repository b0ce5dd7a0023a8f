//! Processes, their threads and the threads' masks, as `/proc` shows them.

use crate::Failure;
use knlfix_core::cpumask::CpuMask;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// Its arguments with blanks between; the kernel's name for it where there are none.
    pub(crate) command: String,
    pub(crate) threads: Vec<Thread>,
}

pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) mask: CpuMask,
}

/// The mask of the calling thread.
pub(crate) fn own_mask() -> Option<CpuMask> {
    Status::read(Path::new("/proc/thread-self"))?.mask()
}

/// The processes `roots` and all that descend from them now, each parent before its children. Those that end meanwhile
/// are left out, and so are we.
pub(crate) fn trees(roots: &[u32]) -> Result<Vec<Process>, Failure> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for (pid, path) in numbered(Path::new("/proc")) {
        if let Some(parent) = Status::read(&path).and_then(|status| status.number("PPid")) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::<Process>::new();
    for &root in roots {
        let mut waiting = vec![root];
        while let Some(pid) = waiting.pop() {
            // One root may descend from another.
            if pid == std::process::id() || found.iter().any(|process| process.pid == pid) {
                continue;
            }
            match process(pid) {
                Some(process) => found.push(process),
                None if pid == root => return Err(Failure::new(format!("{pid}: no such process"))),
                None => {}
            }
            waiting.extend(children.get(&pid).into_iter().flatten().rev());
        }
    }
    Ok(found)
}

/// `None` if it is none, or has ended and was only not waited for.
fn process(pid: u32) -> Option<Process> {
    let path = PathBuf::from(format!("/proc/{pid}"));
    let status = Status::read(&path)?;
    let threads = numbered(&path.join("task"))
        .filter_map(|(tid, path)| Some(Thread { tid, mask: Status::read(&path)?.mask()? }))
        .collect::<Vec<_>>();
    // The number of a thread names its process too, but is no process.
    if threads.is_empty() || status.number("Tgid") != Some(pid) {
        return None;
    }
    Some(Process { pid, parent: status.number("PPid")?, command: command(&path), threads })
}

/// Its arguments with blanks between; the kernel's name for it where there are none.
pub(crate) fn command(directory: &Path) -> String {
    let arguments = fs::read(directory.join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
    if !command.is_empty() {
        return command;
    }
    let name = fs::read(directory.join("comm")).unwrap_or_default();
    format!("[{}]", String::from_utf8_lossy(&name).trim_end_matches('\n'))
}

/// The entries of a directory whose names are numbers, in their order.
fn numbered(directory: &Path) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let numbered = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let mut sorted = numbered.collect::<Vec<_>>();
    sorted.sort();
    sorted.into_iter()
}

/// A `status` file: a line `Name:\tvalue` for each field.
struct Status(String);

impl Status {
    fn read(directory: &Path) -> Option<Self> {
        // A program's name may be anything.
        fs::read(directory.join("status")).ok().map(|bytes| Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.field(name)?.parse().ok()
    }

    /// The mask; `None` for what has ended.
    fn mask(&self) -> Option<CpuMask> {
        let has_ended = self.field("State")?.starts_with(['Z', 'X']);
        CpuMask::parse_list(self.field("Cpus_allowed_list")?).ok().filter(|_| !has_ended)
    }
}
