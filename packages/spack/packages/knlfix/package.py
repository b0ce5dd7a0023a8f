"""Spack's recipe. The tree that this file is in is the source, by git, as it has no home on the network yet:

spack repo add packages/spack && spack install knlfix
"""

import pathlib

try:
    # Spack 1.0 and newer.
    from spack_repo.builtin.build_systems.generic import Package
except ImportError:
    pass
from spack.package import *

TREE = pathlib.Path(__file__).resolve().parents[4]


class Knlfix(Package):
    """Gives every child process and thread of an OpenMP program its CPUs back, and lets all processes of a job
    share one budget of compute threads: a library for LD_PRELOAD, and the command knlfix."""

    homepage = "file://{0}/README.md".format(TREE)
    git = "file://{0}".format(TREE)

    license("MIT OR Apache-2.0")

    version("main", branch="main")

    depends_on("rust@1.95:", type="build")

    # Its hooks are written for glibc's calling convention there.
    requires("platform=linux", msg="Linux with glibc only")
    requires("target=x86_64:", msg="x86-64 only")

    def install(self, spec, prefix):
        Executable("scripts/install")(prefix)

    def setup_run_environment(self, env):
        # The library is not preloaded here: knlfix run PROGRAM, or the module knlfix-preload.
        env.prepend_path("MODULEPATH", self.prefix.share.knlfix.modulefiles)

    @run_after("install")
    def check(self):
        """The command finds its library."""
        told = Executable(self.prefix.bin.knlfix)("run", "sh", "-c", "echo $LD_PRELOAD", output=str)
        if str(self.prefix.lib) not in told:
            raise InstallError("knlfix run does not find its library: {0}".format(told))
