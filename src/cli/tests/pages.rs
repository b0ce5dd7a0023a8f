//! The man page and the completions, by the programs that read them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn knlfix(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_knlfix")).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("knlfix-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The output of a program that reads `input`; it must have nothing to complain about.
fn said(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup test brings it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_man_page_has_all_commands_and_variables_and_no_warnings() {
    let page = said("groff", &["-man", "-ww", "-Tascii", "-P-cbou", "-rLL=78n"], &knlfix(&["man"]));
    let env = knlfix(&["env", "--markdown"]);
    let variables = env.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    let commands = ["knlfix run", "knlfix env", "knlfix map", "knlfix gc", "knlfix doctor", "knlfix kernel install"];
    for needed in variables.chain(commands).chain(["EXIT STATUS", "--library FILE", "--json"]) {
        assert!(page.contains(needed), "{needed} is not in\n{page}");
    }
    for hidden in ["knlfix man", "knlfix completions", "knlfix help"] {
        assert!(!page.contains(hidden), "{hidden} is in\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
}

#[test]
fn bash_completes() {
    let scratch = Scratch::new("bash");
    let script = scratch.file("knlfix.bash", &knlfix(&["completions", "bash"]));
    let ask = "source \"$0\"; complete -p knlfix >&2 2>/dev/null || exit 1
        COMP_WORDS=(knlfix \"$1\"); COMP_CWORD=1; _knlfix knlfix \"$1\" knlfix; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let complete = |word: &str| {
        let output = Command::new("bash").args(["-c", ask, script.to_str().unwrap(), word]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("ru").trim(), "run");
    let all = complete("");
    assert!(["run", "env", "map", "gc", "doctor"].iter().all(|name| all.lines().any(|line| line == *name)), "{all}");
    assert!(!all.contains("completions"), "{all}");
}

#[test]
fn fish_completes() {
    let scratch = Scratch::new("fish");
    let script = scratch.file("knlfix.fish", &knlfix(&["completions", "fish"]));
    let home = [("HOME", &scratch.0), ("XDG_CONFIG_HOME", &scratch.0), ("XDG_DATA_HOME", &scratch.0)];
    let ask = format!("source {}; complete -C 'knlfix ru'", script.display());
    let output = Command::new("fish").args(["--no-config", "-c", &ask]).envs(home).output();
    let output = output.expect("scripts/setup test brings fish");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let offered = String::from_utf8(output.stdout).unwrap();
    assert_eq!(offered.lines().map(|line| line.split('\t').next().unwrap()).collect::<Vec<_>>(), ["run"]);
}

#[test]
fn a_packager_hears_which_shells_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_knlfix")).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[possible values: bash, zsh, fish]"), "{output:?}");
}

#[test]
fn the_reference_is_as_the_command_has_it() {
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference.md")).unwrap();
    assert!(kept == knlfix(&["reference"]), "put the output of `knlfix reference` into docs/reference.md");
}
