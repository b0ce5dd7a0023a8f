//! `knlfix kernel`: a Jupyter kernel that is started with the library in `LD_PRELOAD`.

use crate::run;
use crate::{Failure, print};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Install(Install),
    /// Take such a kernel away
    Uninstall(Uninstall),
}

/// Add a kernel to Jupyter: that of a Python's ipykernel, with the library.
///
/// Notebooks that use it, their pools and their subprocesses have the library; nothing else has. What LD_PRELOAD names now
/// is preloaded into the kernel too, behind the library.
#[derive(clap::Args)]
struct Install {
    #[command(flatten)]
    kernel: Kernel,
    /// What Jupyter shows instead of "Python 3.x (knlfix)"
    #[arg(long, value_name = "TEXT")]
    display_name: Option<OsString>,
    /// Set a variable for the kernel, such as KNLFIX_PLACE=core; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Preload this library instead of the one next to the command
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Uninstall {
    #[command(flatten)]
    kernel: Kernel,
}

/// Which kernel, and where.
#[derive(clap::Args)]
struct Kernel {
    /// The name of the kernel, for `jupyter console --kernel NAME`
    #[arg(long, value_name = "NAME", default_value = "knlfix", value_parser = name)]
    name: String,
    /// For this user, in JUPYTER_DATA_DIR or ~/.local/share/jupyter (the default)
    #[arg(long, conflicts_with_all = ["prefix", "sys_prefix"])]
    user: bool,
    /// In DIR/share/jupyter: /usr/local is for all users
    #[arg(long, value_name = "DIR", conflicts_with = "sys_prefix")]
    prefix: Option<PathBuf>,
    /// In the environment (venv, conda) that PYTHON belongs to
    #[arg(long)]
    sys_prefix: bool,
    /// The Python of the kernel; it needs ipykernel
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: OsString,
}

/// Jupyter's own rule, and no dot in front: that would be a hidden directory, or not even below the others.
fn name(text: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(is_allowed) {
        return Err("a kernel's name has letters, digits, '-', '_' and '.' only, and no '.' in front");
    }
    Ok(text.to_owned())
}

fn variable(text: &str) -> Result<String, &'static str> {
    match text.split_once('=') {
        Some(("LD_PRELOAD", _)) => Err("LD_PRELOAD is what this command sets; set it for the command itself"),
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("not NAME=VALUE"),
    }
}

/// Whether a `kernel.json` is of this command: the key in its metadata.
const MARK: &str = "\"knlfix\":";

/// Writes ipykernel's own files, whatever these are in its version, with our changes. Arguments: directory, display name (or nothing),
/// version, `LD_PRELOAD`, variables. Jupyter puts variables in for `$NAME` in what kernel.json sets, hence the doubled `$`.
const WRITE: &str = "
import sys
from ipykernel.kernelspec import get_kernel_dict, write_kernel_spec
directory, shown, version, preload, *variables = sys.argv[1:]
spec = get_kernel_dict()
write_kernel_spec(directory, {
    'display_name': shown or 'Python %d.%d (knlfix)' % sys.version_info[:2],
    'metadata': {**spec.get('metadata', {}), 'knlfix': version},
    'env': {**spec.get('env', {}), **dict(v.split('=', 1) for v in variables), 'LD_PRELOAD': preload.replace('$', '$$')},
})
";

pub(crate) fn kernel(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::Install(arguments) => install(arguments),
        Action::Uninstall(arguments) => uninstall(&arguments.kernel),
    }
}

fn install(arguments: &Install) -> Result<(), Failure> {
    let preload = run::preload(arguments.library.as_deref())?;
    let kernels = arguments.kernel.kernels()?;
    let place = kernels.join(&arguments.kernel.name);
    // A place that holds something else is left alone.
    let is_there = is_ours(&place)?;
    fs::create_dir_all(&kernels).map_err(|error| failure(&kernels, &error))?;
    // Jupyter never sees half a kernel: it is written beside its place.
    let beside = kernels.join(format!(".{}-{}", arguments.kernel.name, process::id()));
    let shown = arguments.display_name.as_deref().unwrap_or_default();
    let mut words = vec![beside.as_os_str(), shown, env!("CARGO_PKG_VERSION").as_ref(), &preload];
    words.extend(arguments.env.iter().map(OsStr::new));
    let moved = arguments.kernel.ask(WRITE, &words).and_then(|_| {
        if is_there {
            fs::remove_dir_all(&place).map_err(|error| failure(&place, &error))?;
        }
        fs::rename(&beside, &place).map_err(|error| failure(&place, &error))
    });
    if moved.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    moved?;
    print(&format!("{}\n", place.display()))
}

