"""What the repair of CPU masks costs: `scripts/bench affinity`."""
import json
import pathlib
import re
import subprocess

import counters
import machine
from figures import Section, Target, median

HERE = pathlib.Path(__file__).resolve().parent

# Idle threads of a team sleep: else their spinning would be the figure.
PINNED = {"OMP_PROC_BIND": "close", "OMP_WAIT_POLICY": "passive"}
NOT_PINNED = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}

# What a Python process that has imported numpy uses.
PROCESS_MEGABYTES = 32


def of(variant):
    """The statistic "median over rounds of this variant's median"."""
    return lambda rounds: median([one[variant] for one in rounds])


def ratio(variant, base):
    """The statistic "median of one over median of the other"."""
    return lambda rounds: of(variant)(rounds) / of(base)(rounds)


def extra(variant, base):
    """The statistic "what one costs above the other", compared round by round."""
    return lambda rounds: median([one[variant] - one[base] for one in rounds])


def number(value, digits=0):
    """For a table cell."""
    return "-" if value is None else f"{value:,.{digits}f}"


def micro(nanoseconds, digits=1):
    """For a table cell."""
    return f"{nanoseconds / 1000:,.{digits}f} us"


def counted_by(counter):
    """The remark that goes with a column of instructions."""
    if counter.name:
        return f"user instructions: {counter.name}, {counter.remark}"
    return f"user instructions: no way to count them works here ({counter.remark})"


