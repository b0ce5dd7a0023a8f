"""Runs a program under a real runtime, with or without the library, and reads its report."""

import collections
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import textwrap
import uuid

PROBES = pathlib.Path(__file__).resolve().parent / "probes"
sys.path.insert(0, str(PROBES))

import ways  # noqa: E402  (it is in PROBES)

# What program text given to Programs.run may use without importing it.
PRELUDE = "import ctypes, os, subprocess, sys, threading\nimport ways\nfrom probe import *\n"

# What makes a runtime pin. A place is one hardware thread, so that a pin is narrower than the whole of any machine.
PIN_GOMP = {"OMP_PROC_BIND": "true", "OMP_PLACES": "threads"}
PIN_LLVM = {"KMP_AFFINITY": "compact,granularity=fine"}

# family: who repairs nothing (gomp), who repairs plain forks by itself (llvm). probe: how a program brings it up.
# library: the file name every runtime mapped into the program has to start with.
Runtime = collections.namedtuple("Runtime", "family probe library pin")

# The runtimes that a C library can be linked to: quick to bring up.
LINKED = {
    "libgomp": Runtime("gomp", "region", "libgomp.so.1", PIN_GOMP),
    "libomp14": Runtime("llvm", "region", "libomp.so.5", PIN_LLVM),
    "libomp19": Runtime("llvm", "region", "libomp.so.5", PIN_LLVM),
    "iomp2018": Runtime("llvm", "region", "libiomp5.so", PIN_LLVM),
    "iomp2026": Runtime("llvm", "region", "libiomp5.so", PIN_LLVM),
}

# The runtimes that come with a package and its habits.
PACKAGED = {
    "mkl-intel": Runtime("llvm", "mkl", "libiomp5.so", dict(PIN_LLVM, MKL_THREADING_LAYER="INTEL")),
    "mkl-gnu": Runtime("gomp", "mkl", "libgomp.so.1", dict(PIN_GOMP, MKL_THREADING_LAYER="GNU")),
    "sklearn": Runtime("gomp", "sklearn", "libgomp-", PIN_GOMP),
    "numba": Runtime("gomp", "numba", "libgomp.so.1", dict(PIN_GOMP, NUMBA_THREADING_LAYER="omp")),
}

# The same runtimes pinned by other variables, or robbed of their own repair.
VARIED = {
    "libgomp-cpu-affinity": LINKED["libgomp"]._replace(pin={"GOMP_CPU_AFFINITY": "%s"}),
    "libgomp-places-alone": LINKED["libgomp"]._replace(pin={"OMP_PLACES": "threads"}),
    "libomp19-proc-bind": LINKED["libomp19"]._replace(pin=PIN_GOMP),
    "libomp19-no-atfork": LINKED["libomp19"]._replace(family="gomp", pin=dict(PIN_LLVM, KMP_INIT_AT_FORK="0")),
    "iomp2026-no-atfork": LINKED["iomp2026"]._replace(family="gomp", pin=dict(PIN_LLVM, KMP_INIT_AT_FORK="0")),
}

RUNTIMES = {**LINKED, **PACKAGED, **VARIED}


def stuck(runtime, way):
    """Whether a child made this way keeps the pin of its parent where nobody but the runtime itself repairs it.

    LLVM and Intel have an atfork handler that gives a plain fork's child its CPUs back, and nothing for the rest.
    """
    return not (RUNTIMES[runtime].family == "llvm" and ways.WAYS[way][0] == "fork")


def wheel_libraries(package):
    """The folder with the libraries that a wheel brings. Importing the package would set variables of this process."""
    return pathlib.Path(sysconfig.get_path("platlib")) / f"{package}.libs"


def linked_to(name):
    """The name of the linked runtime that a varied one is made of."""
    return name if name in LINKED else name.partition("-")[0]


def cpu_list(cpus):
    """CPUs as taskset, numactl and GOMP_CPU_AFFINITY take them."""
    return ",".join(map(str, sorted(cpus)))


