"""joblib after a fit: each worker of a pool by loky (the default) or multiprocessing, or each thread, multiplies matrices.

    OMP_PROC_BIND=close knlfix run python3 examples/joblib_fit.py [loky|multiprocessing|threading [WORKERS]]

Needs joblib, numpy and scikit-learn.
"""

import os
import sys

import joblib

import workers


def main():
    backend = sys.argv[1] if len(sys.argv) > 1 else "loky"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    workers.fit()
    # What n_jobs=-1 would take.
    print(f"joblib counts {joblib.cpu_count()} CPUs")
    tasks = [joblib.delayed(workers.task)(seed) for seed in range(count * workers.TASKS_PER_WORKER)]
    workers.tell(joblib.Parallel(n_jobs=count, backend=backend, batch_size=1)(tasks))


if __name__ == "__main__":
    main()
