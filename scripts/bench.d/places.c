/* A pool of two workers that run OpenMP, one thread each: places THREADS prints the seconds that its work takes. */
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 2, REGIONS = 400 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* About 2 ms of one CPU for each thread. */
static void region(int threads) {
#pragma omp parallel num_threads(threads)
    {
        volatile double sum = 0;
        for (int step = 0; step < 2500000; step++) sum += step;
    }
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_barrier_t *start = mmap(NULL, sizeof *start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(start, &shared, WORKERS + 1);
    for (int worker = 0; worker < WORKERS; worker++)
        if (fork() == 0) {
            region(threads);
            pthread_barrier_wait(start);
            for (int round = 0; round < REGIONS; round++) region(threads);
            _exit(0);
        }
    pthread_barrier_wait(start);
    double begin = now();
    while (wait(NULL) > 0) {}
    printf("%.6f\n", now() - begin);
    return 0;
}
