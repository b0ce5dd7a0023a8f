"""What one budget for all processes gains and costs: `scripts/bench budget`."""
import contextlib
import pathlib
import subprocess

import counters
import machine
from budget_crew import CPUS, Crew
from figures import Section, Target, median

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parent.parent / ".venv"
RUNTIMES = VENV / "runtimes"

# A crew works so long uncounted, for the library to see the others, and then so long for the figures: in a whole run, in a quick one.
WARM, SECONDS = (0.1, 0.1), (0.5, 0.2)
COUNTS = ((1, 2, 4, 8), (1, 4))
# Rounds that one set of processes works; then come new ones. What they are told at their start differs from set to set.
ROUNDS_OF_A_CREW = 4

# What a user sets who knows how many threads each process should have. The last one is for our own programs: TBB has none.
NUMBERS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "BENCH_THREADS")


def static_settings():
    """The numbers of threads a user would try: 1, 2, 4, ... below all CPUs."""
    counts = [1]
    while counts[-1] * 2 < CPUS:
        counts.append(counts[-1] * 2)
    return {f"{count} each": dict.fromkeys(NUMBERS, str(count)) for count in counts}


def variants(library):
    """What is compared. The default is a static setting too: as many threads as CPUs for each process."""
    return {"default": {}, **static_settings(), "ours": {"LD_PRELOAD": str(library)}}


def takes_turns(context, crew_of, work):
    """{variant: [result of each round]}: crews that `crew_of(environment)` makes do `work(crew)` by turns."""
    names = variants(context.workshop.ours)
    results, order = {name: [] for name in names}, list(names)
    while len(results["ours"]) < context.rounds:
        with contextlib.ExitStack() as stack:
            crews = {}
            for name in order:
                crews[name] = stack.enter_context(crew_of(names[name]))
                crews[name].wait_until_ready()
            for _ in range(min(ROUNDS_OF_A_CREW, context.rounds - len(results["ours"]))):
                context.wait_for_calm()
                for name in order:
                    results[name].append(work(crews[name]))
                order = order[1:] + order[:1]
    return results


def compared(results, better):
    """(medians of `better(turn)`, name of the best static setting, rounds as {variant: number})."""
    rounds = [{name: better(turns[at]) for name, turns in results.items()} for at in range(len(results["ours"]))]
    medians = {name: median([one[name] for one in rounds]) for name in results}
    return medians, max((name for name in medians if name != "ours"), key=medians.get), rounds


def over(base):
    """The statistic "ours over this one"."""
    return lambda rounds: median([one["ours"] for one in rounds]) / median([one[base] for one in rounds])


TITLE = "the same work in several processes at once"
NOTES = [
    "numbers of threads: what each process does in a second, all of them together, over that of the best static setting",
    "per CPU second: what is done for each CPU second used, over that of the best static setting; says more than the numbers before "
    "where others use the CPUs too",
    "over: how many more threads want to run than there are CPUs or processes, over the number of these, on average",
    f"{', '.join(static_settings())}: {', '.join(NUMBERS[:-1])}, and global_control for TBB; default: none of them",
]


def throughput(context, title, command, target, settings=None):
    """N processes do the same work, for each N and variant by turns."""
    names = list(variants(context.workshop.ours))
    section = Section(TITLE, ["", "processes", *names, "best static", "per CPU second: default", "ours", "over: default", "ours"], notes=NOTES)
    for count in COUNTS[context.quick]:
        results = takes_turns(
            context, lambda environment, count=count: Crew([command] * count, {**(settings or {}), **environment}),
            lambda crew: crew.work(WARM[context.quick], SECONDS[context.quick]))
        medians, best, rounds = compared(results, lambda turn: turn.rate)
        used, _, _ = compared(results, lambda turn: turn.per_cpu)
        beyond, _, _ = compared(results, lambda turn: turn.over)
        section.rows.append([title, str(count), *(f"{medians[name] / medians[best]:.3f}" for name in names), best,
                             *(f"{used[name] / used[best]:.3f}" for name in ("default", "ours")),
                             *(f"{beyond[name]:.2f}" for name in ("default", "ours"))])
        base, limit = ("default", 0.99) if count == 1 else (best, target)
        section.targets.append(Target.of_rounds(f"{title}, {count} process{'es' if count > 1 else ''}, over {base}",
                                                over(base), rounds, limit, at_least=True))
        if count > 1:
            section.targets.append(Target(f"{title}, {count} processes, threads over the CPUs", beyond["ours"], 0.05))
        section.raw[f"{title}, {count}"] = {name: [vars(turn) for turn in turns] for name, turns in results.items()}
    return section


