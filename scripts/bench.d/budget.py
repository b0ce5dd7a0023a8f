"""What one budget for all processes gains and costs: `scripts/bench budget`."""
import os
import pathlib
import subprocess
import threading
import time

import machine
from figures import Section, Target, median

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CPUS = len(os.sched_getaffinity(0))

# The workloads run so long at a time: many slices of a scheduler, and of the library's look at the others.
SECONDS = 0.5
COUNTS = (1, 2, 4, 8)

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


def variants(library):
    """What is compared: with how many threads each process runs, and who says so. `static` are the settings of a user."""
    statics = sorted({1, max(1, CPUS // 4), max(1, CPUS // 2)})
    return {
        "default": {},
        **{f"{count} each": {name: str(count) for name in ONE_THREAD} for count in statics},
        "ours": {"LD_PRELOAD": str(library)},
    }


class Runnable(threading.Thread):
    """How many of the processes' threads run or could run, looked at some hundred times a second."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.samples, self.is_over = pids, [], threading.Event()

    def run(self):
        while not self.is_over.wait(0.004):
            self.samples.append(sum(map(self._of, self.pids)))

    @staticmethod
    def _of(pid):
        count = 0
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/stat") as stat:
                    count += stat.read().rpartition(")")[2].split()[0] == "R"
        except (FileNotFoundError, ProcessLookupError):
            pass
        return count


def together(commands, ready, environment):
    """Runs the commands at once; [START] in them becomes the moment they all begin. Returns what each printed, and how many
    threads wanted to run in the middle of it."""
    start = time.monotonic() + ready
    environment = machine.clean_environment(SLURM_JOB_ID=f"knlfix-bench-{os.getpid()}", **environment)
    programs = [subprocess.Popen([str(part).replace("[START]", str(start)) for part in command], env=environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True) for command in commands]
    watch = Runnable([program.pid for program in programs])
    time.sleep(max(0.0, start + SECONDS * 0.2 - time.monotonic()))
    watch.start()
    time.sleep(SECONDS * 0.6)
    watch.is_over.set()
    watch.join()
    answers = []
    for program in programs:
        out, err = program.communicate(timeout=300)
        if program.returncode:
            raise RuntimeError(f"{program.args[0]} failed: {(err.strip().splitlines() or ['no message'])[-1]}")
        answers.append([float(word) for word in out.split()])
    return answers, median(watch.samples or [0])


def throughput(context, title, command, ready, settings=None, counts=COUNTS, target=0.97):
    """N processes do the same work, for each N and variant by turns."""
    table, targets, raw = [], [], {}
    for count in counts:
        done = {name: [] for name in variants(context.workshop.ours)}
        threads = {name: [] for name in done}
        for _ in range(context.rounds):
            context.wait_for_calm()
            for name, environment in variants(context.workshop.ours).items():
                answers, wanting = together([command] * count, ready, {**(settings or {}), **environment})
                done[name].append(sum(answer[0] for answer in answers))
                threads[name].append(wanting)
        raw[count] = done
        medians = {name: median(values) for name, values in done.items()}
        # The default is a static setting too: all CPUs for each process.
        best = max((name for name in done if name != "ours"), key=medians.get)
        table.append([f"{count}", *(f"{medians[name] / medians[best]:.3f}" for name in done), best,
                      f"{median(threads['default']):.0f}", f"{median(threads['ours']):.0f}"])
        against, wanted = ("default", 0.99) if count == 1 else (best, target)
        rounds = [{name: values[at] for name, values in done.items()} for at in range(context.rounds)]
        targets.append(Target.of_rounds(
            f"{title}, {count} process{'es' if count > 1 else ''}, over {'the default' if count == 1 else 'the best static setting'}",
            lambda some, against=against: median([one["ours"] for one in some]) / median([one[against] for one in some]),
            rounds, wanted, at_least=True))
    head = ["processes", *variants(context.workshop.ours), "best static", "threads wanting to run: default", "ours"]
    return Section(title, head, table, ["work done in the same time, over that of the best static setting"], targets, raw=raw)


def regions(kind, microseconds, runtime=None, target=0.97):
    def measure(context):
        program = context.workshop.regions(runtime and ROOT / ".venv/runtimes" / runtime)
        title = f"{runtime.split('/')[0] if runtime else 'libgomp'}, {kind} size, {microseconds} us"
        command = [program, kind, microseconds, "[START]", SECONDS]
        # A loop of the same size again and again: the spinning threads of a team on other teams' CPUs are the trouble.
        return throughput(context, title, command, 0.15, target=target)
    return measure


def python(workload, target=0.97, ready=2.5, **settings):
    def measure(context):
        title = " ".join([workload, *settings.values()])
        command = [machine.python(), HERE / "budget_work.py", workload, "[START]", SECONDS]
        return throughput(context, title, command, ready, settings, counts=(1, 2, 4), target=target)
    return measure


def imbalanced(context):
    """Four processes with 8, 1, 1 and 1 parts of the work: how long until all is done."""
    names = variants(context.workshop.ours)
    walls = {name: [] for name in names}
    parts = [8, 1, 1, 1]
    for _ in range(context.rounds):
        context.wait_for_calm()
        for name, environment in names.items():
            commands = [[machine.python(), HERE / "budget_work.py", "numpy-1000", "[START]", "tasks", part * 2] for part in parts]
            answers, _ = together(commands, 2.5, environment)
            walls[name].append(max(answer[2] for answer in answers))
    medians = {name: median(values) for name, values in walls.items()}
    best = min((name for name in names if name != "ours"), key=medians.get)
    rounds = [{name: values[at] for name, values in walls.items()} for at in range(context.rounds)]
    target = Target.of_rounds("imbalanced tasks 8:1:1:1, speed over the best static setting",
                              lambda some: median([one[best] for one in some]) / median([one["ours"] for one in some]),
                              rounds, 1.0, at_least=True)
    return Section("numpy dgemm 1000, 4 processes, tasks 8:1:1:1", ["", *names], [["seconds", *(f"{medians[name]:.2f}" for name in names)]],
                   [f"the best static setting is: {best}"], [target], raw=walls)


def empty_region(context):
    """A region that does nothing, alone, in nanoseconds."""
    rows, targets = [], []
    for runtime in (None, "libomp14/libomp.so.5", "iomp2026/libiomp5.so"):
        program = context.workshop.regions(runtime and ROOT / ".venv/runtimes" / runtime)
        times = {"without": [], "ours": []}
        for _ in range(context.rounds):
            context.wait_for_calm()
            for name, environment in {"without": {}, "ours": {"LD_PRELOAD": str(context.workshop.ours)}}.items():
                [[count, *_]], _ = together([[program, "empty", 1, "[START]", SECONDS]], 0.15, {"OMP_NUM_THREADS": "1", **environment})
                times[name].append(SECONDS * 1e9 / max(count, 1))
        title = runtime.split("/")[0] if runtime else "libgomp"
        without, ours = (median(times[name]) for name in ("without", "ours"))
        rows.append([title, f"{without:.1f} ns", f"{ours:.1f} ns", f"{ours - without:+.1f} ns"])
    for threads in (CPUS,):
        program = context.workshop.regions()
        times = {"without": [], "ours": []}
        for _ in range(context.rounds):
            context.wait_for_calm()
            for name, environment in {"without": {}, "ours": {"LD_PRELOAD": str(context.workshop.ours)}}.items():
                [[count, *_]], _ = together([[program, "empty", 1, "[START]", SECONDS]], 0.15, environment)
                times[name].append(SECONDS * 1e9 / max(count, 1))
        without, ours = (median(times[name]) for name in ("without", "ours"))
        rows.append([f"libgomp, {threads} threads", f"{without:.1f} ns", f"{ours:.1f} ns", f"{ours - without:+.1f} ns"])
        rounds = [{name: values[at] for name, values in times.items()} for at in range(context.rounds)]
        targets.append(Target.of_rounds(f"empty libgomp region of {threads} threads, alone, over without",
                                        lambda some: median([one["ours"] for one in some]) / median([one["without"] for one in some]),
                                        rounds, 1.05))
    return Section("an empty region, alone (on one thread unless it says otherwise)", ["", "without", "ours", "more"], rows, [], targets)


MEASURES = {
    "empty": empty_region,
    "gomp-default-30": regions("default", 30),
    "gomp-default-1000": regions("default", 1000),
    "gomp-explicit-30": regions("explicit", 30, target=0.7),
    "gomp-explicit-1000": regions("explicit", 1000, target=0.95),
    "libomp-default-30": regions("default", 30, "libomp19/libomp.so.5"),
    "libomp-explicit-30": regions("explicit", 30, "libomp19/libomp.so.5", target=0.7),
    "iomp-default-30": regions("default", 30, "iomp2026/libiomp5.so"),
    "numpy-128": python("numpy-128"),
    "numpy-512": python("numpy-512"),
    "mkl-intel": python("mkl-512", MKL_THREADING_LAYER="INTEL"),
    "mkl-gnu": python("mkl-512", MKL_THREADING_LAYER="GNU"),
    "mkl-tbb": python("mkl-512", MKL_THREADING_LAYER="TBB"),
    "kmeans": python("kmeans", target=0.7, ready=5),
    "knn": python("knn", target=0.7, ready=5),
    "numba-omp": python("numba", target=0.7, ready=12, NUMBA_THREADING_LAYER="omp"),
    "numba-tbb": python("numba", ready=12, NUMBA_THREADING_LAYER="tbb"),
    "imbalanced": imbalanced,
}
