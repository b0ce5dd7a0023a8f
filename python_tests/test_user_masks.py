"""A mask that the user set is nobody else's business: it holds in the thread it was set for and in all its children.

Runs every linked runtime, as the atfork handler of LLVM and Intel overwrites user masks where nobody stops it; where
it does, the test shows that first.
"""

import textwrap

import pytest

from program import LINKED, cpu_list, stuck
import ways

RUNTIME = pytest.mark.parametrize("runtime", LINKED)
LLVM_RUNTIME = pytest.mark.parametrize("runtime", [name for name in LINKED if LINKED[name].family == "llvm"])
# A user's mask may be the very one that the runtime pinned to, or another.
WHICH = pytest.mark.parametrize("which", ["equal", "other"])
WITH_AND_WITHOUT = pytest.mark.parametrize("preload", [False, True], ids=["without", "with"])


@pytest.fixture(scope="session")
def pin_of(run):
    """pin_of(runtime): where the runtime pins the main thread."""
    pins = {}

    def of(runtime):
        if runtime not in pins:
            pins[runtime] = run("bring_up(); report(pinned=main_mask())", runtime=runtime, preload=False)["pinned"]
        return pins[runtime]

    return of


@pytest.fixture
def chosen(pin_of, allowed):
    """chosen(runtime, which): the user's mask: the pin itself, or all CPUs but it."""
    return lambda runtime, which: pin_of(runtime) if which == "equal" else sorted(set(allowed) - set(pin_of(runtime)))


def all_are(children, expected):
    """Whether every child, of whichever way, has the expected mask; names those that have not."""
    wrong = {way: masks for way, masks in children.items() if masks != [expected] * len(masks)}
    assert not wrong, "should be %s: %s" % (expected, wrong)
    return True


# --- around the whole program ---------------------------------------------------------------------------------------

LAUNCHERS = {
    "taskset": lambda cpus: ["taskset", "-c", cpus],
    "numactl": lambda cpus: ["numactl", "--physcpubind=" + cpus],
}


@RUNTIME
@WHICH
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher(run, chosen, runtime, which, launcher):
    cpus = chosen(runtime, which)
    program = run("bring_up(); report(parent=main_mask(), children=ways.children())",
                  runtime=runtime, preload=True, under=LAUNCHERS[launcher](cpu_list(cpus)))
    assert set(program["parent"]) <= set(cpus)
    assert all_are(program["children"], cpus)


@LLVM_RUNTIME
@WITH_AND_WITHOUT
def test_norespect_stays_within_launchers_mask(run, chosen, allowed, runtime, preload):
    """norespect lets the runtime pin outside taskset's mask.

    Without the library a fork's child gets the whole machine too, but for Intel's newest, which has learnt better.
    """
    cpus = chosen(runtime, "other")
    program = run("bring_up(); report(parent=main_mask(), children=ways.children())", runtime=runtime, preload=preload,
                  under=["taskset", "-c", cpu_list(cpus)], KMP_AFFINITY="norespect,compact,granularity=fine")
    assert not set(program["parent"]) & set(cpus), "the premise"
    if preload:
        assert all_are(program["children"], cpus)
    else:
        assert program["children"]["os_fork"] == [cpus if runtime == "iomp2026" else allowed]
        assert program["children"]["os_system"] == [program["parent"]]


# --- on the main thread, by whoever and however ---------------------------------------------------------------------

