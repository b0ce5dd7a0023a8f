"""The libgomp governor under real libraries: results while the team's size changes, several copies, forks meanwhile."""

import json
import pathlib
import subprocess
import sys
import textwrap
import uuid

import pytest

import program

PROBES = pathlib.Path(__file__).resolve().parent / "probes"


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """team.c as two libraries, one linked to the system's libgomp, one to the copy that scikit-learn brings."""
    libraries = program.wheel_libraries("scikit_learn")
    (own_copy,) = libraries.glob("libgomp-*")
    scratch = tmp_path_factory.mktemp("copies")
    compiled, system, bundled = scratch / "team.o", scratch / "libteam.so", scratch / "libteam-bundled.so"
    for command in (
        ["-O1", "-fPIC", "-fopenmp", "-Wall", "-Werror", "-c", PROBES / "team.c", "-o", compiled],
        ["-shared", "-fopenmp", compiled, "-o", system],
        ["-shared", compiled, own_copy, f"-Wl,-rpath,{libraries}", "-o", bundled],
    ):
        subprocess.run(["gcc", *map(str, command)], check=True)
    return system, bundled


@pytest.fixture
def domain():
    """Variables that put processes into a domain of their own."""
    return {"SLURM_JOB_ID": f"test-{uuid.uuid4()}"}


@pytest.fixture
def neighbour(programs, copies, domain):
    """neighbour(): starts a process of the domain that is in regions all the time; with a number, in bursts.

    Returns a function that ends it.
    """
    started = []

    def start(*pause):
        environment = dict(programs.environment(preload=True), **domain)
        command = [sys.executable, str(PROBES / "neighbour.py"), str(copies[0]), *map(str, pause)]
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child.communicate)
        assert child.stdout.readline() == "begun\n"
        return child.communicate

    yield start
    for end in started:
        end()


TWO_COPIES = """
    import time
    libraries = [ctypes.CDLL(path) for path in sys.argv[1:3]]
    wrong, sizes = 0, [set(), set()]
    def check(call, *numbers):
        places = (ctypes.c_int * 64)()
        size = call(*numbers, places, 64)
        return size, list(places) == [place + 1 if place < size else 0 for place in range(64)]
    for turn in range(600):
        for library, seen in zip(libraries, sizes):
            size, right = check(library.team)
            seen.add(size)
            wrong += not right
            wrong += check(library.team_of, 3) != (3, True)
        time.sleep(0.0005)
    report(wrong=wrong, sizes=[sorted(seen) for seen in sizes])
"""


@pytest.mark.parametrize("preload", (False, True), ids=("without", "with"))
def test_two_copies_of_libgomp_have_teams_of_their_own(run, copies, domain, neighbour, preload):
    neighbour(50)
    done = run(TWO_COPIES, *map(str, copies), preload=preload, OMP_NUM_THREADS="4", **domain)
    assert done["wrong"] == 0
    assert done["sizes"] == ([[1, 4]] * 2 if preload else [[4]] * 2)


def test_alone_nothing_changes(run, copies, domain):
    done = run(TWO_COPIES, *map(str, copies), preload=True, OMP_NUM_THREADS="4", **domain)
    assert done["wrong"] == 0 and done["sizes"] == [[4]] * 2


# Deterministic fits: the same digest wherever and with whomever they run.
FITS = """
    import hashlib
    import numpy
    def digest(*arrays):
        return hashlib.sha256(b"".join(numpy.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
    random = numpy.random.default_rng(0)
    rows = random.normal(size=(1500, 12))
    target = rows[:, 0] * 2 + rows[:, 1] ** 2 + random.normal(size=1500) * 0.1
    def gradient_boosting():
        from sklearn.ensemble import HistGradientBoostingRegressor
        return digest(HistGradientBoostingRegressor(max_iter=8, random_state=0).fit(rows, target).predict(rows))
    def neighbours():
        from sklearn.neighbors import KNeighborsRegressor
        return digest(KNeighborsRegressor(5, algorithm="brute").fit(rows, target).predict(rows))
    def k_means():
        from sklearn.cluster import KMeans
        return digest(KMeans(4, n_init=2, random_state=0).fit(rows).labels_)
    def light_gbm():
        import lightgbm
        settings = {"num_threads": 4, "deterministic": True, "force_row_wise": True, "verbosity": -1, "seed": 0}
        return digest(lightgbm.train(settings, lightgbm.Dataset(rows, target), 8).predict(rows))
    def prange():
        import numba
        @numba.njit(parallel=True)
        def total(values):
            sums = numpy.zeros(values.shape[0])
            for row in numba.prange(values.shape[0]):
                sums[row] = values[row].sum()
            return sums
        return digest(total(rows))
"""
FIT_NAMES = ("gradient_boosting", "neighbours", "k_means", "light_gbm", "prange")
MAIN = FITS + """
    for name in sys.argv[2:]:
        report(**{name: sorted({globals()[name]() for _ in range(int(sys.argv[1]))})})
"""


