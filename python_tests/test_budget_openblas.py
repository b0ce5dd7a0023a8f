"""OpenBLAS under a budget: numpy's and scipy's own copies give the same results on the threads they are granted, and
whoever looks at their number of threads sees the user's."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

from program import wheel_libraries

CPUS = len(os.sched_getaffinity(0))
PROBES = pathlib.Path(__file__).resolve().parent / "probes"

# What every program here may use.
PRELUDE = """
import ctypes, hashlib, json, os, sys, threading, time
import numpy as np
import threadpoolctl

random = np.random.default_rng(7)

def told():
    "The number of threads of each OpenBLAS that is loaded, as the user hears it."
    libraries = threadpoolctl.threadpool_info()
    return sorted({library["num_threads"] for library in libraries if library["internal_api"] == "openblas"})

def number_of(name):
    "The number itself, of the OpenBLAS whose file has that in its name."
    [path] = {line.split()[-1] for line in open("/proc/self/maps") if name in line}
    return ctypes.c_int.in_dll(ctypes.CDLL(path), "blas_cpu_number")

def during(call, number, seconds=0.3):
    "The smallest number while calls run. They have to release the interpreter's lock, or take threads that do."
    seen, end = [number.value], time.monotonic() + seconds
    def calls():
        while time.monotonic() < end:
            call()
    caller = threading.Thread(target=calls)
    caller.start()
    while caller.is_alive():
        seen.append(number.value)
        time.sleep(0.0003)
    caller.join()
    return min(seen)

def say(**report):
    print(json.dumps(report), flush=True)
