"""`knlfix top`, of real processes in a real ledger, which it must not disturb."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import termios
import time
import unicodedata
import uuid

import pytest

from budget import SHM, Domain, build_regions, until

CPUS = len(os.sched_getaffinity(0))
KEYS = {"file", "job", "region", "active", "idle", "dead", "held", "held_by_dead", "processes", "cpus"}
STATES = {"region", "active", "idle", "dead"}


@pytest.fixture(scope="session")
def regions(tmp_path_factory):
    return build_regions(tmp_path_factory.mktemp("regions"))


@pytest.fixture
def domain(so, regions):
    domain = Domain(so, regions, KNLFIX_LOG="warn")
    yield domain
    domain.end()


@pytest.fixture
def of(knlfix):
    """of(domain): what the JSON says of it; `None` if nothing."""

    def seen(domain):
        found = [each for each in json.loads(knlfix("top", "--json"))["domains"]
                 if each["job"] == f"SLURM_JOB_ID={domain.job}" or each["file"] in map(str, domain.ledgers())]
        assert len(found) <= 1
        return found[0] if found else None

    return seen


def age(pid):
    with open(f"/proc/{pid}/stat") as stat, open("/proc/uptime") as uptime:
        return float(uptime.read().split()[0]) - int(stat.read().rpartition(")")[2].split()[19]) / 100


def test_every_field_of_the_json(domain, of):
    first, second = domain.start(KNLFIX_BUDGET="1"), domain.start()
    assert second.once() == CPUS
    assert first.ask("hold") == "holding 1"
    until(lambda: of(domain)["idle"] == 1)
    seen = of(domain)
    assert set(seen) == KEYS
    assert seen["file"] == str(domain.ledgers()[0])
    counts = {"region": 1, "active": 0, "idle": 1, "dead": 0, "held": 1, "held_by_dead": 0}
    assert {key: seen[key] for key in counts} == counts
    idle, busy = seen["processes"]
    allowed = sorted(os.sched_getaffinity(0))
    for process, regions in (idle, second), (busy, first):
        assert process["pid"] == regions.process.pid
        assert process["command"] == str(domain.program)
        # As a floating-point number, and in hundredths of a second.
        assert -0.01 < age(process["pid"]) - process["age_s"] < 10
        assert parse(process["allowed"]) == allowed
        assert process["claimed"] is None
    fields = "slot", "state", "ask", "held", "budget", "start_share"
    assert [idle[field] for field in fields] == [0, "idle", CPUS, 0, CPUS, None]
    assert [busy[field] for field in fields] == [1, "region", 1, 1, 1, 1]
    # One part for each of two; who is alone has the budget.
    assert (idle["share"], busy["share"]) == (CPUS // 2 + CPUS % 2, 1)
    assert idle["idle_ms"] > 10
    first.ask("")
    until(lambda: of(domain)["idle"] == 2)
    assert [process["share"] for process in of(domain)["processes"]] == [CPUS, 1]


def parse(cpus):
    ranges = [part.split("-") for part in cpus.split(",")]
    return [cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)]


def test_claimed_cpus_and_the_map(domain, of, knlfix, two_cpus):
    pinned = [domain.start(OMP_PROC_BIND="close", OMP_PLACES="threads", OMP_NUM_THREADS="1") for _ in range(2)]
    for _ in range(3):
        for process in pinned:
            process.once()
    seen = of(domain)
    claims = [parse(process["claimed"]) for process in seen["processes"]]
    assert all(len(claim) == 1 for claim in claims) and claims[0] != claims[1]
    claimed_by = {cpu["cpu"]: cpu["claimed_by"] for cpu in seen["cpus"]}
    assert sorted(claimed_by) == two_cpus
    for process, [cpu] in zip(seen["processes"], claims):
        assert claimed_by[cpu] == [process["pid"]]
    [text] = [part for part in re.split(r"\n(?=\S+=)", knlfix("top", "--once")) if domain.job in part]
    assert "\nCPU " in text
    assert re.search(rf"\nA  +{seen['processes'][0]['pid']} .* {claims[0][0]} +regions\n", text)
    assert re.search(rf"\nB  +{seen['processes'][1]['pid']} .* {claims[1][0]} +regions\n", text)


def test_a_killed_process_is_dead_until_another_takes_its_threads_back(domain, of, knlfix):
    survivor, victim = domain.start(), domain.start()
    survivor.once()
    held = int(victim.ask("hold").split()[1])
    victim.process.kill()
    # It is dead as a zombie, and when it was waited for.
    for wait in lambda: None, victim.process.wait:
        wait()
        until(lambda: of(domain)["dead"] == 1)
        seen = of(domain)
        [dead] = [process for process in seen["processes"] if process["state"] == "dead"]
        assert (dead["pid"], dead["held"], seen["held_by_dead"], seen["held"]) == (victim.process.pid, held, held, 0)
        assert dead["command"] is None and dead["share"] is None and dead["budget"] is None
        assert f"; 1 dead holds {held}\n" in knlfix("top", "--once")
    until(lambda: survivor.teams(20)[1] == CPUS)
    seen = of(domain)
    assert seen["dead"] == seen["held_by_dead"] == 0 and len(seen["processes"]) == 1


def test_nothing_in_the_ledger_changes_and_nobody_waits(domain, knlfix):
    """Also where looking as a member would: a dead owner is there, the file is locked, most of it is a hole."""
    victim, stopped = domain.start(), domain.start()
    victim.ask("hold")
    stopped.once()
    stopped.process.send_signal(signal.SIGSTOP)
    victim.process.kill()
    victim.process.wait()
    [ledger] = domain.ledgers()
    before = ledger.read_bytes(), ledger.stat()
    with ledger.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told = knlfix("top", "--json") + knlfix("top", "--once")
    assert str(ledger) in told and str(stopped.process.pid) in told
    after = ledger.read_bytes(), ledger.stat()
    assert after[0] == before[0]
    assert (after[1].st_blocks, after[1].st_mtime_ns) == (before[1].st_blocks, before[1].st_mtime_ns)
    stopped.process.send_signal(signal.SIGCONT)


def test_domains_that_come_and_go_while_looked_at(domain, knlfix):
    end = time.monotonic() + 3
    looks = 0
    while time.monotonic() < end:
        processes = [domain.start(job=f"{domain.job}-{uuid.uuid4()}") for _ in range(3)]
        for process in processes:
            process.say("once")
            process.say("quit")
        while any(process.process.poll() is None for process in processes):
            assert set(json.loads(knlfix("top", "--json"))) == {"version", "domains", "left_out"}
            looks += 1
        for process in processes:
            process.process.communicate()
    assert looks > 0


@pytest.fixture
def stray():
    """stray(): a path that looks like a ledger's of this user."""
    paths = []

    def make(user=None):
        version = "2"
        user = os.geteuid() if user is None else user
        path = SHM / f"knlfix-{version}-{user}-{uuid.uuid4().hex[:16]}"
        paths.append(path)
        return path

    yield make
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def private(path, content):
    path.touch(0o600)
    path.write_bytes(content)


