"""Pins that processes of one job would stack on the same CPU are moved out of each other's way; what the user named stays.

The processes are programs that run regions when they are told to. What they say of their masks is the kernel's answer.
"""

import errno
import os
import re
import subprocess
import uuid

import pytest

import program
from budget import PROBES, Regions, until

# A place is one hardware thread, so that a pin is narrower than the whole of any machine.
OMP = {
    "close": {"OMP_PROC_BIND": "close", "OMP_PLACES": "threads"},
    "spread": {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
}
KMP = {
    "compact": {"KMP_AFFINITY": "compact,granularity=fine"},
    "scatter": {"KMP_AFFINITY": "scatter,granularity=fine"},
}
BINDINGS = {**OMP, **KMP}

# Every runtime with every binding that it knows.
BOUND = [(runtime, binding) for runtime in program.LINKED for binding in (OMP if runtime == "libgomp" else BINDINGS)]


def parse(answer):
    """ "0/0,1 1/0,1" -> ([[0], [1]], [[0, 1], [0, 1]]): the masks that threads have, and those that they hear of"""
    masks = [[[int(cpu) for cpu in mask.split(",")] for mask in thread.split("/")] for thread in answer.split()]
    return [real for real, _ in masks], [told for _, told in masks]


class Process(Regions):
    def region(self, threads=1):
        """The masks of the threads of a region, in order."""
        return parse(self.ask(f"region {threads}"))[0]

    def settled(self, threads=1):
        """The same, once the runtime is up and the process has looked at what its neighbours do."""
        return [self.region(threads) for _ in range(3)][-1]

    def stay(self, threads=1):
        """The same, and it stays in the region until `leave`."""
        return parse(self.ask(f"stay {threads}"))[0]

    def leave(self):
        self.say("leave")

    def main(self):
        """The main thread's mask."""
        return parse(self.ask("mask"))[0][0]

    def set(self, cpus):
        assert parse(self.ask("set " + program.cpu_list(cpus)))[0] == [cpus]

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def place(runtimes, tmp_path_factory):
    """place(runtime): the program, linked to it."""
    directory = tmp_path_factory.mktemp("place")
    gcc = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp"]
    subprocess.run([*gcc, "-c", PROBES / "place.c", "-o", directory / "place.o"], check=True)

    def linked(runtime):
        path = directory / runtime
        if not path.exists():
            library = runtimes[runtime]
            by = ["-fopenmp"] if runtime == "libgomp" else [library, f"-Wl,-rpath,{library.parent}"]
            subprocess.run(["gcc", directory / "place.o", *by, "-o", path], check=True)
        return path

    return linked


class Job:
    """Processes that share a ledger, and no one else does."""

    def __init__(self, environment, place):
        self.environment, self.place, self.name, self.started = environment, place, f"places-{uuid.uuid4()}", []

    def start(self, runtime="libgomp", binding="close", preload=True, launcher=(), **variables):
        environment = self.environment(preload, **{"SLURM_JOB_ID": self.name, **BINDINGS.get(binding, {}), **variables})
        # What launches the program is no part of the job.
        library = environment.pop("LD_PRELOAD", "")
        process = Process([*launcher, "env", f"LD_PRELOAD={library}", self.place(runtime)], environment)
        self.started.append(process)
        # libgomp pins when it is loaded, and who is first keeps its pins.
        process.main()
        return process

    def two(self, *args, **variables):
        return self.start(*args, **variables), self.start(*args, **variables)


@pytest.fixture
def job(environment, place):
    job = Job(environment, place)
    yield job
    for process in job.started:
        if process.process.poll() is None:
            process.process.kill()
        process.process.communicate()


def end(*processes):
    """Ends them; they have to have been silent, and to end well."""
    assert [process.end() for process in processes] == [""] * len(processes)
    assert [process.process.returncode for process in processes] == [0] * len(processes)


# ---- who stacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime, binding", BOUND)
def test_one_thread_each(job, allowed, runtime, binding):
    first, second = allowed[:2]
    without = job.two(runtime, binding, preload=False)
    assert [process.settled() for process in without] == [[[first]], [[first]]]
    job.name += "-with"
    one, other = job.two(runtime, binding)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    # Nor do they change places later on.
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    end(*without, one, other)


@pytest.mark.parametrize("runtime, binding", BOUND)
def test_a_team_that_finds_no_room_has_the_user_mask(job, allowed, runtime, binding):
    everywhere, count = [[cpu] for cpu in allowed], len(allowed)
    without = job.two(runtime, binding, preload=False)
    assert [process.settled(count) for process in without] == [everywhere, everywhere]
    job.name += "-with"
    one, other = job.two(runtime, binding)
    assert one.settled(count) == everywhere
    one.stay(count)
    until(lambda: other.region(count) == [allowed] * count)
    one.leave()
    end(*without, one, other)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_thread_without_a_place_gets_one_when_a_neighbour_ends(job, allowed, runtime):
    everywhere, count = [[cpu] for cpu in allowed], len(allowed)
    one, other = job.two(runtime)
    one.settled(count)
    one.stay(count)
    until(lambda: other.region(count) == [allowed] * count)
    one.kill()
    until(lambda: other.region(count) == everywhere)
    end(other)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_the_place_of_a_killed_process_is_free(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    other.kill()
    third = job.start(runtime)
    assert [one.settled(), third.settled()] == [[[first]], [[second]]]
    end(one, third)


def test_one_job_does_not_see_the_other(job, allowed):
    one, other = job.start(), job.start(SLURM_JOB_ID=f"places-{uuid.uuid4()}")
    assert [one.settled(), other.settled()] == [[[allowed[0]]]] * 2
    end(one, other)


def test_off(job, allowed):
    one, other = job.two(KNLFIX_MOVE_PINS="off")
    assert [one.settled(2), other.settled(2)] == [[[cpu] for cpu in allowed[:2]]] * 2
    end(one, other)


# ---- what the user says -----------------------------------------------------------------------------------------

NAMED = [("libgomp", "GOMP_CPU_AFFINITY"), *((runtime, "OMP_PLACES") for runtime in program.LINKED),
         *((runtime, "KMP_AFFINITY") for runtime in program.LINKED if runtime != "libgomp")]


@pytest.mark.parametrize("runtime, name", NAMED)
def test_cpus_that_the_user_names(job, allowed, runtime, name):
    last = allowed[-1]
    named = {"GOMP_CPU_AFFINITY": {"GOMP_CPU_AFFINITY": str(last)},
             "OMP_PLACES": {"OMP_PLACES": "{%d}" % last, "OMP_PROC_BIND": "close"},
             "KMP_AFFINITY": {"KMP_AFFINITY": f"proclist=[{last}],explicit,granularity=fine"}}[name]
    processes = [*job.two(runtime, None, preload=False, **named), *job.two(runtime, None, **named)]
    assert [process.settled() for process in processes] == [[[last]]] * 4
    end(*processes)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_job_that_may_use_one_cpu_stays_there(job, allowed, runtime):
    last = allowed[-1]
    processes = [job.start(runtime, launcher=("taskset", "-c", str(last))) for _ in range(3)]
    assert [process.settled(2) for process in processes] == [[[last], [last]]] * 3
    end(*processes)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_mask_that_the_program_sets_wins_and_frees_the_place(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    # The second process goes where the first one is; what the runtime wanted is not tried again.
    other.set([first])
    third = job.start(runtime)
    assert [one.settled(), other.settled(), third.settled()] == [[[first]], [[first]], [[second]]]
    end(one, other, third)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_mask_that_another_process_sets_wins(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    # As taskset does it, without the library: nobody tells the process.
    os.sched_setaffinity(other.process.pid, [first])
    assert other.settled() == [[first]]
    one.stay()
    assert [other.region() for _ in range(5)] == [[[first]]] * 5
    one.leave()
    end(one, other)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_mask_that_is_refused_changes_nothing(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    assert other.ask("refused") == str(errno.EINVAL)
    one.stay()
    other.stay()
    # Both are at work, so the third finds nothing.
    third = job.start(runtime)
    assert third.settled() == [allowed]
    one.leave()
    other.leave()
    end(one, other, third)


# ---- what runtimes do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_full", (False, True), ids=("room", "no-room"))
@pytest.mark.parametrize("runtime, binding", BOUND)
def test_threads_that_came_and_went_before(job, allowed, runtime, binding, is_full):
    count = len(allowed) if is_full else 1
    one, other = job.two(runtime, binding)
    one.settled(count)
    one.stay(count)
    # They keep the main thread neither from a place nor from being looked after.
    assert other.ask("threads 12") == "threads"
    assert other.settled() == [allowed if is_full else allowed[1:2]]
    one.leave()
    end(one, other)


def test_a_team_that_shrinks_and_grows_again_and_again(job, allowed):
    # libgomp ends two threads and makes two new ones each time, more in all than there is room for.
    one, other = job.two(OMP_WAIT_POLICY="passive")
    one.settled()
    one.stay()
    assert other.ask("flap 600") == "flap"
    assert [mask for mask in other.settled(4) if mask not in (allowed, allowed[1:2])] == []
    one.leave()
    end(one, other)


@pytest.mark.parametrize("runtime", ("libomp19", "iomp2026"))  # others keep their pins
def test_a_runtime_that_gives_up_its_pins_and_pins_again(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    assert parse(other.ask("pause"))[0] == [allowed]
    one.stay()
    assert other.settled() == [[second]]
    one.leave()
    end(one, other)


WALKS = ("all", "cpuid_leaf11", "cpuid_leaf4", "cpuinfo", "flat")


@pytest.mark.parametrize("method", WALKS)
@pytest.mark.parametrize("runtime", ("libomp14", "libomp19", "iomp2026"))
def test_whichever_way_a_runtime_finds_out_what_the_cpus_are(job, allowed, runtime, method):
    says = {**REPORTS["kmp"][1], "KMP_TOPOLOGY_METHOD": method}
    alone, _ = reports(job.start(runtime, None, preload=False, **says), 1)
    one = job.start(runtime, "compact")
    one.settled()
    one.stay()
    # It finds the same, and is moved all the same.
    assert reports(job.start(runtime, None, **says), 1) == (alone, [allowed[1:2]])
    one.leave()
    end(one)


# ---- exec -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", program.LINKED)
def test_an_exec_frees_the_place(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    assert other.ask("cat") == "cat"
    assert other.ask("here") == "here"
    third = job.start(runtime)
    assert third.settled() == [[second]]
    end(one, third)


@pytest.mark.parametrize("runtime", program.LINKED)
def test_an_exec_that_fails_keeps_it(job, allowed, runtime):
    first, second = allowed[:2]
    one, other = job.two(runtime)
    assert [one.settled(), other.settled()] == [[[first]], [[second]]]
    assert other.ask("nothing") == str(errno.ENOENT)
    assert other.main() == [second]
    one.stay()
    other.stay()
    # Both are at work, so the third finds nothing.
    third = job.start(runtime)
    assert third.settled() == [allowed]
    one.leave()
    other.leave()
    end(one, other, third)


# ---- what the runtime believes ----------------------------------------------------------------------------------


# What runtimes print of their affinity, without the numbers of processes and threads.
REPORTS = {
    "omp": (OMP["close"], {"OMP_DISPLAY_AFFINITY": "true", "OMP_AFFINITY_FORMAT": "thread %n of %N: %A"}),
    "kmp": (KMP["compact"], {"KMP_AFFINITY": "verbose,compact,granularity=fine"}),
}


def reports(process, count):
    """What the runtime has printed in three regions, and the masks of the last one."""
    for _ in range(3):
        process.say(f"region {count}")
    process.say("quit")
    out, err = process.process.communicate(timeout=30)
    assert process.process.returncode == 0
    masks = [line for line in out.splitlines() if "/" in line]
    printed = sorted(line for line in (out + err).splitlines() if line and "/" not in line or "per" in line)
    return [re.sub(r"(pid|tid) \d+|thread (?=\d+ bound)\d+", r"\1", line) for line in printed], parse(masks[-1])[0]


@pytest.mark.parametrize("runtime, report", [
    *((runtime, "omp") for runtime in program.LINKED if runtime != "iomp2018"),  # it is older than that variable
    *((runtime, "kmp") for runtime in program.LINKED if runtime != "libgomp")])
def test_what_the_runtime_prints_is_what_it_believes(job, allowed, runtime, report):
    binding, says = REPORTS[report]
    count = len(allowed)
    alone, pins = reports(job.start(runtime, None, preload=False, **{**binding, **says}), count)
    assert len(alone) >= count and pins == [[cpu] for cpu in allowed]
    one = job.start(runtime, None, **binding)
    one.settled(count)
    one.stay(count)
    assert reports(job.start(runtime, None, **{**binding, **says}), count) == (alone, [allowed] * count)
    one.leave()
    end(one)


# ---- pools ------------------------------------------------------------------------------------------------------

METHODS = ("fork", "spawn", "forkserver", "loky")

POOL = """
    import placed
    if __name__ == "__main__":
        method, function, directory, *numbers = sys.argv[1:]
        report(workers=placed.pool(method, getattr(placed, function), directory, *map(int, numbers)))
        report(main=mask(), helpers=placed.helpers(method))
"""


@pytest.fixture
def pool(run, tmp_path):
    """pool(method, function, *numbers, ...): what each worker of a pool returned, and more."""

    def make(method, function, *numbers, preload, **options):
        meeting = tmp_path / f"with-{preload}"
        meeting.mkdir()
        # By way of a shell: a Python started by a Python would be a worker itself.
        under = ("sh", "-c", '"$@"; exit $?', "sh")
        return run(POOL, method, function, meeting, *map(str, numbers), preload=preload, pin=False, under=under, **options)

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("runtime", program.LINKED)
def test_a_pool_of_workers_with_a_thread_each(pool, allowed, runtime, method):
    count = len(allowed)
    binding = BINDINGS["close" if runtime == "libgomp" else "compact"]
    stacked = pool(method, "pinned", count, 1, runtime=runtime, preload=False, **binding)["workers"]
    assert stacked == [[allowed[:1]]] * count
    workers = pool(method, "pinned", count, 1, runtime=runtime, preload=True, **binding)["workers"]
    assert sorted(workers) == [[[cpu]] for cpu in allowed]


@pytest.mark.parametrize("runtime, binding", [(runtime, binding) for runtime, binding in BOUND if runtime in (
    "libgomp", "libomp19", "iomp2026")])
def test_loky_workers_under_every_binding(pool, allowed, runtime, binding):
    count = len(allowed)
    binding = BINDINGS[binding]
    assert pool("loky", "pinned", count, 1, runtime=runtime, preload=False, **binding)["workers"] == [[allowed[:1]]] * count
    workers = pool("loky", "pinned", count, 1, runtime=runtime, preload=True, **binding)["workers"]
    assert sorted(workers) == [[[cpu]] for cpu in allowed]


@pytest.mark.parametrize("method", ("fork", "spawn"))
@pytest.mark.parametrize("runtime", ("libgomp", "libomp19", "iomp2018"))
def test_a_pool_of_workers_with_too_many_threads(pool, allowed, runtime, method):
    count = len(allowed)
    everywhere = [[cpu] for cpu in allowed]
    assert pool(method, "pinned", count, count, runtime=runtime, preload=False, **OMP["spread"])["workers"] == [everywhere] * count
    masks = sum(pool(method, "pinned", count, count, runtime=runtime, preload=True, **OMP["spread"])["workers"], [])
    pins = [mask for mask in masks if mask != allowed]
    assert sorted(pins) == everywhere
    assert len(masks) == count * count


# ---- placed workers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ("core", "spread"))
@pytest.mark.parametrize("method", METHODS)
def test_placed_workers(pool, allowed, method, place):
    count = len(allowed)
    without = pool(method, "placed", count, preload=False, KNLFIX_PLACE=place)["workers"]
    assert [seen["own"] for seen in without] == [allowed] * count
    made = pool(method, "placed", count, preload=True, KNLFIX_PLACE=place)
    # Neither who makes the workers nor who helps needs a place.
    assert made["main"] == allowed and set(map(tuple, made["helpers"])) == {tuple(allowed)}
    workers = made["workers"]
    assert sorted(seen["own"] for seen in workers) == [[cpu] for cpu in allowed]
    for seen in workers:
        assert seen["told"] == seen["thread"] == seen["own"]
        for way, masks in seen["children"].items():
            # What a worker forks is a worker, with a place of its own; its threads share its own place.
            forks = way in ("os_fork", "pty_fork")
            own = way == "threading_thread"
            assert masks == [seen["own"]] if own else len(masks[0]) == 1 if forks else masks == [allowed], way


@pytest.mark.parametrize("method", METHODS)
def test_helpers_take_no_place_from_a_worker(pool, allowed, method):
    made = pool(method, "placed", 1, preload=True, KNLFIX_PLACE="core")
    assert [seen["own"] for seen in made["workers"]] == [allowed[:1]]
    assert made["main"] == allowed and set(map(tuple, made["helpers"])) == {tuple(allowed)}


def test_children_of_a_worker_keep_to_the_mask_that_the_user_gave_it(run, allowed):
    program = run("""
        def worker(answer):
            os.sched_setaffinity(0, cpu_argument())
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.write(theirs, json.dumps(mask()).encode())
                os._exit(0)
            answer.put((mask(), json.loads(os.read(ours, 4096))))

        import json, multiprocessing
        context = multiprocessing.get_context("fork")
        answer = context.Queue()
        child = context.Process(target=worker, args=(answer,))
        child.start()
        own, grandchild = answer.get()
        child.join()
        report(own=own, grandchild=grandchild)
        """, str(allowed[-1]), preload=True, KNLFIX_PLACE="core")
    assert program["own"] == program["grandchild"] == [allowed[-1]]
