// While it discovers the topology, LLVM's runtime puts the thread on one CPU after the other, Intel's too. These are
// no pins, and no user masks either. omp_get_max_threads() alone starts it (and pins, but not with Intel 2026).
// case {vfork,fork,system,pthread_create,exec}:unpinned on llvm: now=full child=full seen=full -> now=full child=full seen=full
// case {vfork,system,pthread_create,exec}:user on llvm: now=last child=last seen=last -> now=last child=last seen=last
// case {vfork,system,pthread_create,exec}:pinned on libomp14,libomp19,iomp2018: now=narrow child=@now seen=@now -> now=narrow child=full seen=full
// case fork:pinned on libomp14,libomp19,iomp2018: now=narrow child=full seen=@now -> now=narrow child=full seen=full
// case {vfork,fork,exec}:in_thread on libomp14,libomp19,iomp2018: now=narrow child=@now|full seen=@now -> now=narrow child=full seen=full
// pinning *: off
// pinning *:pinned: on
// pinning *:in_thread: on
#include "ways.h"

static void *start_runtime(void *way) {
    unsigned char mask[MASK_BYTES] = {0};
    char text[512];
    if (omp_get_max_threads() < 1) abort();
    show("now");
    sched_getaffinity(0, sizeof mask, (cpu_set_t *)mask);
    format_mask(mask, text, sizeof text);
    show_text("seen", text);
    make_child(way);
    return NULL;
}

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *kind = strtok(NULL, ":");
    pthread_t thread;
    if (!strcmp(kind, "user")) choose(0, last_cpu());
    if (!strcmp(kind, "in_thread")) {
        pthread_create(&thread, NULL, start_runtime, way);
        pthread_join(thread, NULL);
    } else {
        start_runtime(way);
    }
}
