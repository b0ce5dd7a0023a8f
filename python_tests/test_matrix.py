"""Every way of making a child, under every real runtime: who has which CPUs, without the library and with it.

Each (runtime, with or without) is one program that goes through all ways (probes/matrix.py); a test looks at one way.
Masks are what the kernel says in /proc.
"""

import os

import pytest

from program import LINKED, RUNTIMES, stuck
import ways

RUNTIME = pytest.mark.parametrize("runtime", RUNTIMES)
WITH_AND_WITHOUT = pytest.mark.parametrize("preload", [False, True], ids=["without", "with"])


@RUNTIME
@WITH_AND_WITHOUT
def test_runtime_pins_main_thread(matrix, allowed, runtime, preload):
    """The premise of all others: the runtime under test, and no other, narrowed the main thread's mask."""
    program = matrix(runtime, preload)
    assert program["before"] == allowed
    assert set(program["pinned"]) < set(allowed), program.story()
    mapped = [os.path.basename(path) for path in program["runtimes"]]
    assert mapped and all(name.startswith(RUNTIMES[runtime].library) for name in mapped), mapped


@RUNTIME
@WITH_AND_WITHOUT
@pytest.mark.parametrize("way", ways.WAYS)
def test_children(matrix, allowed, runtime, preload, way):
    program = matrix(runtime, preload)
    line = next((line for line in program.reports if line.get("way") == way), None)
    assert line, "the program did not get that far: " + program.story()
    assert "error" not in line, line["error"]

    expected = program["pinned"] if not preload and stuck(runtime, way) else allowed
    assert line["masks"] == [expected] * len(line["masks"]) != []
    assert line["parent"] == program["pinned"], "the main thread has to keep its pin"


@RUNTIME
@WITH_AND_WITHOUT
def test_ends_well(matrix, runtime, preload):
    program = matrix(runtime, preload)
    assert program.code == 0 and not program.text, program.story()


# Bringing a package up takes a second, so the packages go through the two calls that Python makes of all eight.
EXECS = ["execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "fexecve"]
IN_PLACE = [(runtime, way) for runtime in RUNTIMES for way in EXECS if runtime in LINKED or way in ("execv", "execve")]


@pytest.mark.parametrize("runtime, way", IN_PLACE)
@WITH_AND_WITHOUT
def test_exec_in_place(run, allowed, runtime, way, preload):
    program = run("exec_in_place.py", way, runtime=runtime, preload=preload)
    assert set(program["pinned"]) < set(allowed)
    assert program["failed_exec"] == program["pinned"], "an exec that failed has to leave the pin"
    assert ways.parse("\n".join(program.text)) == (allowed if preload else program["pinned"])
