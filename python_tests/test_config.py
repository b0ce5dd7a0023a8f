"""The variables and the log, as a user meets them: what each switch turns off, what is said, silence by default."""

import re
import subprocess

import pytest

from program import LINKED, cpu_list
import ways

RUNTIME = pytest.mark.parametrize("runtime", LINKED)
OFF = pytest.mark.parametrize("off", ["off", "0", "no", "false", "OFF", "False"])
LINE = re.compile(r"knlfix\[(?P<pid>\d+):(?P<tid>\d+)\] (?P<level>error|warn|info|debug|trace): (?P<text>.+)")

CHILDREN = "bring_up(); report(pinned=main_mask(), told=sorted(os.sched_getaffinity(0)), children=ways.children())"


def lines(text):
    """The log's lines, taken apart; every line has to be one of ours."""
    matches = [(line, LINE.fullmatch(line)) for line in text.splitlines()]
    assert all(match for _, match in matches), text
    return [match.groupdict() for _, match in matches]


def kernel_list(cpus):
    """CPUs as the kernel and our log write them: 0-2,5."""
    ranges = []
    for cpu in cpus:
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join("%d" % a if a == b else "%d-%d" % (a, b) for a, b in ranges)


# --- switches -------------------------------------------------------------------------------------------------------


@OFF
def test_everything_off(run, off):
    """As if not loaded: the same masks for the same children, in whatever words it is switched off."""
    without = run(CHILDREN, runtime="libgomp", preload=False)
    with_off = run(CHILDREN, runtime="libgomp", preload=True, KNLFIX=off)
    assert with_off["children"] == without["children"]
    assert with_off["told"] == without["told"] == without["pinned"]


@RUNTIME
def test_everything_off_is_as_if_not_loaded(run, runtime):
    without = run(CHILDREN, runtime=runtime, preload=False)
    with_off = run(CHILDREN, runtime=runtime, preload=True, KNLFIX="0")
    assert with_off.reports == without.reports


@RUNTIME
def test_affinity_off(run, runtime):
    """No child and no thread is repaired."""
    without = run(CHILDREN, runtime=runtime, preload=False)
    program = run(CHILDREN, runtime=runtime, preload=True, KNLFIX_AFFINITY="off")
    assert program["children"] == without["children"]


@RUNTIME
def test_threads_off(run, allowed, runtime):
    """Processes are repaired, threads are not."""
    program = run(CHILDREN, runtime=runtime, preload=True, KNLFIX_THREADS="off")
    for way, masks in program["children"].items():
        assert masks == [program["pinned"] if ways.WAYS[way][0] == "thread" else allowed], way


@pytest.mark.parametrize("on", ["on", "1", "yes", "true", "ON", "True", ""])
def test_on(run, allowed, on):
    switches = ("KNLFIX", "KNLFIX_AFFINITY", "KNLFIX_THREADS", "KNLFIX_VIRTUAL_MASK")
    program = run(CHILDREN, runtime="libgomp", preload=True, **dict.fromkeys(switches, on))
    assert program["told"] == allowed
    assert all(masks == [allowed] for masks in program["children"].values())


@pytest.mark.parametrize("listed, stuck", [
    ("-libgomp", True), ("-libgomp.so.1", True), ("-libgom", True), ("+libother,-libgomp", True),
    ("-libomp", False), ("-libgomp,+libgomp", False), ("+libgomp", False), ("-libregion", False),
])
def test_runtime_removed(run, allowed, listed, stuck):
    """A runtime that the user takes off the list is a user: its mask holds for the children."""
    program = run(CHILDREN, runtime="libgomp", preload=True, KNLFIX_RUNTIMES=listed)
    expected = program["pinned"] if stuck else allowed
    assert all(masks == [expected] for masks in program["children"].values()), program["children"]
    assert program["told"] == expected


@pytest.mark.parametrize("listed, repaired", [("+libpinner", True), ("libpinner", True), ("+libpin,+libgomp", True),
                                              ("+libpinner.so,-libpinner", False), ("+pinner", False)])
