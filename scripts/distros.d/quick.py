"""A pytest plugin that leaves the quick part of the tests, what runs with nothing but what a distribution brings, and
writes the outcome, with the versions it is true of, to the file named by $QUICK_RESULT.

The quick part: the C programs, and in Python the ways of making children, the user's masks, what applications are told, and
the switches, each with the distribution's own libgomp.
"""

import os
import pathlib
import platform
import re
import subprocess

import pytest

FILES = {"test_primitives.py", "test_matrix.py", "test_user_masks.py", "test_truth.py", "test_config.py"}
# Runtimes that scripts/setup fetches, and packages that pip installs.
FOREIGN = ("libomp", "iomp", "mkl", "sklearn", "numba")


def needs_foreign_runtime(item):
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    # c_tests have their runtime in a case, python_tests in a parameter of its own.
    names = [getattr(parameter, "runtime", parameter) for parameter in parameters]
    return any(isinstance(name, str) and name.startswith(FOREIGN) for name in names)


def pytest_collection_modifyitems(config, items):
    quick = [item for item in items if pathlib.Path(str(item.fspath)).name in FILES and not needs_foreign_runtime(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in quick])
    items[:] = quick


def pytest_terminal_summary(terminalreporter, exitstatus):
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return  # interrupted, or a file that could not be imported: not an outcome
    count = {word: len(terminalreporter.stats.get(word, [])) for word in ("passed", "failed", "error", "skipped")}
    gcc = subprocess.run(["gcc", "-dumpfullversion"], stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    cells = [os.confstr("CS_GNU_LIBC_VERSION").split()[1], platform.python_version(), gcc.strip(),
             re.match(r"[\d.]*\d", platform.release()).group(), count["passed"], count["failed"] + count["error"], count["skipped"]]
    pathlib.Path(os.environ["QUICK_RESULT"]).write_text("".join("%s\n" % cell for cell in cells))
