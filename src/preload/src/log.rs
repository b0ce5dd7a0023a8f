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

struct Sink(UnsafeCell<Place>);

/// Where the lines go.
struct Place {
    /// A file, or nothing for standard error.
    path: [u8; 1024],
    /// What standard error was when the program started. A program that closes descriptor 2 may get it again for its
    /// data.
    stderr: Option<(u64, u64)>,
}

// SAFETY: written once, in `start`, before the sink is handed to the `log` crate.
unsafe impl Sync for Sink {}

static SINK: Sink = Sink(UnsafeCell::new(Place { path: [0; 1024], stderr: None }));

const STDERR: i32 = 2;

/// Turns logging on, if the configuration asks for it. To be called once.
pub(crate) fn start(config: &Config) {
    if config.log == log::LevelFilter::Off {
        return;
    }
    // SAFETY: nobody reads it before `set_logger`.
    let place = unsafe { &mut *SINK.0.get() };
    place.stderr = sys::file_of(STDERR).ok();
    for (to, from) in place.path.iter_mut().zip(config.log_file.as_bytes()) {
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
        let place = unsafe { &*self.0.get() };
        match CStr::from_bytes_until_nul(&place.path) {
            Ok(path) if !path.is_empty() => {
                if let Ok(file) = sys::open_to_append(path) {
                    sys::write(file, line.as_bytes());
                    sys::close(file);
                }
            }
            _ if place.stderr.is_some() && sys::file_of(STDERR).ok() == place.stderr => {
                sys::write(STDERR, line.as_bytes());
            }
            _ => {}
        }
    }

    fn flush(&self) {}
}
