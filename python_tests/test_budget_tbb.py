"""TBB: the threads of its algorithms, alone and in company; results, exceptions, and the user's own limits."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from budget import PROBES, Domain, until

CPUS = len(os.sched_getaffinity(0))
RUNTIMES = pathlib.Path(__file__).resolve().parents[1] / ".venv/runtimes"
# Where pip puts libtbb.so.12, which nobody looks in by himself.
VENV_LIBRARIES = f"{sys.prefix}/lib"
# The classic one, oneTBB's first, and a new one.
VERSIONS = {"tbb2020": "libtbb.so.2", "tbb2021": "libtbb.so.12", "tbb2023": "libtbb.so.12"}
KINDS = ["for", "reduce", "invoke", "group", "graph", "pipeline", "nested", "two"]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The probe, by the version of TBB."""
    programs = {}

    def build(version, *flags):
        if (version, flags) not in programs:
            library = RUNTIMES / version / "lib" / VERSIONS[version]
            if not library.is_file():
                pytest.fail(f"missing runtime {version} ({library}); scripts/setup test brings it", pytrace=False)
            program = tmp_path_factory.mktemp(version) / "tbb_regions"
            command = ["g++", "-std=gnu++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem",
                       RUNTIMES / version / "include", PROBES / "tbb_regions.cc", "-o", program, library,
                       f"-Wl,-rpath,{library.parent}", *flags]
            subprocess.run(command, check=True)
            programs[version, flags] = program
        return programs[version, flags]

    return build


@pytest.fixture
def neighbour(so, built):
    """Another process, in a domain with room for more."""
    domain = Domain(so, built("tbb2023"), KNLFIX_LOG="warn")
    started = domain.start()
    started.job = domain.job
    yield started
    domain.end()


@pytest.fixture
def python(neighbour, so, tmp_path):
    """python(text, *arguments, **environment): a Python program in the neighbour's domain, which answers to lines."""
    domains = []

    def start(text, *arguments, **environment):
        program = tmp_path / "program"
        program.write_text(f"#!{sys.executable}\n{ANSWERS}{text}\nanswer(run, {arguments!r})\n")
        program.chmod(0o755)
        domain = Domain(so, program, KNLFIX_LOG="warn", **environment)
        domains.append(domain)
        return domain.start(job=neighbour.job)

    yield start
    for domain in domains:
        domain.end()


@pytest.fixture(params=VERSIONS)
def domain(so, built, request):
    domain = Domain(so, built(request.param), KNLFIX_LOG="warn")
    yield domain
    domain.end()


def run(program, kind, milliseconds=300):
    least, most = map(int, program.ask(f"run {milliseconds} {kind}").split())
    return least, most


@pytest.mark.parametrize("kind", KINDS)
def test_alone_it_has_all_and_in_company_its_part(domain, kind):
    first, second = domain.start(), domain.start()
    # TBB limits its workers: a second thread of the program's own comes on top, with us and without.
    second_thread = 1 if kind == "two" else 0
    until(lambda: run(first, kind, 50)[1] == CPUS + second_thread)
    assert second.ask("hold") == "holding"
    # What began alone is still under way.
    run(first, kind, 50)
    assert run(first, kind)[1] == CPUS // 2 + second_thread
    assert second.ask("") == "left"
    until(lambda: run(first, kind, 50)[1] == CPUS + second_thread)
    assert first.end() == "" and second.end() == ""


