"""The build backend: maturin, with libknlfix.so put beside the Python files first.

A wheel of maturin's holds what one crate makes, here the command. It is linked by zig against glibc 2.17, as the
standard library of Rust would otherwise ask for the one of this machine; the library asks for none newer than that
anyhow, and its own linker options are for the linker of rustc. $KNLFIX_SO names a library that is built already.
"""

import os
import pathlib
import shutil
import subprocess

import maturin
from maturin import get_requires_for_build_wheel, prepare_metadata_for_build_wheel

__all__ = ["build_wheel", "get_requires_for_build_wheel", "prepare_metadata_for_build_wheel"]

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parents[1]


def build_wheel(directory, settings=None, metadata=None):
    library = os.environ.get("KNLFIX_SO")
    if not library:
        subprocess.run(["cargo", "build", "--release", "--locked", "--package", "knlfix-preload"], cwd=TREE, check=True)
        library = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"), "release/libknlfix.so")
    target = HERE / "src/knlfix/libknlfix.so"
    shutil.copyfile(library, target)
    target.chmod(0o755)
    os.environ.setdefault("MATURIN_PEP517_ARGS", "--zig --locked --compatibility manylinux2014")
    return maturin.build_wheel(directory, settings, metadata)