def test_runtime_added(run, programs, allowed, listed, repaired):
    """A library of one's own that pins, put on the list."""
    program = run("""
        ctypes.CDLL(sys.argv[1]).pin_to(int(sys.argv[2]))
        report(parent=main_mask(), children=ways.children())
        """, str(programs.pinner_library()), str(allowed[-1]), preload=True, KNLFIX_RUNTIMES=listed)
    assert program["parent"] == allowed[-1:]
    expected = allowed if repaired else allowed[-1:]
    assert all(masks == [expected] for masks in program["children"].values()), program["children"]


# --- the log --------------------------------------------------------------------------------------------------------

STORY = """
    bring_up()
    ids = {"pid": os.getpid(), "tid": threading.get_native_id(), "pinned": main_mask()}
    ways.os_fork()
    subprocess.run(["true"], check=True)
    ways.in_thread(mask)
    os.sched_setaffinity(0, cpu_argument())
    ways.os_fork()
    report(**ids)
    """


@RUNTIME
def test_debug_log_tells_the_story(run, allowed, tmp_path, runtime):
    """Pin, repairs and the user's mask, each with pid, tid, masks and the name of who set it."""
    log = tmp_path / "log"
    cpus = allowed[-1:]
    program = run(STORY, cpu_list(cpus), runtime=runtime, preload=True, KNLFIX_LOG="debug", KNLFIX_LOG_FILE=str(log))
    assert "knlfix[" not in program.err, "the file is instead of standard error"
    told = lines(log.read_text())
    whole, pin, user = kernel_list(allowed), kernel_list(program["pinned"]), kernel_list(cpus)
    pid, tid = str(program["pid"]), str(program["tid"])
    mine = [line["pid"] == pid and line["tid"] == tid for line in told]
    texts = [line["text"] for line in told]
    users = [at for at, text in enumerate(texts) if mine[at] and text.startswith("user mask: ")]
    assert len(users) == 1, texts
    before, after = texts[:users[0]], texts[users[0] + 1:]
    respected = r"user mask: thread %s set to %s by \S*python.*, respected" % (tid, re.escape(user))
    assert re.fullmatch(respected, texts[users[0]]), texts[users[0]]

    # The last pin is the lasting one: LLVM and Intel try other masks before it.
    pins = [text for at, text in enumerate(before) if mine[at] and text.startswith("pin: thread %s, " % tid)]
    assert "-> %s, set by %s" % (pin, LINKED[runtime].library) in pins[-1], pins

    repairs = [text for text in before if text.startswith("repair: ")]
    assert len(repairs) == 3, "fork, subprocess, thread: " + str(repairs)
    assert all(text.endswith(" %s -> %s" % (pin, whole)) for text in repairs), repairs
    for what in ("fork", "thread"):
        assert any(what in text for text in repairs), repairs
    # Where LLVM's handler takes the user's mask from a fork's child, it is given back; nothing else is repaired.
    repairs = [text for text in after if text.startswith("repair: ")]
    assert all("fork" in text and text.endswith(" -> " + user) for text in repairs), repairs
    assert len(repairs) == (LINKED[runtime].family == "llvm"), repairs


def test_log_goes_to_standard_error(run, allowed):
    program = run(STORY, cpu_list(allowed[-1:]), runtime="libgomp", preload=True, KNLFIX_LOG="debug")
    assert not program.text
    assert {line["text"].split(":")[0] for line in lines(program.err)} >= {"pin", "repair", "user mask"}


