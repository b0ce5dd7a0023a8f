/* What the compiled processes of `scripts/bench budget` have in common; budget_work.py is the same in Python. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Keeps a CPU busy, and nothing else: no memory, no shared unit. */
static inline double work(long steps) {
    double x = 1.0;
    for (long i = 0; i < steps; i++) x = x * 1.0000001 + 1e-9;
    return x;
}

/* Says "ready", then answers each line "START WARM SECONDS" with "DONE CPU WALL": from the moment START (on the monotonic
   clock) on it works WARM seconds uncounted, and then does DONE units in WALL seconds, which are SECONDS or a little more. */
static inline int serve(void (*unit)(void)) {
    unit();
    puts("ready");
    fflush(stdout);
    double start, warm, seconds;
    while (scanf("%lf %lf %lf", &start, &warm, &seconds) == 3) {
        while (now() < start) usleep(200);
        do unit();
        while (now() < start + warm);
        long done = 0;
        double used = cpu_seconds(), begin = now(), end;
        do {
            unit();
            done++;
            end = now();
        } while (end < start + warm + seconds);
        printf("%ld %f %f\n", done, cpu_seconds() - used, end - begin);
        fflush(stdout);
    }
    return 0;
}
