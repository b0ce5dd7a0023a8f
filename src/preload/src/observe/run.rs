//! The run that the report is of: where its records are, and who tells of it in the end.

use crate::budget;
use crate::dso::Dso;
use crate::state;
use crate::sys;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use knlfix_core::process::Process;
use knlfix_core::text::Text;

/// The longest path of a file of the run.
const PATH: usize = 1200;

struct Run {
    directory: Text<PATH>,
    /// The process that tells of it; 0: the command that started it all.
    root: i32,
    /// Files for JSON and for the timeline, with whole paths, where this process is the root.
    file: Text<PATH>,
    trace: Text<PATH>,
    /// A table is asked for.
    has_table: bool,
    /// What standard error was. A program that closes descriptor 2 may get it again for its data.
    stderr: Option<(u64, u64)>,
}

struct Cell(UnsafeCell<Run>);

// SAFETY: written in the constructor, before the report is on, and only read afterwards.
unsafe impl Sync for Cell {}

static RUN: Cell = Cell(UnsafeCell::new(Run {
    directory: Text::new(),
    root: 0,
    file: Text::new(),
    trace: Text::new(),
    has_table: false,
    stderr: None,
}));

fn run() -> &'static Run {
    // SAFETY: see above.
    unsafe { &*RUN.0.get() }
}

/// Finds the directory of this run. False if nothing is asked for, or there is nowhere to keep it.
pub(super) fn find() -> bool {
    let config = state::config();
    let asks = !(config.report.is_empty() && config.trace.is_empty());
    if !config.enabled || !asks && config.report_dir.is_empty() {
        return false;
    }
    // SAFETY: the constructor is the only one that writes it, once.
    let run = unsafe { &mut *RUN.0.get() };
    if !config.report_dir.is_empty() {
        run.directory.push(config.report_dir.as_bytes());
        return true;
    }
    // Only a program with the library can tell: a batch script may have the variable, and load the module later.
    // (Where our own variable says nothing, the library comes from /etc/ld.so.preload, and all have it.)
    let is_preloaded = |pid| budget::has_variable(pid, preloads_us);
    let everybody = !is_preloaded(sys::getpid());
    let belongs = |pid| budget::has_variable(pid, asks_for_something) && (everybody || is_preloaded(pid));
    run.root = budget::farthest(belongs);
    let user = sys::user();
    let started = Process::read(&budget::Kernel, run.root).map_or(0, |process| process.started);
    // A `Text` takes everything.
    let _ = write!(run.directory, "/dev/shm/knlfix-report-{user}-{}-{started}", run.root);
    if run.root == sys::getpid() {
        run.stderr = sys::file_of(libc::STDERR_FILENO).ok();
        run.has_table = is_switch(config.report.as_bytes(), &["1", "on", "yes", "true"]);
        if !run.has_table {
            note_file(&mut run.file, config.report.as_bytes());
        }
        note_file(&mut run.trace, config.trace.as_bytes());
    }
    make(&run.directory, user)
}

/// Whether a variable of a process asks for a report or a timeline.
fn asks_for_something(line: &[u8]) -> bool {
    let report = line.strip_prefix(b"KNLFIX_REPORT=".as_slice());
    report.is_some_and(|value| !value.is_empty() && !is_switch(value, &["off", "0", "no", "false"]))
        || line.strip_prefix(b"KNLFIX_TRACE=".as_slice()).is_some_and(|value| !value.is_empty())
}

/// Whether it is an `LD_PRELOAD` with the library, as far as one can see: of a long list only the beginning is known.
fn preloads_us(line: &[u8]) -> bool {
    const NAME: &[u8] = b"knlfix";
    line.strip_prefix(b"LD_PRELOAD=".as_slice())
        .is_some_and(|list| line.len() >= 256 || list.windows(NAME.len()).any(|part| part == NAME))
}

