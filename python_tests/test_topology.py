"""The topology that the library reads is hwloc's."""

import os
import pathlib
import subprocess

import hwloc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def topology():
    """topology(*launcher): what the example prints."""
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--package", "knlfix-core", "--example", "topology"]
    path = os.environ["PATH"] + os.pathsep + os.path.expanduser("~/.cargo/bin")
    subprocess.run(build, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)

    def run(*launcher):
        command = [*launcher, ROOT / "target/release/examples/topology"]
        return hwloc.printed(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return run


def test_all_allowed_cpus(topology, allowed):
    assert topology() == hwloc.view(allowed)


def test_one_cpu(topology, allowed):
    assert topology("taskset", "-c", str(allowed[-1])) == hwloc.view(allowed[-1:])
