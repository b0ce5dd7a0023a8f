//! `knlfix run`: becomes the program, with the library in `LD_PRELOAD`.

use crate::Failure;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARY: &str = "libknlfix.so";

/// Where the library is, from the directory of the command: in a build, an installed tree, Debian's, Fedora's.
const PLACES: [&str; 5] = [".", "../lib", "../lib/x86_64-linux-gnu", "../lib64", "../lib/knlfix"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Preload this library instead of the one next to the command
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGUMENT"], num_args = 1..)]
    program: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let [program, rest @ ..] = arguments.program.as_slice() else {
        return Err(Failure::new("no program given"));
    };
    let preload = preload(arguments.library.as_deref())?;
    let error = Command::new(program).args(rest).env("LD_PRELOAD", preload).exec();
    Err(Failure::not_started(program, &error))
}

/// `LD_PRELOAD` with the library in it.
pub(crate) fn preload(library: Option<&Path>) -> Result<OsString, Failure> {
    let library = match library {
        Some(file) => file.canonicalize().map_err(|error| Failure::new(format!("{}: {error}", file.display())))?,
        None => beside_the_command()?,
    };
    if library.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte)) {
        let shown = library.display();
        return Err(Failure::new(format!("{shown}: LD_PRELOAD can't hold a path with a blank or a colon; move it")));
    }
    Ok(with_library(env::var_os("LD_PRELOAD").as_deref(), &library))
}

pub(crate) fn beside_the_command() -> Result<PathBuf, Failure> {
    let command =
        env::current_exe().map_err(|error| Failure::new(format!("can't tell where I am ({error}); use --library")))?;
    let home = command.parent().unwrap_or(Path::new("/"));
    let installed = PLACES.iter().map(|place| home.join(place));
    let found = installed.chain(in_a_wheel(home)).find_map(|place| place.join(LIBRARY).canonicalize().ok());
    found.ok_or_else(|| {
        Failure::new(format!("{LIBRARY} is neither in {} nor in ../lib from there; use --library", home.display()))
    })
}

/// Where Python's package installers put the library, from the directory of the command: beside the package's Python files.
fn in_a_wheel(home: &Path) -> impl Iterator<Item = PathBuf> {
    // pip --target; uv with links into its cache.
    let flat = ["../knlfix", "../../knlfix"].map(|place| home.join(place));
    let libraries = ["../lib", "../lib64"].map(|place| home.join(place)).into_iter();
    let entries = libraries.filter_map(|library| library.read_dir().ok()).flat_map(|entries| entries.flatten());
    let mut pythons: Vec<_> = entries.map(|entry| entry.path()).collect();
    pythons.retain(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"python3")));
    pythons.sort();
    let kinds = ["site-packages/knlfix", "dist-packages/knlfix"];
    pythons.into_iter().flat_map(move |python| kinds.map(|kind| python.join(kind))).chain(flat)
}

/// What is preloaded already stays; the library comes first, and once.
fn with_library(preload: Option<&OsStr>, library: &Path) -> OsString {
    let mut list = library.as_os_str().to_owned();
    let others = preload.map_or(&b""[..], OsStr::as_bytes).split(|byte| b": ".contains(byte));
    for other in others.map(OsStr::from_bytes).filter(|other| !other.is_empty() && *other != library.as_os_str()) {
        list.push(":");
        list.push(other);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(preload: &str) -> OsString {
        with_library(Some(OsStr::new(preload)), Path::new("/opt/libknlfix.so"))
    }

    #[test]
    fn other_preloads_stay_behind_ours_and_ours_is_there_once() {
        assert_eq!(with_library(None, Path::new("/opt/libknlfix.so")), "/opt/libknlfix.so");
        assert_eq!(list("libeatmydata.so /x/liba.so"), "/opt/libknlfix.so:libeatmydata.so:/x/liba.so");
        assert_eq!(list("liba.so:/opt/libknlfix.so"), "/opt/libknlfix.so:liba.so");
        assert_eq!(list(""), "/opt/libknlfix.so");
    }
}
