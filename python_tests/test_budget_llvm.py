"""LLVM's and Intel's runtimes share the budget: code that gcc compiled for them, and a tool of the user's that watches.

Regions as clang compiles them are in c_tests/llvm_*.c.
"""

import os
import subprocess

import pytest

from budget import PROBES, Domain, until

CPUS = len(os.sched_getaffinity(0))
LLVM = ["libomp14", "libomp19", "iomp2018", "iomp2026"]


@pytest.fixture(scope="session")
def regions(runtimes, tmp_path_factory):
    """regions(runtime): the probe, compiled by gcc and linked to that runtime alone."""
    directory = tmp_path_factory.mktemp("regions")

    def build(runtime):
        program, compiled = directory / runtime, directory / "regions.o"
        if not compiled.exists():
            command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-c", PROBES / "regions.c", "-o", compiled]
            subprocess.run(command, check=True)
        if not program.exists():
            library = runtimes[runtime]
            command = ["gcc", compiled, "-Wl,--no-as-needed", library, f"-Wl,-rpath,{library.parent}", "-o", program]
            subprocess.run(command, check=True)
        return program

    return build


@pytest.fixture
def domain(so, regions, request):
    domain = Domain(so, regions(request.param), KNLFIX_LOG="warn")
    yield domain
    domain.end()


@pytest.mark.parametrize("domain", LLVM, indirect=True)
def test_gccs_regions_share_and_get_back_what_a_killed_process_held(domain):
    first, second = domain.start(), domain.start()
    # Each has asked before there was anybody to share with.
    assert first.once() == CPUS
    second.ask("run 1")
    first.ask("hold")
    assert second.teams(200)[0] == CPUS // 2
    assert first.ask("") == "left"
    first.process.kill()
    first.process.wait()
    until(lambda: second.teams(20)[1] in (CPUS, CPUS // 2))


@pytest.mark.parametrize("domain", LLVM, indirect=True)
def test_alone_every_region_has_its_size(domain):
    alone = domain.start()
    assert alone.teams(100) == (CPUS, CPUS)
    assert alone.end() == ""


TOOL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef void (*callback)(void);
typedef union { uint64_t value; void *pointer; } data;
typedef struct { int (*initialize)(callback (*)(const char *), int, data *); void (*finalize)(data *); data data; } tool;

static const char *last;

static void begin(data *task, const void *frame, data *region, unsigned requested, int flags, const void *code) {
    Dl_info info;
    last = dladdr(code, &info) ? info.dli_fname : "nowhere";
}

static int initialize(callback (*lookup)(const char *), int device, data *data) {
    int (*set)(int, callback) = (int (*)(int, callback))lookup("ompt_set_callback");
    set(3, (callback)begin); /* ompt_callback_parallel_begin */
    return 1;
}

static void finalize(data *data) { fprintf(stderr, "the last region was in %s\n", last ? last : "none"); }

tool *ompt_start_tool(unsigned version, const char *runtime) {
    static tool it = {initialize, finalize, {0}};
    return &it;
}
"""

KMPC = r"""
extern void __kmpc_fork_call(void *, int, void (*)(int *, int *, ...), ...);
static struct { int a, flags, b, c; const char *source; } here = {0, 2, 0, 0, ";unknown;unknown;0;0;;"};
static int count;
static void region(int *thread, int *bound, ...) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); }
int main(void) { __kmpc_fork_call(&here, 0, region); return count; }
"""


@pytest.mark.parametrize("preload", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("runtime", ["libomp14", "libomp19", "iomp2026"])
def test_a_tool_library_is_told_where_regions_are(runtimes, environment, tmp_path, runtime, preload):
    (tmp_path / "tool.c").write_text(TOOL)
    (tmp_path / "program.c").write_text(KMPC)
    library = runtimes[runtime]
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", tmp_path / "tool.c", "-o", tmp_path / "libtool.so", "-ldl"], check=True)
    subprocess.run(["gcc", "-w", tmp_path / "program.c", library, f"-Wl,-rpath,{library.parent}", "-o", tmp_path / "program"],
                   check=True)
    made = environment(preload, OMP_TOOL_LIBRARIES=str(tmp_path / "libtool.so"), SLURM_JOB_ID=tmp_path.name)
    done = subprocess.run([tmp_path / "program"], env=made, capture_output=True, text=True)
    assert done.returncode == CPUS
    assert done.stderr == f"the last region was in {tmp_path / 'program'}\n"
