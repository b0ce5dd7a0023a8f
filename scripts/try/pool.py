"""A program as they all are: OpenMP runs a region, which pins the main thread if so told, and then a Pool is started.

Prints how many CPUs each worker may use, as JSON, with the arguments that it got. Needs nothing but libgomp.
"""

import ctypes
import json
import multiprocessing
import os
import sys


def cpus(_):
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    libgomp = ctypes.CDLL("libgomp.so.1")
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    libgomp.GOMP_parallel(body, None, 0, 0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        workers = pool.map(cpus, range(4), chunksize=1)
    print(json.dumps({"workers": sorted(set(workers)), "argv": sys.argv}))