# ---- what works ------------------------------------------------------------------------------------------------


def regions_program(context, runtime):
    """The program of OpenMP regions: on libgomp, on another runtime by libgomp's entry points, or ("+kmpc") by its own."""
    build, source = context.workshop.build, HERE / "budget_regions.c"
    if runtime == "libgomp":
        return build("regions-libgomp", "-fopenmp", source)
    name, _, own = runtime.partition("+")
    [library] = [path for path in (RUNTIMES / name / "libomp.so.5", RUNTIMES / name / "libiomp5.so") if path.exists()]
    linked = (library, f"-Wl,-rpath,{library.parent}")
    if own:
        return build(f"regions-{runtime}", "-DKMPC", source, *linked)
    return build(f"regions-{runtime}", build("regions.o", "-c", "-fopenmp", source), *linked)


def steps(context, microseconds):
    """So much work for one thread."""
    if not hasattr(context.workshop, "steps"):
        context.workshop.steps = float(machine.run([regions_program(context, "libgomp"), "calibrate"]))
    return int(context.workshop.steps * microseconds)


def regions(runtime, kind, microseconds, target):
    def measure(context):
        title = f"{runtime.replace('+', ' ')}, {kind} size, {microseconds} us"
        return throughput(context, title, [regions_program(context, runtime), kind, steps(context, microseconds)], target)
    return measure


def tbb(microseconds):
    def measure(context):
        where = RUNTIMES / "tbb2023"
        program = context.workshop.build("tbb", "-isystem", where / "include", HERE / "budget_tbb.cc", where / "lib/libtbb.so.12",
                                         f"-Wl,-rpath,{where}/lib", "-pthread", compiler="g++")
        return throughput(context, f"TBB parallel_for, {microseconds} us", [program, steps(context, microseconds)], 0.97)
    return measure


def blas(name, size):
    def measure(context):
        where = RUNTIMES / name
        [library] = [path for path in (where / "libopenblas.so.0", where / "libblis.so.4") if path.exists()]
        program = context.workshop.build(f"blas-{name}", HERE / "budget_blas.c", library, f"-Wl,-rpath,{where}")
        return throughput(context, f"{name} (Debian), dgemm {size}", [program, size], 0.97)
    return measure


def python(title, workload, target, **settings):
    def measure(context):
        more = {"NUMBA_CACHE_DIR": str(context.workshop.path / "numba"), **settings}
        if settings.get("MKL_THREADING_LAYER") == "TBB":
            library = VENV / "lib/libtbb.so.12"
            more["BENCH_TBB"] = str(context.workshop.build(
                "tbb.so", "-shared", "-fPIC", "-isystem", RUNTIMES / "tbb2023/include", HERE / "budget_tbb.cc", library,
                f"-Wl,-rpath,{library.parent}", compiler="g++"))
        return throughput(context, title, [machine.python(), HERE / "budget_work.py", workload], target, more)
    return measure


def imbalanced(context):
    """Processes with 8, 1, 1 and 1 parts of the work: how long until all is done."""
    parts = [8, 1, 1, 1]
    each = 1 if context.quick else 2
    results = takes_turns(
        context, lambda environment: Crew([[machine.python(), HERE / "budget_work.py", "numpy-1000"]] * len(parts), environment),
        lambda crew: crew.finish([part * each for part in parts]))
    medians, best, rounds = compared(results, lambda turn: 1 / turn.wall)
    return Section("numpy dgemm 1000 in 4 processes with 8, 1, 1 and 1 parts of the work", ["", *medians],
                   [["seconds until all are done", *(f"{1 / value:.3f}" for value in medians.values())]],
                   [f"the best static setting is: {best}"],
                   [Target.of_rounds(f"imbalanced tasks 8:1:1:1, speed over {best}", over(best), rounds, 1.0, at_least=True)],
                   raw={name: [vars(turn) for turn in turns] for name, turns in results.items()})


