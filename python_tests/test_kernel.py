"""`knlfix kernel`: what it writes for Jupyter, and that a kernel made from it has the library. Needs ipykernel and Jupyter's client."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager


@pytest.fixture
def kernel(so, tmp_path):
    """kernel(action, *options, python=this, **variables): the finished command, for a user with data in a directory of the test."""

    def run(action, *options, python=sys.executable, **variables):
        command = [so.parent / "knlfix", "kernel", action, *options, "--python", python]
        if action == "install":
            command += ["--library", so]
        made = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "data"), **variables}
        return subprocess.run(command, env=made, capture_output=True, text=True)

    return run


@pytest.fixture
def kernels(tmp_path):
    return tmp_path / "data/kernels"


def spec_of(done):
    """kernel.json where the command said that the kernel is."""
    assert done.returncode == 0 and not done.stderr, done
    return json.loads((pathlib.Path(done.stdout.strip()) / "kernel.json").read_text())


def refusal(done, status=125):
    assert done.returncode == status and not done.stdout, done
    assert done.stderr.startswith("knlfix: ") and done.stderr.count("\n") == 1, done
    return done.stderr


def test_a_kernel_is_ipykernels_own_with_the_library(kernel, kernels, so):
    done = kernel("install")
    spec = spec_of(done)
    assert pathlib.Path(done.stdout.strip()) == kernels / "knlfix"
    assert spec["argv"] == [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert spec["display_name"] == "Python %d.%d (knlfix)" % sys.version_info[:2] and spec["language"] == "python"
    assert spec["env"] == {"LD_PRELOAD": str(so.resolve())}
    assert spec["metadata"]["debugger"] and spec["metadata"]["knlfix"]
    assert (kernels / "knlfix/logo-64x64.png").is_file()


def test_options(kernel, kernels, so):
    spec = spec_of(kernel("install", "--name", "other", "--display-name", "Ours", "--env", "KNLFIX_PLACE=core",
                          "--env", "A=b=$HOME"))
    assert spec["display_name"] == "Ours"
    assert spec["env"] == {"KNLFIX_PLACE": "core", "A": "b=$HOME", "LD_PRELOAD": str(so.resolve())}
    assert [path.name for path in kernels.iterdir()] == ["other"]


def test_what_is_preloaded_already_stays(kernel, so):
    spec = spec_of(kernel("install", LD_PRELOAD="/usr/$LIB/libm.so.6"))
    # Jupyter makes one $ of two.
    assert spec["env"]["LD_PRELOAD"] == f"{so.resolve()}:/usr/$$LIB/libm.so.6"


def test_places(kernel, tmp_path):
    prefix = tmp_path / "prefix"
    assert kernel("install", "--prefix", str(prefix)).stdout == f"{prefix}/share/jupyter/kernels/knlfix\n"
    home = {"HOME": str(tmp_path), "JUPYTER_DATA_DIR": "", "XDG_DATA_HOME": ""}
    assert kernel("install", "--user", **home).stdout == f"{tmp_path}/.local/share/jupyter/kernels/knlfix\n"
    # An environment of its own, which finds ipykernel where this one has it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = kernel("install", "--sys-prefix", python=tmp_path / "venv/bin/python", PYTHONPATH=path)
    assert done.stdout == f"{tmp_path}/venv/share/jupyter/kernels/knlfix\n"
    assert spec_of(done)["argv"][0] == str(tmp_path / "venv/bin/python")


def test_a_second_install_replaces_the_first_and_uninstall_removes_it(kernel, kernels):
    kernel("install", "--display-name", "old")
    assert spec_of(kernel("install", "--display-name", "new"))["display_name"] == "new"
    assert [path.name for path in kernels.iterdir()] == ["knlfix"]
    assert kernel("uninstall").returncode == 0
    assert list(kernels.iterdir()) == []
    assert "no such kernel" in refusal(kernel("uninstall"))


def test_kernels_of_others_are_left_alone(kernel, kernels):
    kernel("install")
    theirs = json.loads((kernels / "knlfix/kernel.json").read_text())
    del theirs["metadata"]["knlfix"]
    shutil.move(kernels / "knlfix", kernels / "python3")
    (kernels / "python3/kernel.json").write_text(json.dumps(theirs))
    for action in "install", "uninstall":
        assert "not installed by knlfix" in refusal(kernel(action, "--name", "python3"))
    assert json.loads((kernels / "python3/kernel.json").read_text()) == theirs
    assert [path.name for path in kernels.iterdir()] == ["python3"]


def test_failures_are_one_line_and_leave_nothing(kernel, kernels, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare/bin/python")
    assert f"{python} -m pip install ipykernel" in refusal(kernel("install", python=python))
    assert "no-such-python" in refusal(kernel("install", python="no-such-python"), 127)
    assert "use --prefix" in refusal(kernel("install", JUPYTER_DATA_DIR="", XDG_DATA_HOME="", HOME=""))
    assert list(kernels.iterdir()) == []
    for wrong in ["--name", "../x"], ["--env", "LD_PRELOAD=x"], ["--user", "--sys-prefix"]:
        assert kernel("install", *wrong).returncode == 2, wrong


def test_jupyter_starts_it_with_the_library(kernel, kernels, so):
    kernel("install")
    specs = KernelSpecManager(kernel_dirs=[str(kernels)], ensure_native_kernel=False)
    assert list(specs.find_kernel_specs()) == ["knlfix"]
    manager = KernelManager(kernel_name="knlfix", kernel_spec_manager=specs)
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        said = []
        client.execute_interactive("print(open('/proc/self/maps').read())", timeout=60,
                                   output_hook=lambda message: said.append(message["content"].get("text", "")))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert str(so.resolve()) in "".join(said)
