"""Dask after a fit: the workers of a LocalCluster, processes or threads, or of a scheduler elsewhere, multiply matrices.

    OMP_PROC_BIND=close knlfix run python3 examples/dask_fit.py [processes|threads|mpi|ADDRESS [WORKERS]]

With an ADDRESS the tasks fit a model themselves; there start, with this directory in PYTHONPATH:

    dask scheduler &
    OMP_PROC_BIND=close knlfix run dask worker ADDRESS --nworkers 2 --nthreads 1

With mpi, under mpiexec with two ranks more than workers, dask-mpi makes the ranks a scheduler, this client, and workers; there too the
tasks fit:

    OMP_PROC_BIND=close knlfix run mpiexec --oversubscribe --bind-to none -n 4 python3 examples/dask_fit.py mpi

Needs distributed, numpy and scikit-learn.
"""

import os
import sys

from distributed import Client, LocalCluster

import workers


def main():
    where = sys.argv[1] if len(sys.argv) > 1 else "processes"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    if where == "mpi":
        import dask_mpi
        dask_mpi.initialize(dashboard=False)
    workers.fit()
    if where == "processes":
        cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
    elif where == "threads":
        cluster = LocalCluster(processes=False, n_workers=1, threads_per_worker=count, dashboard_address=None)
    else:
        cluster = None if where == "mpi" else where
    with Client(cluster) as client:
        client.wait_for_workers(1 if where == "threads" else count)
        task = workers.task if where in ("processes", "threads") else workers.fit_and_task
        workers.tell(client.gather(client.map(task, range(count * workers.TASKS_PER_WORKER))))
    if isinstance(cluster, LocalCluster):
        cluster.close()


if __name__ == "__main__":
    main()
