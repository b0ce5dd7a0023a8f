"""One Python process of `scripts/bench budget`: budget_work.py WORKLOAD, with the protocol of budget_crew.h.

It also takes lines "START tasks COUNT": COUNT units from START on, and WALL is the seconds since START.
"""
import ctypes
import os
import pathlib
import resource
import sys
import time


def numpy_product(size):
    import numpy
    left = numpy.ones((size, size))
    return lambda: left @ left


def mkl_product(size):
    import numpy
    if "BENCH_TBB" in os.environ:
        ctypes.CDLL(os.environ["BENCH_TBB"])
    [library] = pathlib.Path(sys.prefix, "lib").glob("libmkl_rt.so.*")
    mkl = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    left, out = numpy.ones((size, size)), numpy.empty((size, size))
    pointer = ctypes.POINTER(ctypes.c_double)
    matrix, result = left.ctypes.data_as(pointer), out.ctypes.data_as(pointer)
    one, zero = ctypes.c_double(1), ctypes.c_double(0)
    return lambda: mkl.cblas_dgemm(101, 111, 111, size, size, size, one, matrix, size, matrix, size, zero, result, size)


def rows(count, columns):
    import numpy
    return numpy.random.default_rng(0).random((count, columns))


def singular_values():
    import scipy.linalg
    matrix = rows(200, 200)
    return lambda: scipy.linalg.svd(matrix)


def kmeans():
    from sklearn.cluster import KMeans
    points = rows(4000, 8)
    model = KMeans(n_clusters=8, n_init=1, max_iter=10, random_state=0)
    return lambda: model.fit(points)


def neighbours():
    from sklearn.neighbors import NearestNeighbors
    points = rows(1500, 16)
    model = NearestNeighbors(algorithm="brute").fit(points)
    return lambda: model.kneighbors(points)


def xgboost_trees():
    import xgboost
    points = rows(4000, 8)
    data = xgboost.DMatrix(points, points[:, 0])
    return lambda: xgboost.train({"tree_method": "hist", "max_depth": 4}, data, 2)


def lightgbm_trees():
    import lightgbm
    points = rows(4000, 8)
    data = lightgbm.Dataset(points, points[:, 0], free_raw_data=False)
    return lambda: lightgbm.train({"verbose": -1}, data, 2)


def numba_loop():
    import numba
    import numpy

    @numba.njit(parallel=True, cache=True)
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
    "scipy-svd": singular_values,
    "mkl-512": lambda: mkl_product(512),
    "kmeans": kmeans,
    "knn": neighbours,
    "xgboost": xgboost_trees,
    "lightgbm": lightgbm_trees,
    "numba": numba_loop,
}


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def wait(start):
    while time.monotonic() < start:
        time.sleep(0.0002)


def for_seconds(unit, start, warm, seconds):
    wait(start)
    while True:
        unit()
        if time.monotonic() >= start + warm:
            break
    used, begin, done = cpu_seconds(), time.monotonic(), 0
    while True:
        unit()
        done += 1
        end = time.monotonic()
        if end >= start + warm + seconds:
            return done, cpu_seconds() - used, end - begin


def tasks(unit, start, count):
    wait(start)
    used = cpu_seconds()
    for _ in range(count):
        unit()
    return count, cpu_seconds() - used, time.monotonic() - start


def main(workload):
    unit = WORKLOADS[workload]()
    unit()
    print("ready", flush=True)
    for line in sys.stdin:
        start, warm, amount = line.split()
        print(*tasks(unit, float(start), int(amount)) if warm == "tasks" else for_seconds(unit, float(start), float(warm), float(amount)),
              flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