@pytest.fixture(scope="session")
def undisturbed(run):
    """The digests without the library, alone."""
    done = run(MAIN, "1", *FIT_NAMES, preload=False, OMP_NUM_THREADS="4", NUMBA_THREADING_LAYER="omp")
    return {name: done[name] for name in FIT_NAMES}


def test_results_beside_a_neighbour_that_comes_and_goes(run, domain, neighbour, undisturbed):
    neighbour(60)
    done = run(MAIN, "4", *FIT_NAMES, preload=True, OMP_NUM_THREADS="4", NUMBA_THREADING_LAYER="omp", **domain)
    assert {name: done[name] for name in FIT_NAMES} == undisturbed


def test_four_processes_at_once(programs, domain, undisturbed):
    import concurrent.futures

    def work(name):
        return programs.run(MAIN, "2", name, preload=True, OMP_NUM_THREADS="4", NUMBA_THREADING_LAYER="omp", **domain)

    names = ("gradient_boosting", "light_gbm", "k_means", "neighbours")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, done in zip(names, pool.map(work, names)):
            assert done[name] == undisturbed[name]


REGIONS_AND_FORKS = """
    import time
    library = ctypes.CDLL(sys.argv[1])
    wrong, turns, forking = 0, 0, True
    def fork():
        global forking, failed
        failed = 0
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                places = (ctypes.c_int * 64)()
                os._exit(library.team_of(2, places, 64) != 2 or list(places)[:3] != [1, 2, 0])
            failed += os.waitpid(pid, 0)[1] != 0
        forking = False
    thread = threading.Thread(target=fork)
    thread.start()
    while forking:
        places = (ctypes.c_int * 64)()
        size = library.team(places, 64)
        wrong += list(places) != [place + 1 if place < size else 0 for place in range(64)]
        turns += 1
    thread.join()
    report(wrong=wrong, failed=failed, ran=turns > 0)
"""


def test_regions_while_another_thread_forks(run, copies, domain, neighbour):
    neighbour()
    done = run(REGIONS_AND_FORKS, str(copies[0]), preload=True, OMP_NUM_THREADS="4", **domain)
    assert done.reports == [{"wrong": 0, "failed": 0, "ran": True}]


# /proc lists the ballast's threads. The process has none but these and the region's.
BALLAST = """
    import time
    library = ctypes.CDLL(sys.argv[1])
    places = (ctypes.c_int * 64)()
    cpus = len(os.sched_getaffinity(0))
    def threads():
        return len(os.listdir("/proc/self/task"))
    def run_until(wanted):
        end = time.monotonic() + 30
        while not wanted(threads()) and time.monotonic() < end:
            library.team_of(cpus, places, 64)
            time.sleep(0.001)
        return threads()
    library.team_of(cpus, places, 64)
    alone = threads()
    report(there=True)
    report(began=run_until(lambda now: now > alone) > alone if sys.stdin.readline() == "squeezed\\n" else None)
    report(ended=run_until(lambda now: now == alone) == alone if sys.stdin.readline() == "alone\\n" else None)
    report(began=run_until(lambda now: now > alone) > alone if sys.stdin.readline() == "squeezed\\n" else None)
"""


@pytest.mark.parametrize("setting, comes", (({}, True), ({"KNLFIX_WAIT": "off"}, False),
                                            ({"OMP_WAIT_POLICY": "active"}, False), ({"GOMP_SPINCOUNT": "9"}, False),
                                            ({"OMP_DISPLAY_AFFINITY": "false"}, False)), ids=str)
def test_the_ballast_is_there_while_explicit_regions_are_squeezed(programs, copies, domain, neighbour, setting, comes):
    environment = dict(programs.environment(preload=True), PYTHONPATH=str(PROBES), **domain, **setting)
    text = program.PRELUDE + textwrap.dedent(BALLAST if comes else BALLAST.replace("+ 30", "+ 2"))
    child = subprocess.Popen([sys.executable, "-c", text, str(copies[0])], env=environment, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def hear():
        return json.loads(child.stdout.readline())

    def say(word):
        child.stdin.write(word + "\n")
        child.stdin.flush()
        return hear()

    try:
        # Before the neighbour is: it is told the whole of the machine, and libgomp with it.
        assert hear() == {"there": True}
        end = neighbour()
        assert say("squeezed") == {"began": comes}
        end()
        assert say("alone") == {"ended": True}
        neighbour()
        assert say("squeezed") == {"began": comes}
        # It keeps nobody alive.
        assert child.wait(timeout=30) == 0
    finally:
        child.kill()
        child.communicate()