"""


class Job:
    """Programs of one job that nobody else has, so that the machine's other processes don't count."""

    count = itertools.count()

    def __init__(self, so, neighbour):
        self.so, self.program, self.neighbours = so, neighbour, []
        self.variables = {"SLURM_JOB_ID": f"knlfix-openblas-{os.getpid()}-{next(self.count)}"}

    def environment(self, **variables):
        return {**os.environ, **self.variables, "LD_PRELOAD": str(self.so), "KNLFIX_LOG": "warn", **variables}

    def neighbour(self):
        """A process that is in a BLAS call on all CPUs until `end`."""
        started = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   env=self.environment())
        self.neighbours.append(started)
        assert started.stdout.readline() == "calling\n"

    def end(self):
        for neighbour in self.neighbours:
            assert neighbour.communicate(timeout=60)[0] == "called\n" and neighbour.returncode == 0
        self.neighbours = []

    def run(self, text, pass_fds=(), **variables):
        """What the Python program says; without the library if LD_PRELOAD is empty."""
        program = PRELUDE + textwrap.dedent(text)
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=100,
                              env=self.environment(**variables), pass_fds=pass_fds)
        assert done.returncode == 0 and done.stderr == "", (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def blas_neighbour(tmp_path_factory):
    directory = tmp_path_factory.mktemp("neighbour")
    build = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", PROBES / "blas_neighbour.c", "-o"]
    subprocess.run([*build, directory / "libneighbour.so", "-shared", "-fPIC", "-DROUTINE"], check=True)
    subprocess.run([*build, directory / "neighbour", directory / "libneighbour.so", f"-Wl,-rpath,{directory}"], check=True)
    return directory / "neighbour"


@pytest.fixture
def job(so, blas_neighbour):
    job = Job(so, blas_neighbour)
    yield job
    job.end()


# A call of each copy, and how the file of the copy is called.
CALLS = {
    "numpy-dgemm": ("libscipy_openblas64_", "a = random.random((400, 400)); call = lambda: a @ a"),
    "numpy-dgesdd": ("libscipy_openblas64_", "a = random.random((200, 200)); call = lambda: np.linalg.svd(a)"),
    "scipy-dgetrf": ("libscipy_openblas-", "import scipy.linalg; a = random.random((400, 400)); call = lambda: scipy.linalg.lu_factor(a)"),
    "scipy-pointer": ("libscipy_openblas-", "import numba; a = random.random((400, 400)); call = numba.njit(nogil=True)(lambda: np.dot(a, a))"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_beside_a_neighbour_runs_on_its_share_and_the_user_never_sees_it(job, name):
    file, setup = CALLS[name]
    text = f"{setup}\ncall()\nnumber = number_of('{file}')\nsay(least=during(call, number), after=number.value, told=told())"
    assert job.run(text) == {"least": CPUS, "after": CPUS, "told": [CPUS]}
    job.neighbour()
    assert job.run(text) == {"least": CPUS // 2, "after": CPUS, "told": [CPUS]}
    assert job.run(text, KNLFIX_SHARING="off") == {"least": CPUS, "after": CPUS, "told": [CPUS]}


RESULTS = """
import scipy.linalg, scipy.linalg.blas
a, b, wide = random.random((300, 300)), random.random((300, 4)), random.random((300, 120))
symmetric, positive = a + a.T, a @ a.T + 300 * np.eye(300)
complex_, single = a + 1j * a.T, a.astype(np.float32)
fortran, banded = np.asfortranarray(a), random.random((3, 300)) + np.array([[0], [9], [0]])
RESULTS = dict(
    dgemm=lambda: a @ a, sgemm=lambda: single @ single, zgemm=lambda: complex_ @ complex_, dsyrk=lambda: a.T @ a,
    dgemv=lambda: a @ b[:, 0], dger=lambda: scipy.linalg.blas.dger(1.0, b[:, 0], b[:, 1]),
    dtrsm=lambda: scipy.linalg.blas.dtrsm(1.0, fortran + 300 * np.eye(300), fortran),
    dtrmm=lambda: scipy.linalg.blas.dtrmm(1.0, fortran, fortran), dsymm=lambda: scipy.linalg.blas.dsymm(1.0, fortran, fortran),
    solve=lambda: np.linalg.solve(a, b), inv=lambda: np.linalg.inv(a), det=lambda: np.linalg.slogdet(a)[1],
    svd=lambda: np.linalg.svd(a), eigh=lambda: np.linalg.eigh(symmetric), eig=lambda: np.linalg.eig(a),
    lstsq=lambda: np.linalg.lstsq(wide, b, rcond=None)[0], cholesky=lambda: np.linalg.cholesky(positive),
    qr=lambda: np.linalg.qr(wide), zeigh=lambda: np.linalg.eigh(complex_ + complex_.conj().T), zsvd=lambda: np.linalg.svd(complex_),
    s_solve=lambda: scipy.linalg.solve(a, b), s_inv=lambda: scipy.linalg.inv(a), s_svd=lambda: scipy.linalg.svd(a),
    s_eigh=lambda: scipy.linalg.eigh(symmetric), s_eigh_part=lambda: scipy.linalg.eigh(symmetric, subset_by_index=[3, 40]),
    s_zeigh=lambda: scipy.linalg.eigh(complex_ + complex_.conj().T), s_eig=lambda: scipy.linalg.eig(a),
    s_lstsq=lambda: scipy.linalg.lstsq(wide, b)[0], s_lu=lambda: scipy.linalg.lu(a), s_qr=lambda: scipy.linalg.qr(wide),
    s_cholesky=lambda: scipy.linalg.cho_solve(scipy.linalg.cho_factor(positive), b),
    s_triangular=lambda: scipy.linalg.solve_triangular(positive, b), s_banded=lambda: scipy.linalg.solve_banded((1, 1), banded, b),
    s_expm=lambda: scipy.linalg.expm(a / 300),
)
def fingerprint(result):
    arrays = result if isinstance(result, tuple) else (result,)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
