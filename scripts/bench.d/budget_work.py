"""One process of `scripts/bench budget`: budget_work.py WORKLOAD START SECONDS, or WORKLOAD START tasks COUNT.

Does a workload's unit of work from the moment START (seconds of the monotonic clock) on, for so long or so often, and
prints the units done, the CPU seconds used and the wall seconds it took.
"""
import ctypes
import os
import pathlib
import sys
import time


def numpy_product(size):
    import numpy
    left = numpy.ones((size, size))
    return lambda: left @ left


def mkl_product(size):
    import numpy
    [library] = list(pathlib.Path(sys.prefix, "lib").glob("libmkl_rt.so.*"))[:1]
    mkl = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    left, out = numpy.ones((size, size)), numpy.empty((size, size))
    pointer = ctypes.POINTER(ctypes.c_double)
    matrix, result = left.ctypes.data_as(pointer), out.ctypes.data_as(pointer)
    one, zero = ctypes.c_double(1), ctypes.c_double(0)
    return lambda: mkl.cblas_dgemm(101, 111, 111, size, size, size, one, matrix, size, matrix, size, zero, result, size)


def kmeans():
    import numpy
    from sklearn.cluster import KMeans
    points = numpy.random.default_rng(0).random((4000, 8))
    model = KMeans(n_clusters=8, n_init=1, max_iter=10, random_state=0)
    return lambda: model.fit(points)


def neighbours():
    import numpy
    from sklearn.neighbors import NearestNeighbors
    points = numpy.random.default_rng(0).random((1500, 16))
    model = NearestNeighbors(algorithm="brute").fit(points)
    return lambda: model.kneighbors(points)


def numba_loop():
    import numba
    import numpy

    @numba.njit(parallel=True)
    def loop(values):
        total = 0.0
        for i in numba.prange(values.size):
            total += values[i] ** 0.5
        return total

    values = numpy.ones(400_000)
    return lambda: loop(values)


WORKLOADS = {
    "numpy-128": lambda: numpy_product(128),
    "numpy-512": lambda: numpy_product(512),
    "numpy-1000": lambda: numpy_product(1000),
    "mkl-512": lambda: mkl_product(512),
    "kmeans": kmeans,
    "knn": neighbours,
    "numba": numba_loop,
}


def main(workload, start, seconds, count=None):
    unit = WORKLOADS[workload]()
    unit()
    if float(start) < time.monotonic():
        sys.exit("the start is over before this process is ready")
    while time.monotonic() < float(start):
        time.sleep(0.0005)
    used, begin, done = os.times(), time.monotonic(), 0
    while done < int(count) if count else time.monotonic() - begin < float(seconds):
        unit()
        done += 1
    wall, after = time.monotonic() - begin, os.times()
    print(done, after.user - used.user + after.system - used.system, wall)


if __name__ == "__main__":
    main(*sys.argv[1:])