def test_a_process_that_is_always_in_some_algorithm_shrinks_too(domain):
    first, second = domain.start(), domain.start()
    assert first.ask("overlap") == "overlapping"
    until(lambda: int(first.ask("look 100")) == CPUS + 1)
    assert second.ask("hold") == "holding"
    # The two that call, and what is left of the part.
    until(lambda: int(first.ask("look 100")) == max(CPUS // 2, 2))
    assert second.ask("") == "left"
    until(lambda: int(first.ask("look 100")) == CPUS + 1)
    assert first.ask("") == "over"


def test_tbb_does_not_complain_of_our_limit(so, built, tmp_path):
    """It does of arenas above a limit that the program has set itself."""
    four = tmp_path / "four.so"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", PROBES / "four_cpus.c", "-o", four, "-ldl"], check=True)
    domain = Domain(so, built("tbb2021"), KNLFIX_LOG="warn")
    first, second = domain.start(preload=f"{four} {so}"), domain.start()
    assert first.ask("said") == "4 4"
    second.ask("hold")
    run(first, "for", 50)
    assert run(first, "for")[1] == CPUS // 2
    first.ask("arena")
    assert run(first, "for")[1] == CPUS // 2
    assert first.end() == ""
    limited = domain.start(preload=f"{four} {so}")
    limited.ask("once")
    limited.ask("limit 1")
    limited.ask("arena")
    assert "limited to 0" in limited.end()
    domain.end()


def test_what_a_killed_process_held_is_free_again(domain):
    survivor, victim = domain.start(), domain.start()
    survivor.ask("once")
    victim.ask("hold")
    run(survivor, "for", 50)
    assert run(survivor, "for")[1] == CPUS // 2
    victim.process.send_signal(signal.SIGKILL)
    until(lambda: run(survivor, "for", 50)[1] == CPUS)


def test_exceptions_arrive_and_leave_nothing_held(domain):
    thrower, other = domain.start(), domain.start()
    assert thrower.ask("throw 10000") == "10000"
    # The neighbour is alone: nothing of the thrower's is left in the ledger.
    until(lambda: run(other, "for", 50)[1] == CPUS)
    assert other.ask("hold") == "holding"
    assert thrower.ask("throw 10000") == "10000"
    run(thrower, "for", 50)
    assert run(thrower, "for")[1] == CPUS // 2
    assert other.ask("") == "left"
    until(lambda: run(thrower, "for", 50)[1] == CPUS)


def test_nobody_is_told_of_our_limit(domain):
    first, second = domain.start(), domain.start()
    alone = first.ask("said")
    assert alone == f"{CPUS} {CPUS}"
    second.ask("hold")
    run(first, "for", 50)
    assert run(first, "for")[1] == CPUS // 2
    assert first.ask("said") == alone


def test_the_users_own_limit_holds(domain):
    first, second = domain.start(), domain.start()
    assert first.ask("limit 1") == "1"
    assert run(first, "for") == (1, 1)
    second.ask("hold")
    assert run(first, "for") == (1, 1)
    assert first.ask("limit 1") == "1"
    assert first.ask("limit 0") == str(CPUS)
    run(first, "for", 50)
    assert run(first, "for")[1] == CPUS // 2
    assert first.ask("limit 1") == "1"
    assert second.ask("") == "left"
    assert run(first, "for") == (1, 1)
    assert first.ask("limit 0") == str(CPUS)
    until(lambda: run(first, "for", 50)[1] == CPUS)


def test_switched_off_it_changes_nothing(domain):
    first, second = domain.start(KNLFIX_TBB="off"), domain.start()
    second.ask("hold")
    until(lambda: run(first, "for", 50)[1] == CPUS)


def test_a_child_forked_inside_an_algorithm_holds_nothing(domain):
    parent, other = domain.start(), domain.start()
    parent.ask("once")
    assert parent.ask("fork").startswith("child ")
    # In the child. Its TBB has no workers, but the algorithm runs.
    assert run(parent, "for", 50)[1] == 1
    parent.say("quit")
    assert parent.hear() == "child ended 0"
    until(lambda: run(other, "for", 50)[1] == CPUS)


# What the Python programs have in common: each line is answered by what `run` returns.
ANSWERS = """
import ctypes, glob, os, sys

def answer(run, arguments):
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        print(run(*arguments), flush=True)
"""

# MKL does not make the workers that it may not use.
MKL = """
mkl = ctypes.CDLL(glob.glob(sys.prefix + "/lib/libmkl_rt.so.*")[0])
SIZE = 250
Matrix = ctypes.c_double * (SIZE * SIZE)

def run():
    a, b, c = (Matrix(*((i * step) % 11 for i in range(SIZE * SIZE))) for step in (3, 7, 1))
    mkl.cblas_dgemm(101, 111, 111, SIZE, SIZE, SIZE, ctypes.c_double(1), a, SIZE, b, SIZE, ctypes.c_double(0), c, SIZE)
    for at in (0, 12345, SIZE * SIZE - 1):
        row, column = divmod(at, SIZE)
        assert c[at] == sum(a[row * SIZE + k] * b[k * SIZE + column] for k in range(SIZE)), at
    assert any("libtbb.so.12" in line for line in open("/proc/self/maps"))
    return len(os.listdir("/proc/self/task"))
"""

NUMBA = """
import numba, numpy

@numba.njit(parallel=True)
def fill(who, values):
    for i in numba.prange(values.size):
        who[i] = numba.get_thread_id()
        for j in range(1000):
            values[i] += (i * j) % 7

def run():
    who, values = numpy.zeros(2000, int), numpy.zeros(2000)
    fill(who, values)
    assert numba.threading_layer() == "tbb"
    i, j = numpy.ogrid[:2000, :1000]
    assert (values == (i * j % 7).sum(axis=1)).all()
    return len(set(who))
"""

COPIES = """
libraries = None

def run(*paths):
    global libraries
    libraries = libraries or [ctypes.CDLL(path) for path in paths]
    mapped = {line.split()[-1] for line in open("/proc/self/maps") if "/libtb" in line and "malloc" not in line}
    assert len(mapped) == len(paths), mapped
    return " ".join(str(library.threads_of_one()) for library in libraries)
"""


def test_mkl_on_tbb(neighbour, python):
    neighbour.ask("hold")
    mkl = python(MKL, MKL_THREADING_LAYER="TBB", LD_LIBRARY_PATH=VENV_LIBRARIES)
    assert [int(mkl.ask("")) for _ in range(3)] == [CPUS // 2] * 3
    assert neighbour.ask("") == "left"
    until(lambda: int(mkl.ask("")) == CPUS)
    assert mkl.end() == ""


def test_numba_on_tbb(neighbour, python):
    numba = python(NUMBA, NUMBA_THREADING_LAYER="tbb", LD_LIBRARY_PATH=VENV_LIBRARIES)
    until(lambda: int(numba.ask("")) == CPUS)
    neighbour.ask("hold")
    numba.ask("")
    assert [int(numba.ask("")) for _ in range(10)] == [CPUS // 2] * 10
    assert neighbour.ask("") == "left"
    until(lambda: int(numba.ask("")) == CPUS)
    assert numba.end() == ""


def renamed(path, directory, old, new):
    """The same object with another name in it, of the same length."""
    to = directory / path.name.replace(old.decode(), new.decode())
    to.write_bytes(path.read_bytes().replace(old, new))
    return to


RELOADED = """
import _ctypes

def run(path):
    library = ctypes.CDLL(path)
    threads = library.threads_of_one()
    _ctypes.dlclose(library._handle)
    return threads
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plugin_may_come_and_go(neighbour, python, built, version):
    program = python(RELOADED, str(built(version, "-shared", "-fPIC", "-fno-gnu-unique")))
    until(lambda: int(program.ask("")) == CPUS)
    for _ in range(3):
        neighbour.ask("hold")
        program.ask("")
        assert [int(program.ask("")) for _ in range(10)] == [CPUS // 2] * 10
        assert neighbour.ask("") == "left"
        until(lambda: int(program.ask("")) == CPUS)
    assert program.end() == ""


def test_each_copy_of_tbb_is_governed_for_itself(neighbour, python, built, tmp_path):
    flags = "-shared", "-fPIC", "-fno-gnu-unique"
    classic, first, last = (built(version, *flags) for version in VERSIONS)
    # Wheels bring copies under names of their own.
    copies = tmp_path / "copies"
    copies.mkdir()
    old, new = b"libtbb.so.12", b"libtbx.so.12"
    renamed(RUNTIMES / "tbb2021/lib" / old.decode(), copies, old, new)
    first = renamed(first, copies, old, new)
    program = python(COPIES, *map(str, (classic, first, last)), LD_LIBRARY_PATH=str(copies))
    all_of_them, part = (" ".join([str(threads)] * 3) for threads in (CPUS, CPUS // 2))
    until(lambda: program.ask("") == all_of_them)
    neighbour.ask("hold")
    program.ask("")
    assert {program.ask("") for _ in range(10)} == {part}
    assert neighbour.ask("") == "left"
    until(lambda: program.ask("") == all_of_them)
    assert program.end() == ""