say(**{name: fingerprint(call()) for name, call in RESULTS.items()})
"""


# scipy's own, which is not hooked: it runs as without us.
UNHOOKED = "dsymm"


def test_results_are_those_of_as_many_threads_without_us(job):
    whole = job.run(RESULTS, LD_PRELOAD="")
    assert job.run(RESULTS) == whole
    share = job.run(RESULTS, LD_PRELOAD="", OPENBLAS_NUM_THREADS=str(CPUS // 2))
    job.neighbour()
    assert job.run(RESULTS) == share | {UNHOOKED: whole[UNHOOKED]}


def test_a_users_limit_is_kept_and_what_it_was_before_comes_back(job):
    text = """
        a, number = random.random((400, 400)), number_of("libscipy_openblas64_")
        call = lambda: a @ a
        call()
        with threadpoolctl.threadpool_limits(1):
            call()
            limited = told(), during(call, number)
            call()
            limited += told(),
        say(limited=limited, then=(told(), during(call, number), told()))
    """
    for least in (CPUS, CPUS // 2):
        assert job.run(text) == {"limited": [[1], 1, [1]], "then": [[CPUS], least, [CPUS]]}
        job.neighbour()


def test_a_variable_is_kept(job):
    text = """
        a = random.random((300, 300))
        before = told()
        a @ a
        say(before=before, after=told())
    """
    for _ in range(2):
        assert job.run(text, OPENBLAS_NUM_THREADS="1") == {"before": [1], "after": [1]}
        job.neighbour()


def test_what_a_neighbour_leaves_is_taken_up(job):
    text = """
        a, number = random.random((400, 400)), number_of("libscipy_openblas64_")
        call = lambda: a @ a
        crowded = during(call, number)
        os.write(int(os.environ["LEAVE"]), b"!")
        while during(call, number) != CPUS:
            pass
        say(crowded=crowded)
    """
    job.neighbour()
    heard, leave = os.pipe()
    leaver = threading.Thread(target=lambda: (os.read(heard, 1), job.end()))
    leaver.start()
    # It ends only when it has all CPUs.
    assert job.run(text.replace("CPUS", str(CPUS)), LEAVE=str(leave), pass_fds=[leave]) == {"crowded": CPUS // 2}
    leaver.join()


def test_threads_that_call_at_once_get_equal_results_and_the_number_comes_back(job):
    text = """
        from concurrent.futures import ThreadPoolExecutor
        number = number_of("libscipy_openblas64_")
        matrices = [random.random((150, 150)) for _ in range(8)]
        def chain(matrix):
            product = matrix
            for _ in range(40):
                product = product @ matrix
                product /= np.abs(product).max()
                np.linalg.solve(matrix, product)
            return product
        one_by_one = [chain(matrix) for matrix in matrices]
        with ThreadPoolExecutor(4) as pool:
            at_once = list(pool.map(chain, matrices))
        close = all(np.allclose(*pair, rtol=1e-6) for pair in zip(one_by_one, at_once))
        say(close=close, number=number.value, told=told())
    """
    for _ in range(2):
        assert job.run(text) == {"close": True, "number": CPUS, "told": [CPUS]}
        job.neighbour()


def test_forked_children_have_the_users_number(job):
    # No call is going on meanwhile: OpenBLAS itself hangs where one is.
    text = """
        import multiprocessing
        a, number = random.random((500, 500)), number_of("libscipy_openblas64_")
        expected = a @ a
        def child(_):
            return bool(np.allclose(a @ a, expected)), number.value
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = pool.map(child, range(8))
        say(answers=sorted(set(answers)), after=number.value)
    """
    for _ in range(2):
        assert job.run(text) == {"answers": [[True, CPUS]], "after": CPUS}
        job.neighbour()


# Every thread that calls asks for itself, and a process has one number for all of them.
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", ["openblas-pthread", "openblas-openmp", "blis-pthread", "blis-openmp"])
def test_distributions_and_openmps_blas(job, runtimes, tmp_path, name, threads):
    library, program = runtimes[name], tmp_path / "program"
    build = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", PROBES / "blas_program.c", "-pthread", "-o", program]
    openmp = ["-DOPENMP", "-fopenmp"] if name.endswith("openmp") else []
    subprocess.run([*build, *openmp, library, f"-Wl,-rpath,{library.parent}"], check=True)

    def run(crowded, **variables):
        started = subprocess.Popen([program, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   env=job.environment(BLIS_NUM_THREADS=str(CPUS), **variables))
        assert started.stdout.readline() == "ready\n"
        if crowded:
            job.neighbour()
        report = json.loads(started.communicate("\n", timeout=100)[0])
        job.end()
        return report

    without = run(False, LD_PRELOAD="")
    assert without["wrong"] == 0 and without["others"] and CPUS in without["told"][0]
    assert run(False) == without
    # A share of one CPU takes no other threads; a second caller may have begun before it.
    assert run(True) == without | {"others": CPUS // 2 > 1 or threads > 1}


def test_calls_from_a_fiber_whose_stack_ends_above_them(job, tmp_path):
    program = tmp_path / "fiber"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", PROBES / "blas_fiber.c", "-o", program], check=True)
    [library] = wheel_libraries("numpy").glob("libscipy_openblas64_*")

    def run(**variables):
        done = subprocess.run([program, library], capture_output=True, text=True, env=job.environment(**variables))
        return done.returncode, done.stdout, done.stderr

    assert run(LD_PRELOAD="") == (0, "8 8\n", "")
    for _ in range(2):
        assert run() == (0, "8 8\n", "")
        job.neighbour()
