/* A library that pins its caller on its own account: no OpenMP runtime, so nobody can tell it from a user. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>

/* Leaves the calling thread with the one CPU `cpu`. Returns what sched_setaffinity returned. */
int pin_to(int cpu)
{
    size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
    cpu_set_t *mask = CPU_ALLOC(cpu + 1);
    CPU_ZERO_S(bytes, mask);
    CPU_SET_S(cpu, bytes, mask);
    int answer = sched_setaffinity(0, bytes, mask);
    CPU_FREE(mask);
    return answer;
}
