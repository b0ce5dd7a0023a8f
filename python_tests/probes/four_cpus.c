/* Preloaded into a program, makes TBB count four CPUs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *mask) {
    (void)pid;
    memset(mask, 0, size);
    for (int cpu = 0; cpu < 4; cpu++) CPU_SET(cpu, mask);
    return 0;
}

long sysconf(int name) {
    if (name == _SC_NPROCESSORS_ONLN) return 4;
    long (*next)(int);
    *(void **)&next = dlsym(RTLD_NEXT, "sysconf");
    return next(name);
}
