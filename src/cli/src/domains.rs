//! The ledgers of this user's domains, as files.

use crate::node::Node;
use knlfix_core::ledger::{Ledger, Owner, VERSION, layout};
use knlfix_core::process;
use memmap2::{MmapMut, MmapOptions, MmapRaw};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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

/// A copy of what a ledger holds.
///
/// Read with `pread(2)`, without the lock: nobody waits for us, nothing is written, a hole stays a hole, and a file that
/// is removed or cut short meanwhile costs us no more than what it held.
pub(crate) struct Snapshot(MmapMut);

impl Snapshot {
    /// The ledger at `path`; `None` while it is being made. Only a file of this user alone is believed, as the library
    /// does it.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != fs::metadata("/proc/self")?.uid() || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("not a file of this user alone"));
        }
        match metadata.len() {
            0 => return Ok(None),
            length if length != layout::SIZE as u64 => return Err(io::Error::other("no ledger of this version")),
            _ => {}
        }
        let mut copy = MmapMut::map_anon(layout::SIZE)?;
        read_range(&file, &mut copy, layout::HEADER)?;
        let snapshot = Self(copy);
        if !snapshot.ledger().is_valid() {
            return Err(io::Error::other("no ledger of this version"));
        }
        let bound = snapshot.ledger().bound();
        let Self(mut copy) = snapshot;
        for range in layout::used_by(bound) {
            read_range(&file, &mut copy, range)?;
        }
        Ok(Some(Self(copy)))
    }

    pub(crate) fn ledger(&self) -> Ledger<'_> {
        // SAFETY: mapped whole, writable, as long as `self` lives, and the result borrows `self`.
        unsafe { Ledger::at(self.0.as_ptr()) }
    }
}

/// Copies a part of the file to the same place. What has been cut off meanwhile stays 0.
fn read_range(file: &File, copy: &mut [u8], range: Range<usize>) -> io::Result<()> {
    let offset = range.start as u64;
    match file.read_exact_at(&mut copy[range], offset) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

/// Whether the owner of a slot still runs.
pub(crate) fn is_alive(owner: Owner) -> bool {
    process::is_alive(&Node, owner, |pid| Path::new("/proc").join(pid.to_string()).exists())
}
