"""Forked children of a process that ran libgomp regions: they run regions too, with equal results."""

import os
import signal
import subprocess

import pytest

from test_budget_libgomp import FITS, undisturbed  # noqa: F401  (a fixture)

# The parent fits, and so do the children of its Pool, and a child of one of them. "limit" ends what hangs.
POOL = FITS + """
    import multiprocessing
    def in_grandchild(name):
        fork = multiprocessing.get_context("fork")
        answers = fork.Queue()
        child = fork.Process(target=lambda: answers.put(globals()[name]()))
        child.start()
        answer = answers.get()
        child.join()
        return answer
    def in_child(name):
        globals()[name]()
        return globals()[name]()
    if __name__ == "__main__":
        names = sys.argv[1:]
        report(parent={name: globals()[name]() for name in names})
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            report(child=dict(zip(names, pool.map(in_child, names, chunksize=1))))
        report(grandchild=dict(zip(names, map(in_grandchild, names))))
        report(again={name: globals()[name]() for name in names})
"""


def pool(run, *names, preload=True, **variables):
    done = run(POOL, *names, preload=preload, OMP_NUM_THREADS="4", NUMBA_THREADING_LAYER="omp", **variables)
    return {who: done[who] for who in ("parent", "child", "grandchild", "again")}


@pytest.mark.parametrize("name", ("gradient_boosting", "light_gbm", "k_means", "neighbours"))
def test_a_pool_after_a_fit_in_the_parent(run, undisturbed, name):  # noqa: F811
    (digest,) = undisturbed[name]
    assert pool(run, name) == {who: {name: digest} for who in ("parent", "child", "grandchild", "again")}


@pytest.mark.parametrize("setting", ({}, {"KNLFIX_LIBGOMP": "off"}, {"KNLFIX_BUDGET": "off"}), ids=str)
def test_two_libraries_with_two_copies_of_libgomp(run, undisturbed, setting):  # noqa: F811
    names = ("gradient_boosting", "light_gbm")
    digests = {name: undisturbed[name][0] for name in names}
    assert pool(run, *names, **setting) == {who: digests for who in ("parent", "child", "grandchild", "again")}


@pytest.mark.parametrize("name", ("gradient_boosting", "light_gbm"))
def test_without_the_library_the_children_hang(run, name):
    done = run(POOL, name, preload=False, check=False, limit=15, OMP_NUM_THREADS="4")
    assert done.code != 0 and [list(line) for line in done.reports] == [["parent"]]


FORTRAN = """
program forked
    use omp_lib
    implicit none
    interface
        integer(4) function fork() bind(c)
        end function
        integer(4) function wait(status) bind(c)
            integer(4) :: status
        end function
        subroutine leave(code) bind(c, name="_exit")
            integer(4), value :: code
        end subroutine
    end interface
    integer(4) :: status, pid
    call omp_set_num_threads(3)
    if (total() /= 5050) call leave(1)
    if (fork() == 0) then
        if (total() /= 5050) call leave(2)
        if (fork() == 0) then
            if (total() /= 5050) call leave(3)
            call leave(0)
        end if
        pid = wait(status)
        if (status /= 0) call leave(4)
        call leave(0)
    end if
    pid = wait(status)
    if (status /= 0 .or. total() /= 5050) call leave(5)
    print '(a)', "right"
contains
    integer function total()
        integer :: i, threads
        total = 0
        threads = 0
        !$omp parallel do reduction(+ : total, threads)
        do i = 1, 100
            total = total + i
            if (omp_get_num_threads() /= 3) threads = threads + 1
        end do
        if (threads /= 0) total = -1
    end function
end program
"""


def test_a_fortran_program(programs, tmp_path):
    source, program = tmp_path / "forked.f90", tmp_path / "forked"
    source.write_text(FORTRAN)
    subprocess.run(["gfortran", "-O1", "-fopenmp", source, "-o", program], check=True)

    def start(preload, limit):
        child = subprocess.Popen([program], env=programs.environment(preload), stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            return child.communicate(timeout=limit)[0], child.returncode
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise

    assert start(preload=True, limit=60) == ("right\n", 0)
    with pytest.raises(subprocess.TimeoutExpired):
        start(preload=False, limit=3)
