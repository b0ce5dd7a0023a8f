"""Every program of this directory, each case of its table once without the library and once with it."""

import pathlib

import pytest

from programs import read_cases

CASES = [case for program in sorted(pathlib.Path(__file__).parent.glob("*.c*")) for case in read_cases(program)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_without_library(case, check):
    check(case, preload=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_with_library(case, check):
    check(case, preload=True)
