"""The workload users have: a pool of two pure-Python workers, made after a parallel region ran in this process.

    pool.py fork|spawn REGION.so        prints one line of JSON

"map" is the time of the tasks alone, with both workers up before; "total" also making and ending the pool. Seconds.
"""
import ctypes
import json
import multiprocessing
import os
import pathlib
import sys
import time

TASKS = 16
STEPS = 250_000  # about 10 ms of one CPU


def real_cpus():
    """CPUs the kernel lets this thread use; a hook may answer os.sched_getaffinity, nobody answers /proc."""
    for line in pathlib.Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("Cpus_allowed:"):
            return sum(bin(int(word, 16)).count("1") for word in line.split()[1].split(","))
    raise RuntimeError("no Cpus_allowed in /proc")


def burn(_):
    """One task."""
    total = 0
    for step in range(STEPS):
        total += step & 7
    return total


def who(_):
    """Long enough that one worker can't answer for both."""
    time.sleep(0.01)
    return os.getpid(), real_cpus()


def main(method, region):
    """Measures once."""
    ctypes.CDLL(region).region()
    begin = time.perf_counter()
    with multiprocessing.get_context(method).Pool(2) as pool:
        workers = {}
        while len(workers) < 2:
            workers.update(pool.map(who, range(4), chunksize=1))
        start = time.perf_counter()
        pool.map(burn, range(TASKS), chunksize=1)
        end = time.perf_counter()
        pool.close()
        pool.join()
    total = time.perf_counter() - begin
    print(json.dumps({"map": end - start, "total": total, "parent": real_cpus(), "workers": sorted(workers.values())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
