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
    /// A file for JSON, whole, where this process is the root.
    file: Text<PATH>,
    /// What standard error was. A program that closes descriptor 2 may get it again for its data.
    stderr: Option<(u64, u64)>,
}

struct Cell(UnsafeCell<Run>);

// SAFETY: written in the constructor, before the report is on, and only read afterwards.
unsafe impl Sync for Cell {}

static RUN: Cell = Cell(UnsafeCell::new(Run { directory: Text::new(), root: 0, file: Text::new(), stderr: None }));

fn run() -> &'static Run {
    // SAFETY: see above.
    unsafe { &*RUN.0.get() }
}

/// Finds the directory of this run. False if no report is asked for, or there is nowhere to keep it.
pub(super) fn find() -> bool {
    let config = state::config();
    if !config.enabled || config.report.is_empty() && config.report_dir.is_empty() {
        return false;
    }
    // SAFETY: the constructor is the only one that writes it, once.
    let run = unsafe { &mut *RUN.0.get() };
    if !config.report_dir.is_empty() {
        run.directory.push(config.report_dir.as_bytes());
        return true;
    }
    run.root = budget::farthest_with(|line| line.starts_with(b"KNLFIX_REPORT="));
    let user = sys::user();
    let started = Process::read(&budget::Kernel, run.root).map_or(0, |process| process.started);
    // A `Text` takes everything.
    let _ = write!(run.directory, "/dev/shm/knlfix-report-{user}-{}-{started}", run.root);
    if run.root == sys::getpid() {
        run.stderr = sys::file_of(libc::STDERR_FILENO).ok();
        note_file(run, config.report.as_bytes());
    }
    make(&run.directory, user)
}

/// Where the JSON goes, as a whole path: the program may go elsewhere.
fn note_file(run: &mut Run, report: &[u8]) {
    const SWITCH: [&[u8]; 4] = [b"1", b"on", b"yes", b"true"];
    if SWITCH.iter().any(|word| report.eq_ignore_ascii_case(word)) {
        return;
    }
    let mut here = [0; PATH];
    if !report.starts_with(b"/")
        && let Ok(length) = sys::current_directory(&mut here)
    {
        run.file.push(here.get(..length).unwrap_or(&[]));
        run.file.push(b"/");
    }
    run.file.push(report);
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
    let run = run();
    if run.root != sys::getpid() {
        return;
    }
    let is_stderr = run.stderr.is_some() && sys::file_of(libc::STDERR_FILENO).ok() == run.stderr;
    if run.file.is_empty() && !is_stderr {
        return;
    }
    let library = Dso::around(end as *const () as usize).map_or(&b""[..], |dso| dso.path().to_bytes());
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
    let (directory, file) = (ended(&run.directory), ended(&run.file));
    let argument = |text: &'static CStr| text.as_ptr();
    let mut arguments: [*const c_char; 7] = [core::ptr::null(); 7];
    let list = [
        argument(c"knlfix"),
        argument(c"report"),
        argument(c"--collect"),
        directory.as_bytes().as_ptr().cast(),
        argument(c"--json"),
        file.as_bytes().as_ptr().cast(),
    ];
    let used = if run.file.is_empty() { 4 } else { list.len() };
    for (to, from) in arguments.iter_mut().zip(list.iter().take(used)) {
        *to = *from;
    }
    if !sys::run(&programs, &arguments, &[c"KNLFIX=off".as_ptr(), core::ptr::null()]) && is_stderr {
        let mut line = Text::<PATH>::new();
        line.push(b"knlfix: no knlfix command beside the library; for the report: knlfix report --collect ");
        line.push(run.directory.as_bytes());
        line.end_line();
        sys::write(libc::STDERR_FILENO, line.as_bytes());
    }
}
