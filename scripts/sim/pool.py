"""A Python program with a pinned OpenMP runtime: pool.py METHOD WORKERS [CPU,...]

Runs an OpenMP region, sets its own mask where CPUs are named, starts a Pool of WORKERS by METHOD, and prints what the
kernel has for the main thread and for each worker, and what Python says of the main thread, as one line of JSON.
"""

import ctypes
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys


def kernel_mask(status=None):
    """The online CPUs that /proc, where no preload answers, gives this thread or the owner of `status`."""
    def cpus(text):
        runs = [run.partition("-") for run in text.strip().split(",")]
        return {cpu for first, _, last in runs for cpu in range(int(first), int(last or first) + 1)}

    status = status or pathlib.Path("/proc/thread-self/status").read_text()
    allowed = re.search(r"^Cpus_allowed_list:(.*)$", status, re.M).group(1)
    return sorted(cpus(allowed) & cpus(pathlib.Path("/sys/devices/system/cpu/online").read_text()))


def report(masks):
    masks.put((os.getpid(), kernel_mask()))


def main(method, workers, cpus=""):
    libgomp = ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    # The region's body, run by each of two threads, is a libc function: it needs no interpreter.
    libgomp.GOMP_parallel(ctypes.CDLL(None).sched_yield, None, 2, 0)
    found = {"pinned": kernel_mask(), "sched_getaffinity": sorted(os.sched_getaffinity(0))}
    found["subprocess"] = kernel_mask(subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, check=True,
                                                     universal_newlines=True).stdout)
    if cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    context = multiprocessing.get_context(method)
    masks = context.SimpleQueue()
    with context.Pool(int(workers), report, (masks,)):
        answers = dict(masks.get() for _ in range(int(workers)))
    found["workers"] = len(answers)
    found["masks"] = [list(mask) for mask in sorted(set(map(tuple, answers.values())))]
    found["parent"] = kernel_mask()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
