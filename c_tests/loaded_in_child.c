// A forked child, or a child's child, is the first to load libgomp (which before glibc 2.34 brings libpthread along): its
// region runs, its pin is a pin, and its own children are repaired.
// case {child,grandchild} on none: loader=first child=first threads=2 -> loader=first child=full threads=2
// env *: OMP_PROC_BIND=true OMP_NUM_THREADS=2 KNLFIX_MOVE_PINS=off
// link: -ldl
#include "test.h"
#include <dlfcn.h>

static int threads;

static void body(void *argument) { __atomic_add_fetch(&threads, 1, __ATOMIC_SEQ_CST); }

static int load(void) {
    void *libgomp = dlopen("libgomp.so.1", RTLD_NOW);
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = dlsym(libgomp, "GOMP_parallel");
    show("loader");
    if (system("report child")) return 1;
    parallel(body, NULL, 2, 0);
    show_number("threads", threads);
    return 0;
}

int main(int argc, char **argv) {
    pid_t pid = fork();
    if (pid == 0 && !strcmp(argv[1], "grandchild")) {
        pid = fork();
        if (pid) _exit(WEXITSTATUS(wait_for(pid)));
    }
    if (pid == 0) _exit(load());
    return WEXITSTATUS(wait_for(pid));
}