# ---- what a region costs ---------------------------------------------------------------------------------------

HUNDRED = 100
CROWDS = ((16, 272), (16,))


class Crowd:
    """Processes that enter a region now and then, often enough to count as active, in the domain of `crew`."""

    def __init__(self, program, processes, library, job):
        environment = machine.clean_environment(LD_PRELOAD=str(library), SLURM_JOB_ID=job)
        self._program = subprocess.Popen([str(program), "crowd", str(processes)], env=environment, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, universal_newlines=True)

    def __enter__(self):
        if self._program.stdout.readline() != "ready\n":
            raise RuntimeError("the crowd did not say that it is ready")
        return self

    def __exit__(self, *_):
        self._program.communicate("\n")


def nanoseconds(turn):
    """CPU time of one region, of all threads together."""
    return turn.cpu * CPUS / turn.rate / HUNDRED * 1e9


def empty_regions(context):
    """Regions that do nothing: without and with the library, alone and in company."""
    ours = {"LD_PRELOAD": str(context.workshop.ours)}
    try:
        # Not by single steps: so slow a program would find the library looking at the others in every region.
        counter = counters.Callgrind(context.workshop)
    except (OSError, RuntimeError) as problem:
        counter = counters.Neither([str(problem)])
    section = Section("a region that does nothing", ["", "without", "ours", "more", "instructions: without", "ours"], notes=[
        "nanoseconds of CPU time of all threads together; beside others, \"without\" has one thread by setting",
        f"user instructions of the caller: {counter.name or counter.remark}"])
    turn = (WARM[context.quick], SECONDS[context.quick])

    def alone(runtime, threads, limit):
        program = regions_program(context, runtime)
        setting = {"OMP_NUM_THREADS": str(threads)} if threads == 1 else {}
        results = {"without": [], "ours": []}
        with Crew([[program, "empty", 0]], setting) as without, Crew([[program, "empty", 0]], {**setting, **ours}) as governed:
            without.wait_until_ready()
            governed.wait_until_ready()
            for _ in range(context.rounds):
                context.wait_for_calm()
                results["without"].append(nanoseconds(without.work(*turn)))
                results["ours"].append(nanoseconds(governed.work(*turn)))
        counts = [None, None]
        if threads == 1 and counter.name:
            counts = [(counter.of_program(preload, program, "count", 2100, **setting) -
                       counter.of_program(preload, program, "count", 100, **setting)) / 2000 for preload in ("-", context.workshop.ours)]
        middle = {name: median(values) for name, values in results.items()}
        title = f"{runtime}, {threads} thread{'s' if threads > 1 else ''}"
        section.rows.append([title, *(f"{middle[name]:.0f}" for name in middle), f"{middle['ours'] - middle['without']:+.0f}",
                             *("-" if count is None else f"{count:.0f}" for count in counts)])
        rounds = [{name: values[at] for name, values in results.items()} for at in range(context.rounds)]
        if limit:
            section.targets.append(Target.of_rounds(f"an empty region, {title}, alone, over without", over("without"), rounds, limit))
        else:
            section.targets.append(Target.of_rounds(f"grant and release, {title}, alone",
                                                    lambda some: median([one["ours"] - one["without"] for one in some]), rounds, 30, "ns"))
        section.raw[title] = results

    for runtime in ("libgomp", "libomp19", "libomp19+kmpc", "iomp2026"):
        alone(runtime, 1, None)
    for runtime in ("libgomp", "libomp19", "libomp19+kmpc", "iomp2026"):
        alone(runtime, CPUS, 1.05)
    in_company(context, section, turn)
    return section


def in_company(context, section, turn):
    """The same in a crowd, where a region gets one thread; without us it has that by setting."""
    program, library = regions_program(context, "libgomp"), context.workshop.ours
    for processes in CROWDS[context.quick]:
        with Crew([[program, "empty", 0]], {"OMP_NUM_THREADS": "1"}) as without, Crew([[program, "empty", 0]], {"LD_PRELOAD": str(library)}) as ours, \
                Crowd(program, processes, library, ours.job):
            without.wait_until_ready()
            ours.wait_until_ready()
            pairs = [(nanoseconds(without.work(*turn)), nanoseconds(ours.work(*turn))) for _ in range(context.rounds)]
        middle = [median([pair[at] for pair in pairs]) for at in (0, 1)]
        title = f"libgomp, beside {processes} active processes"
        section.rows.append([title, *(f"{value:.0f}" for value in middle), f"{middle[1] - middle[0]:+.0f}", "-", "-"])
        section.targets.append(Target.of_rounds(f"grant and release, {title}", lambda some: median([one[1] - one[0] for one in some]),
                                                pairs, 1000, "ns"))
        section.raw[title] = pairs


