"""Ranks that each multiply matrices with numpy, on as many OpenBLAS threads as there are CPUs.

    srun -n 4 --cpu-bind=none python3 examples/ranks.py [PRODUCTS]
    mpiexec -n 4 --bind-to none python3 examples/ranks.py [PRODUCTS]

Each prints how long it took. Needs numpy; MPI it does not need.
"""

import os
import sys
import time

import numpy

SIZE = 192
RANKS = ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]


def main():
    products = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    left, right = numpy.random.default_rng(7).random((2, SIZE, SIZE))
    begin = time.monotonic()
    total = sum(float((left @ right)[0, 0]) for _ in range(products))
    seconds = time.monotonic() - begin
    print(f"rank {rank}: {products} products on {len(os.sched_getaffinity(0))} CPUs in {seconds:.2f} s, sum {total:.6f}", flush=True)


if __name__ == "__main__":
    main()