SETTERS = {
    "sched_setaffinity": "os.sched_setaffinity(0, cpus)",
    # The kernel drops the CPUs it does not have, so that what it makes of the mask may equal the pin.
    "absent_cpus_too": "os.sched_setaffinity(0, cpus | {1000, 1023})",
    "sched_setaffinity_own_pid": "os.sched_setaffinity(os.getpid(), cpus)",
    "other_thread": "ways.in_thread(lambda: os.sched_setaffinity(os.getpid(), cpus))",
    "psutil": "import psutil; psutil.Process().cpu_affinity(list(cpus))",
    "psutil_other_process": """
        code = 'import psutil, sys; psutil.Process(int(sys.argv[1])).cpu_affinity(eval(sys.argv[2]))'
        subprocess.run([sys.executable, '-c', code, str(os.getpid()), str(list(cpus))], check=True)
        """,
    "libc_syscall": """
        words = (ctypes.c_ulong * 128)()
        for cpu in cpus:
            words[cpu // 64] |= 1 << cpu % 64
        assert ctypes.CDLL(None).syscall(203, 0, ctypes.sizeof(words), words) >= 0
        """,
    # The tool runs without the library, so that nobody tells us: only the thread's mask does.
    "taskset_outside": """
        plain = {name: value for name, value in os.environ.items() if name != 'LD_PRELOAD'}
        subprocess.run(['taskset', '-p', '-c', sys.argv[1], str(os.getpid())], env=plain, check=True,
                       stdout=subprocess.DEVNULL)
        """,
}
# Seen from inside the process, a mask that equals the pin and that another process set is the pin.
FROM_OUTSIDE = ("psutil_other_process", "taskset_outside")


def program_with(setter, then):
    """Program text: the setter's lines with their indentation taken off, then more."""
    return "cpus = cpu_argument()\n" + textwrap.dedent(setter).strip() + "\n" + then


@RUNTIME
@pytest.mark.parametrize("which, setter", [
    (which, setter) for setter in SETTERS for which in ("equal", "other")
    if which == "other" or setter not in FROM_OUTSIDE])
@WITH_AND_WITHOUT
def test_set_after_region(run, chosen, allowed, runtime, which, setter, preload):
    cpus = chosen(runtime, which)
    program = run("bring_up(); report(pinned=main_mask())\n" +
                  program_with(SETTERS[setter], "report(children=ways.children(), parent=main_mask())"),
                  cpu_list(cpus), runtime=runtime, preload=preload)
    assert set(program["pinned"]) < set(allowed)
    assert program["parent"] == cpus
    for way, masks in program["children"].items():
        assert masks == [cpus if preload or stuck(runtime, way) else allowed], way


@LLVM_RUNTIME
@pytest.mark.parametrize("setter", ["sched_setaffinity", "other_thread", "psutil_other_process", "taskset_outside"])
@WITH_AND_WITHOUT
def test_set_where_nobody_pins(run, chosen, allowed, runtime, setter, preload):
    """With no pinning variable at all, LLVM's and Intel's handler still puts a fork's child back to what it saw."""
    cpus = chosen(runtime, "other")
    program = run("bring_up(); report(before=main_mask())\n" +
                  program_with(SETTERS[setter], "report(children=ways.children(), parent=main_mask())"),
                  cpu_list(cpus), runtime=runtime, pin=False, preload=preload)
    assert program["before"] == allowed
    assert program["parent"] == cpus
    for way, masks in program["children"].items():
        assert masks == [cpus if preload or stuck(runtime, way) else allowed], way


@RUNTIME
@WHICH
@pytest.mark.parametrize("setter", ["sched_setaffinity", "psutil", "taskset_outside"])
def test_set_before_region(run, chosen, runtime, which, setter):
    """The runtime pins within the user's mask; the children get that mask, no more and no less.

    libgomp pins while it is loaded, LLVM and Intel at the first region, so the library is loaded after the mask is set.
    """
    cpus = chosen(runtime, which)
    program = run(program_with(SETTERS[setter], "bring_up(); report(parent=main_mask(), children=ways.children())"),
                  cpu_list(cpus), runtime=runtime, preload=True)
    assert set(program["parent"]) <= set(cpus)
    assert all_are(program["children"], cpus)


