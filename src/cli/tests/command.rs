//! The command as a user types it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
fn run_finds_the_library_in_every_layout_that_it_is_installed_in() {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layouts-{}", std::process::id()));
    let command = tree.join("bin/knlfix");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    // A link: to run a file that was just written may fail, while another test forks.
    std::fs::hard_link(env!("CARGO_BIN_EXE_knlfix"), &command).unwrap();
    let run = || {
        let mut command = Command::new(&command);
        command.args(["run", "sh", "-c", "echo $LD_PRELOAD"]).env_remove("LD_PRELOAD").output().unwrap()
    };
    for place in [
        "bin",
        "lib",
        "lib64",
        "lib/x86_64-linux-gnu",
        "lib/knlfix",
        "lib/python3.11/site-packages/knlfix",
        "lib64/python3.9/site-packages/knlfix",
        "lib/python3/dist-packages/knlfix",
        "knlfix",
    ] {
        let library = tree.join(place).join("libknlfix.so");
        std::fs::create_dir_all(library.parent().unwrap()).unwrap();
        std::fs::copy(a_library(), &library).unwrap();
        assert_eq!(text(&run().stdout).trim(), library.to_str().unwrap());
        std::fs::remove_file(&library).unwrap();
    }
    let output = run();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("use --library"), "{output:?}");
    std::fs::remove_dir_all(&tree).unwrap();
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

/// A process that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    /// Sleeps on these CPUs, as `taskset` writes them. It sleeps already when this returns.
    fn on(cpus: &str) -> Self {
        let child = Command::new("taskset").args(["-c", cpus, "sleep", "60"]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        let begin = Instant::now();
        while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
            assert!(begin.elapsed() < Duration::from_secs(20), "taskset did not start sleep");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two CPUs that this test may use.
fn two_cpus() -> [String; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let ends = list.trim().split([',', '-']).map(str::to_owned).collect::<Vec<_>>();
    [ends.first().unwrap().clone(), ends.last().unwrap().clone()]
}

#[test]
fn map_draws_pinned_processes_on_their_cpus() {
    let [first, last] = two_cpus();
    assert_ne!(first, last, "the tests need two CPUs");
    let (a, b, c) = (Sleeper::on(&first), Sleeper::on(&last), Sleeper::on(&last));
    let output = knlfix(&["map", &a.pid(), &b.pid(), &c.pid()]).output().unwrap();
    let drawn = text(&output.stdout);
    assert!(output.status.success() && stderr(&output).is_empty(), "{output:?}");
    let headline = drawn.lines().next().unwrap();
    assert!(headline.starts_with("3 processes on ") && headline.ends_with("; 1 CPU holds 2 of them"), "{drawn}");
    assert!(drawn.contains(&format!("{}: {first} ", a.pid())), "{drawn}");
    assert!(drawn.contains("sleep 60 (1 thread pinned)") && drawn.contains(" 2*"), "{drawn}");
    let alone = text(&knlfix(&["map", &a.pid()]).output().unwrap().stdout);
    assert!(alone.starts_with("1 process on 1 of "), "{alone}");
}

#[test]
fn map_of_a_command_draws_its_descendants_and_has_its_exit_status() {
    let [first, _] = two_cpus();
    let script = format!("taskset -c {first} cat; exit 7");
    // It reads until we close its input. On a machine that is busy taskset may take longer than the first waits.
    let mut drawn = ["0.5", "5", "50"].iter().map(|wait| {
        let mut command = knlfix(&["map", "--wait", wait, "--", "sh", "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let picture = lines.by_ref().take(2).collect::<Result<Vec<_>, _>>().unwrap();
        drop(child.stdin.take());
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(7));
        picture
    });
    let pinned = drawn.find(|picture| picture[0].starts_with("1 process on 1 of "));
    assert_eq!(pinned.expect("cat is pinned")[1], "not pinned: 1 process with 1 thread");
}

#[test]
fn map_writes_the_svg_instead_of_the_text_or_with_it() {
    let file = std::env::temp_dir().join(format!("knlfix-map-{}.svg", std::process::id()));
    let [first, _] = two_cpus();
    let sleeper = Sleeper::on(&first);
    let svg = knlfix(&["map", "--svg", file.to_str().unwrap(), &sleeper.pid()]).output().unwrap();
    let both = knlfix(&["map", "--text", "--svg", file.to_str().unwrap(), &sleeper.pid()]).output().unwrap();
    let drawn = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(svg.status.success() && svg.stdout.is_empty(), "{svg:?}");
    assert!(text(&both.stdout).starts_with("1 process on 1 of "), "{both:?}");
    assert!(drawn.starts_with("<svg ") && drawn.contains(&format!(": A ({})</title>", sleeper.pid())), "{drawn}");
}

#[test]
fn map_says_in_one_line_why_there_is_no_picture() {
    let no_process = i32::MAX.to_string();
    for (arguments, status, named) in [
        (vec!["map", &no_process], 125, "no such process"),
        (vec!["map", "--", "no-such-program"], 127, "no-such-program"),
        (vec!["map", "--svg", "/no/such/map.svg", "1"], 125, "/no/such/map.svg"),
        (vec!["map", "--wait", "20", "--", "true"], 125, "shorter --wait"),
        (vec!["map", "--wait", "20", "--", "sh", "-c", "exit 9"], 9, "shorter --wait"),
        (vec!["map", "--wait", "20", "--", "sh", "-c", "kill -9 $$"], 128 + 9, "shorter --wait"),
    ] {
        let output = knlfix(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.starts_with("knlfix: ") && said.contains(named) && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty());
    }
    for wrong in [&["map"][..], &["map", "--wait", "1", "1"], &["map", "--wait", "-1", "--", "true"], &["map", "x"]] {
        assert_eq!(knlfix(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn top_writes_text_where_the_output_is_no_terminal_and_json_when_asked() {
    let outputs =
        [&["top"][..], &["top", "--once", "--sort", "held"]].map(|arguments| knlfix(arguments).output().unwrap());
    for output in outputs {
        let shown = text(&output.stdout);
        assert!(output.status.success() && !shown.is_empty() && !shown.contains('\x1b'), "{output:?}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    }
    let json = text(&knlfix(&["top", "--json"]).output().unwrap().stdout);
    assert!(json.starts_with("{\"version\": 1,\n \"domains\": ["), "{json}");
    for wrong in
        [&["top", "--once", "--json"][..], &["top", "--sort", "size"], &["top", "--interval", "x"], &["top", "1"]]
    {
        assert_eq!(knlfix(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}
