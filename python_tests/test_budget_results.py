"""Results under a shared budget are those of a run without the library.

Four processes do the same work at the same time beside a neighbour that comes and goes; then one of them goes on beside
the neighbour alone, until its share was seen to change while it worked. What the runs without the library agree on to
the bit, whatever their number of threads, has to be equal to the bit; elsewhere the difference between them says what
is allowed.
"""

import collections
import contextlib
import os
import pathlib
import pickle
import random
import subprocess
import sys
import threading

import numpy
import pytest

import program
from budget import Domain, build_regions

PROBES = pathlib.Path(__file__).resolve().parent / "probes"
UNPACKED = pathlib.Path(__file__).resolve().parents[1] / ".venv/runtimes"
CPUS = len(os.sched_getaffinity(0))

# More threads than there are CPUs: alone a region gets them all, and whoever shares gets fewer.
MANY = CPUS + 1

# The one result whose last bits are a matter of chance, without us too: numba adds what each thread happened to do, so
# that references may agree and say nothing.
BY_CHANCE = "numba_reductions"

SHARED, ALONE = " threads are ours\n", "budget: alone\n"


def counts(threads):
    """The variables for so many threads in every runtime; none where each is to take what it takes by default."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {} if threads is None else dict.fromkeys(names, str(threads))


# Without the library, alone. On 2 CPUs the default is 2 threads.
REFERENCES = (None, 1) if CPUS == 2 else (None, 1, 2)
# Half of the competitors hear a start share and stay with it, half ask for more and are governed region by region.
COMPETITORS = (None, None, MANY, MANY)

# work: the group of results.py, or the checks of results_main with the runtime of each ("regions@libgomp").
# sees: what the log has to say while the work goes on.
Group = collections.namedtuple("Group", "work environment sees", defaults=({}, (SHARED, ALONE)))

PYTHON = {
    "sklearn": Group("sklearn"),
    "lightgbm": Group("lightgbm"),
    "xgboost": Group("xgboost"),
    "numba-omp": Group("numba", {"NUMBA_THREADING_LAYER": "omp"}),
    "numba-tbb": Group("numba", {"NUMBA_THREADING_LAYER": "tbb"}),
    # Nothing of it is governed but the number of threads that it starts with.
    "numba-workqueue": Group("numba", {"NUMBA_THREADING_LAYER": "workqueue"}, ()),
    "numpy": Group("numpy"),
    "scipy": Group("scipy"),
    "mkl-intel": Group("mkl", {"MKL_THREADING_LAYER": "INTEL"}),
    "mkl-gnu": Group("mkl", {"MKL_THREADING_LAYER": "GNU"}),
    "mkl-tbb": Group("mkl", {"MKL_THREADING_LAYER": "TBB"}),
    "thread-pool": Group("pool"),
}
COMPILED = {
    **{f"{checks}-{runtime}": Group([f"{checks}@{runtime}"]) for checks in ("regions", "sized")
       for runtime in ("libgomp", "libomp14", "libomp19", "iomp2026")},
    "doacross": Group(["doacross@libgomp"]),
    "two-libgomps": Group(["regions@libgomp", "sized@bundled", "regions@bundled"]),
    # Not regions@libomp19: gcc's tasks in a second program thread crash LLVM's runtime, without us too.
    "libgomp-and-libomp": Group(["regions@libgomp", "sized@libomp19"]),
    **{runtime: Group([f"throw@{runtime}"]) for runtime in ("tbb2021", "tbb2023")},
}


class Worker:
    """A process that does its work as often as it is told to. `results()`: {name: [every distinct list of arrays]}."""

    def __init__(self, command, environment, scratch):
        scratch.mkdir()
        self.log, self.errors, self.saved = scratch / "log", scratch / "errors", scratch / "saved"
        self.log.touch()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, text=True,
                                            stdout=subprocess.PIPE, stderr=errors,
                                            env={**environment, "KNLFIX_LOG_FILE": str(self.log)})
        self.kept = collections.defaultdict(set)

    def say(self, line):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self, wanted):
        """Reads on to a line. What comes before are values by name."""
        for line in self.process.stdout:
            if line.strip() == wanted:
                return
            name, value = line.split()
            self.kept[name].add(int(value))
        pytest.fail(f"the program ended with {self.process.wait()} before {wanted!r}:\n{self.errors.read_text()}"
                    f"{self.log.read_text()[-2000:]}")

    def results(self):
        if not self.kept:
            self.say(f"save {self.saved}")
            self.hear("saved")
            return pickle.loads(self.saved.read_bytes())
        results = {name: values for name, values in self.kept.items() if ".team." not in name}
        return {name: [[numpy.array(value)] for value in values] for name, values in results.items()}

    def teams(self, group):
        """The sizes of every library's default-sized regions. (In TBB they say nothing: any thread may come late.)"""
        if group.work[0].startswith("throw@"):
            return []
        return [teams for name, teams in self.kept.items() if ".team." in name]

    def end(self):
        """It ends by itself, without complaints."""
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0, self.errors.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def build(runtimes, tmp_path_factory):
    """build("regions@libgomp"): the checks as a library linked to that runtime. build("main"): who runs them."""
    scratch, built = tmp_path_factory.mktemp("results"), {}
    bundled = program.wheel_libraries("scikit_learn")
    strict = ["-O1", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror"]

    def link(checks, runtime, output):
        if checks == "main":
            return ["gcc", *strict, PROBES / "results_main.c", "-pthread", "-ldl"]
        if runtime.startswith("tbb"):
            unpacked = UNPACKED / runtime
            assert (unpacked / "lib").is_dir(), f"missing runtime {runtime}; scripts/setup test brings it"
            return ["g++", *strict, "-shared", f"-I{unpacked}/include", PROBES / f"results_{checks}.cc",
                    unpacked / "lib/libtbb.so.12", f"-Wl,-rpath,{unpacked}/lib"]
        if runtime == "libgomp":
            return ["gcc", *strict, "-fopenmp", "-shared", PROBES / f"results_{checks}.c"]
        compiled = output.with_suffix(".o")
        # What LLVM's runtimes get wrong without us too, for gcc's code: children that are forked while another thread
        # is in a region, and a cancelled loop, which cancels a later one as well.
        without = [] if runtime == "bundled" else ["-DNOT_LIBGOMP"]
        source = PROBES / f"results_{checks}.c"
        subprocess.run(["gcc", *strict, *without, "-fopenmp", "-c", source, "-o", compiled], check=True)
        library = next(bundled.glob("libgomp-*")) if runtime == "bundled" else runtimes[runtime]
        return ["gcc", "-shared", compiled, library, f"-Wl,-rpath,{library.parent}", "-pthread"]

    def make(what):
        if what not in built:
            checks, _, runtime = what.partition("@")
            built[what] = scratch / (what + ".so")
            subprocess.run([*link(checks, runtime, built[what]), "-o", built[what]], check=True)
        return built[what]

    return make


@contextlib.contextmanager
def comes_and_goes(neighbour):
    """Has the neighbour in regions now and then, for about 20 ms at a time."""
    over, failed = threading.Event(), []

    def alternate():
        dice = random.Random(0)
        try:
            while not over.wait(dice.uniform(0.01, 0.06)):
                neighbour.teams(20)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed


def equal(arrays):
    return all(array.shape == arrays[0].shape and numpy.array_equal(array, arrays[0]) for array in arrays)


def check(references, results):
    """Every result is one that could have come without the library."""
    for name, found in results.items():
        known = [arrays for reference in references for arrays in reference[name]]
        for place, right in enumerate(zip(*known, strict=True)):
            by_chance = name == BY_CHANCE and right[0].dtype.kind == "f"
            if equal(right) and not by_chance:
                for arrays in found:
                    assert equal([right[0], arrays[place]]), f"{name}, result {place}: not equal to the bit"
                continue
            assert right[0].dtype.kind in "fc", f"{name}, result {place}: without the library it is not always the same"
            scale = abs(right[0]).max()
            allowed = 100 * max(abs(other - right[0]).max() for other in right) / scale
            if by_chance:
                allowed = max(allowed, 100 * numpy.finfo(float).eps)
            assert allowed < 1e-9, f"{name}, result {place}: without the library it differs by {allowed / 100}"
            for arrays in found:
                differs = abs(arrays[place] - right[0]).max() / scale
                # Written so that a NaN fails.
                assert differs <= allowed, f"{name}, result {place}: {differs} away, allowed is {allowed}"


def compete(group, command, so, regions, scratch, variables):
    """Runs the references, then the competitors, and compares."""
    base = {**os.environ, "OMP_CANCELLATION": "true", **group.environment, **variables}
    base["LD_LIBRARY_PATH"] = str(pathlib.Path(sys.prefix, "lib"))
    domain, workers, references = Domain(so, regions), [], []
    try:
        for threads in REFERENCES:
            alone = Worker(command, {**base, **counts(threads)}, scratch / f"reference-{threads}")
            workers.append(alone)
            alone.hear("ready")
            alone.say("rounds 2")
            alone.hear("done")
            references.append(alone.results())
            alone.end()
        base.update(SLURM_JOB_ID=domain.job, LD_PRELOAD=str(so), KNLFIX_LOG="debug")
        rivals = [Worker(command, {**base, **counts(threads)}, scratch / f"rival-{number}")
                  for number, threads in enumerate(COMPETITORS)]
        workers += rivals
        for rival in rivals:
            rival.hear("ready")
        with comes_and_goes(domain.start()):
            governed = [rival for rival, threads in zip(rivals, COMPETITORS) if threads and group.sees]
            for turn in range(50):
                # Nobody begins a round before all have ended the last one: each is as long as the slowest.
                for rival in rivals:
                    rival.say("rounds 1")
                for rival in rivals:
                    rival.hear("done")
                if turn > 0 and all(SHARED in rival.log.read_text() for rival in governed):
                    break
            for rival in governed:
                assert SHARED in rival.log.read_text(), "it was never told that it shares"
            for rival in rivals[:-1]:
                check(references, rival.results())
                rival.end()
            last = rivals[-1]
            begin = last.log.stat().st_size
            for _ in range(100):
                last.say("rounds 1")
                last.hear("done")
                said = last.log.read_text()[begin:]
                both = all(min(teams) < max(teams) for teams in last.teams(group))
                if both and all(line in said for line in group.sees):
                    break
            for line in group.sees:
                assert line in said, "the share never changed while it worked"
            for teams in last.teams(group):
                # It asked for MANY each time: once it got fewer, and once all.
                assert min(teams) < MANY and max(teams) == MANY, teams
            check(references, last.results())
            last.end()
    finally:
        for worker in workers:
            worker.kill()
        domain.end()


@pytest.fixture(scope="session")
def regions(tmp_path_factory):
    return build_regions(tmp_path_factory.mktemp("regions"))


@pytest.mark.parametrize("name", PYTHON)
def test_packages(name, so, regions, tmp_path, tmp_path_factory):
    group = PYTHON[name]
    command = [sys.executable, "-W", "ignore", PROBES / "results.py", group.work]
    # One cache for all: what numba compiles is the same.
    variables = {"NUMBA_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "numba")}
    compete(group, command, so, regions, tmp_path, variables)


@pytest.mark.parametrize("name", COMPILED)
def test_programs(name, so, build, regions, tmp_path):
    group = COMPILED[name]
    command = [build("main"), *map(build, group.work)]
    compete(group, command, so, regions, tmp_path, {})


@pytest.mark.parametrize("runtime", ["libomp14", "libomp19", "iomp2026"])
def test_a_doacross_loop_on_llvm_never_has_a_team_of_one(runtime, so, build, tmp_path):
    command = [build("main"), build(f"doacross@{runtime}")]
    found = []
    for number, variables in enumerate(({}, {"LD_PRELOAD": str(so), "KNLFIX_BUDGET": "1"})):
        worker = Worker(command, {**os.environ, **counts(2), **variables}, tmp_path / str(number))
        try:
            worker.hear("ready")
            worker.say("rounds 5")
            worker.hear("done")
            found.append(worker.results())
            worker.end()
        finally:
            worker.kill()
    check(found[:1], found[1])