@RUNTIME
@WHICH
def test_region_after_user_mask(run, chosen, runtime, which):
    """Further regions, of another size too, change nothing about what the user wants for the children."""
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()
        os.sched_setaffinity(0, cpu_argument())
        for threads in (0, 1, 3, 2):
            region_library().region(threads)
        report(children=ways.children())
        """, cpu_list(cpus), runtime=runtime, preload=True)
    assert all_are(program["children"], cpus)


@RUNTIME
def test_user_sets_whole_mask_again(run, allowed, runtime):
    """The cure that users know: it unpins the main thread for good."""
    program = run("""
        bring_up()
        os.sched_setaffinity(0, cpu_argument())
        report(parent=main_mask(), children=ways.children(), after=main_mask())
        """, cpu_list(allowed), runtime=runtime, preload=True)
    assert program["parent"] == program["after"] == allowed
    assert all_are(program["children"], allowed)


@RUNTIME
def test_last_word_counts(run, chosen, allowed, runtime):
    """Narrowed, widened, narrowed to the pin: the children have what holds when they are made."""
    pin, other = chosen(runtime, "equal"), chosen(runtime, "other")
    program = run("""
        pin, other = cpu_argument(1), cpu_argument(2)
        bring_up()
        for step, cpus in enumerate([other, pin, pin | other, pin]):
            os.sched_setaffinity(0, cpus)
            report(**{"step%d" % step: ways.children(("os_fork", "pty_fork", "subprocess_run", "threading_thread"))})
        """, cpu_list(pin), cpu_list(other), runtime=runtime, preload=True)
    for step, cpus in enumerate([other, pin, allowed, pin]):
        assert all_are(program["step%d" % step], cpus)


@RUNTIME
def test_refused_mask_changes_nothing(run, allowed, runtime):
    """A mask that the kernel refuses was never set: CPUs that are not there, a thread that is not there."""
    program = run("""
        def refused(task, cpus):
            try:
                os.sched_setaffinity(task, cpus)
            except OSError:
                return
            raise RuntimeError("it was not refused")

        bring_up()
        report(pinned=main_mask())
        refused(0, {8000})
        refused(2 ** 22 + 1, cpu_argument())
        report(children=ways.children(), parent=main_mask())
        """, cpu_list(allowed[-1:]), runtime=runtime, preload=True)
    assert program["parent"] == program["pinned"]
    assert set(program["pinned"]) < set(allowed)
    assert all_are(program["children"], allowed)


@RUNTIME
@WHICH
def test_mask_of_another_process(run, chosen, allowed, runtime, which):
    """Setting a child's mask from the parent is about that child alone."""
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()
        report(pinned=main_mask())
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        os.sched_setaffinity(child.pid, cpu_argument())
        report(child=mask(child.pid), told=sorted(os.sched_getaffinity(child.pid)))
        child.communicate()
        report(children=ways.children(), parent=main_mask())
        """, cpu_list(cpus), runtime=runtime, preload=True)
    assert program["child"] == program["told"] == cpus
    assert program["parent"] == program["pinned"]
    assert all_are(program["children"], allowed)


@pytest.mark.parametrize("first, second", [("libgomp", "iomp2026"), ("iomp2026", "libgomp"), ("libgomp", "libomp14")])
@pytest.mark.parametrize("which", ["none", "equal", "other"])
def test_two_runtimes_in_one_program(run, programs, chosen, allowed, first, second, which):
    """The second one finds the first one's pin; under both lies what the user said, or nothing was said."""
    cpus = allowed if which == "none" else chosen(first, which)
    variables = dict(LINKED[first].pin, **LINKED[second].pin)
    program = run("""
        ctypes.CDLL(sys.argv[2]).region(0)
        ctypes.CDLL(sys.argv[3]).region(0)
        report(runtimes=runtimes_mapped(), pinned=main_mask())
        if sys.argv[4] != "none":
            os.sched_setaffinity(0, cpu_argument())
        report(children=ways.children(), parent=main_mask())
        """, cpu_list(cpus), str(programs.region_library(first)), str(programs.region_library(second)), which,
                  preload=True, **variables)
    assert len(program["runtimes"]) == 2
    assert set(program["pinned"]) < set(allowed)
    assert program["parent"] == (program["pinned"] if which == "none" else cpus)
    assert all_are(program["children"], cpus)


