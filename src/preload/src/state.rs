//! What the library knows of its process: the configuration, the pins, and whether there is anything to do at all.

use crate::affinity::repair;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use knlfix_core::config::Config;
use knlfix_core::pins::Pins;

/// Every pinned thread of this process.
pub(crate) static PINS: Pins = Pins::new();

// What a forked child or its parent writes, here and in `process`, is in one section and so on one page: each page that
// is written after a fork is copied, which costs as much as three system calls.

/// Whether a runtime ever set a mask here. Until then no hook does anything: one load and a branch.
#[unsafe(link_section = ".data.knlfix_fork")]
pub(crate) static ACTIVE: AtomicBool = AtomicBool::new(false);

/// The process that `PINS` speaks of; anybody else with this memory is a vfork child, or a forked one that has not
/// been adopted yet.
#[unsafe(link_section = ".data.knlfix_fork")]
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process was forked from one that had the library at work.
#[unsafe(link_section = ".data.knlfix_fork")]
static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether there can be a pin in this process.
pub(crate) fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// A runtime set a mask: from now on the hooks look.
pub(crate) fn activate() {
    if !active() {
        at_fork(Some(repair::before_fork), repair::in_child);
        OWNER.store(crate::sys::getpid(), Ordering::Relaxed);
        ACTIVE.store(true, Ordering::Release);
    }
}

/// Has handlers called at every `fork()`: before it, and in the child. They must allocate nothing.
pub(crate) fn at_fork(before: Option<extern "C" fn()>, in_child: extern "C" fn()) {
    unsafe extern "C" {
        /// What `pthread_atfork` calls; the handlers stay for good, as the library does (see `build.rs`).
        fn __register_atfork(
            before: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
            object: *const core::ffi::c_void,
        ) -> core::ffi::c_int;
    }
    // SAFETY: the caller's promise. Without them (no memory) a few rare ways to fork go unseen.
    let _ = unsafe { __register_atfork(before, None, Some(in_child), core::ptr::null()) };
}

/// Whether the caller has the memory that the hooks write in to itself: false in a vfork child (whose writes would be
/// its parent's) and in a forked child that nobody has adopted.
pub(crate) fn is_owner() -> bool {
    !active() || OWNER.load(Ordering::Relaxed) == crate::sys::getpid()
}

/// Whether the caller runs in its parent's memory. glibc keeps every thread's number, and hands it out as the number of
/// its CPU clock; a fork brings it up to date, a vfork does not.
pub(crate) fn is_vfork_child() -> bool {
    let mut clock = 0;
    // SAFETY: the calling thread is alive, and there is a place for its clock.
    let error = unsafe { crate::next::pthread_getcpuclockid()(crate::sys::thread_key(), &raw mut clock) };
    error == 0 && !(clock >> 3) != crate::sys::gettid()
}

/// A forked child takes the memory over.
pub(crate) fn own() {
    OWNER.store(crate::sys::getpid(), Ordering::Relaxed);
    FORKED.store(true, Ordering::Relaxed);
}

/// A child was forked, pinned or not.
pub(crate) fn note_fork() {
    // It matters where the loader has to be asked under its lock; elsewhere the page stays shared.
    if !crate::next::has_dl_find_object() {
        FORKED.store(true, Ordering::Relaxed);
    }
}

/// Whether other threads may have been lost in a fork, with the locks they held.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// The lines of the environment, as it is now.
pub(crate) fn environment() -> impl Iterator<Item = &'static [u8]> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut at = 0;
    core::iter::from_fn(move || {
        // SAFETY: libc's environment is null or a null-terminated array of C strings.
        unsafe {
            let line = environ.as_ref().and_then(|_| (*environ.add(at)).as_ref())?;
            at += 1;
            Some(CStr::from_ptr(line).to_bytes())
        }
    })
}

struct Settings {
    state: AtomicU8,
    config: UnsafeCell<Config>,
}

// SAFETY: written once, by whoever took `state` from UNREAD to READING, and shared only after READ.
unsafe impl Sync for Settings {}

const UNREAD: u8 = 0;
const READING: u8 = 1;
const READ: u8 = 2;

static SETTINGS: Settings = Settings { state: AtomicU8::new(UNREAD), config: UnsafeCell::new(Config::new()) };
static DEFAULTS: Config = Config::new();

/// The configuration, read from the environment on the first call. A hook may be that call: a runtime linked to the
/// program is initialised before we are.
#[inline]
pub(crate) fn config() -> &'static Config {
    match SETTINGS.state.load(Ordering::Acquire) {
        // SAFETY: READ was stored after the last write.
        READ => unsafe { &*SETTINGS.config.get() },
        READING => &DEFAULTS,
        _ => read_config(),
    }
}

// Apart, as hooks run on small stacks.
#[cold]
#[inline(never)]
fn read_config() -> &'static Config {
    if SETTINGS.state.compare_exchange(UNREAD, READING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return &DEFAULTS;
    }
    // SAFETY: the exchange made us the only writer, and nobody reads before READ.
    let config = unsafe { &mut *SETTINGS.config.get() };
    // A set-uid program under /etc/ld.so.preload: its environment is another user's.
    // SAFETY: takes a number.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // Off means off, before anything else is looked at.
    let switch = environment().find(|line| line.starts_with(b"KNLFIX="));
    if is_secure || switch.is_some_and(|line| config.apply(line).is_ok() && !config.enabled) {
        config.enabled = false;
        SETTINGS.state.store(READ, Ordering::Release);
        // SAFETY: from here on the configuration is only read.
        return unsafe { &*SETTINGS.config.get() };
    }
    let mut complaints = false;
    for line in environment().filter(|line| line.starts_with(b"KNLFIX")) {
        complaints |= config.apply(line).is_err();
    }
    SETTINGS.state.store(READ, Ordering::Release);
    // SAFETY: from here on the configuration is only read.
    let config = unsafe { &*SETTINGS.config.get() };
    crate::log::start(config);
    if complaints && log::log_enabled!(log::Level::Warn) {
        complain();
    }
    config
}

/// Says what is wrong with the variables.
#[cold]
#[inline(never)]
fn complain() {
    let mut again = Config::new();
    for line in environment().filter(|line| line.starts_with(b"KNLFIX")) {
        if let Err(complaint) = again.apply(line) {
            log::warn!("{complaint}");
        }
    }
}
