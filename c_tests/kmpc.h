/* Regions as clang and Intel's compilers make them, by hand, so that gcc can build them: the calls of LLVM's runtimes. */
#include "test.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <time.h>

typedef struct {
    int reserved_1, flags, reserved_2, reserved_3;
    const char *source;
} location_t;

typedef void (*microtask_t)(int *thread, int *bound, ...);

int __kmpc_global_thread_num(location_t *);
void __kmpc_push_num_threads(location_t *, int thread, int threads);
void __kmpc_fork_call(location_t *, int argc, microtask_t, ...);

static location_t here = {0, 2, 0, 0, ";unknown;unknown;0;0;;"};

/* The program must not take this name from anybody: the library leaves objects alone that ask for it. */
static inline int max_threads(void) {
    int (*ask)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    return ask();
}

/* Counts the threads of a team. */
static inline void count_thread(int *thread, int *bound, ...) {
    va_list arguments;
    va_start(arguments, bound);
    int *count = va_arg(arguments, int *);
    va_end(arguments);
    __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
}

static inline int default_team(void) {
    int count = 0;
    __kmpc_fork_call(&here, 1, (microtask_t)count_thread, &count);
    return count;
}

static inline int explicit_team(int threads) {
    int count = 0;
    __kmpc_push_num_threads(&here, __kmpc_global_thread_num(&here), threads);
    __kmpc_fork_call(&here, 1, (microtask_t)count_thread, &count);
    return count;
}

static inline int allowed_cpus(void) {
    unsigned char mask[MASK_BYTES] = {0};
    int count = 0;
    raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
    for (int cpu = 0; cpu < MASK_BYTES * 8; cpu++) count += in_mask(mask, cpu);
    return count;
}

static inline void show_team(const char *label, int team) {
    show_text(label, team == allowed_cpus() ? "whole" : team < allowed_cpus() && team > 0 ? "less" : "wrong");
}

/* A job of its own, so that nobody but this program's processes shares its budget, not even the test before. */
static inline void be_a_job(void) {
    char name[32] = "test-of-llvm-";
    put_number(name + strlen(name), getpid());
    setenv("SLURM_JOB_ID", name, 1);
}

/* Another process of the same domain that runs one region after the other until it is killed. */
static inline pid_t start_neighbour(void) {
    int ready[2];
    char byte;
    if (pipe(ready)) exit(3);
    pid_t child = fork();
    if (child == 0) {
        dup2(ready[1], 1);
        execl("/proc/self/exe", "neighbour", "neighbour", (char *)NULL);
        _exit(3);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) exit(3);
    close(ready[0]);
    return child;
}

static inline void kill_neighbour(pid_t child) {
    kill(child, SIGKILL);
    wait_for(child);
}

/* For a millisecond, so that it is in a region nearly all the time, also where it has to wait for a CPU. */
static inline void compute(int *thread, int *bound, ...) {
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begin.tv_sec) * 1000000000L + now.tv_nsec - begin.tv_nsec < 1000000);
}

static inline void report_and_compute(int *thread, int *bound, ...) {
    if (*thread == 0 && write(1, "r", 1) != 1) _exit(3);
    compute(thread, bound);
}

/* It reports from a region, since it may have to wait for a CPU after that. */
static inline void be_neighbour(void) {
    __kmpc_fork_call(&here, 0, (microtask_t)report_and_compute);
    for (;;) __kmpc_fork_call(&here, 0, (microtask_t)compute);
}

/* Asks until the answer is `wanted`, or for ten seconds; the last answer. */
static inline int until(int (*ask)(void), int wanted) {
    int answer = ask();
    for (int i = 0; i < 1000 && answer != wanted; i++) {
        usleep(10000);
        answer = ask();
    }
    return answer;
}
