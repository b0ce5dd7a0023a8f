"""Does the work of one group, as often as it is told to, and keeps every result that differs from those before.

usage: results.py GROUP. One command a line on standard input: "rounds N" is answered with "done", "save PATH" with
"saved".
What is saved is a pickle of {name of the work: [its distinct results, each a list of arrays]}.
"""

import ctypes
import glob
import hashlib
import multiprocessing.pool
import pickle
import sys

import numpy

random = numpy.random.default_rng(0)
ROWS = random.normal(size=(1200, 12))
TARGET = ROWS[:, 0] * 2 + ROWS[:, 1] ** 2 + random.normal(size=1200) * 0.1
LABELS = (TARGET > 0).astype(numpy.int64)
SQUARE = random.normal(size=(160, 160))
TALL = random.normal(size=(260, 140))
POSITIVE = SQUARE @ SQUARE.T + 160 * numpy.eye(160)


def neighbours():
    from sklearn.neighbors import KNeighborsClassifier

    found = KNeighborsClassifier(5, algorithm="brute").fit(ROWS, LABELS)
    return *found.kneighbors(ROWS[:700]), found.predict(ROWS[:700])


def k_means():
    from sklearn.cluster import KMeans

    found = KMeans(4, n_init=1, max_iter=10, random_state=0).fit(ROWS)
    return found.labels_, found.cluster_centers_


def gradient_boosting():
    from sklearn.ensemble import HistGradientBoostingRegressor

    return (HistGradientBoostingRegressor(max_iter=3, random_state=0).fit(ROWS, TARGET).predict(ROWS),)


def sklearn_group():
    return [neighbours, k_means, gradient_boosting]


def lightgbm_group():
    import lightgbm

    def fit(**settings):
        settings.update(verbosity=-1, seed=0, objective="regression")
        return (lightgbm.train(settings, lightgbm.Dataset(ROWS, TARGET), 4).predict(ROWS),)

    def light_gbm():
        return fit()

    def light_gbm_deterministic():
        return fit(deterministic=True, force_row_wise=True)

    return [light_gbm, light_gbm_deterministic]


def xgboost_group():
    import xgboost

    def fit(method):
        data = xgboost.DMatrix(ROWS, TARGET)
        return (xgboost.train({"tree_method": method, "seed": 0, "max_depth": 4}, data, 4).predict(data),)

    def xgboost_hist():
        return fit("hist")

    def xgboost_exact():
        return fit("exact")

    return [xgboost_hist, xgboost_exact]


def numba_group():
    import numba

    @numba.njit(parallel=True, cache=True)
    def rows(values):
        out = numpy.zeros(values.shape[0])
        for row in numba.prange(values.shape[0]):
            for value in values[row]:
                out[row] += numpy.sin(value) * value
        return out

    @numba.njit(parallel=True, cache=True)
    def whole(values):
        total, count = 0.0, 0
        for i in numba.prange(values.size):
            total += values[i] ** 2
            count += values[i] > 0
        return total, count

    def numba_rows():
        return [numpy.concatenate([rows(ROWS) for _ in range(50)])]

    def numba_reductions():
        totals, counts = zip(*[whole(TARGET) for _ in range(50)])
        return numpy.array(totals), numpy.array(counts)

    return [numba_rows, numba_reductions]


def linear_algebra(module):
    """What numpy.linalg and scipy.linalg both have; factors also as what they make when they are put together."""

    def product():
        return SQUARE @ TALL[:160], TALL.T @ TALL, SQUARE @ SQUARE[0]

    def solve():
        return (module.solve(SQUARE, TALL[:160]),)

    def inv():
        return (module.inv(SQUARE),)

    def svd():
        u, s, v = module.svd(TALL, full_matrices=False)
        return s, (u * s) @ v

    def eigh():
        values, vectors = module.eigh(POSITIVE)
        return values, (vectors * values) @ vectors.T

    def eig():
        values, vectors = module.eig(SQUARE[:90, :90])
        return numpy.sort_complex(values), abs(SQUARE[:90, :90] @ vectors - vectors * values) < 1e-10

    def lstsq():
        right = SQUARE[:1].repeat(260, 0)[:, :40]
        return module.lstsq(TALL, right, **({"rcond": None} if module is numpy.linalg else {}))[:1]

    def cholesky():
        return (module.cholesky(POSITIVE),)

    def qr():
        q, r = module.qr(TALL, mode="reduced" if module is numpy.linalg else "economic")
        return abs(r), q @ r

    def det():
        return (numpy.array([module.det(SQUARE)]),)

    return [product, solve, inv, svd, eigh, eig, lstsq, cholesky, qr, det]


