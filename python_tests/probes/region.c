/* One OpenMP region, to be linked to whichever runtime is under test.

   The object is compiled with gcc -fopenmp, so it calls GOMP_parallel; libomp and libiomp5 export that too. */
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

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

/* Runs one region of `threads` threads. Row i of `out` gets the mask that the kernel says thread i has, whoever else may
   want to answer. */
int region_real_masks(int threads, unsigned char *out, int bytes)
{
    int seen = 0;
    memset(out, 0, (size_t)threads * bytes);
#pragma omp parallel num_threads(threads) reduction(+ : seen)
    {
        register long number __asm__("rax") = SYS_sched_getaffinity;
        __asm__ volatile("syscall"
                         : "+r"(number)
                         : "D"(0L), "S"((long)bytes), "d"(out + (size_t)omp_get_thread_num() * bytes)
                         : "rcx", "r11", "memory");
        seen += number > 0;
    }
    return seen;
}
