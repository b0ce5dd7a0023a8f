//! The ledger's file: made by the first process of a domain, mapped by all, removed by the last.
//!
//! Joining, leaving and removing happen under the kernel's lock on the file, which a process that dies gives up; nobody
//! waits for it longer than [`PATIENCE`]. So nobody removes a file that somebody else is about to use, and nobody uses
//! one that has no name any more. What is in the ledger needs no lock.

use super::process;
use crate::sys;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use knlfix_core::ledger::{Ledger, layout};
use libc::c_int;

/// 100 microseconds, this often at most. Joining takes a fifth of that, and hundreds may join at once.
const PATIENCE: usize = 2000;

/// What is mapped in this process and its forked children: the file, and where.
static FILE: AtomicU64 = AtomicU64::new(0);
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Why there is no ledger.
pub(super) enum Refused {
    /// A system call failed.
    Failed(&'static str, c_int),
    /// Somebody holds the file's lock.
    Busy,
    /// It belongs to another user, or others may write to it.
    NotOurs,
    /// It is not a ledger of this layout.
    Foreign,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Failed(what, error) => write!(f, "{what} failed (error {error})"),
            Self::Busy => f.write_str("it stays locked"),
            Self::NotOurs => f.write_str("it is not a file of this user alone"),
            Self::Foreign => f.write_str("it is no ledger of this version"),
        }
    }
}

/// The ledger's file, open and locked.
pub(super) struct Locked {
    fd: c_int,
    stat: libc::stat,
}

impl Drop for Locked {
    fn drop(&mut self) {
        sys::unlock(self.fd);
        sys::close(self.fd);
    }
}

impl Locked {
    /// Opens the file, and makes it if `create` says so.
    pub(super) fn open(path: &CStr, create: bool) -> Result<Self, Refused> {
        let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK;
        let flags = if create { flags | libc::O_CREAT } else { flags };
        let mut naps = 0;
        loop {
            let fd = sys::open(path, flags).map_err(|error| Refused::Failed("opening it", error))?;
            while sys::try_lock(fd).is_err() {
                naps += 1;
                if naps > PATIENCE {
                    sys::close(fd);
                    return Err(Refused::Busy);
                }
                sys::nap();
            }
            // SAFETY: plain numbers are a valid `stat`.
            let mut locked = Self { fd, stat: unsafe { core::mem::zeroed() } };
            locked.stat = sys::stat(fd).map_err(|error| Refused::Failed("fstat", error))?;
            let is_file = locked.stat.st_mode & libc::S_IFMT == libc::S_IFREG;
            if !is_file || locked.stat.st_uid != sys::user() || locked.stat.st_mode & 0o077 != 0 {
                return Err(Refused::NotOurs);
            }
            if locked.stat.st_nlink > 0 {
                return Ok(locked);
            }
            // It was removed while we waited. There may be another by now.
            naps += 1;
        }
    }

    /// Maps the ledger, and makes it if nobody has.
    pub(super) fn ledger(&self) -> Result<Ledger<'static>, Refused> {
        let failed = |what| move |error| Refused::Failed(what, error);
        if sys::longest_file() < layout::SIZE as u64 {
            return Err(Refused::Failed("growing it", libc::EFBIG));
        }
        let is_new = self.stat.st_size == 0;
        if is_new {
            sys::truncate(self.fd, layout::SIZE).map_err(failed("ftruncate"))?;
        } else if self.stat.st_size != layout::SIZE as libc::off_t {
            return Err(Refused::Foreign);
        }
        // Where a file system can't promise room, a full one would kill us.
        sys::allocate(self.fd, layout::HEADER).map_err(failed("fallocate"))?;
        let known = BASE.load(Ordering::Acquire);
        let base = if known != 0 && self.is_mapped() {
            known as *mut u8
        } else {
            let base = sys::map(Some(self.fd), layout::SIZE).map_err(failed("mmap"))?;
            FILE.store(self.stat.st_ino, Ordering::Release);
            BASE.store(base as usize, Ordering::Release);
            base
        };
        // SAFETY: mapped for good (a process that joins another ledger later leaves this one mapped), and so long.
        let ledger = unsafe { Ledger::at(base) };
        if !ledger.is_valid() {
            // Under the lock, an unfinished ledger is one whose maker died.
            ledger.create();
        }
        Ok(ledger)
    }

    /// Whether it is the file that this process has mapped.
    pub(super) fn is_mapped(&self) -> bool {
        FILE.load(Ordering::Acquire) == self.stat.st_ino
    }

    /// Makes room for the slot `index`.
    pub(super) fn reserve(&self, index: usize) -> bool {
        layout::needed_by(index).into_iter().all(|range| sys::allocate(self.fd, range).is_ok())
    }

    /// Removes the file, if nobody alive has a slot.
    pub(super) fn remove_if_empty(&self, path: &CStr, ledger: Ledger<'_>) {
        if !ledger.owners().any(|(_, owner)| process::is_alive(owner)) {
            let _ = sys::unlink(path);
        }
    }
}

/// The ledger that this process, or the one it was forked from, has mapped.
pub(super) fn mapped() -> Option<Ledger<'static>> {
    match BASE.load(Ordering::Acquire) {
        0 => None,
        // SAFETY: mapped for good by `Locked::ledger`.
        base => Some(unsafe { Ledger::at(base as *const u8) }),
    }
}
