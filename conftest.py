"""Fixtures that all tests share: the library, the real runtimes, and an environment that nobody else has touched."""

import os
import pathlib
import subprocess
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parent

LIBRARY = os.environ.get("KNLFIX_SO", ROOT / "target/release/libknlfix.so")

# Settings that change who pins what. Tests name the ones they need; what the caller's shell has set is not one of them.
FOREIGN = ("OMP_", "GOMP_", "KMP_", "MKL_", "KNLFIX", "LD_PRELOAD", "OPENBLAS_", "NUMBA_", "NUMEXPR_", "TBB_", "LOKY_")

# What makes each runtime pin the thread that initialises it. libgomp does not know KMP_AFFINITY.
PIN_LIBGOMP = {"OMP_PROC_BIND": "true"}
PIN_LLVM = {"KMP_AFFINITY": "compact,granularity=fine"}


def pytest_configure(config):
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    # A job of its own: the machine's other processes do not share the tests' budget.
    os.environ["SLURM_JOB_ID"] = f"knlfix-tests-{uuid.uuid4()}"


def find_libgomp():
    for line in subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.splitlines():
        if line.strip().startswith("libgomp.so.1 ") and "x86-64" in line:
            return pathlib.Path(line.split("=> ")[1])
    return pathlib.Path("libgomp.so.1 (not in ldconfig -p)")


@pytest.fixture(scope="session", autouse=True)
def two_cpus():
    """One CPU can show neither the trouble nor its repair."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.exit(f"the tests need two CPUs, this process may use {sorted(allowed)}", returncode=2)
    return sorted(allowed)


@pytest.fixture(autouse=True)
def untouched():
    """No test leaves variables to the next ones, as an import of scikit-learn would."""

    def variables():
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

    before = variables()
    yield
    assert variables() == before


@pytest.fixture(scope="session")
def so():
    """The library under test: $KNLFIX_SO, or the release build."""
    path = pathlib.Path(LIBRARY).absolute()
    if not path.is_file():
        pytest.fail(f"no library at {path}: build it with cargo build --release, or point KNLFIX_SO at one", pytrace=False)
    return path


class Runtimes(dict):
    """Paths by name. A test that asks for a runtime that is not there fails; nobody else has to have them all."""

    def __getitem__(self, name):
        path = super().__getitem__(name)
        if not path.is_file():
            pytest.fail(f"missing runtime {name} ({path}); scripts/setup test brings it", pytrace=False)
        return path


@pytest.fixture(scope="session")
def runtimes():
    """The OpenMP runtimes by name: libgomp of the system, LLVM 14 and 19, Intel 2018 and 2026. And Debian's BLASes."""
    unpacked = ROOT / ".venv/runtimes"
    return Runtimes({
        "libgomp": find_libgomp(),
        "libomp14": unpacked / "libomp14/libomp.so.5",
        "libomp19": unpacked / "libomp19/libomp.so.5",
        "iomp2018": unpacked / "iomp2018/libiomp5.so",
        "iomp2026": unpacked / "iomp2026/libiomp5.so",
        "openblas-pthread": unpacked / "openblas-pthread/libblas.so.3",
        "openblas-openmp": unpacked / "openblas-openmp/libblas.so.3",
        "blis-pthread": unpacked / "blis-pthread/libblis.so.4",
        "blis-openmp": unpacked / "blis-openmp/libblis.so.4",
    })


@pytest.fixture(scope="session")
def pinning():
    """The environment that makes a runtime pin, by the runtime's name."""

    def of(runtime):
        return dict(PIN_LIBGOMP if runtime == "libgomp" else PIN_LLVM)

    return of


@pytest.fixture(scope="session")
def environment(request):
    """environment(preload, **variables): this process's environment with the library in LD_PRELOAD, or without."""

    def make(preload, **variables):
        # A domain of its own: no program's pins are in the way of another's.
        made = {**os.environ, "SLURM_JOB_ID": f"knlfix-tests-{uuid.uuid4()}"}
        if preload:
            made["LD_PRELOAD"] = str(request.getfixturevalue("so"))
        made.update(variables)
        return made

    return make
