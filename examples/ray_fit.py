"""Ray after a fit: tasks that multiply matrices in Ray's worker processes.

    OMP_PROC_BIND=close knlfix run python3 examples/ray_fit.py [WORKERS]

Needs ray, numpy and scikit-learn.
"""

import os
import sys

import ray

import workers


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))
    workers.fit()
    ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False)
    task = ray.remote(num_cpus=1)(workers.task)
    workers.tell(ray.get([task.remote(seed) for seed in range(count * workers.TASKS_PER_WORKER)]))
    ray.shutdown()


if __name__ == "__main__":
    main()
