"""A pool of workers that each run OpenMP themselves, to look at with `knlfix map`.

    OMP_PROC_BIND=close knlfix map -- python3 examples/pinned_pool.py [WORKERS [THREADS [SECONDS]]]

Each worker (fork) runs a region of THREADS threads with a real libgomp, which pins them, and keeps them until SECONDS
after the last worker was ready. The parent runs no region, so it stays as it was. Needs libgomp
and the standard library.
"""

import ctypes
import multiprocessing
import os
import sys
import time

PATIENCE = 600


def worker(parent, threads, ready, over):
    libgomp = ctypes.CDLL("libgomp.so.1")
    # The body of the region is a function that does nothing; its threads stay afterwards.
    libgomp.GOMP_parallel(libgomp.omp_get_thread_num, None, threads, 0)
    ready.wait(PATIENCE)
    # A parent that was killed tells nobody.
    while os.getppid() == parent and not over.wait(0.5):
        pass


def main():
    workers, threads, seconds = [int(argument) for argument in sys.argv[1:]] + [4, 2, 10][len(sys.argv) - 1:]
    context = multiprocessing.get_context("fork")
    ready, over = context.Barrier(workers + 1), context.Event()
    arguments = (os.getpid(), threads, ready, over)
    pool = [context.Process(target=worker, args=arguments, daemon=True) for _ in range(workers)]
    for process in pool:
        process.start()
    ready.wait(PATIENCE)
    print(f"{workers} workers with {threads} threads each are ready", file=sys.stderr, flush=True)
    time.sleep(seconds)
    over.set()
    for process in pool:
        process.join()


if __name__ == "__main__":
    main()
