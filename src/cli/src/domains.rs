//! The ledgers of this user's domains, as files.

use crate::node::Node;
use knlfix_core::ledger::{Ledger, Owner, VERSION, layout};
use knlfix_core::process;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DIRECTORY: &str = "/dev/shm";

/// How long to wait for a process that joins or leaves just now. It takes some microseconds.
const PATIENCE: Duration = Duration::from_millis(200);

/// This user's ledgers, of this version of the layout.
pub(crate) fn paths() -> io::Result<Vec<PathBuf>> {
    let user = fs::metadata("/proc/self")?.uid();
    let prefix = format!("knlfix-{VERSION}-{user}-");
    let entries = fs::read_dir(DIRECTORY)?.filter_map(Result::ok);
    let ours = entries.filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()));
    let mut paths: Vec<_> = ours.map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// A ledger's file, locked: nobody joins or leaves meanwhile.
pub(crate) struct Domain {
    file: File,
    map: Option<MmapRaw>,
}

impl Domain {
    /// Opens the ledger at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let no_follow = 0o400_000; // O_NOFOLLOW on x86-64
        let file = OpenOptions::new().read(true).write(true).custom_flags(no_follow).open(path)?;
        let begin = Instant::now();
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(error),
                TryLockError::WouldBlock if begin.elapsed() > PATIENCE => {
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process keeps it locked"));
                }
                TryLockError::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        // One that its maker did not finish has nothing to map.
        let is_whole = file.metadata()?.len() == layout::SIZE as u64;
        let map = is_whole.then(|| MmapOptions::new().len(layout::SIZE).map_raw(&file)).transpose()?;
        Ok(Self { file, map })
    }

    /// The ledger; `None` if the file is not one.
    pub(crate) fn ledger(&self) -> Option<Ledger<'_>> {
        // SAFETY: mapped whole, writable, as long as `self` lives, and the result borrows `self`.
        let ledger = unsafe { Ledger::at(self.map.as_ref()?.as_ptr()) };
        ledger.is_valid().then_some(ledger)
    }

    /// Whether the file still has a name.
    pub(crate) fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }
}

/// Whether the owner of a slot still runs.
pub(crate) fn is_alive(owner: Owner) -> bool {
    process::is_alive(&Node, owner, |pid| Path::new("/proc").join(pid.to_string()).exists())
}
