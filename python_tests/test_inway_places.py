"""Places where a library finds nothing of what it is used to: descriptors, /proc, permission, a sane environment."""

import errno
import os
import re
import shutil
import subprocess

import pytest

from inway import CHILDREN, PIN, build, first, full, last, probe, report, run, run_probe, show_mask

# popen needs descriptors itself.
WITHOUT_DESCRIPTORS = [way for way in CHILDREN if way != "popen"]
LINE = re.compile(rb"knlfix\[(\d+):\d+\] (\w+): .*")


def lines_of(level, text):
    """The pids of the log lines of this level. Every line has to be a whole log line."""
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(matches), text
    return [match[1] for match in matches if match[2] == level]


def on_the_report(own, *ways):
    """The report's lines without those of `self` and `region`."""
    return "".join(f"{way} {own}\n" for way in ways).encode()


# ---- descriptors -----------------------------------------------------------------------------------------------


def test_standard_descriptors_closed_and_reused(so, tmp_path):
    data = tmp_path / "data"
    steps = ("close-standard", f"data={data}", *CHILDREN)
    for preload, children in (([], first()), ([so], full())):
        data.unlink(missing_ok=True)
        done = run_probe(*steps, preload=preload)
        assert done == (0, b"data 0\ndata 1\ndata 2\n" + on_the_report(children, *CHILDREN), b"")
        assert data.read_text() == "data\n" * 3


@pytest.mark.parametrize("to", ("stderr", "file"))
def test_the_log_survives_closed_standard_descriptors(so, tmp_path, to):
    log = {"KNLFIX_LOG": "trace"} | ({"KNLFIX_LOG_FILE": str(tmp_path / "log")} if to == "file" else {})
    done = run_probe("close-standard", *CHILDREN, preload=[so], **log)
    assert (done.status, done.out) == (0, on_the_report(full(), *CHILDREN))
    if to == "file":
        assert b"repair" in (tmp_path / "log").read_bytes()


def test_started_with_standard_descriptors_closed(so, tmp_path):
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", probe(), show_mask(), f"data={tmp_path}/data", *CHILDREN]
    for log in ({}, {"KNLFIX_LOG": "trace", "KNLFIX_LOG_FILE": str(tmp_path / "log")}):
        for preload, children in (([], first()), ([so], full())):
            (tmp_path / "data").unlink(missing_ok=True)
            # The program finds the same numbers free: it would write to a log that is open on one of them.
            done = run(*command, preload=preload, **PIN, **log)
            assert done == (0, b"data 0\ndata 2\ndata 3\n" + on_the_report(children, *CHILDREN), b"")
            assert (tmp_path / "data").read_text() == "data\n" * 3


def test_a_program_that_closes_all_descriptors_finds_no_log_in_its_files(so, tmp_path):
    data, log = tmp_path / "data", tmp_path / "log"
    done = run_probe("fork", "close-all", f"data={data}", *CHILDREN, preload=[so], KNLFIX_LOG="trace",
                     KNLFIX_LOG_FILE=str(log))
    expected = on_the_report(full(), "fork") + b"data 3\ndata 4\ndata 5\n" + on_the_report(full(), *CHILDREN)
    assert done == (0, expected, b"")
    assert data.read_text() == "data\n" * 3
    assert b"repair" in log.read_bytes()


@pytest.mark.parametrize("to", ("stderr", "file", "nowhere"))
def test_descriptors_exhausted(so, tmp_path, to):
    log = {"stderr": {"KNLFIX_LOG": "trace"}, "nowhere": {},
           "file": {"KNLFIX_LOG": "trace", "KNLFIX_LOG_FILE": str(tmp_path / "log")}}[to]
    assert run_probe("exhaust", *WITHOUT_DESCRIPTORS) == (0, on_the_report(first(), *WITHOUT_DESCRIPTORS), b"")
    done = run_probe("exhaust", *WITHOUT_DESCRIPTORS, preload=[so], **log)
    assert (done.status, done.out) == (0, on_the_report(full(), *WITHOUT_DESCRIPTORS))
    if to == "stderr":
        assert lines_of(b"debug", done.err)
    else:
        assert done.err == b""


@pytest.mark.parametrize("path", ("/", "/nonexistent/directory/log", "/dev/full", ""))
def test_a_log_file_that_cannot_be_written(so, path):
    done = run_probe(preload=[so], KNLFIX_LOG="trace", KNLFIX_LOG_FILE=path)
    assert (done.status, done.out) == (0, report(full()))


# ---- file systems ----------------------------------------------------------------------------------------------

NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


