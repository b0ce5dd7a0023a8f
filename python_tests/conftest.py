"""Fixtures of the Python tests. The library and the runtimes come from the conftest.py of the root."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import program


@pytest.fixture(scope="session")
def allowed():
    """The CPUs this test session may use, sorted: what every child should have."""
    return sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def knlfix(so):
    """knlfix(*arguments): what the command says on standard output. It is built beside the library."""
    command = so.parent / "knlfix"

    def run(*arguments):
        return subprocess.run([command, *arguments], capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture(scope="session")
def programs(request, tmp_path_factory, allowed):
    """The one program.Programs of the session."""
    # Looked up when first needed: a run of a few tests wants neither all runtimes nor always the library.
    return program.Programs(
        so=lambda: request.getfixturevalue("so"),
        runtime_path=lambda name: request.getfixturevalue("runtimes")[name],
        scratch=tmp_path_factory.mktemp("libraries"),
        allowed=allowed,
    )


@pytest.fixture(scope="session")
def run(programs):
    """program.Programs.run"""
    return programs.run


@pytest.fixture(scope="session")
def matrix(run):
    """matrix(runtime, preload): the Run of probes/matrix.py, which makes children in every way. Each is run once."""
    done = {}

    def make(runtime, preload):
        if (runtime, preload) not in done:
            done[runtime, preload] = run("matrix.py", runtime=runtime, preload=preload, check=False)
        return done[runtime, preload]

    return make


@pytest.fixture(scope="session")
def split(runtimes, tmp_path_factory):
    """split(runtime): the program of known parts, linked to that runtime."""
    folder = tmp_path_factory.mktemp("split")

    def build(runtime):
        program = folder / f"split-{runtime}"
        if not program.exists():
            library = runtimes[runtime].resolve()
            # Without -fopenmp at the link, there is no other runtime than this one.
            compile = ["gcc", "-O2", "-fopenmp", "-c", pathlib.Path(__file__).parent / "probes/split.c", "-o", folder / "split.o"]
            link = ["gcc", folder / "split.o", library, f"-Wl,-rpath,{library.parent}", "-o", program]
            for command in (compile, link):
                subprocess.run(command, check=True)
        return program

    return build


@pytest.fixture
def python(tmp_path):
    """python(text): a command that runs it."""

    def command(text):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        return [sys.executable, path]

    return command


@pytest.fixture
def measured():
    """measured(test): runs it until it holds, a few times at most: between its clock and ours others may take the CPU."""

    def run(test, tries=5):
        for left in reversed(range(tries)):
            try:
                return test()
            except AssertionError:
                if not left:
                    raise

    return run
