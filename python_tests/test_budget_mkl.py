"""MKL's calls share the budget, through libmkl_rt, whichever OpenMP it runs on; and their results stay right."""

import glob
import os
import subprocess
import sys

import pytest

from budget import PROBES, Domain, Regions, build_regions, until

CPUS = len(os.sched_getaffinity(0))
LAYERS = ["INTEL", "GNU"]


@pytest.fixture(scope="session")
def counter(tmp_path_factory):
    library = tmp_path_factory.mktemp("counter") / "libcounts_teams.so"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", PROBES / "counts_teams.c", "-o", library],
                   check=True)
    return library


@pytest.fixture
def domain(so, tmp_path_factory):
    domain = Domain(so, build_regions(tmp_path_factory.mktemp("regions")), KNLFIX_LOG="warn")
    yield domain
    domain.end()


@pytest.fixture
def start(domain, counter):
    """start(layer, **variables): the probe, in the domain. It has called MKL once, so that it is told all CPUs at its start."""

    def start(layer, preload=True, **variables):
        [library] = glob.glob(sys.prefix + "/lib/libmkl_rt.so.*")
        preloaded = f"{domain.so} {counter}" if preload else str(counter)
        made = {**os.environ, "SLURM_JOB_ID": domain.job, "LD_PRELOAD": preloaded, "PROBE_LIBRARY": library, **variables}
        made |= {"MKL_THREADING_LAYER": layer} if layer else {}
        # MKL has its own idea of how many cores there are; TBB is where MKL is.
        made |= {"OPENBLAS_NUM_THREADS": "1", "MKL_DYNAMIC": "FALSE", "LD_LIBRARY_PATH": os.path.dirname(library)}
        process = Regions([sys.executable, PROBES / "mkl_calls.py"], made)
        domain.started.append(process)
        process.alone = int(process.ask("dgemm"))
        return process

    return start


@pytest.fixture
def crowd(domain):
    """crowd(): another process that is in a region until it is killed; returns when it is."""

    def crowd():
        neighbour = domain.start()
        neighbour.ask("hold")
        return neighbour.process

    return crowd


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("call", ["dgemm", "dgesv", "fft"])
def test_calls_take_the_share_and_get_back_what_a_killed_process_held(start, crowd, layer, call):
    mkl = start(layer)
    assert int(mkl.ask(call)) == CPUS
    neighbour = crowd()
    assert int(mkl.ask(call)) == CPUS // 2
    neighbour.kill()
    until(lambda: int(mkl.ask(call)) == CPUS)
    assert mkl.end() == ""


@pytest.mark.parametrize("layer", LAYERS)
def test_results_are_right_while_the_share_changes(domain, start, layer):
    mkl, neighbour = start(layer), domain.start()
    for _ in range(5):
        # It is in regions for a while, and then in none: the share changes within calls, and between them.
        neighbour.say("run 30")
        for call in ["dgemm", "dgesv", "dgesdd", "fft", "pardiso"]:
            mkl.ask(call)
        neighbour.hear()
    assert mkl.end() == ""


@pytest.mark.parametrize("layer", LAYERS)
def test_pardiso_keeps_its_number_of_threads(start, crowd, layer):
    mkl = start(layer)
    alone = int(mkl.ask("pardiso"))
    neighbour = crowd()
    assert int(mkl.ask("pardiso")) == alone
    neighbour.kill()
    assert int(mkl.ask("pardiso")) == alone


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("question", ["maximum", "domain_maximum"])
def test_the_program_hears_the_same_maximum_all_the_time(start, crowd, layer, question):
    mkl = start(layer)
    before = mkl.ask(question)
    crowd()
    assert int(mkl.ask("dgemm")) == CPUS // 2
    assert mkl.ask(question) == before == str(CPUS)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_users_number_is_never_exceeded(start, crowd, layer):
    mkl = start(layer, MKL_NUM_THREADS="1")
    assert mkl.alone == 1
    mkl.ask(f"set {2 * CPUS}")
    assert int(mkl.ask("dgemm")) == 2 * CPUS
    crowd()
    assert int(mkl.ask("dgemm")) == CPUS // 2
    mkl.ask("set 1")
    assert int(mkl.ask("dgemm")) == 1


@pytest.mark.parametrize("variable", ["KNLFIX_MKL=off", "KNLFIX_SHARING=off", "MKL_CBWR=COMPATIBLE"])
@pytest.mark.parametrize("layer", LAYERS)
def test_switched_off_nothing_changes(start, crowd, layer, variable):
    name, _, value = variable.partition("=")
    mkl = start(layer, **{name: value})
    crowd()
    assert int(mkl.ask("dgemm")) == mkl.alone == CPUS


@pytest.mark.parametrize("layer", [None, "INTEL", "GNU", "TBB", "SEQUENTIAL"])
def test_it_chooses_the_same_layer(start, layer):
    assert start(layer).ask("layer") == start(layer, preload=False).ask("layer")
