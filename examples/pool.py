"""A pool of pure Python workers in a program whose OpenMP runtime pins the main thread.

    OMP_PROC_BIND=close python3 examples/pool.py [WORKERS]

Prints the CPUs each worker may use, a picture of which worker ran on which CPU, and the time the pool took. Only the
standard library and a real libgomp are needed.
"""

import ctypes
import json
import multiprocessing
import os
import statistics
import string
import sys
import time

TASKS_PER_WORKER = 12
ROUNDS = 3
COLUMNS = 60


def may_use():
    """The CPUs the calling thread may use, as the kernel lists them."""
    with open("/proc/thread-self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))


def runs_on():
    """The CPU the calling thread runs on."""
    with open("/proc/thread-self/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[36])


def openmp_region():
    """Runs one parallel region of libgomp, with its default team; returns the number of threads in it."""
    libgomp = ctypes.CDLL("libgomp.so.1")
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    threads = []
    libgomp.GOMP_parallel(body(lambda _: threads.append(libgomp.omp_get_thread_num())), None, 0, 0)
    return len(threads)


def task(_):
    """Some arithmetic; tells who did it, and where and when."""
    seen = []
    for _ in range(8):
        sum(i * i for i in range(40_000))
        seen.append((time.monotonic(), runs_on()))
    return os.getpid(), may_use(), seen


def picture(samples, begin, end, cpus):
    """One row per CPU that anybody ran on, time from left to right, a letter per worker."""
    for cpu in sorted({cpu for _, _, cpu in samples}):
        row = []
        for column in range(COLUMNS):
            first, last = (begin + (end - begin) * step / COLUMNS for step in (column, column + 1))
            here = [who for who, when, where in samples if where == cpu and first <= when < last]
            row.append(max(set(here), key=here.count) if here else ".")
        print(f"  CPU {cpu:>3}  {''.join(row)}")
    idle = cpus - len({cpu for _, _, cpu in samples})
    if idle > 0:
        print(f"  and {idle} more CPU{'s' * (idle > 1)} with nothing to do")


def main():
    allowed, cpus = may_use(), len(os.sched_getaffinity(0))
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else min(8, cpus)
    team = openmp_region()
    print(f"  the program may use CPUs {allowed}; an OpenMP region of {team} threads pinned its main thread to {may_use()}")

    times = []
    with multiprocessing.Pool(workers) as pool:
        for _ in range(ROUNDS):
            begin = time.monotonic()
            results = pool.map(task, range(workers * TASKS_PER_WORKER), chunksize=1)
            end = time.monotonic()
            times.append(end - begin)

    letters = dict(zip(sorted({pid for pid, _, _ in results}), string.ascii_letters))
    masks = {letters[pid]: mask for pid, mask, _ in results}
    for letter, mask in sorted(masks.items()):
        print(f"  worker {letter} may use CPUs {mask}")
    picture([(letters[pid], when, cpu) for pid, _, seen in results for when, cpu in seen], begin, end, cpus)
    seconds = statistics.median(times)
    print(f"  the pool took {seconds:.2f} s (median of {ROUNDS}); the main thread is still on {may_use()}")
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as out:
            json.dump({"seconds": seconds, "masks": masks, "allowed": allowed, "main": may_use()}, out)


if __name__ == "__main__":
    main()
