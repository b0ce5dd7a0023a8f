"""children.py DIRECTORY [NAME]: one rank, started by srun or mpiexec. Runs an OpenMP region (which pins its main thread, if the
environment says so), starts children in several ways, and writes what each may use into DIRECTORY/NAME-RANK.json."""

import ctypes
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading

RANKS = ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]


def may_use(_=None):
    with open("/proc/thread-self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))


def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(may_use()))
    thread.start()
    thread.join()
    return found[0]


def pool(method):
    with multiprocessing.get_context(method).Pool(2) as workers:
        return sorted(set(workers.map(may_use, range(8), chunksize=1)))


def main():
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    found = {"allowed": may_use(), "preload": os.environ.get("LD_PRELOAD", ""), "job": os.environ.get("SLURM_JOB_ID", "")}
    libgomp = ctypes.CDLL("libgomp.so.1")
    # The body of the region is a function that does nothing.
    libgomp.GOMP_parallel(libgomp.omp_get_thread_num, None, 0, 0)
    found["pinned"] = may_use()
    found["sched_getaffinity"] = len(os.sched_getaffinity(0))
    found["thread"] = in_a_thread()
    command = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    found["subprocess"] = subprocess.run(command, stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout.split()[1]
    found["fork"], found["spawn"] = pool("fork"), pool("spawn")
    name = sys.argv[2] if len(sys.argv) > 2 else "rank"
    pathlib.Path(sys.argv[1], "%s-%s.json" % (name, rank)).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
