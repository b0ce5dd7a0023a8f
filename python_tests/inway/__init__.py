"""For the tests named test_inway_*: compiles the C programs of this folder, runs programs with and without preloads.

Nearly every test compares a run with the library to the same run without it, so a Run holds all that a caller of the
program could see: the exit status and the bytes of both outputs.
"""

import atexit
import collections
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu")

Run = collections.namedtuple("Run", "status out err")


@functools.cache
def scratch():
    """A directory for this run of the tests. Open to other users: set-uid programs are run as one of them."""
    path = tempfile.mkdtemp(prefix="knlfix-inway-")
    os.chmod(path, 0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return pathlib.Path(path)


@functools.cache
def build(source, *flags, name=None):
    """The program (or library, with -shared) made of one C file of this folder; path as text."""
    path = scratch() / (name or source.removesuffix(".c"))
    flags = ["-std=gnu17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{HERE}", *flags]
    done = subprocess.run(["gcc", *flags, HERE / source, "-o", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(path)


def probe():
    """probe.c, linked to libgomp: makes children in the ways its arguments name, and prints the mask each has."""
    return build("probe.c", "-fopenmp")


def show_mask():
    """mask.c: prints its own mask. Without any runtime, so that nothing pins it again."""
    return build("mask.c")


def run(*argv, preload=(), cwd=None, limit=60, stdin=b"", **variables):
    """Runs a program to its end in a clean environment plus the given variables; a hang fails the test.

    preload: the libraries for LD_PRELOAD, in this order.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(scratch()), "LANG": "C", **variables}
    if preload:
        environment["LD_PRELOAD"] = ":".join(map(str, preload))
    argv = [part if isinstance(part, bytes) else str(part) for part in argv]
    # A session of its own, so that nothing a hung program has started is left behind.
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             cwd=cwd or scratch(), env=environment, start_new_session=True)
    try:
        out, err = child.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        raise AssertionError(f"{argv} hung for {limit} s; printed {out[-2000:]!r} and {err[-2000:]!r}") from None
    return Run(child.returncode, out, err)


def cpu_list(cpus):
    """{0, 1, 3} -> "0-1,3", as the C programs and the library's log print masks."""
    spans = []
    for cpu in sorted(cpus):
        if spans and spans[-1][1] == cpu - 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in spans)


def full():
    """Every CPU the tests may use, which is what every child should have."""
    return cpu_list(os.sched_getaffinity(0))


def first():
    """Where libgomp pins the main thread."""
    return str(min(os.sched_getaffinity(0)))


def last():
    """The CPU that stands for a user's own choice: not where a runtime pins."""
    return str(max(os.sched_getaffinity(0)))


# libgomp pins the main thread to the first CPU before main. Places by number, as it can't count cores without /sys.
PIN = {"OMP_PROC_BIND": "true", "OMP_PLACES": f"{{{first()}}},{{{last()}}}"}

# The ways of making a child or a thread that most tests go through.
CHILDREN = ("fork", "_Fork", "vfork", "posix_spawn", "system", "popen", "thread", "execve")


def report(children, own=None, ways=CHILDREN):
    """What probe prints for `self region WAYS...` when its children have the mask `children`."""
    lines = [f"self {own or first()}", "region 4950"] + [f"{way} {children}" for way in ways]
    return "".join(line + "\n" for line in lines).encode()


def run_probe(*steps, **kwargs):
    """Runs probe pinned by libgomp. Without steps: `self region` and all of CHILDREN."""
    return run(probe(), show_mask(), *(steps or ("self", "region", *CHILDREN)), **{**PIN, **kwargs})
