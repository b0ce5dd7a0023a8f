"""The machine: what it is, how busy others keep it, and the workshop where the small C programs are built and run."""
import datetime
import hashlib
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# The share of the CPUs' time that others may use for a moment to count as calm: on two CPUs, a fifth of one.
CALM = 0.1

# Variables that would change what is measured. Each measure sets what it needs itself.
FOREIGN = ("LD_PRELOAD", "KNLFIX", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMBA_", "LD_BIND_NOW")


def clean_environment(**more):
    """The environment without anything that loads, pins or configures, plus `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, **more}


def run(command, **more):
    """Runs a command and returns what it printed; RuntimeError with its last words when it fails."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **more)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{pathlib.Path(command[0]).name} failed with status {done.returncode}: {words[-1]}")
    return done.stdout


def describe():
    """One line per fact a reader needs to judge the figures."""
    model, virtual = "unknown CPU", False
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        virtual = virtual or (key.strip() == "flags" and "hypervisor" in value.split())
    compiler = run(["gcc", "-dumpfullversion"]).strip()
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "allowed": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "gcc": compiler,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


class Load:
    """Who else used the CPUs since this was made."""

    def __init__(self):
        self._before = self._read()

    @staticmethod
    def _read():
        fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, iowait, irq, softirq, steal = (field / tick for field in fields)
        ours = sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        return {"total": sum(fields) / tick, "busy": user + nice + system, "steal": steal, "ours": ours}

    def report(self):
        """Shares of the machine's CPU time: of other processes, and taken by the hypervisor."""
        after = self._read()
        spent = {key: after[key] - self._before[key] for key in after}
        total = max(spent["total"], 1e-9)
        others = max(0.0, spent["busy"] - spent["ours"]) / total
        steal = spent["steal"] / total
        return {"others": others, "steal": steal, "noisy": others > CALM or steal > 0.02}


class Workshop:
    """A temporary directory with the built programs and preloads, all side by side so that their paths cost the same to open."""

    WARNINGS = ("-O2", "-Wall", "-Wextra")
    # Bound at the start: else every forked child would look `_exit` up anew, in every library that is loaded.
    SUBJECT = ("-Wl,-z,now", "-ldl", "-pthread")

    def __init__(self, library):
        self._library = library

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="knlfix-bench-"))
        self.ours = self.path / "ours.so"
        shutil.copyfile(self._library, self.ours)
        self.empty = self._compile("empty.so", "-shared", "-fPIC", HERE / "empty.c")
        self.hook = self._compile("hook.so", "-shared", "-fPIC", HERE / "hook.c", "-ldl")
        self.exec = self._compile("exec", HERE / "exec.c")
        self.step = self._compile("step", HERE / "step.c")
        self.plain = self._compile("plain", HERE / "subject.c", *self.SUBJECT)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def _compile(self, name, *arguments):
        run(["gcc", *self.WARNINGS, "-o", self.path / name, *arguments])
        return self.path / name

    def gomp(self):
        """The subject linked with the system's libgomp."""
        return self._compile("gomp", "-fopenmp", "-DREGION", HERE / "subject.c", HERE / "region.c", *self.SUBJECT)

    def build(self, name, *arguments, compiler="gcc"):
        """Another program, or object, or library."""
        if not (self.path / name).exists():
            run([compiler, *self.WARNINGS, "-o", self.path / name, *arguments])
        return self.path / name

    def gomp_region(self):
        """A library with one libgomp region, for a Python program to load."""
        return self._compile("region.so", "-fopenmp", "-shared", "-fPIC", HERE / "region.c")

    def libomp(self, runtime):
        """The subject linked with this LLVM runtime, which has libgomp's entry points too."""
        objects = []
        for source in ("subject.c", "region.c"):
            objects.append(self._compile(source[:-2] + ".o", "-c", "-fopenmp", "-DREGION", HERE / source))
        return self._compile("libomp", *objects, runtime, f"-Wl,-rpath,{runtime.parent}", *self.SUBJECT)

    @staticmethod
    def describe_library(library):
        """Which build this was."""
        content = library.read_bytes()
        return {"name": library.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def python():
    """The interpreter that runs the Python workloads: that of the tests, which has the packages, or else this one."""
    tests = pathlib.Path(__file__).resolve().parent.parent.parent / ".venv/bin/python"
    return str(tests) if tests.exists() else sys.executable
