/* A process that is in a BLAS call for as long as its standard input is open, and burns no CPU there. Built twice: with
   ROUTINE as the library, which passes for an OpenBLAS of as many threads as there are CPUs; without as the program. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

void dgemm_(void);

#ifdef ROUTINE
int blas_cpu_number;
int exec_blas_async(void) { return 0; }

__attribute__((constructor)) static void count(void) {
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof allowed, &allowed);
    blas_cpu_number = CPU_COUNT(&allowed);
}

void dgemm_(void) {
    puts("calling");
    fflush(stdout);
    while (getchar() != EOF) {}
}
#else
int main(void) {
    dgemm_();
    puts("called");
    fflush(stdout);
    return 0;
}
#endif
