"""What the test programs share: reading a mask, bringing a runtime up, reporting.

A program reports one JSON object per line on stdout. Children made by spawn, forkserver and loky import this module
too, so it imports nothing outside the standard library and does nothing on import.
"""

import ctypes
import json
import os
import sys


def parse(status):
    """The CPUs named by the Cpus_allowed_list line of a /proc status text, as a sorted list."""
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            cpus = []
            for part in line.split()[1].split(","):
                first, _, last = part.partition("-")
                cpus.extend(range(int(first), int(last or first) + 1))
            return cpus
    raise ValueError("no Cpus_allowed_list in %r" % status)


def mask(task="thread-self", *_):
    """The real mask of a task: of the calling thread, or of the thread whose id is given.

    It comes from /proc, where no preload can answer in the kernel's place.
    """
    with open("/proc/%s/status" % task) as status:
        return parse(status.read())


def main_mask():
    """The real mask of the process's main thread."""
    return mask(os.getpid())


def report(**fields):
    """Writes one line of the program's report."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def cpu_argument(n=1):
    """The program's n-th argument, a list of CPUs as taskset takes it, as a set."""
    return {int(cpu) for cpu in sys.argv[n].split(",")}


def region_library():
    """The region library of the runtime under test, loaded."""
    return ctypes.CDLL(os.environ["PROBE_LIBRARY"])


def _up_region():
    threads = region_library().region(0)
    if threads < 1:
        raise RuntimeError("the region ran no thread")


def _up_mkl():
    mkl = ctypes.CDLL(os.environ["PROBE_LIBRARY"])
    n = 256
    matrix = ctypes.c_double * (n * n)
    a, b, c = matrix(*[1.0] * (n * n)), matrix(*[2.0] * (n * n)), matrix()
    row_major, no_transpose = 101, 111
    mkl.cblas_dgemm(row_major, no_transpose, no_transpose, n, n, n, ctypes.c_double(1.0), a, n, b, n,
                    ctypes.c_double(0.0), c, n)
    if set(c) != {2.0 * n}:
        raise RuntimeError("dgemm gave a wrong product")


def _up_sklearn():
    import sklearn  # noqa: F401  (its bundled libgomp pins while it is loaded)
    import numpy
    from sklearn.cluster import KMeans

    points = numpy.arange(600.0).reshape(300, 2)
    if len(set(KMeans(2, n_init=1, random_state=0).fit(points).labels_)) != 2:
        raise RuntimeError("KMeans found no two clusters")


def _up_numba():
    import numba

    @numba.njit(parallel=True)
    def total(n):
        s = 0
        for i in numba.prange(n):
            s += i
        return s

    if total(1000) != 499500 or numba.threading_layer() != "omp":
        raise RuntimeError("numba did not run its omp layer")


def bring_up():
    """Runs a real region on the runtime named by PROBE_RUNTIME, on the calling thread.

    Returns the paths of the OpenMP runtimes that are mapped afterwards.
    """
    {"region": _up_region, "mkl": _up_mkl, "sklearn": _up_sklearn, "numba": _up_numba}[os.environ["PROBE_RUNTIME"]]()
    return runtimes_mapped()


def runtimes_mapped():
    """The real paths of the OpenMP runtimes mapped into this process."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "/" in line}
    names = ("libgomp", "libomp.", "libomp5", "libiomp5")
    return sorted(p for p in paths if os.path.basename(p).startswith(names))