@pytest.mark.parametrize("log", ("off", "trace"))
def test_without_proc_and_shared_memory(so, log):
    hide = ("for d in /proc /sys /dev/shm; do mount -t tmpfs -o ro none $d || exit 90; done;"
            "test ! -e /proc/self && test ! -e /sys/devices || exit 91; exec \"$@\"")

    def inside(*preload):
        variables = [f"{name}={value}" for name, value in PIN.items()] + [f"KNLFIX_LOG={log}", *preload]
        command = ["env", *variables, probe(), show_mask(), "self", "region", *CHILDREN]
        return run(*NAMESPACE, "sh", "-c", hide, "sh", *command)

    assert inside() == (0, report(first()), b""), "mounting is allowed to root, or where users may make namespaces"
    done = inside(f"LD_PRELOAD={so}")
    assert (done.status, done.out) == (0, report(full()))
    assert done.err == b"" if log == "off" else b" repair: " in done.err


def test_in_an_empty_root(so, tmp_path):
    """Nothing but the programs and their libraries: no /proc, /dev, /etc, /tmp at all."""
    programs = [probe(), show_mask(), "/bin/sh"]
    libraries = set()
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", listed))
    for path in [*programs, *libraries, str(so)]:
        to = tmp_path / path.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    chroot = ["chroot"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot"]
    setting = "".join(f"export {name}={value};" for name, value in PIN.items())

    def inside(preload):
        return run(*chroot, tmp_path, "/bin/sh", "-c", f'{setting} {preload} exec "$@"', "sh", probe(), show_mask(),
                   "self", "region", *CHILDREN)

    assert inside("") == (0, report(first()), b"")
    assert inside(f"export LD_PRELOAD={so};") == (0, report(full()), b"")


# ---- a filter on system calls ----------------------------------------------------------------------------------

ERRORS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_sched_setaffinity_forbidden_after_the_pin(so, error):
    steps = ("region", f"forbid={error}", "self", *CHILDREN)
    without = run_probe(*steps)
    assert without == (0, report(first()).replace(f"self {first()}\nregion 4950".encode(),
                                                  f"region 4950\nself {first()}".encode()), b"")
    # Nobody can be repaired; nothing else may change, and nothing is said unless asked.
    assert run_probe(*steps, preload=[so]) == without


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("ways", ids="+".join, argvalues=(
    ("posix_spawn", "posix_spawn", "system", "popen", "thread", "posix_spawn", "fork"),
    ("fork",), ("thread", "thread"), ("execve-fails", "execve-fails", "execve")))
def test_a_forbidden_sched_setaffinity_is_warned_of_once(so, error, ways):
    done = run_probe("region", f"forbid={error}", *ways, preload=[so], KNLFIX_LOG="warn")
    without = run_probe("region", f"forbid={error}", *ways)
    assert (done.status, done.out) == (without.status, without.out) and without.err == b""
    assert len(lines_of(b"warn", done.err)) == len(done.err.splitlines()) == 1, done.err


def test_each_forked_child_warns_once_at_most(so):
    done = run_probe("region", f"forbid={errno.EPERM}", "fork", "_Fork", "fork", "posix_spawn", "fork", preload=[so],
                     KNLFIX_LOG="warn")
    assert done.status == 0
    pids = lines_of(b"warn", done.err)
    assert pids and len(pids) == len(set(pids)) == len(done.err.splitlines()), done.err


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("pin", (True, False), ids=("pinning", "not-pinning"))
def test_sched_setaffinity_forbidden_from_the_start(so, error, pin):
    # Under OMP_PROC_BIND libgomp may find that it cannot make its threads; then it has to fail in the same words.
    command = [build("forbid.c"), str(error), probe(), show_mask(), "self", "region", f"user={last()}", *CHILDREN]
    variables = PIN if pin else {}
    without = run(*command, **variables)
    assert without.out.startswith(f"self {full()}\n".encode())
    assert run(*command, preload=[so], **variables) == without
    done = run(*command, preload=[so], KNLFIX_LOG="warn", **variables)
    ours = [line for line in done.err.splitlines() if line.startswith(b"knlfix")]
    assert (done.status, done.out) == (without.status, without.out) and len(ours) <= 1, done


# ---- environments ----------------------------------------------------------------------------------------------


def test_an_emptied_environment(so):
    assert run("env", "-i", show_mask(), preload=[so]) == (0, f"mask {full()}\n".encode(), b"")
    assert run("env", "-i", probe(), show_mask(), "region", "fork", preload=[so]) == (
        0, f"region 4950\nfork {full()}\n".encode(), b"")


@pytest.mark.parametrize("step", ("execve-null-environment", "execve-null-arguments"))
def test_execve_with_null(so, step):
    label = "mask" if step.endswith("arguments") else step
    assert run_probe("region", step) == (0, f"region 4950\n{label} {first()}\n".encode(), b"")
    assert run_probe("region", step, preload=[so]) == (0, f"region 4950\n{label} {full()}\n".encode(), b"")


def test_execve_of_more_than_the_kernel_takes(so):
    # The caller goes on, pinned as before.
    expected = f"execve-megabyte E2BIG\nexecve-megabyte {first()}\n".encode()
    assert run_probe("execve-megabyte") == (0, expected, b"")
    assert run_probe("execve-megabyte", preload=[so]) == (0, expected, b"")


def test_ten_thousand_variables(so):
    many = {f"VARIABLE_{i}": "x" * 50 for i in range(10_000)}
    assert run_probe(preload=[so], **many) == (0, report(full()), b"")


LONG = 130_000  # a string of the environment may be 131,072 bytes long
GARBAGE = {
    "no-value": [b"KNLFIX", b"KNLFIX_LOG", b"KNLFIX_AFFINITY", b"KNLFIX_LOG_FILE", b"KNLFIX_RUNTIMES"],
    "empty-value": [b"KNLFIX=", b"KNLFIX_LOG=", b"KNLFIX_AFFINITY=", b"KNLFIX_THREADS=", b"KNLFIX_VIRTUAL_MASK=",
                    b"KNLFIX_RUNTIMES=", b"KNLFIX_LOG_FILE="],
    "empty-strings": [b"", b"=", b"==", b"=KNLFIX", b"=KNLFIX=0"],
    "not-utf8": [b"KNLFIX=\xff\xfe", b"KNLFIX_LOG=\xff\xfe", b"KNLFIX_AFFINITY=\x80",
                 b"KNLFIX_RUNTIMES=+\xc3\x28,-\xf0", b"KNLFIX_LOG_FILE=/nonexistent/\xff", b"\xff\xfe=\xff"],
    "control": [b"KNLFIX=\n\x1b[2J", b"KNLFIX_RUNTIMES=\x01,\t, ,,+,-,+ ,- ,,", b"KNLFIX_THREADS=%s%n%n%n{}{}"],
    "long-log": [b"KNLFIX_LOG=" + b"x" * LONG],
    "long-switch": [b"KNLFIX_AFFINITY=" + b"x" * LONG, b"KNLFIX=" + b"1" * LONG],
    "long-runtimes": [b"KNLFIX_RUNTIMES=+" + b"x" * LONG],
    "many-runtimes": [b"KNLFIX_RUNTIMES=" + b"+x,-y," * (LONG // 6)],
    "long-file": [b"KNLFIX_LOG=trace", b"KNLFIX_LOG_FILE=/" + b"x" * LONG],
    "many-long": [b"KNLFIX_%d=" % i + b"x" * 100_000 for i in range(10)],
    "lookalikes": [b"KNLFIXX=0", b"KNLFI=0", b"knlfix=0", b"KNLFIX_=0", b"KNLFIX_LOGS=trace", b"XKNLFIX=0"],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_the_environment(so, name):
    pin = [f"{variable}={value}" for variable, value in PIN.items()]
    strings = [*GARBAGE[name], *pin, f"LD_PRELOAD={so}", "PATH=" + os.environ["PATH"]]
    done = run(build("rawenv.c"), *strings, "--", probe(), show_mask(), "self", "region", *CHILDREN)
    assert (done.status, done.out) == (0, report(full()))
    if name in ("long-log", "long-file"):
        assert lines_of(b"warn", done.err) and max(map(len, done.err.splitlines())) < 2048, done.err[:3000]
    else:
        assert done.err == b"", "nobody asked for a log"


SWITCHES = ("KNLFIX", "KNLFIX_AFFINITY", "KNLFIX_THREADS", "KNLFIX_VIRTUAL_MASK")


@pytest.mark.parametrize("value", (b"maybe", b"2", b"\xff\xfe", b"on\noff", b"x" * LONG),
                         ids=("word", "number", "not-utf8", "two-lines", "long"))
@pytest.mark.parametrize("name", SWITCHES)
def test_a_malformed_switch_is_named_in_one_line(so, name, value):
    strings = [name.encode() + b"=" + value, *(f"{variable}={value}" for variable, value in PIN.items()),
               f"LD_PRELOAD={so}", "KNLFIX_LOG=warn"]
    done = run(build("rawenv.c"), *strings, "--", probe(), show_mask(), "self", "region", "fork", "_Fork", "thread")
    assert (done.status, done.out) == (0, report(full(), ways=("fork", "_Fork", "thread")))
    assert done.err.count(b"\n") == 1 and len(lines_of(b"warn", done.err)) == 1, done.err[:1000]
    assert re.search(rb"\b%s\b" % name.encode(), done.err) and len(done.err) < 4096


def test_every_symbol_can_be_bound_at_once(so):
    assert run_probe(preload=[so], LD_BIND_NOW="1") == (0, report(full()), b"")


def test_two_copies_of_the_library(so, tmp_path):
    """Two installations in one LD_PRELOAD, as two environment modules make them."""
    copy = tmp_path / so.name
    shutil.copy(so, copy)
    assert run_probe(preload=[so, copy]) == (0, report(full()), b"")
    assert run_probe("region", "user=" + last(), *CHILDREN, preload=[so, copy]) == (
        0, b"region 4950\n" + on_the_report(last(), *CHILDREN), b"")