def look(so):
    command = [so.parent / "knlfix", "top"]
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    once = subprocess.run([*command, "--once"], capture_output=True, text=True, check=True)
    return {each["file"]: each["why"] for each in told["left_out"]}, once.stderr, told


def test_files_that_are_no_ledgers_are_left_out_and_named(domain, so, stray):
    domain.start().once()
    size = domain.ledgers()[0].stat().st_size
    foreign, garbage, short, pipe, link, open_to_all = (stray() for _ in range(6))
    private(garbage, os.urandom(size))
    private(short, b"knlfix")
    os.mkfifo(pipe, 0o600)
    link.symlink_to(domain.ledgers()[0])
    private(open_to_all, domain.ledgers()[0].read_bytes())
    open_to_all.chmod(0o644)
    private(foreign, domain.ledgers()[0].read_bytes())
    others = "not a file of this user alone"
    expected = {garbage: "no ledger of this version", short: "no ledger of this version", pipe: others, open_to_all: others}
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
        expected[foreign] = others
    left_out, said, told = look(so)
    for path, why in expected.items():
        assert left_out[str(path)] == why
        assert f"knlfix: {path}: {why}; left out\n" in said
    assert str(link) in left_out
    shown = {each["file"] for each in told["domains"]}
    assert str(domain.ledgers()[0]) in shown and not shown & set(left_out)