fn is_switch(value: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// Where a file goes, as a whole path: the program may go elsewhere.
fn note_file(to: &mut Text<PATH>, file: &[u8]) {
    if file.is_empty() {
        return;
    }
    let mut here = [0; PATH];
    if !file.starts_with(b"/")
        && let Ok(length) = sys::current_directory(&mut here)
    {
        to.push(here.get(..length).unwrap_or(&[]));
        to.push(b"/");
    }
    to.push(file);
}

/// Makes the directory, or sees that it is ours: anybody may write in `/dev/shm`.
fn make(directory: &Text<PATH>, user: u32) -> bool {
    let mut path = directory.clone();
    path.push(b"\0");
    let Ok(path) = CStr::from_bytes_until_nul(path.as_bytes()) else { return false };
    let made = sys::make_directory(path);
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let is_ours = sys::open(path, flags).and_then(|file| {
        let stat = sys::stat(file);
        sys::close(file);
        stat
    });
    let is_ours = is_ours.is_ok_and(|stat| stat.st_uid == user);
    if !is_ours {
        log::warn!("report: no directory for the records ({})", made.err().unwrap_or(0));
    }
    is_ours
}

/// Opens a file of the run.
pub(super) fn open(name: &Text<64>, flags: c_int) -> sys::Result<c_int> {
    let mut path = run().directory.clone();
    path.push(b"/");
    path.push(name.as_bytes());
    path.push(b"\0");
    let path = CStr::from_bytes_until_nul(path.as_bytes()).map_err(|_| libc::ENAMETOOLONG)?;
    sys::open(path, flags | libc::O_NOFOLLOW)
}

/// Where the command is, from the directory of the library: in a build, an installed tree, Debian's, Fedora's.
const PLACES: [&[u8]; 3] = [b"knlfix\0", b"../bin/knlfix\0", b"../../bin/knlfix\0"];

/// This process ends. If it is the root, the report is made.
pub(super) fn end() {
    if run().root == sys::getpid() {
        tell();
    }
}

#[cold]
#[inline(never)]
fn tell() {
    let run = run();
    let is_stderr = run.stderr.is_some() && sys::file_of(libc::STDERR_FILENO).ok() == run.stderr;
    let library = Dso::around(tell as *const () as usize).map_or(&b""[..], |dso| dso.path().to_bytes());
    let home = library.iter().rposition(|&byte| byte == b'/').and_then(|at| library.get(..=at)).unwrap_or(b"");
    let mut paths = [const { Text::<PATH>::new() }; PLACES.len()];
    for (path, place) in paths.iter_mut().zip(PLACES) {
        path.push(home);
        path.push(place);
    }
    let programs = paths.each_ref().map(|path| CStr::from_bytes_until_nul(path.as_bytes()).unwrap_or(c""));
    let ended = |text: &Text<PATH>| {
        let mut text = text.clone();
        text.push(b"\0");
        text
    };
    let (directory, file, trace) = (ended(&run.directory), ended(&run.file), ended(&run.trace));
    let text = |text: &Text<PATH>| text.as_bytes().as_ptr().cast::<c_char>();
    let table = if run.has_table && is_stderr { c"--table" } else { c"--no-table" };
    let mut arguments: [*const c_char; 10] = [core::ptr::null(); 10];
    let mut list = arguments.iter_mut();
    let mut add = |argument| {
        if let Some(to) = list.next() {
            *to = argument;
        }
    };
    for argument in [c"knlfix", c"report", table, c"--collect"] {
        add(argument.as_ptr());
    }
    add(text(&directory));
    for (path, option, file) in [(&run.file, c"--json", &file), (&run.trace, c"--trace", &trace)] {
        if !path.is_empty() {
            add(option.as_ptr());
            add(text(file));
        }
    }
    if !sys::run(&programs, &arguments, &[c"KNLFIX=off".as_ptr(), core::ptr::null()]) && is_stderr {
        let mut line = Text::<PATH>::new();
        line.push(b"knlfix: no knlfix command beside the library; for the report: knlfix report --collect ");
        line.push(run.directory.as_bytes());
        line.end_line();
        sys::write(libc::STDERR_FILENO, line.as_bytes());
    }
}
