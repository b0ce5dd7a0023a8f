"""futures.py FILE: a pool of mpi4py.futures, whose workers run an OpenMP region, start a program each and multiply matrices.

    mpiexec -n 3 python -m mpi4py.futures futures.py FILE
"""

import ctypes
import json
import subprocess
import sys

import numpy
from mpi4py.futures import MPIPoolExecutor

SIZE = 128


def task(seed):
    libgomp = ctypes.CDLL("libgomp.so.1")
    libgomp.GOMP_parallel(libgomp.omp_get_thread_num, None, 0, 0)
    command = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout.split()[1]
    left, right = numpy.random.default_rng(seed).random((2, SIZE, SIZE))
    return child, float((left @ right).sum())


def main():
    with MPIPoolExecutor() as pool:
        results = list(pool.map(task, range(12)))
    with open(sys.argv[1], "w") as file:
        json.dump({"children": sorted({child for child, _ in results}), "sums": [total for _, total in results]}, file)


if __name__ == "__main__":
    main()