def numpy_group():
    return linear_algebra(numpy.linalg)


def scipy_group():
    import scipy.linalg

    def expm():
        return (scipy.linalg.expm(SQUARE / 20),)

    return [*linear_algebra(scipy.linalg), expm]


def mkl_group():
    [library] = glob.glob(sys.prefix + "/lib/libmkl_rt.so.*")
    mkl = ctypes.CDLL(library)
    integer, real = ctypes.c_int, ctypes.c_double

    def address(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def mkl_dgemm():
        """Of the row-major layout (101), neither transposed (111)."""
        left, right = ROWS[:1000].reshape(120, 100).copy(), ROWS[:1000].reshape(100, 120).copy()
        out = numpy.zeros((120, 120))
        for _ in range(20):
            mkl.cblas_dgemm(101, 111, 111, 120, 120, 100, real(1), address(left), 100, address(right), 120, real(1),
                            address(out), 120)
        big = numpy.zeros((160, 160))
        mkl.cblas_dgemm(101, 111, 111, 160, 160, 160, real(1), address(SQUARE), 160, address(POSITIVE), 160, real(0),
                        address(big), 160)
        return out, big

    def mkl_dgesdd():
        rows, columns = TALL.shape
        work, s = TALL.copy(), numpy.zeros(columns)
        u, v = numpy.zeros((rows, columns)), numpy.zeros((columns, columns))
        failed = mkl.LAPACKE_dgesdd(101, ctypes.c_char(b"S"), integer(rows), integer(columns), address(work),
                                    integer(columns), address(s), address(u), integer(columns), address(v),
                                    integer(columns))
        # Put together without a BLAS: what is looked at is MKL's.
        return s, numpy.einsum("ik,k,kj->ij", u, s, v), numpy.array([failed])

    return [mkl_dgemm, mkl_dgesdd]


def pool_group():
    """Four threads that use BLAS, or scikit-learn, at the same time.

    Not both: scikit-learn sets the process's BLAS to one thread meanwhile, so the others' last bits would be chance.
    """
    import scipy.linalg
    import sklearn.cluster  # noqa: F401  (importing in several threads at once is another subject)
    import sklearn.ensemble  # noqa: F401
    import sklearn.neighbors  # noqa: F401

    pool = multiprocessing.pool.ThreadPool(4)

    def one(work):
        return work()

    def at_once(works):
        return [array for arrays in pool.map(one, works, chunksize=1) for array in arrays]

    def pool_blas():
        return at_once([*linear_algebra(numpy.linalg)[:4], *linear_algebra(scipy.linalg)[:4]])

    def pool_sklearn():
        return at_once([neighbours, k_means, gradient_boosting, neighbours, k_means, gradient_boosting])

    return [pool_blas, pool_sklearn]


def main():
    works = globals()[sys.argv[1] + "_group"]()
    kept = {work.__name__: {} for work in works}
    print("ready", flush=True)
    for line in sys.stdin:
        command, value = line.split(maxsplit=1)
        if command == "save":
            with open(value.strip(), "wb") as file:
                pickle.dump({name: list(results.values()) for name, results in kept.items()}, file)
            print("saved", flush=True)
            continue
        for _ in range(int(value)):
            for work in works:
                arrays = [numpy.asarray(array) for array in work()]
                digest = hashlib.sha256(b"".join(numpy.ascontiguousarray(array).tobytes() for array in arrays)).digest()
                kept[work.__name__].setdefault(digest, arrays)
        print("done", flush=True)


if __name__ == "__main__":
    main()
