/* A preload that passes affinity calls on and then still has something to do, as tracers have: the next definition
 * sees this library as its caller, not the runtime. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

static volatile unsigned long calls;

int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *mask) {
    int (*next)(pthread_t, size_t, const cpu_set_t *) = dlsym(RTLD_NEXT, "pthread_setaffinity_np");
    int result = next(thread, size, mask);
    calls++;
    return result;
}

int sched_setaffinity(pid_t tid, size_t size, const cpu_set_t *mask) {
    int (*next)(pid_t, size_t, const cpu_set_t *) = dlsym(RTLD_NEXT, "sched_setaffinity");
    int result = next(tid, size, mask);
    calls++;
    return result;
}

/* Arguments that the caller did not give are passed on as whatever their registers hold, as libc itself does. */
long syscall(long number, ...) {
    long (*next)(long, long, long, long, long, long, long) = dlsym(RTLD_NEXT, "syscall");
    __builtin_va_list list;
    long a[6];
    __builtin_va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = __builtin_va_arg(list, long);
    __builtin_va_end(list);
    long result = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    calls++;
    return result;
}
