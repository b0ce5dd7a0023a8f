"""Other preloads in the same process, before and after libknlfix: all of them work, and every child is repaired."""

import functools
import os
import subprocess

import pytest

from inway import CHILDREN, LIBRARIES, PIN, ROOT, build, first, full, last, probe, report, run, run_probe, scratch
from inway import show_mask

ORDERS = ("other-first", "ours-first")
DEBIAN = {
    "tcmalloc": "libtcmalloc.so.4",
    "tcmalloc_minimal": "libtcmalloc_minimal.so.4",
    "jemalloc": "libjemalloc.so.2",
    "eatmydata": "libeatmydata.so",
}


@functools.cache
def redhook():
    """c_tests/redhook-preload, a preload built on the redhook crate."""
    target = ROOT / "target/redhook-preload"
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
    environment["PATH"] += os.pathsep + os.path.expanduser("~/.cargo/bin")
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT / "c_tests/redhook-preload",
                   env=environment, check=True, timeout=600)
    return target / "release/libredhook_preload.so"


def other_preload(name):
    if name == "redhook":
        return redhook()
    path = LIBRARIES / DEBIAN[name]
    assert path.exists(), f"{path} is missing: scripts/setup test installs it"
    return path


def ordered(order, other, so):
    return [other, so] if order == "other-first" else [so, other]


def logged(path):
    return path.read_text().splitlines()


@pytest.mark.timeout(660)  # the first test builds the redhook crate
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", (*DEBIAN, "redhook"))
def test_children_are_repaired_beside_another_preload(so, tmp_path, name, order):
    other = other_preload(name)
    assert run_probe(preload=[other]) == (0, report(first()), b""), "the trouble should be there without us"
    preload = ordered(order, other, so)
    assert run_probe(preload=preload) == (0, report(full()), b"")
    maps = run("cat", "/proc/self/maps", preload=preload).out.decode()
    assert so.name in maps and other.resolve().name in maps

    log = tmp_path / "log"
    run_probe(preload=preload, KNLFIX_LOG="debug", KNLFIX_LOG_FILE=str(log))
    assert any(" pin: " in line and "set by libgomp" in line for line in logged(log)), logged(log)
    assert any(" repair: " in line for line in logged(log)), logged(log)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", (*DEBIAN, "redhook"))
def test_a_user_mask_is_respected_beside_another_preload(so, name, order):
    done = run_probe("region", "user=" + last(), "self", *CHILDREN, preload=ordered(order, other_preload(name), so))
    assert done == (0, b"region 4950\n" + report(last(), own=last()).replace(b"region 4950\n", b""), b"")


@pytest.mark.parametrize("order", ORDERS)
def test_the_redhook_preload_is_really_called(so, tmp_path, order):
    trace = tmp_path / "trace"
    done = run_probe("user=" + first(), "region", "self", *CHILDREN, preload=ordered(order, redhook(), so),
                     REDHOOK_TRACE=str(trace))
    assert done.status == 0 and done.err == b""
    # libgomp pins by pthread_setaffinity_np and makes its team by pthread_create; the rest is the probe's.
    called = {"fork", "execve", "posix_spawn", "pthread_create", "sched_setaffinity", "pthread_setaffinity_np"}
    assert called <= set(logged(trace))


@pytest.mark.parametrize("place", range(len(DEBIAN) + 1))
def test_all_preloads_at_once(so, place):
    # Two allocators at once: the first in the list wins, as without us.
    preload = [other_preload(name) for name in DEBIAN if name != "tcmalloc_minimal"] + [redhook()]
    preload.insert(place, so)
    assert run_probe(preload=preload) == (0, report(full()), b"")


@pytest.mark.parametrize("order", ORDERS)
def test_a_preload_that_passes_affinity_calls_on_hides_no_runtime(so, order):
    other = build("passes_on.c", "-shared", "-fPIC", name="libpasses_on.so")
    assert run_probe(preload=[other]) == (0, report(first()), b"")
    assert run_probe(preload=ordered(order, other, so)) == (0, report(full()), b"")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("runtime", ("libomp14", "libomp19", "iomp2018", "iomp2026"))
def test_nor_one_that_pins_by_a_raw_system_call(so, runtimes, order, runtime):
    other = build("passes_on.c", "-shared", "-fPIC", name="libpasses_on.so")
    compiled = build("probe.c", "-fopenmp", "-c", name="probe.o")
    path = runtimes[runtime]
    program = scratch() / f"probe-{runtime}"
    if not program.exists():
        subprocess.run(["gcc", compiled, "-o", program, path, f"-Wl,-rpath,{path.parent}"], check=True)
    # LLVM's runtimes pin at their first region, and mend plain forks themselves.
    ways = [way for way in CHILDREN if way != "fork"]
    steps = ["region", "self", *ways]
    expected = "".join(f"{way} %s\n" for way in ways)

    def printed(preload):
        done = run(program, show_mask(), *steps, preload=preload, KMP_AFFINITY="compact,granularity=fine")
        assert (done.status, done.err) == (0, b"")
        return done.out.decode()

    head = f"region 4950\nself {first()}\n"
    assert printed([other]) == head + expected.replace("%s", first())
    assert printed(ordered(order, other, so)) == head + expected.replace("%s", full())


@pytest.mark.parametrize("order", ORDERS)
def test_hooks_work_before_the_constructor_has_run(so, order):
    other = build("early.c", "-shared", "-fPIC", name="libearly.so")
    steps = ("self", *CHILDREN)
    # The preload's own choice is a user mask: the children keep it. No OMP_PROC_BIND, so nothing else is set.
    variables = {"EARLY_CPU": last(), "EARLY_DONE": "1"}
    alone = run(probe(), show_mask(), *steps, preload=[other], **variables)
    assert alone == (0, b"early 0\n" + report(last(), own=last()).replace(b"region 4950\n", b""), b"")
    assert run(probe(), show_mask(), *steps, preload=ordered(order, other, so), **variables) == alone


@pytest.mark.parametrize("order", ORDERS)
def test_a_mask_set_before_the_constructor_has_run_is_the_children_s(so, order):
    other = build("early.c", "-shared", "-fPIC", name="libearly.so")
    # libgomp then finds one CPU allowed, and its pin changes nothing.
    done = run_probe(preload=ordered(order, other, so), EARLY_CPU=last(), **PIN)
    assert done == (0, report(last(), own=last()), b"")
