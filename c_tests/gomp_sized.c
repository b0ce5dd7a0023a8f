// A program that sizes its arrays by omp_get_max_threads has that many threads in its default-sized regions, and no
// others, whoever is there: behind each array the next page can't be touched.
// case {max,procs,set} on libgomp: wrong=0 sum=right -> wrong=0 sum=right
// pinning: off
// env: OMP_NUM_THREADS=4
#include "gomp.h"
#include <sys/mman.h>

/* An array that ends where the memory does. */
static long *array(int length) {
    size_t page = 4096, bytes = (size_t)length * sizeof(long);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || bytes > page || mprotect(pages + page, page, PROT_NONE)) abort();
    return (long *)(pages + page - bytes);
}

int main(int argc, char **argv) {
    own_domain(argv);
    be_neighbour(argv);
    int wrong = 0, right = 1;
    start_neighbour();
    if (!strcmp(argv[1], "procs") && omp_get_num_procs() < 1) abort();
    if (!strcmp(argv[1], "set")) omp_set_num_threads(3);
    for (int i = 0; i < 300; i++) {
        int max = omp_get_max_threads(), threads = 0;
        long *sums = array(max), sum = 0;
#pragma omp parallel
        {
            sums[omp_get_thread_num()] = 0;
#pragma omp single
            threads = omp_get_num_threads();
#pragma omp for
            for (long i = 1; i <= 1000; i++) sums[omp_get_thread_num()] += i;
        }
        wrong += threads != max;
        for (int i = 0; i < max; i++) sum += sums[i];
        right &= sum == 500500;
        munmap((void *)((long)sums & -4096L), 8192);
        usleep(500);
    }
    show_number("wrong", wrong);
    show_text("sum", right ? "right" : "wrong");
}
