"""pytest-xdist: tests that multiply matrices, in a module that fits a model, so that each worker runs OpenMP itself.

    OMP_PROC_BIND=close knlfix run pytest --noconftest -n 2 -rP examples/xdist_tests.py

(The conftest.py of this tree would take OMP_PROC_BIND away.) Needs pytest-xdist, numpy and scikit-learn.
"""

import os

import pytest

import workers


@pytest.fixture(scope="session", autouse=True)
def model():
    workers.fit()


@pytest.mark.parametrize("seed", range(os.cpu_count() * workers.TASKS_PER_WORKER))
def test_product(seed):
    result = workers.task(seed)
    assert result[2] > 0
    workers.tell([result])
