"""A pool of numpy workers, each of which multiplies matrices with as many OpenBLAS threads as there are CPUs.

    python3 examples/numpy_pool.py [WORKERS]

Prints how many threads wanted to run at once, against the CPUs that there are, and how long the pool took. Needs numpy.
"""

import json
import multiprocessing
import os
import statistics
import sys
import threading
import time

import numpy

SIZE = 192
PRODUCTS = 100
TASKS_PER_WORKER = 4


def task(seed):
    """Some matrix products; returns a number that depends on all of them."""
    random = numpy.random.default_rng(seed)
    left, right = random.random((2, SIZE, SIZE))
    total = 0.0
    for _ in range(PRODUCTS):
        total += float((left @ right)[0, 0])
    return total


def runnable(pid):
    """How many threads of a process run or could run at this moment."""
    count = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as stat:
                count += stat.read().rpartition(")")[2].split()[0] == "R"
    except (FileNotFoundError, ProcessLookupError):
        pass
    return count


class Watch(threading.Thread):
    """Counts the workers' runnable threads some hundred times a second."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.samples, self.is_over = pids, [], threading.Event()

    def run(self):
        while not self.is_over.wait(0.005):
            self.samples.append(sum(runnable(pid) for pid in self.pids))


def main():
    cpus = len(os.sched_getaffinity(0))
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else cpus
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        watch = Watch([worker.pid for worker in pool._pool])
        watch.start()
        begin = time.monotonic()
        results = pool.map(task, range(workers * TASKS_PER_WORKER), chunksize=1)
        seconds = time.monotonic() - begin
        watch.is_over.set()
        watch.join()
    threads = statistics.mean(watch.samples)
    print(f"{workers} workers on {cpus} CPUs: {threads:.1f} threads wanted to run at once, {max(watch.samples)} at most; "
          f"{seconds:.2f} s")
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as file:
            json.dump({"threads": threads, "most": max(watch.samples), "seconds": seconds, "results": results}, file)


if __name__ == "__main__":
    main()
