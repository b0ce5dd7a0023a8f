"""Another object at the place of one that was unloaded: its calls reach what they mean."""

import subprocess

PROGRAM = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        void *plugin = dlopen(paths[i], RTLD_NOW);
        int (*run)(void) = (int (*)(void))dlsym(plugin, "run");
        printf("%p %d\n", (void *)run, run());
        fflush(stdout);
        dlclose(plugin);
    }
}
"""
CALLER = "int dgemm_(void); int run(void) { return dgemm_() + 100; }"
BLAS = {
    "first": "int dgemm_(void) { return 1; }",
    "second": "int before(int x) { volatile int y = x; for (int i = 0; i < 9; i++) y += i; return y; }"
    " int dgemm_(void) { return 2; }",
}


def compile_c(source, target, *flags):
    subprocess.run(["gcc", "-O1", "-x", "c", "-", "-x", "none", "-o", target, *flags], input=source, text=True, check=True)


def test_a_plugin_in_the_place_of_another_calls_its_own_library(environment, so, tmp_path):
    plugins = []
    for name, source in BLAS.items():
        directory = tmp_path / name
        directory.mkdir()
        compile_c(source, directory / "libblas_of_plugin.so", "-shared", "-fPIC")
        plugins.append(directory / "plugin.so")
        compile_c(CALLER, plugins[-1], "-shared", "-fPIC", f"-L{directory}", "-lblas_of_plugin", "-Wl,-rpath,$ORIGIN")
    compile_c(PROGRAM, tmp_path / "program", "-ldl")
    made = environment(so, SLURM_JOB_ID=tmp_path.name)
    done = subprocess.run([tmp_path / "program", *plugins], env=made, capture_output=True, text=True, check=True)
    places, results = zip(*(line.split() for line in done.stdout.splitlines()))
    assert places[0] == places[1], "the loader put the second elsewhere: nothing is tested"
    assert results == ("101", "102")