class Subject:
    """A running subject.c: asked for samples, one process against another in turn."""

    def __init__(self, program, preload=None, **variables):
        env = machine.clean_environment(**variables)
        if preload:
            env["LD_PRELOAD"] = str(preload)
        self._process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True, env=env)

    def ask(self, request):
        """One request, one line of numbers back."""
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"the subject ended at the request '{request}'")
        return [float(word) for word in answer]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def exec_cost(context):
    """exec of /bin/true under each preload."""
    shop, counter = context.workshop, counters.choose(context.workshop)
    variants = {"none": "-", "none, again": "-", "empty C preload": shop.empty, "C preload, one hook": shop.hook, "libknlfix": shop.ours}
    rounds, quiet, faults = [], [], {name: [] for name in variants}
    for _ in range(context.rounds):
        context.wait_for_calm()
        printed = machine.run([shop.exec, 50, *variants.values()], env=machine.clean_environment())
        lines = [[int(word) for word in line.split()] for line in printed.splitlines()]
        rounds.append({name: median([line[2 * i] for line in lines]) for i, name in enumerate(variants)})
        quiet.append({name: sorted(line[2 * i] for line in lines)[len(lines) // 10] for i, name in enumerate(variants)})
        for i, name in enumerate(variants):
            faults[name].append(median([line[2 * i + 1] for line in lines]))
    section = Section("exec of /bin/true", ["preload", "median", "above none", "10th percentile", "above none", "user instructions", "above none",
                                            "page faults", "system calls"])
    instructions = {name: counter.of_program(preload, "/bin/true") for name, preload in variants.items()}
    for name, preload in variants.items():
        above = instructions[name] and instructions[name] - instructions["none"]
        section.rows.append([name, micro(of(name)(rounds)), micro(extra(name, "none")(rounds)),
                             micro(of(name)(quiet)), micro(extra(name, "none")(quiet)), number(instructions[name]), number(above),
                             number(median(faults[name]), 1), number(counters.system_calls(shop, preload, "/bin/true"))])
    section.notes = [
        f"posix_spawn to wait4, {context.rounds} rounds x 50 per preload, another preload each time; all files in one directory",
        counted_by(counter),
    ]

    def over_empty(chosen):
        return extra("libknlfix", "none")(chosen) / extra("empty C preload", "none")(chosen)

    section.targets = [
        Target.of_rounds("exec: extra cost over that of an empty C preload, medians", over_empty, rounds, 1.2),
        Target.of_rounds("the same, 10th percentiles", over_empty, quiet, 1.2),
    ]
    section.raw = {"ns": rounds, "ns_10th_percentile": quiet, "instructions": instructions, "faults": faults}
    return section


def alternate(context, variants, request, turns=8, megabytes=0):
    """
    Rounds of medians: in each, one process per variant is started, and they take turns.

    Several processes per variant, because where a process happens to lie in memory moves its figures by a per cent or so.
    `variants`: {name: (program, preload, variables, operation)}. `megabytes`: memory each process uses besides its own.
    """
    rounds, cpus = [], {}
    for _ in range(context.rounds):
        context.wait_for_calm()
        subjects = {name: Subject(program, preload, **variables) for name, (program, preload, variables, _) in variants.items()}
        try:
            samples = {name: [] for name in variants}
            for subject in subjects.values():
                subject.ask(f"memory {megabytes}")
            cpus = {name: tuple(int(n) for n in subject.ask("cpus")) for name, subject in subjects.items()}
            order = list(variants)
            for _ in range(turns):
                for name in order:
                    samples[name] += subjects[name].ask(f"{variants[name][3]} {request}")
                order = order[1:] + order[:1]
        finally:
            for subject in subjects.values():
                subject.__exit__()
        rounds.append({name: median(values) for name, values in samples.items()})
    return rounds, cpus


def in_process(context, program, preload, operation, request, **variables):
    """Rounds of {"hook", "libc", "difference"}: the symbol a program sees against libc's own, by turns in one process."""
    rounds = []
    for _ in range(context.rounds):
        context.wait_for_calm()
        with Subject(program, preload, **variables) as subject:
            samples = subject.ask(f"{operation},{operation}-libc {request}")
        hook, own = samples[0::2], samples[1::2]
        rounds.append({"hook": median(hook), "libc": median(own), "difference": median([h - o for h, o in zip(hook, own)])})
    return rounds


def children_table(context, section, title, variants, base, children=True, megabytes=0):
    """Adds rows for one comparison of `alternate` to the section; returns its rounds and CPUs. `children`: count theirs too."""
    counter = counters.choose(context.workshop)
    rounds, cpus = alternate(context, variants, 25, megabytes=megabytes)
    for name, (program, preload, variables, operation) in variants.items():
        instructions = counter.of_operation(program, operation, preload or "-", children=children, **variables)
        section.rows.append([f"{title}: {name}", micro(of(name)(rounds)), number(ratio(name, base)(rounds), 3), number(instructions),
                             "{} / {}".format(*cpus[name])])
    section.raw[title] = rounds
    return rounds, cpus


def newest_libomp(root):
    """An LLVM runtime: the tests' own, else the system's; None without either."""
    own = root / ".venv/runtimes/libomp19/libomp.so.5"
    system = sorted(pathlib.Path("/usr/lib").glob("llvm-*/lib/libomp.so.5"))
    return own if own.exists() else system[-1] if system else None


def fork_cost(context):
    """fork, the child exits at once, wait."""
    shop = context.workshop
    every = unpinned_cpus(context)
    section = Section("fork + _exit + waitpid in a C program", ["", "median", "ratio", "user instructions", "CPUs of parent / child"])

    plain = {
        "without": (shop.plain, None, {}, "fork"),
        "without, again": (shop.plain, None, {}, "fork"),
        "empty C preload": (shop.plain, shop.empty, {}, "fork"),
        "libknlfix": (shop.plain, shop.ours, {}, "fork"),
    }
    rounds, _ = children_table(context, section, "no runtime", plain, "without")
    section.targets.append(Target.of_rounds("fork, no runtime, no pin", ratio("libknlfix", "without"), rounds, 1.01))
    over_empty = ratio("libknlfix", "empty C preload")(rounds)

    gomp = shop.gomp()
    pinned = {
        "without": (gomp, None, PINNED, "fork"),
        "without, again": (gomp, None, PINNED, "fork"),
        "without, mask set by hand": (gomp, None, PINNED, "fork-by-hand"),
        "libknlfix": (gomp, shop.ours, PINNED, "fork"),
    }
    rounds, cpus = children_table(context, section, "libgomp pin", pinned, "without")
    section.targets.append(Target.of_rounds("fork after a libgomp pin", ratio("libknlfix", "without"), rounds, 1.03))
    by_hand = ratio("libknlfix", "without, mask set by hand")(rounds)
    if every > 1 and (cpus["without"] != (1, 1) or cpus["libknlfix"] != (1, every)):
        section.problems.append(f"libgomp pin: CPUs of parent / child are {cpus['without']} without and {cpus['libknlfix']} with the library, "
                                f"not (1, 1) and (1, {every}): the ratio compares something else")

    for title, program, variables, limit in (("no runtime", shop.plain, {}, 1.01), ("libgomp pin", gomp, PINNED, 1.03)):
        grown = f"{title}, {PROCESS_MEGABYTES} MB"
        rounds, _ = children_table(context, section, grown, {
            "without": (program, None, variables, "fork"),
            "without, again": (program, None, variables, "fork"),
            "libknlfix": (program, shop.ours, variables, "fork"),
        }, "without", megabytes=PROCESS_MEGABYTES)
        section.targets.append(Target.of_rounds(f"fork, {grown}", ratio("libknlfix", "without"), rounds, limit))

    runtime = newest_libomp(context.root)
    if runtime:
        libomp = shop.libomp(runtime)
        loaded = {
            "without": (libomp, None, NOT_PINNED, "fork"),
            "without, again": (libomp, None, NOT_PINNED, "fork"),
            "libknlfix": (libomp, shop.ours, NOT_PINNED, "fork"),
        }
        rounds, _ = children_table(context, section, "libomp, no pin", loaded, "without", children=False)
        section.targets.append(Target.of_rounds("fork, libomp loaded, no pin", ratio("libknlfix", "without"), rounds, 1.01))
    else:
        section.problems.append("no LLVM libomp.so.5 found (scripts/setup gets one): fork with libomp not measured")

    direct = in_process(context, shop.plain, shop.ours, "fork", 100)
    section.raw["in process"] = direct
    section.notes = [
        f"processes side by side taking turns, {context.rounds} new ones per row, 8 x 25 forks each; \"again\" against \"without\" is the noise",
        f"\"{PROCESS_MEGABYTES} MB\": the process uses that much memory, about a Python with numpy; the other rows are the smallest processes there are",
        f"every preload adds mappings that a fork copies: over a process with an empty C preload the ratio is {over_empty:.3f}",
        f"without the library a pinned parent's child stays on its one CPU; giving it the others is one system call: "
        f"against a program that makes it by hand the ratio is {by_hand:.3f}",
        f"one process with the library, no runtime, the hooked fork against libc's own by turns: "
        f"{micro(of('hook')(direct))} / {micro(of('libc')(direct))}, difference {of('difference')(direct):,.0f} ns "
        "(leaves out what the library's mappings add to every fork)",
        counted_by(counters.choose(shop)) + "; with libomp the parent's alone (its own handler runs half a million in every child)",
    ]
    return section


def unpinned_cpus(context):
    """CPUs an unpinned child has here, capped as subject.c reports them."""
    with Subject(context.workshop.plain) as subject:
        return int(subject.ask("cpus")[0])


def call_cost(context):
    """Calls that pass through a hook without being answered differently, and one that is."""
    shop, counter = context.workshop, counters.choose(context.workshop)
    section = Section("calls through a hook", ["", "hook", "libc's own", "difference", "user instructions", "libc's own"])
    cases = {
        "syscall(SYS_getppid)": (shop.plain, "syscall", {}),
        "sched_getaffinity, no pin": (shop.plain, "getaffinity", {}),
        "sched_getaffinity on a libgomp pin (answers the user mask)": (shop.gomp(), "getaffinity", PINNED),
    }
    for name, (program, operation, variables) in cases.items():
        rounds = in_process(context, program, shop.ours, operation, 50, **variables)
        counts = [counter.of_operation(program, operation + end, shop.ours, **variables) for end in ("", "-libc")]
        section.rows.append([name, *(f"{of(key)(rounds):.1f} ns" for key in ("hook", "libc", "difference")), *(number(n, 1) for n in counts)])
        section.raw[name] = rounds
        if operation == "syscall":
            section.targets.append(Target.of_rounds("syscall() pass-through", of("difference"), rounds, 2, "ns"))
    section.notes = [
        f"one process, both symbols called through pointers by turns, {context.rounds} processes x 50 samples of 1000 calls; "
        "the difference is the median of the paired differences",
        counted_by(counter) + "; the loop's few included in both",
    ]
    return section


def thread_cost(context):
    """pthread_create + pthread_join."""
    shop = context.workshop
    gomp = shop.gomp()
    section = Section("pthread_create + pthread_join", ["", "median", "ratio", "user instructions", "CPUs of parent / child"])
    children_table(context, section, "no runtime", {
        "without": (shop.plain, None, {}, "thread"),
        "without, again": (shop.plain, None, {}, "thread"),
        "libknlfix": (shop.plain, shop.ours, {}, "thread"),
    }, "without")
    children_table(context, section, "libgomp pin", {
        "without": (gomp, None, PINNED, "thread"),
        "without, again": (gomp, None, PINNED, "thread"),
        "libknlfix": (gomp, shop.ours, PINNED, "thread"),
    }, "without")
    section.notes = [
        "a thread on its creator's CPU starts cheaper than one on another: with a pin, \"without\" measures threads that can't run in parallel",
        counted_by(counters.choose(shop)),
    ]
    return section


def pool_rounds(context, method, region, variants, wanted):
    """
    (rounds, calm ones, tried ones): `wanted` calm rounds if three times as many tries yield them, else the last ones.

    Where another process has one of two CPUs, a pool on both can't be told from a pool on one.
    """
    rounds, every, order = [], [], list(variants)
    while len(rounds) < wanted and len(every) < 3 * wanted:
        context.wait_for_calm()
        load, one = machine.Load(), {}
        for name in order:
            env = machine.clean_environment(**variants[name])
            one[name] = json.loads(machine.run([machine.python(), HERE / "pool.py", method, region], env=env))
        every.append(one)
        if load.report()["others"] < machine.CALM:
            rounds.append(one)
        order = order[1:] + order[:1]
    return (rounds if len(rounds) == wanted else every[-wanted:]), len(rounds), len(every)


def pool_gain(context):
    """Pool(2) of pure Python after a libgomp region."""
    shop = context.workshop
    region = shop.gomp_region()
    pinned = {"OMP_PROC_BIND": "close"}
    variants = {"not pinned": {}, "pinned, without": pinned, "pinned, libknlfix": {**pinned, "LD_PRELOAD": str(shop.ours)}}
    times = max(3, round(context.rounds / 40 * 13))
    section = Section("Pool(2), pure Python, after a libgomp region", ["start method", "pool.map", "ratio", "with start and end", "ratio",
                                                                      "CPUs of parent / workers"])
    notes = []
    for method in ("fork", "spawn"):
        rounds, calm, tried = pool_rounds(context, method, region, variants, times)
        notes.append(f"{method}: {calm} of {tried} rounds were calm (others used less than {machine.CALM:.0%} of the CPUs)")
        maps = [{name: one[name]["map"] for name in variants} for one in rounds]
        totals = [{name: one[name]["total"] for name in variants} for one in rounds]
        for name in variants:
            last = rounds[-1][name]
            section.rows.append([f"{method}: {name}", f"{of(name)(maps):.4f} s", f"{ratio(name, 'not pinned')(maps):.3f}",
                                 f"{of(name)(totals):.4f} s", f"{ratio(name, 'not pinned')(totals):.3f}",
                                 f"{last['parent']} / {', '.join(map(str, last['workers']))}"])
        section.raw[method] = rounds
        if calm >= times:
            section.targets.append(Target.of_rounds(f"Pool(2) by {method}, pinned with libknlfix over not pinned",
                                                    ratio("pinned, libknlfix", "not pinned"), maps, 1.02))
        else:
            section.problems.append(f"{method}: only {calm} calm rounds of the {times} wanted: others had the CPUs that the pool is "
                                    "to have back, so the times above say nothing (--patience waits for calm)")
        for one in rounds:
            free = one["not pinned"]["workers"]
            if free != [1, 1] and one["pinned, without"]["workers"] != [1, 1]:
                section.problems.append(f"{method}: the pin did not narrow the workers without the library")
                break
            if one["pinned, libknlfix"]["workers"] != free or one["pinned, libknlfix"]["parent"] != 1:
                section.problems.append(f"{method}: with the library the CPUs of parent and workers are {one['pinned, libknlfix']['parent']} and "
                                        f"{one['pinned, libknlfix']['workers']}, not 1 and {free}")
                break
    section.notes = [*notes, f"{times} rounds, every run a new Python process; 16 tasks of about 10 ms; both workers up before pool.map"]
    return section


def library_file(context):
    """The .so itself: what ld.so has to do for it."""
    path = context.workshop.ours
    dynamic = machine.run(["readelf", "-dW", path])
    segments = machine.run(["readelf", "-lW", path])
    relocations = machine.run(["readelf", "-rW", path])
    symbols = machine.run(["readelf", "--dyn-syms", "-W", path])
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"@GLIBC_([\d.]+)", symbols)}
    kinds = re.findall(r"R_\w+", relocations)
    kilobytes = path.stat().st_size / 1000
    section = Section("the file", ["", ""])
    section.rows = [
        ["size", f"{kilobytes:,.1f} kB"],
        ["needs", ", ".join(needed) or "nothing"],
        ["TLS segments", str(len(re.findall(r"^\s+TLS\s", segments, re.M)))],
        ["PT_LOAD segments", str(len(re.findall(r"^\s+LOAD\s", segments, re.M)))],
        ["newest glibc version needed", "GLIBC_" + ".".join(map(str, max(versions))) if versions else "none"],
        ["relocations", ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"],
        ["symbols defined / looked up", "{} / {}".format(len(re.findall(r"^\s+\d+: (?!.* UND ).*(?:FUNC|OBJECT|IFUNC)", symbols, re.M)),
                                                          len(re.findall(r" UND \S", symbols)))],
        ["flags", ", ".join(re.findall(r"\((?:FLAGS|FLAGS_1|GNU_HASH|HASH|RELR|INIT_ARRAY)\).*", dynamic)) and ", ".join(
            sorted(set(re.findall(r"\b(?:BIND_NOW|NOW|INITFIRST|NODELETE|GNU_HASH|HASH|RELR)\b", dynamic))))],
    ]
    section.targets = [
        Target("size of the .so", kilobytes, 100, "kB"),
        Target("libraries needed beside libc", len([name for name in needed if name != "libc.so.6"]), 0, ""),
    ]
    section.raw = {"needed": needed, "bytes": path.stat().st_size}
    return section


MEASURES = {
    "exec": exec_cost,
    "fork": fork_cost,
    "call": call_cost,
    "thread": thread_cost,
    "pool": pool_gain,
    "file": library_file,
}

ROUNDS = (40, 8)
QUICK = list(MEASURES)
