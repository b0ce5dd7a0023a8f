//! The sink behind the `log` crate's macros.
//!
//! A line is formatted into a buffer on the stack and written with one `write(2)`: it takes no lock that a thread lost
//! in a fork could hold, allocates nothing, keeps no descriptor open, and leaves `errno` alone, as it goes straight to
//! the kernel and so cannot re-enter a hook.

use crate::sys;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::Write;
use knlfix_core::config::Config;
use knlfix_core::text::Text;
use log::{Level, Log, Metadata, Record};

struct Sink {
    path: UnsafeCell<[u8; 1024]>,
}

// SAFETY: `path` is written once, in `start`, before the sink is handed to the `log` crate.
unsafe impl Sync for Sink {}

static SINK: Sink = Sink { path: UnsafeCell::new([0; 1024]) };

/// Turns logging on, if the configuration asks for it. To be called once.
pub(crate) fn start(config: &Config) {
    if config.log == log::LevelFilter::Off {
        return;
    }
    // SAFETY: nobody reads it before `set_logger`.
    let path = unsafe { &mut *SINK.path.get() };
    for (to, from) in path.iter_mut().zip(config.log_file.as_bytes()) {
        *to = *from;
    }
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(config.log);
    }
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let mut line = Text::<1024>::new();
        // A `Text` takes everything; what does not fit is cut.
        let _ = write!(line, "knlfix[{}:{}] {level}: {}", sys::getpid(), sys::gettid(), record.args());
        line.end_line();
        // SAFETY: never written after `start`.
        let path = unsafe { &*self.path.get() };
        sys::append(CStr::from_bytes_until_nul(path).unwrap_or(c""), line.as_bytes());
    }

    fn flush(&self) {}
}