# --- on other threads -----------------------------------------------------------------------------------------------


@RUNTIME
@WHICH
@pytest.mark.parametrize("by", ["itself", "main"])
def test_set_on_other_thread(run, chosen, allowed, runtime, which, by):
    """The thread's children have the thread's mask, the main thread's children have all CPUs, and the pin stays."""
    cpus = chosen(runtime, which)
    program = run("""
        cpus, by = cpu_argument(), sys.argv[2]
        bring_up()
        pinned = main_mask()
        started, go_on = threading.Event(), threading.Event()

        def work():
            if by == "itself":
                os.sched_setaffinity(0, cpus)
            started.set()
            go_on.wait()
            report(own=mask(), thread=ways.children())

        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        if by == "main":
            os.sched_setaffinity(thread.native_id, cpus)
        go_on.set()
        thread.join()
        report(main=ways.children(), kept=main_mask() == pinned)
        """, cpu_list(cpus), by, runtime=runtime, preload=True)
    assert program["own"] == cpus
    assert all_are(program["thread"], cpus)
    assert all_are(program["main"], allowed)
    assert program["kept"]


@RUNTIME
@WHICH
def test_set_on_thread_that_ran_the_region(run, chosen, allowed, runtime, which):
    """The runtime comes up on a thread that isn't the main one, and the user narrows that thread afterwards."""
    cpus = chosen(runtime, which)
    program = run("""
        def work():
            bring_up()
            report(before=ways.children())
            os.sched_setaffinity(0, cpu_argument())
            report(own=mask(), after=ways.children())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """, cpu_list(cpus), runtime=runtime, preload=True)
    assert all_are(program["before"], allowed)
    assert program["own"] == cpus
    assert all_are(program["after"], cpus)


@pytest.mark.parametrize("runtime", ["libgomp", "libomp19"])
def test_many_threads_each_with_its_mask(run, allowed, runtime):
    """Sixty-four threads at a time, half of them narrowed: the children of each have its mask and nobody else's."""
    program = run("""
        bring_up()
        report(pinned=main_mask())
        cpus, count = sorted(cpu_argument()), 64
        together = threading.Barrier(count)
        wrong = []

        def work(i):
            own = cpus
            if i % 2:
                own = [cpus[i // 2 % len(cpus)]]
                os.sched_setaffinity(0, own)
            together.wait()
            for way in ("os_fork", "subprocess_run", "threading_thread"):
                seen = ways.WAYS[way][1]()
                if seen != [own]:
                    wrong.append([i, way, own, seen])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report(wrong=wrong, parent=main_mask(), children=ways.children())
        """, cpu_list(allowed), runtime=runtime, preload=True)
    assert not program["wrong"]
    assert program["parent"] == program["pinned"]
    assert all_are(program["children"], allowed)


# --- in children ----------------------------------------------------------------------------------------------------


@RUNTIME
@WHICH
def test_pin_in_preexec_fn(run, chosen, runtime, which):
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()
        report(seen=ways._run(preexec_fn=lambda: os.sched_setaffinity(0, cpu_argument())))
        """, cpu_list(cpus), runtime=runtime, preload=True)
    assert program["seen"] == [cpus]


@RUNTIME
@WHICH
@pytest.mark.parametrize("launcher", LAUNCHERS)
@WITH_AND_WITHOUT
def test_launcher_in_child(run, chosen, runtime, which, launcher, preload):
    """A pinned program starts taskset or numactl. Without the library numactl refuses the CPUs outside the pin."""
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()
        child = subprocess.run(sys.argv[1:] + ways.GREP, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               universal_newlines=True)
        report(code=child.returncode, out=child.stdout)
        """, *LAUNCHERS[launcher](cpu_list(cpus)), runtime=runtime, preload=preload)
    if launcher == "numactl" and which == "other" and not preload and stuck(runtime, "subprocess_run"):
        assert program["code"] != 0
    else:
        assert program["code"] == 0, program.story()
        assert ways.parse(program["out"]) == cpus


