/* Calls the BLAS it is linked to, on N threads of its own, and reports as JSON:

     wrong    elements of products and solutions that are not what they should be
     others   whether threads ran that it has not started itself
     told     the number of threads that the BLAS and OpenMP tell, before and after the calls

   Usage: blas_program N. It begins to call when there is a line on standard input. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 320, CALLS = 4, LEAST = 100 };

typedef const double *In;
typedef const int *Size;
typedef const char *Flag;
void dgemm_(Flag, Flag, Size, Size, Size, In, In, Size, In, Size, In, double *, Size, size_t, size_t);
void dtrsm_(Flag, Flag, Flag, Flag, Size, Size, In, In, Size, double *, Size, size_t, size_t, size_t, size_t);
__attribute__((weak)) int openblas_get_num_threads(void);
__attribute__((weak)) long bli_thread_get_num_threads(void);
#ifdef OPENMP
int omp_get_max_threads(void);
#else
static int omp_get_max_threads(void) { return 0; }
#endif

static int wrong;

static double cpu_time(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A matrix whose products are known: all of a row is the same, and so is all of a column of the other. */
static void *calls(void *seed) {
    const int size = SIZE;
    const double one = 1, zero = 0;
    const size_t bytes = sizeof(double) * SIZE * SIZE;
    double *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    double scale = 1 + (double)(size_t)seed;
    int bad = 0;
    if (!a || !b || !c) abort();
    for (int call = 0; call < CALLS; call++) {
        for (int column = 0; column < SIZE; column++)
            for (int row = 0; row < SIZE; row++) {
                a[column * SIZE + row] = scale * (row + 1);
                b[column * SIZE + row] = column + call;
                c[column * SIZE + row] = NAN;
            }
        dgemm_("N", "N", &size, &size, &size, &one, a, &size, b, &size, &zero, c, &size, 1, 1);
        for (int column = 0; column < SIZE; column++)
            for (int row = 0; row < SIZE; row++)
                bad += c[column * SIZE + row] != scale * (row + 1) * (column + call) * SIZE;
        /* A triangle of ones: the solution is the difference of neighbours. */
        for (int at = 0; at < SIZE * SIZE; at++) {
            a[at] = at % SIZE >= at / SIZE;
            b[at] = at % SIZE * scale;
        }
        dtrsm_("L", "L", "N", "N", &size, &size, &one, a, &size, b, &size, 1, 1, 1, 1);
        for (int at = 0; at < SIZE * SIZE; at++) bad += b[at] != (at % SIZE ? scale : 0);
    }
    __atomic_fetch_add(&wrong, bad, __ATOMIC_RELAXED);
    free(a), free(b), free(c);
    return NULL;
}

static void told(char *text) {
    int blas = 0;
    if (openblas_get_num_threads) blas = openblas_get_num_threads();
    else if (bli_thread_get_num_threads) blas = (int)bli_thread_get_num_threads();
    sprintf(text, "[%d, %d]", blas, omp_get_max_threads());
}

int main(int argc, char **argv) {
    char before[64], after[64];
    pthread_t threads[64];
    int count = argc > 1 ? atoi(argv[1]) : 1;
    if (count < 1 || count > 64) return 2;
    told(before);
    puts("ready");
    fflush(stdout);
    getchar();
    /* The library's own threads spin for a while when they have just been made. */
    usleep(300000);
    double own = cpu_time(CLOCK_THREAD_CPUTIME_ID), all = cpu_time(CLOCK_PROCESS_CPUTIME_ID);
    for (int at = 1; at < count; at++)
        if (pthread_create(&threads[at], NULL, calls, (void *)(size_t)at)) return 2;
    calls(NULL);
    for (int at = 1; at < count; at++) pthread_join(threads[at], NULL);
    if (count == 1)
        while (cpu_time(CLOCK_THREAD_CPUTIME_ID) - own < LEAST / 1e3) calls(NULL);
    own = cpu_time(CLOCK_THREAD_CPUTIME_ID) - own, all = cpu_time(CLOCK_PROCESS_CPUTIME_ID) - all;
    told(after);
    const char *others = all - own > own / 100 ? "true" : "false";
    printf("{\"wrong\": %d, \"others\": %s, \"told\": [%s, %s]}\n", wrong, others, before, after);
    return 0;
}
