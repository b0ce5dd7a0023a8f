"""What a program is told about its CPUs once a runtime has pinned it, and that the runtime's own team stays as it was.

The measure is the same program in which nothing pins: with the library, pinned, it has to count as that one does.
"""

import json
import os
import textwrap

import pytest

from program import LINKED, RUNTIMES, cpu_list, stuck

RUNTIME = pytest.mark.parametrize("runtime", LINKED)

# What counts CPUs, as program text that leaves its answer in `told`.
COUNTERS = {
    "os.sched_getaffinity": "told = sorted(os.sched_getaffinity(0))",
    "os.sched_getaffinity own pid": "told = sorted(os.sched_getaffinity(os.getpid()))",
    "from another thread": "told = ways.in_thread(lambda: sorted(os.sched_getaffinity(os.getpid())))",
    "psutil": "import psutil; told = len(psutil.Process().cpu_affinity())",
    "joblib": "import joblib; told = joblib.cpu_count()",
    "nproc": "told = subprocess.check_output(['nproc'], universal_newlines=True)",
    "nproc through system": "told = os.popen('nproc').read()",
    "taskset on itself": "told = subprocess.check_output('taskset -cp $$ | sed s/.*:.//', shell=True).decode()",
    "make's shell": "told = subprocess.check_output('echo $(getconf _NPROCESSORS_ONLN) $(nproc)', shell=True).decode()",
    "libc sched_getaffinity": """
        words = (ctypes.c_ulong * 128)()
        assert ctypes.CDLL(None).sched_getaffinity(0, ctypes.sizeof(words), words) == 0
        told = list(words)
        """,
    "libc syscall": """
        words = (ctypes.c_ulong * 128)()
        assert ctypes.CDLL(None).syscall(204, 0, ctypes.sizeof(words), words) > 0
        told = list(words)
        """,
    "pthread_getaffinity_np": """
        libc, words = ctypes.CDLL(None), (ctypes.c_ulong * 128)()
        libc.pthread_self.restype = ctypes.c_ulong
        assert libc.pthread_getaffinity_np(ctypes.c_ulong(libc.pthread_self()), ctypes.sizeof(words), words) == 0
        told = list(words)
        """,
    "multiprocessing worker": """
        import multiprocessing
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            told = sorted(pool.apply(os.sched_getaffinity, [0]))
        """,
    # An OpenBLAS that is loaded after the pin sizes its pool by the mask, once and for all.
    "OpenBLAS": """
        import numpy, threadpoolctl
        told = [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["internal_api"] == "openblas"]
        assert told, threadpoolctl.threadpool_info()
        """,
}
if hasattr(os, "process_cpu_count"):
    COUNTERS["os.process_cpu_count"] = "told = os.process_cpu_count()"
    COUNTERS["default executor"] = """
        import concurrent.futures
        told = concurrent.futures.ProcessPoolExecutor()._max_workers
        """

# These are asked in a child of subprocess, or of what is built on it: they are right because the child is repaired,
# whatever the parent is told.
IN_A_CHILD = {"nproc", "nproc through system", "taskset on itself", "make's shell", "multiprocessing worker"}


COUNT = """
    import json
    bring_up()
    for name, code in json.loads(sys.argv[1]).items():
        names = dict(globals())
        exec(code, names)
        report(**{name: names["told"]})
    report(pinned=main_mask())
    """


@pytest.fixture(scope="session")
def count(run):
    """count(runtime, ...): the Run of a program that asks every counter, once for each set of arguments."""
    done = {}

    def make(runtime, **how):
        key = runtime, tuple(how.items())
        if key not in done:
            counters = json.dumps({name: textwrap.dedent(code).strip() for name, code in COUNTERS.items()})
            done[key] = run(COUNT, counters, runtime=runtime, **how)
        return done[key]

    return make


@pytest.fixture(scope="session")
def unpinned(count):
    """What the counters say where nobody pins."""
    return count("libgomp", pin=False, preload=False)


@RUNTIME
@pytest.mark.parametrize("counter", COUNTERS)
def test_counts_as_unpinned(count, unpinned, allowed, runtime, counter):
    program = count(runtime, preload=True)
    assert set(program["pinned"]) < set(allowed), "the pin has to stay"
    assert program[counter] == unpinned[counter]


@RUNTIME
@pytest.mark.parametrize("counter", COUNTERS)
def test_counts_the_pin_without(count, unpinned, runtime, counter):
    """The known trouble."""
    right = counter in IN_A_CHILD and not stuck(runtime, "subprocess_run")
    assert (count(runtime, preload=False)[counter] == unpinned[counter]) == right