def test_ledgers_of_others_and_empty_ones_are_not_mentioned(domain, so, stray):
    domain.start().once()
    theirs, empty = stray(os.geteuid() + 1), stray()
    private(theirs, domain.ledgers()[0].read_bytes())
    private(empty, b"")
    left_out, said, told = look(so)
    for path in theirs, empty:
        assert str(path) not in left_out and str(path) not in said
        assert str(path) not in {each["file"] for each in told["domains"]}


@pytest.mark.parametrize("fill", ["random", "ones", "zeros"])
def test_garbage_in_a_ledger_is_cut_to_size(domain, so, stray, fill):
    domain.start().once()
    real = domain.ledgers()[0].read_bytes()
    magic, size = real[:8], len(real)
    rest = {"random": os.urandom(size - 8), "ones": b"\xff" * (size - 8), "zeros": bytes(size - 8)}[fill]
    path = stray()
    private(path, magic + rest)
    _, _, told = look(so)
    found = [each for each in told["domains"] if each["file"] == str(path)]
    processes = [process for each in found for process in each["processes"]]
    assert bool(processes) == (fill != "zeros")
    for process in processes:
        assert process["state"] in STATES and process["ask"] <= 65536 and process["held"] <= 65536


@pytest.mark.parametrize("name", ["long name " * 20, "\x1b[31m長い名前" + "長い名前" * 10, "\x1b]0;title\x07\n"])
def test_no_line_is_wider_than_80_columns_and_none_is_coloured(domain, so, tmp_path, name):
    program = tmp_path / name
    program.symlink_to(domain.program)
    domain.program = program
    process = domain.start()
    process.once()
    told = subprocess.run([so.parent / "knlfix", "top"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", told) and str(process.process.pid) in told
    assert max(map(columns, told.split("\n"))) <= 80


def columns(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


class Terminal:
    """A terminal of its own, with a command in it."""

    def __init__(self, command, rows, **environment):
        self.server = ["tmux", "-L", f"knlfix-test-{uuid.uuid4()}", "-f", "/dev/null"]
        variables = {**os.environ, "TERM": "xterm-256color", **environment}
        self.tmux("new-session", "-d", "-x", "80", "-y", str(rows), command, env=variables)

    def tmux(self, *arguments, **options):
        done = subprocess.run([*self.server, *arguments], capture_output=True, text=True, check=True, **options)
        return done.stdout

    def shown(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def waits_for(self, *parts):
        until(lambda: all(part in self.shown() for part in parts), 30)
        return self.shown()

    def end(self):
        subprocess.run([*self.server, "kill-server"], capture_output=True)


@pytest.fixture
def terminal(so):
    """terminal(...): `knlfix top` in a terminal, and after it a shell that tells how it was left."""
    opened = []

    def make(*arguments, rows=300, **environment):
        command = shlex.join([str(so.parent / "knlfix"), "top", *arguments])
        opened.append(Terminal(f"{command}; echo status $?; stty -a; cat", rows, **environment))
        return opened[-1]

    yield make
    for each in opened:
        each.end()


def order(shown, domain):
    """The domain's processes, from the top of the screen."""
    pids = {str(each.process.pid) for each in domain.started}
    return [int(word) for word in re.findall(r"^ .*?(\d+) ", shown, re.MULTILINE) if word in pids]


def test_the_screen_is_live_until_q(domain, terminal):
    first, second = domain.start(), domain.start()
    first.once()
    screen = terminal("--interval", "0.1")
    shown = screen.waits_for(domain.job, str(first.process.pid), "q quit")
    assert str(second.process.pid) not in shown
    second.ask("hold")
    screen.waits_for(f"{second.process.pid} ", " region ")
    second.process.kill()
    second.process.wait()
    screen.waits_for(" dead ")
    assert first.end() == ""
    until(lambda: domain.job not in screen.shown() and str(first.process.pid) not in screen.shown())
    screen.press("q")
    left = screen.waits_for("status 0", " icanon ", " echo ")
    assert "q quit" not in left


@pytest.mark.parametrize("key", ["Escape", "C-c"])
def test_other_keys_that_end_it(terminal, key):
    screen = terminal("--interval", "1e19", rows=30)
    screen.waits_for("q quit")
    screen.press(key)
    screen.waits_for("status 0", " icanon ")


def test_arrows_sort_and_select(domain, terminal):
    processes = [domain.start() for _ in range(3)]
    for process in reversed(processes):
        process.once()
    pids = [process.process.pid for process in processes]
    screen = terminal()
    shown = screen.waits_for(*map(str, pids), "sorted by slot")
    assert order(shown, domain) == pids[::-1]
    screen.press("Right")
    assert order(screen.waits_for("sorted by pid"), domain) == sorted(pids)
    screen.press("Right")
    screen.waits_for("sorted by age")
    screen.press("Left", "Left")
    assert order(screen.waits_for("sorted by slot"), domain) == pids[::-1]
    # Nothing is selected before the first arrow, and End is the last of all processes, whoever's.
    reverse = re.compile(r"\x1b\[[0-9;]*\b7m.*")
    assert not reverse.search(screen.shown("-e"))
    screen.press("Down", "End")
    until(lambda: reverse.search(screen.shown("-e")))
    last = [line for line in screen.shown("-e").splitlines() if re.search(r" (region|active|idle|dead) ", line)][-1]
    until(lambda: reverse.search(screen.shown("-e")).group() in last)
    screen.press("Up", "PageUp", "Home")
    until(lambda: reverse.search(screen.shown("-e")).group() not in last)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_heard(domain, terminal, no_color):
    process = domain.start()
    process.ask("hold")
    screen = terminal(NO_COLOR=no_color)
    screen.waits_for(str(process.process.pid))
    has_colour = re.search(r"\x1b\[[0-9;]*38;5;", screen.shown("-e")) is not None
    assert has_colour == (no_color == "")


def a_terminal():
    """Both ends of one of 24 lines and 80 columns; a new one has none."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    return ours, theirs


def test_it_ends_with_its_terminal_though_hangups_are_ignored(so):
    ours, theirs = a_terminal()

    def take_terminal():
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    top = subprocess.Popen([so.parent / "knlfix", "top", "--interval", "0.1"], stdin=theirs, stdout=theirs,
                           stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=take_terminal,
                           env={**os.environ, "TERM": "xterm-256color"})
    try:
        os.close(theirs)
        shown = b""
        while b"quit" not in shown:
            shown += os.read(ours, 65536)
        os.close(ours)
        _, said = top.communicate(timeout=30)
    finally:
        top.kill()
        top.wait()
    assert (top.returncode, said) == (125, "knlfix: the terminal: it is gone; ended\n")


def test_it_leaves_the_terminal_as_it_was_when_it_is_asked_to_end(so):
    ours, theirs = a_terminal()
    before = termios.tcgetattr(theirs)
    top = subprocess.Popen([so.parent / "knlfix", "top"], stdin=theirs, stdout=theirs, env={**os.environ, "TERM": "xterm-256color"})
    try:
        shown = b""
        while b"quit" not in shown:
            shown += os.read(ours, 65536)
        top.terminate()
        assert top.wait(30) == -signal.SIGTERM
        while b"\x1b[?1049l" not in shown:
            shown += os.read(ours, 65536)
        assert termios.tcgetattr(theirs) == before
    finally:
        top.kill()
        top.wait()
        os.close(ours)
        os.close(theirs)


def test_a_small_screen_and_a_resized_one(domain, terminal):
    process = domain.start()
    process.once()
    screen = terminal(rows=4)
    screen.waits_for("q quit")
    screen.tmux("resize-window", "-x", "100", "-y", "200")
    screen.waits_for(str(process.process.pid), "q quit")
