"""What moved pins gain, and what choosing a place costs: `scripts/bench places`."""
import pathlib

import machine
from figures import Section, Target, median

HERE = pathlib.Path(__file__).resolve().parent
RUNTIMES = HERE.parents[1] / ".venv/runtimes"
# name: (its library, what makes it pin)
LLVM = {
    "libomp19": ("libomp19/libomp.so.5", {"KMP_AFFINITY": "compact,granularity=fine"}),
    "iomp2026": ("iomp2026/libiomp5.so", {"OMP_PROC_BIND": "close", "OMP_PLACES": "threads"}),
}


def workers(runtime):
    """A pool of two forked workers, one pinned OpenMP thread each."""

    def measure(context):
        shop, (library, pin) = context.workshop, LLVM[runtime]
        compiled = shop.build("places.o", "-O1", "-fopenmp", "-c", HERE / "places.c")
        program = shop.build(f"places-{runtime}", compiled, RUNTIMES / library, f"-Wl,-rpath,{(RUNTIMES / library).parent}", "-pthread")
        variants = {"not pinned": {}, "pinned, without": pin, "pinned, libknlfix": {**pin, "LD_PRELOAD": str(shop.ours)}}
        rounds, order = [], list(variants)
        for _ in range(context.rounds):
            context.wait_for_calm()
            rounds.append({name: float(machine.run([program, "1"], env=machine.clean_environment(**variants[name]))) for name in order})
            order = order[1:] + order[:1]

        def over(name):
            return lambda rounds: median([one[name] for one in rounds]) / median([one["not pinned"] for one in rounds])

        section = Section("two forked workers, one pinned thread each", ["", "not pinned", *(f"{name}, over it" for name in list(variants)[1:])])
        section.rows.append([runtime, f"{median([one['not pinned'] for one in rounds]):.3f} s",
                             *(f"{over(name)(rounds):.3f}" for name in list(variants)[1:])])
        section.targets.append(Target.of_rounds(f"{runtime}: two pinned workers over two that are not pinned", over("pinned, libknlfix"), rounds, 1.05))
        section.raw[runtime] = rounds
        return section

    return measure


def choice(_context):
    """Choosing a place among 272 CPUs."""
    rows = [line.split(maxsplit=0) for line in machine.run(
        ["cargo", "run", "--locked", "--release", "--quiet", "--package", "knlfix-core", "--example", "place_cost"]).splitlines()]
    return Section("choosing a place, microseconds, by the CPUs that others claim", [""], [[" ".join(row)] for row in rows])


MEASURES = {"libomp19": workers("libomp19"), "iomp2026": workers("iomp2026"), "choice": choice}
ROUNDS = (15, 5)
QUICK = list(MEASURES)