MEASURES = {
    "empty": empty_regions,
    "gomp-default-30": regions("libgomp", "default", 30, 0.97),
    "gomp-default-1000": regions("libgomp", "default", 1000, 0.97),
    "gomp-explicit-30": regions("libgomp", "explicit", 30, 0.7),
    "gomp-explicit-1000": regions("libgomp", "explicit", 1000, 0.95),
    "libomp-default-30": regions("libomp19", "default", 30, 0.97),
    "libomp-default-1000": regions("libomp19", "default", 1000, 0.97),
    "libomp-explicit-30": regions("libomp19", "explicit", 30, 0.7),
    "libomp-explicit-1000": regions("libomp19", "explicit", 1000, 0.95),
    "kmpc-default-30": regions("libomp19+kmpc", "default", 30, 0.97),
    "kmpc-explicit-30": regions("libomp19+kmpc", "explicit", 30, 0.7),
    "iomp-default-30": regions("iomp2026+kmpc", "default", 30, 0.97),
    "iomp-explicit-30": regions("iomp2026+kmpc", "explicit", 30, 0.7),
    "iomp-explicit-1000": regions("iomp2026+kmpc", "explicit", 1000, 0.95),
    "tbb-30": tbb(30),
    "tbb-1000": tbb(1000),
    "numpy-128": python("numpy (OpenBLAS), dgemm 128", "numpy-128", 0.97),
    "numpy-512": python("numpy (OpenBLAS), dgemm 512", "numpy-512", 0.97),
    "scipy-svd": python("scipy (OpenBLAS), svd 200", "scipy-svd", 0.97),
    "openblas-pthread": blas("openblas-pthread", 256),
    "openblas-openmp": blas("openblas-openmp", 256),
    "blis-pthread": blas("blis-pthread", 256),
    "blis-openmp": blas("blis-openmp", 256),
    "mkl-intel": python("MKL INTEL, dgemm 512", "mkl-512", 0.97, MKL_THREADING_LAYER="INTEL"),
    "mkl-gnu": python("MKL GNU, dgemm 512", "mkl-512", 0.97, MKL_THREADING_LAYER="GNU"),
    "mkl-tbb": python("MKL TBB, dgemm 512", "mkl-512", 0.97, MKL_THREADING_LAYER="TBB"),
    "kmeans": python("scikit-learn KMeans", "kmeans", 0.7),
    "knn": python("scikit-learn kNN brute", "knn", 0.7),
    "xgboost": python("XGBoost hist", "xgboost", 0.7),
    "lightgbm": python("LightGBM", "lightgbm", 0.7),
    "numba-omp": python("numba prange, omp", "numba", 0.7, NUMBA_THREADING_LAYER="omp"),
    "numba-tbb": python("numba prange, tbb", "numba", 0.97, NUMBA_THREADING_LAYER="tbb"),
    "numba-workqueue": python("numba prange, workqueue", "numba", 0.7, NUMBA_THREADING_LAYER="workqueue"),
    "imbalanced": imbalanced,
}

# Made by scripts/numpy-mkl, where somebody has run it.
NUMPY_MKL = VENV / "opt/numpy-mkl"
if NUMPY_MKL.exists():
    MEASURES["numpy-mkl"] = python("numpy (MKL), dgemm 512", "numpy-512", 0.97, PYTHONPATH=str(NUMPY_MKL))

ROUNDS = (8, 3)
QUICK = ["empty", "gomp-default-30", "gomp-explicit-30", "gomp-explicit-1000", "libomp-default-30", "kmpc-explicit-30", "tbb-30",
         "numpy-512", "mkl-intel", "kmeans", "numba-omp", "imbalanced"]