class Run:
    """A finished program: its report lines, what else it printed, and how it ended."""

    def __init__(self, args, code, out, err):
        self.args, self.code, self.err = args, code, err
        self.reports, self.text = [], []
        for line in out.splitlines():
            (self.reports if line.startswith("{") else self.text).append(line)
        self.reports = [json.loads(line) for line in self.reports]

    def __getitem__(self, field):
        """The value of a field, from whichever line of the report carries it."""
        for line in self.reports:
            if field in line:
                return line[field]
        raise KeyError("no %r in the report; %s" % (field, self.story()))

    def story(self):
        return "%s\nended with %s\nreported %s\nprinted %s\nstderr:\n%s" % (
            self.args, self.code, self.reports, self.text, self.err)


def _run(args, environment, limit):
    # A session of its own, so that nothing a hung program has started is left behind.
    child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             universal_newlines=True, env=environment, start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        err += "\n(killed after %s seconds)" % limit
    return Run(args, child.returncode, out, err)


class Programs:
    """Starts programs; knows the library, and builds the C libraries that are linked to each runtime."""

    def __init__(self, so, runtime_path, scratch, allowed):
        self.so, self._runtime_path, self._scratch, self.allowed = so, runtime_path, scratch, allowed
        self._built = {}

    def _build(self, name, *args):
        if name not in self._built:
            path = self._scratch / name
            subprocess.run(["gcc", "-O1", "-fPIC", "-Wall", "-Werror", *map(str, args), "-o", str(path)], check=True)
            self._built[name] = path
        return self._built[name]

    def region_library(self, runtime):
        """region.c as a shared library, linked to one of the LINKED runtimes."""
        if runtime == "libgomp":
            return self._build("libregion-libgomp.so", "-shared", "-fopenmp", PROBES / "region.c")
        compiled = self._build("region.o", "-c", "-fopenmp", PROBES / "region.c")
        path = self._runtime_path(runtime)
        return self._build("libregion-%s.so" % runtime, "-shared", compiled, path, "-Wl,-rpath,%s" % path.parent)

    def pinner_library(self):
        """pinner.c as a shared library."""
        return self._build("libpinner.so", "-shared", PROBES / "pinner.c")

    def _variables(self, runtime, pin):
        if runtime is None:
            return {}
        traits = RUNTIMES[runtime]
        made = {"PROBE_RUNTIME": traits.probe}
        if traits.probe == "region":
            made["PROBE_LIBRARY"] = str(self.region_library(linked_to(runtime)))
        elif traits.probe == "mkl":
            made["PROBE_LIBRARY"] = glob.glob(sys.prefix + "/lib/libmkl_rt.so.*")[0]
        if pin:
            made.update(traits.pin)
            if "GOMP_CPU_AFFINITY" in made:
                made["GOMP_CPU_AFFINITY"] %= cpu_list(self.allowed)
        return made

    def environment(self, preload):
        """This process's environment, with the library in LD_PRELOAD or without."""
        # KNLFIX_SO is the tests' own and no variable of the library.
        made = {name: value for name, value in os.environ.items() if name != "KNLFIX_SO"}
        # A domain of its own: no program's pins are in the way of another's.
        made["SLURM_JOB_ID"] = f"knlfix-tests-{uuid.uuid4()}"
        if preload:
            made["LD_PRELOAD"] = str(self.so())
        return made

    def run(self, program, *args, runtime=None, pin=True, preload, under=(), check=True, limit=100, **variables):
        """Runs a program of probes/, or program text (after PRELUDE), and returns its Run.

        runtime: a name of RUNTIMES, brought up when the program calls probe.bring_up(). pin: whether the variables
        that make it pin are set. under: a launcher and its arguments, as ("taskset", "-c", "0"). Further keywords are
        environment variables. With check, anything but success fails the test.
        """
        environment = dict(self.environment(preload), PYTHONPATH=str(PROBES), **self._variables(runtime, pin))
        environment.update(variables)
        what = [str(PROBES / program)] if program.endswith(".py") else ["-c", PRELUDE + textwrap.dedent(program)]
        # Newer Pythons warn about every fork of a process with threads: not our subject.
        run = _run([*under, sys.executable, "-W", "ignore", *what, *args], environment, limit)
        assert not check or run.code == 0, run.story()
        # Silence by default is part of every test.
        assert "KNLFIX_LOG" in environment or "knlfix" not in run.err, run.story()
        return run
