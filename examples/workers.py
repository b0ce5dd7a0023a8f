"""What the workers of these examples do, whoever starts them: multiply matrices, and tell where they may run.

The programs joblib_fit.py, dask_fit.py and so on fit a model before they hand tasks out, as real ones do. With
OMP_PROC_BIND=close set, that pins their main thread. Needs numpy and scikit-learn.
"""

import math
import threading

import numpy

SIZE = 512
PRODUCTS = 30
TASKS_PER_WORKER = 4


def may_use():
    """The CPUs the calling thread may use, as the kernel lists them."""
    with open("/proc/thread-self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))


def fit():
    """Fits a small model: scikit-learn's OpenMP regions run here."""
    from sklearn.cluster import KMeans
    KMeans(4, n_init=1, random_state=0).fit(numpy.random.default_rng(0).random((2000, 8)))


def task(seed, products=PRODUCTS):
    """Some products, with as many threads as numpy takes; returns who did it, the CPUs it may use, and a number that
    depends on all of them."""
    left, right = numpy.random.default_rng(seed).random((2, SIZE, SIZE))
    total = math.fsum((left @ right)[i, 0] for i in range(products))
    return threading.get_native_id(), may_use(), total


def fit_and_task(seed):
    """A task that runs OpenMP itself, and so pins the thread that it runs on."""
    fit()
    return task(seed)


def tell(results):
    """Prints what the workers said. The main thread is the one of the process that calls this."""
    for worker, cpus in sorted({(worker, cpus) for worker, cpus, _ in results}):
        print(f"worker {worker} may use CPUs {cpus}")
    total = math.fsum(total for _, _, total in results)
    print(f"the main thread may use CPUs {may_use()}; the sum is {total!r}", flush=True)
