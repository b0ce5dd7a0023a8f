//! The command as a user types it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn knlfix(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knlfix"));
    command.args(arguments).env_remove("LD_PRELOAD");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

/// Any library will do to see what lands in `LD_PRELOAD`.
fn a_library() -> PathBuf {
    let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
    libc.iter().map(Path::new).find(|path| path.exists()).expect("glibc is here").canonicalize().unwrap()
}

#[test]
fn run_preloads_the_library_and_becomes_the_program() {
    let library = a_library();
    let output = knlfix(&["run", "--library", library.to_str().unwrap(), "sh", "-c", "echo $LD_PRELOAD; exit 7"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout).trim(), library.to_str().unwrap());
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn run_passes_the_programs_own_options_on() {
    let library = a_library();
    let output =
        knlfix(&["run", "--library", library.to_str().unwrap(), "echo", "--help", "--library"]).output().unwrap();
    assert_eq!(text(&output.stdout), "--help --library\n");
}

#[test]
fn failures_have_the_shells_exit_status_and_one_line_that_names_the_thing() {
    let library = a_library();
    let library = library.to_str().unwrap();
    for (arguments, status, named) in [
        (vec!["run", "--library", library, "no-such-program"], 127, "no-such-program"),
        (vec!["run", "--library", library, "/etc/passwd"], 126, "/etc/passwd"),
        (vec!["run", "--library", "/no/such.so", "true"], 125, "/no/such.so"),
    ] {
        let output = knlfix(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.starts_with("knlfix: ") && said.contains(named) && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn env_shows_current_values_and_complains_about_bad_ones() {
    let output = knlfix(&["env"]).env("KNLFIX_THREADS", "0").env("KNLFIX_AFFINITY", "maybe").output().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.contains("KNLFIX_THREADS=off"), "{shown}");
    assert!(shown.contains("KNLFIX_AFFINITY=on"), "{shown}");
    assert_eq!(stderr(&output), "knlfix: KNLFIX_AFFINITY: \"maybe\" is not on|off; using on\n");
    assert!(output.status.success());
}

#[test]
fn the_readme_has_the_table_as_it_is() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let table = text(&knlfix(&["env", "--markdown"]).output().unwrap().stdout);
    assert!(readme.contains(&table), "put the output of `knlfix env --markdown` into README.md:\n{table}");
}
