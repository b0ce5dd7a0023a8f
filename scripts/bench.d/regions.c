/* regions KIND MICROSECONDS START SECONDS: OpenMP regions from the moment START (seconds of the monotonic clock) on, for
   so long. KIND is `default` (the default number of threads), `explicit` (num_threads of OMP_NUM_THREADS or all CPUs) or `empty` (a region
   that does nothing). Each region has so many microseconds of work for one thread, to be divided by its team.
   Prints the regions done and the CPU seconds used. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double work(long steps) {
    double x = 1.0;
    for (long i = 0; i < steps; i++) x = x * 1.0000001 + 1e-9;
    return x;
}

static long steps_per_microsecond(void) {
    double best = 1e9;
    volatile double sink;
    for (int i = 0; i < 5; i++) {
        double begin = now();
        sink = work(1000000);
        double took = now() - begin;
        if (took < best) best = took;
    }
    (void)sink;
    return 1000000 / (best * 1e6) + 1;
}

static volatile double sinks[1024 * 8];

/* Pieces of work: more than threads, so that any team divides them well. */
enum { PIECES = 16 };

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    long steps = steps_per_microsecond() * atol(argv[2]) / PIECES;
    double start = atof(argv[3]), end = start + atof(argv[4]);
    const char *said = getenv("OMP_NUM_THREADS");
    int cpus = said ? atoi(said) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    long done = 0;
    while (now() < start) usleep(500);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    while (now() < end) {
        if (!strcmp(argv[1], "empty")) {
            for (int i = 0; i < 100; i++, done++) {
#pragma omp parallel
                __asm__ volatile("");
            }
        } else if (!strcmp(argv[1], "default")) {
#pragma omp parallel for schedule(static)
            for (int i = 0; i < PIECES; i++) sinks[i * 8] = work(steps);
            done++;
        } else {
#pragma omp parallel for schedule(static) num_threads(cpus)
            for (int i = 0; i < PIECES; i++) sinks[i * 8] = work(steps);
            done++;
        }
    }
    getrusage(RUSAGE_SELF, &after);
#define SECONDS(t) (after.t.tv_sec - before.t.tv_sec + (after.t.tv_usec - before.t.tv_usec) / 1e6)
    printf("%ld %f\n", done, SECONDS(ru_utime) + SECONDS(ru_stime));
    return 0;
}
