/* One OpenMP region, to be linked to whichever runtime is under test.

   The object is compiled with gcc -fopenmp, so it calls GOMP_parallel; libomp and libiomp5 export that too. */
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Runs one region of `threads` threads (0: the default size) and returns how many there were. */
int region(int threads)
{
    int seen = 0;
    if (threads > 0)
        omp_set_num_threads(threads);
#pragma omp parallel reduction(+ : seen)
    seen += 1;
    return seen;
}

/* Runs one region. Row i of `out` (rows * bytes bytes) gets the mask that thread i is told when it asks inside. */
int region_masks(unsigned char *out, int rows, int bytes)
{
    int seen = 0;
#pragma omp parallel reduction(+ : seen)
    {
        int row = omp_get_thread_num();
        cpu_set_t *mask = calloc(1, bytes);
        if (row < rows && sched_getaffinity(0, bytes, mask) == 0)
            memcpy(out + (size_t)row * bytes, mask, bytes);
        free(mask);
        seen += 1;
    }
    return seen;
}