@RUNTIME
@pytest.mark.parametrize("counter", COUNTERS)
def test_switched_off(count, unpinned, runtime, counter):
    """KNLFIX_VIRTUAL_MASK=off: the program sees its own pin, and its children still have no pin to see."""
    program = count(runtime, preload=True, KNLFIX_VIRTUAL_MASK="off")
    pinned = count(runtime, preload=False)
    assert program[counter] == (unpinned if counter in IN_A_CHILD else pinned)[counter]


@pytest.mark.parametrize("runtime", ["mkl-intel", "mkl-gnu", "sklearn", "numba"])
def test_packages(run, allowed, runtime):
    program = run("bring_up(); report(told=sorted(os.sched_getaffinity(0)), pinned=main_mask())",
                  runtime=runtime, preload=True)
    assert set(program["pinned"]) < set(allowed)
    assert program["told"] == allowed


@RUNTIME
@pytest.mark.parametrize("which", ["equal", "other"])
def test_user_mask_is_told_as_set(run, allowed, runtime, which):
    """What the user sets is what the user reads, even where it equals the pin."""
    program = run("""
        bring_up()
        pin = main_mask()
        cpus = set(pin) if sys.argv[1] == "equal" else cpu_argument(2) - set(pin)
        os.sched_setaffinity(0, cpus)
        report(set=sorted(cpus), told=sorted(os.sched_getaffinity(0)))
        """, which, cpu_list(allowed), runtime=runtime, preload=True)
    assert program["told"] == program["set"]


@RUNTIME
def test_mask_set_from_outside_is_told(run, allowed, runtime):
    """taskset -p by somebody who does not run under the library: the record of the pin has become untrue."""
    program = run("""
        bring_up()
        plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        cpus = sorted(cpu_argument() - set(main_mask()))
        for cpus in cpus[-1:], sorted(cpu_argument()):
            subprocess.run(["taskset", "-p", "-c", ",".join(map(str, cpus)), str(os.getpid())], env=plain, check=True,
                           stdout=subprocess.DEVNULL)
            report(set=cpus, real=main_mask(), told=sorted(os.sched_getaffinity(0)))
        """, cpu_list(allowed), runtime=runtime, preload=True)
    assert len(program.reports) == 2
    for line in program.reports:
        assert line["set"] == line["real"] == line["told"]


@RUNTIME
def test_save_and_restore(run, allowed, runtime):
    """A program that saves its mask, narrows it for a while and restores what it saved has said: all CPUs."""
    program = run("""
        bring_up()
        saved = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpu_argument())
        inside = ways.children(("os_fork", "subprocess_run"))
        os.sched_setaffinity(0, saved)
        report(saved=sorted(saved), inside=inside, children=ways.children(), parent=main_mask())
        """, cpu_list(allowed[-1:]), runtime=runtime, preload=True)
    assert program["saved"] == allowed
    assert program["inside"] == {"os_fork": [allowed[-1:]], "subprocess_run": [allowed[-1:]]}
    assert all(masks == [allowed] for masks in program["children"].values()), program["children"]
    assert program["parent"] == allowed


TEAM = """
    size = 1024
    library = region_library()
    library.region(0)
    rows = 4 * len(cpu_argument())
    told = (ctypes.c_ubyte * (rows * size))()
    threads = library.region_masks(told, rows, size)

    def cpus(row):
        bits = bytes(told[row * size:(row + 1) * size])
        return [8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1]

    real = sorted(mask("self/task/" + task) for task in os.listdir("/proc/self/task"))
    report(threads=threads, told=[cpus(row) for row in range(threads)], real=real)
    """


@RUNTIME
def test_team_stays_where_the_runtime_put_it(run, allowed, runtime):
    """Every thread of the runtime's team has the mask it has without the library, and inside a region is told so."""
    without, with_us = (run(TEAM, cpu_list(allowed), runtime=runtime, preload=preload) for preload in (False, True))
    assert without["threads"] == len(allowed)
    assert all(len(cpus) < len(allowed) for cpus in without["told"]), "the premise: the team is pinned"
    for field in ("threads", "told", "real"):
        assert with_us[field] == without[field], field


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pool_of_four(run, runtime):
    """A pool of pure Python tasks gives what it gives without the library."""
    text = """
        import math, multiprocessing
        bring_up()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            report(fork=pool.map(math.factorial, range(60)))
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            report(spawn=pool.map(math.factorial, range(60)))
        """
    program, plain = run(text, runtime=runtime, preload=True), run(text, runtime=runtime, preload=False)
    assert program["fork"] == plain["fork"] == program["spawn"] == plain["spawn"]