def test_log_file_is_appended_to(run, tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    run("bring_up()", runtime="libgomp", preload=True, KNLFIX_LOG="debug", KNLFIX_LOG_FILE=str(log))
    first, *rest = log.read_text().splitlines()
    assert first == "before" and rest


@pytest.mark.parametrize("level", ["off", "error", "warn", "info"])
def test_quiet_below_debug(run, allowed, level):
    program = run(STORY, cpu_list(allowed[-1:]), runtime="libgomp", preload=True, KNLFIX_LOG=level)
    assert program.err == ""


def test_silent_by_default(run, allowed):
    program = run(STORY, cpu_list(allowed[-1:]), runtime="libgomp", preload=True)
    assert program.err == "" and not program.text


# --- malformed values -----------------------------------------------------------------------------------------------

MALFORMED = [
    ("KNLFIX", "maybe", "on"),
    ("KNLFIX", "2", "on"),
    ("KNLFIX", " off", "on"),
    ("KNLFIX_AFFINITY", "of", "on"),
    ("KNLFIX_AFFINITY", "off,", "on"),
    ("KNLFIX_THREADS", "-1", "on"),
    ("KNLFIX_THREADS", "x" * 5000, "on"),
    ("KNLFIX_VIRTUAL_MASK", "\udcff\udcfe", "on"),
    ("KNLFIX_VIRTUAL_MASK", "o\nn", "on"),
    ("KNLFIX_RUNTIMES", "/usr/lib/libgomp.so.1", "nothing"),
    ("KNLFIX_RUNTIMES", "+libfine,-", "nothing"),
    ("KNLFIX_LOG", "loud", "warn"),
    ("KNLFIX_LOG", "3", "warn"),
]


@pytest.mark.parametrize("name, value, used", MALFORMED, ids=["%s-%.10r" % row[:2] for row in MALFORMED])
def test_malformed_value_is_named_once(run, allowed, name, value, used):
    """One line that names the variable and what is used instead; the program does what it does without the variable."""
    text = "bring_up(); report(told=sorted(os.sched_getaffinity(0)), fork=ways.os_fork(), parent=main_mask())"
    program = run(text, runtime="libgomp", preload=True, **{"KNLFIX_LOG": "warn", name: value})
    told = lines(program.err)
    assert len(told) == 1, program.err
    assert told[0]["level"] == "warn"
    assert told[0]["text"].startswith(name + ": ") and told[0]["text"].endswith("; using " + used), told
    assert program.reports == run(text, runtime="libgomp", preload=True).reports
    assert program["fork"] == [allowed]


@pytest.mark.parametrize("name, value", [row[:2] for row in MALFORMED if row[0] != "KNLFIX_LOG"],
                         ids=["%s-%.10r" % row[:2] for row in MALFORMED if row[0] != "KNLFIX_LOG"])
def test_malformed_value_is_not_mentioned_by_default(run, name, value):
    """Not a word on either stream, where nobody asked for a log."""
    program = run("bring_up()", runtime="libgomp", preload=True, **{name: value})
    assert program.err == "" and not program.text


def test_misspelt_variable_is_named(run):
    program = run("bring_up()", runtime="libgomp", preload=True, KNLFIX_LOG="warn", KNLFIX_AFINITY="off")
    assert [line["text"].split(":")[0] for line in lines(program.err)] == ["KNLFIX_AFINITY"]


def test_log_file_that_cannot_be_opened(run, allowed, tmp_path):
    """The program runs on, repaired as ever."""
    log = tmp_path / "missing" / "log"
    program = run(CHILDREN, runtime="libgomp", preload=True, KNLFIX_LOG="debug", KNLFIX_LOG_FILE=str(log))
    assert not log.exists()
    assert all(masks == [allowed] for masks in program["children"].values())


@pytest.mark.parametrize("program", ["/bin/true", "/bin/sh"])
def test_warns_in_programs_without_a_runtime_too(programs, program):
    """A typing mistake shows in whatever is run first."""
    environment = dict(programs.environment(preload=True), KNLFIX_THREADS="maybe", KNLFIX_LOG="warn")
    done = subprocess.run([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, env=environment, check=True)
    assert done.stdout == ""
    assert [line["text"].split(":")[0] for line in lines(done.stderr)] == ["KNLFIX_THREADS"]
