// Regions of a process that is not alone: default-sized ones have fewer threads, all others what was asked for.
// case default on libgomp: alone=4 shared=4 -> alone=4 shared=fewer
// case {loop,sections,reduction,start_end} on libgomp: alone=4 shared=4 -> alone=4 shared=fewer
// case {explicit,nested,off,static} on libgomp: alone=4 shared=4 -> alone=4 shared=4
// case limited on libgomp: alone=3 shared=3 -> alone=3 shared=fewer
// case one on libgomp: alone=1 shared=1 -> alone=1 shared=1
// case {default,loop,start_end} on libomp14,libomp19,iomp2026: alone=4 shared=4 -> alone=4 shared=fewer
// case explicit on libomp14,libomp19,iomp2026: alone=4 shared=4 -> alone=4 shared=4
// env: OMP_NUM_THREADS=4
// env nested: OMP_NUM_THREADS=4 OMP_NESTED=true
// env one: OMP_NUM_THREADS=1
// env limited: OMP_THREAD_LIMIT=3 OMP_NUM_THREADS=4
// env off: OMP_NUM_THREADS=4 KNLFIX_LIBGOMP=off
// env static: OMP_NUM_THREADS=4 KNLFIX_SHARING=static
// pinning: off
// cflags: -fno-ipa-icf
#include "gomp.h"

void GOMP_parallel_start(void (*)(void *), void *, unsigned);
void GOMP_parallel_end(void);

static void count(void *most) {
    int threads = omp_get_num_threads();
#pragma omp critical
    if (*(int *)most < threads) *(int *)most = threads;
}

/* The threads of one region. */
static int region(const char *kind) {
    int threads = 0, sum = 0;
    if (!strcmp(kind, "explicit")) {
#pragma omp parallel num_threads(4)
        count(&threads);
    } else if (!strcmp(kind, "nested")) {
#pragma omp parallel num_threads(2)
        if (omp_get_thread_num() == 0)
        {
#pragma omp parallel
            count(&threads);
        }
    } else if (!strcmp(kind, "loop")) {
#pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < 8; i++) count(&threads);
    } else if (!strcmp(kind, "sections")) {
#pragma omp parallel sections
        {
            count(&threads);
#pragma omp section
            count(&threads);
        }
    } else if (!strcmp(kind, "reduction")) {
#pragma omp parallel reduction(task, + : sum)
        {
            sum++;
            count(&threads);
        }
        if (sum != threads) threads = -1;
    } else if (!strcmp(kind, "start_end")) {
        GOMP_parallel_start(count, &threads, 0);
        count(&threads);
        GOMP_parallel_end();
    } else {
#pragma omp parallel
        count(&threads);
    }
    return threads;
}

int main(int argc, char **argv) {
    own_domain(argv);
    be_neighbour(argv);
    const char *kind = argv[1];
    omp_set_max_active_levels(2);
    int alone = region(kind), fewest;
    for (int i = 0; i < 100; i++)
        if (region(kind) != alone) alone = -1;
    show_number("alone", alone);
    start_neighbour();
    fewest = alone;
    for (int i = 0; i < 400 && fewest == alone; i++) {
        int threads = region(kind);
        if (threads < fewest) fewest = threads;
        usleep(1000);
    }
    if (fewest < alone && fewest > 0) show_text("shared", "fewer");
    else show_number("shared", fewest);
}