fn uninstall(kernel: &Kernel) -> Result<(), Failure> {
    let place = kernel.kernels()?.join(&kernel.name);
    if !is_ours(&place)? {
        return Err(Failure::new(format!("{}: there is no such kernel", place.display())));
    }
    fs::remove_dir_all(&place).map_err(|error| failure(&place, &error))
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// Whether a kernel of this command is there. Somebody else's is a failure.
fn is_ours(place: &Path) -> Result<bool, Failure> {
    if place.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(false);
    }
    match fs::read_to_string(place.join("kernel.json")) {
        Ok(text) if text.contains(MARK) => Ok(true),
        _ => Err(Failure::new(format!("{}: not installed by knlfix, so it is left as it is", place.display()))),
    }
}

impl Kernel {
    /// The directory of all kernels, where Jupyter looks for them.
    fn kernels(&self) -> Result<PathBuf, Failure> {
        let data = if let Some(prefix) = &self.prefix {
            prefix.join("share/jupyter")
        } else if self.sys_prefix {
            let answer = self.ask("import os, sys; sys.stdout.buffer.write(os.fsencode(sys.prefix))", &[])?;
            PathBuf::from(answer).join("share/jupyter")
        } else {
            users_data(|name| env::var_os(name).filter(|value| !value.is_empty())).ok_or_else(|| {
                Failure::new("HOME is not set, so there is no place for a user's kernels; use --prefix")
            })?
        };
        Ok(data.join("kernels"))
    }

    /// What the Python says when it runs `code`.
    fn ask(&self, code: &str, arguments: &[&OsStr]) -> Result<OsString, Failure> {
        let output = Command::new(&self.python).arg("-c").arg(code).args(arguments).output();
        let output = output.map_err(|error| Failure::not_started(&self.python, &error))?;
        if output.status.success() {
            return Ok(OsString::from_vec(output.stdout));
        }
        let shown = self.python.display();
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim_end().lines().last().unwrap_or("no reason given");
        let advice = if last.contains("No module named 'ipykernel'") {
            format!("; {shown} -m pip install ipykernel")
        } else {
            String::new()
        };
        Err(Failure::new(format!("{shown}: {last}{advice}")))
    }
}

/// As `jupyter_core.paths.jupyter_data_dir`.
fn users_data(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(data) = variable("JUPYTER_DATA_DIR") {
        return Some(data.into());
    }
    let share = variable("XDG_DATA_HOME").map(PathBuf::from);
    let share = share.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")));
    share.map(|share| share.join("jupyter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(variables: &[(&str, &str)]) -> Option<PathBuf> {
        users_data(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_users_kernels_are_where_jupyter_looks() {
        let home = ("HOME", "/home/ada");
        assert_eq!(data(&[home]), Some("/home/ada/.local/share/jupyter".into()));
        assert_eq!(data(&[home, ("XDG_DATA_HOME", "/data")]), Some("/data/jupyter".into()));
        assert_eq!(data(&[home, ("XDG_DATA_HOME", "/data"), ("JUPYTER_DATA_DIR", "/j")]), Some("/j".into()));
        assert_eq!(data(&[]), None);
    }

    #[test]
    fn names_are_jupyters_and_no_way_out_of_the_directory() {
        assert!(["knlfix", "python3.11-knlfix", "A_b"].iter().all(|text| name(text).is_ok()));
        assert!(["", ".", "..", "../x", "a/b", "a b", ".hidden"].iter().all(|text| name(text).is_err()));
    }

    #[test]
    fn variables_have_a_name_and_are_not_the_preload() {
        assert_eq!(variable("KNLFIX_PLACE=core").as_deref(), Ok("KNLFIX_PLACE=core"));
        assert!(["KNLFIX_PLACE", "=core", "LD_PRELOAD=/x.so"].iter().all(|text| variable(text).is_err()));
    }
}