@RUNTIME
@WHICH
def test_pin_then_exec(run, chosen, runtime, which):
    """In place and in a forked child: the mask set by hand goes through the exec."""
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()

        def narrow_and_exec():
            os.sched_setaffinity(0, cpu_argument())
            os.execv(ways.GREP[0], ways.GREP)

        if os.fork() == 0:
            narrow_and_exec()
        os.wait()
        narrow_and_exec()
        """, cpu_list(cpus), runtime=runtime, preload=True)
    assert [ways.parse(line) for line in program.text] == [cpus, cpus]


@RUNTIME
@WHICH
@pytest.mark.parametrize("worker", ways.WORKERS)
def test_worker_narrows_itself(run, chosen, allowed, runtime, which, worker):
    """A worker's own choice reaches its children and nobody else's."""
    cpus = chosen(runtime, which)
    program = run("""
        bring_up()
        worker = ways.WORKERS[sys.argv[2]]
        report(worker=worker(ways.narrow_and_make_children, cpu_argument()), sibling=ways.os_fork())
        """, cpu_list(cpus), worker, runtime=runtime, preload=True)
    assert program["worker"]["own"] == cpus
    assert all_are(program["worker"]["children"], cpus)
    assert program["sibling"] == [allowed]


@RUNTIME
@pytest.mark.parametrize("worker", ["mp_spawn", "mp_forkserver", "loky"])
@WITH_AND_WITHOUT
def test_worker_pins_again(run, allowed, runtime, worker, preload):
    """A fresh worker that runs a region of its own is pinned again, and its children have to be repaired again.

    Without the library it is stuck before it has begun. (Its pin would be in its parent's way, and be moved.)
    """
    program = run("""
        bring_up()
        report(worker=ways.WORKERS[sys.argv[1]](ways.pin_again_and_make_children))
        """, worker, runtime=runtime, preload=preload, KNLFIX_MOVE_PINS="off")
    worker = program["worker"]
    assert set(worker["own"]) < set(allowed)
    if preload:
        assert worker["before"] == allowed
        assert all_are(worker["children"], allowed)
    else:
        assert worker["before"] == (worker["own"] if stuck(runtime, "mp_spawn_process") else allowed)
        assert worker["children"]["os_system"] == [worker["own"]]


@RUNTIME
@WITH_AND_WITHOUT
def test_forkserver_that_is_pinned(run, allowed, runtime, preload):
    """A forkserver that preloads a package with a runtime hands its pin to every worker, as any forking parent does."""
    program = run("""
        import multiprocessing
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pinned_server"])
        with context.Pool(2) as pool:
            report(server=mask(pool.apply(os.getppid)), parent=main_mask(), workers=pool.map(mask, ["thread-self"] * 4))
        """, runtime=runtime, preload=preload)
    assert set(program["server"]) < set(allowed) == set(program["parent"])
    assert program["workers"] == [allowed if preload or not stuck(runtime, "os_fork") else program["server"]] * 4


# --- no runtime -----------------------------------------------------------------------------------------------------


@WITH_AND_WITHOUT
def test_library_that_is_no_runtime(run, programs, allowed, preload):
    """Somebody's own pinning library is the user's business: its pin goes to the children, as it does without us."""
    program = run("""
        ctypes.CDLL(sys.argv[1]).pin_to(int(sys.argv[2]))
        report(parent=main_mask(), children=ways.children())
        """, str(programs.pinner_library()), str(allowed[-1]), preload=preload)
    assert program["parent"] == allowed[-1:]
    assert all_are(program["children"], allowed[-1:])


@WITH_AND_WITHOUT
def test_nobody_pins(run, allowed, preload):
    program = run("bring_up(); report(parent=main_mask(), children=ways.children())",
                  runtime="libgomp", pin=False, preload=preload)
    assert program["parent"] == allowed
    assert all_are(program["children"], allowed)
