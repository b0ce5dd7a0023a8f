"""Calls MKL as it is told to, one call a line on standard input, and says how many threads it took, or what it was told.

A call whose result is wrong ends the program.
"""

import ctypes
import os
import sys

import numpy

mkl = ctypes.CDLL(os.environ["PROBE_LIBRARY"])
counter = ctypes.CDLL(None)
random = numpy.random.default_rng(1)
real = ctypes.c_double


def address(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def dgemm(n=200):
    left, right, product = random.random((n, n)), random.random((n, n)), numpy.zeros((n, n))
    mkl.cblas_dgemm(101, 111, 111, n, n, n, real(1), address(left), n, address(right), n, real(0), address(product), n)
    return numpy.allclose(product, left @ right)


def dgesv(n=200):
    matrix, right = random.random((n, n)), random.random((n, 3))
    work, solution, pivots = matrix.copy(), right.copy(), numpy.zeros(n, numpy.int32)
    error = mkl.LAPACKE_dgesv(101, n, 3, address(work), n, address(pivots), address(solution), 3)
    return error == 0 and numpy.allclose(matrix @ solution, right)


def dgesdd(n=150):
    matrix = random.random((n, n))
    work, values, u, v = matrix.copy(), numpy.zeros(n), numpy.zeros((n, n)), numpy.zeros((n, n))
    error = mkl.LAPACKE_dgesdd(101, ctypes.c_char(b"A"), n, n, address(work), n, address(values), address(u), n, address(v), n)
    return error == 0 and numpy.allclose(u * values @ v, matrix)


def fft(n=256):
    signal = random.random((n, n)) + 1j * random.random((n, n))
    spectrum, handle = signal.copy(), ctypes.c_void_p()
    complex_numbers = 32
    errors = [mkl.DftiCreateDescriptor_d_md(ctypes.byref(handle), complex_numbers, 2, (ctypes.c_long * 2)(n, n)),
              mkl.DftiCommitDescriptor(handle), mkl.DftiComputeForward(handle, address(spectrum)),
              mkl.DftiFreeDescriptor(ctypes.byref(handle))]
    return not any(errors) and numpy.allclose(spectrum, numpy.fft.fft2(signal))


def pardiso(n=4000):
    """All phases for a tridiagonal matrix, symmetric and positive definite."""
    rows = numpy.arange(1, 2 * n, 2, dtype=numpy.int32)
    rows = numpy.append(rows, 2 * n).astype(numpy.int32)
    columns = numpy.stack([numpy.arange(1, n + 1), numpy.arange(2, n + 2)], 1).astype(numpy.int32).ravel()[:-1].copy()
    values = numpy.tile([4.0, -1.0], n)[:-1].copy()
    handle, settings, permutation = numpy.zeros(64, numpy.int64), numpy.zeros(64, numpy.int32), numpy.zeros(n, numpy.int32)
    right, solution, error = random.random(n), numpy.zeros(n), ctypes.c_int()
    number = lambda value: ctypes.byref(ctypes.c_int(value))  # noqa: E731
    for phase in (11, 22, 33, 33, 22, 33, -1):
        mkl.pardiso(address(handle), number(1), number(1), number(2), number(phase), number(n), address(values), address(rows),
                    address(columns), address(permutation), number(1), address(settings), number(0), address(right),
                    address(solution), ctypes.byref(error))
        if error.value:
            return False
    product = 4 * solution
    product[1:] -= solution[:-1]
    product[:-1] -= solution[1:]
    return numpy.allclose(product, right)


CALLS = {call.__name__: call for call in (dgemm, dgesv, dgesdd, fft, pardiso)}
QUESTIONS = {
    "maximum": mkl.MKL_Get_Max_Threads,
    "domain_maximum": lambda: mkl.MKL_Domain_Get_Max_Threads(1),
    "layer": lambda: next(name for name in ("intel_thread", "gnu_thread", "tbb_thread", "sequential")
                          if "libmkl_" + name in open("/proc/self/maps").read()),
}

for line in sys.stdin:
    name, _, number = line.strip().partition(" ")
    if name == "quit":
        break
    if name == "set":
        mkl.MKL_Set_Num_Threads(int(number))
        print("set", flush=True)
    elif name in QUESTIONS:
        print(QUESTIONS[name](), flush=True)
    else:
        counter.largest_team()
        if not CALLS[name]():
            sys.exit(f"{name} was wrong")
        print(counter.largest_team(), flush=True)
