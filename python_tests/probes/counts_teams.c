/* Preloaded behind the library: counts the teams that MKL asks its OpenMP runtime for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static int largest = 1;

/* The largest since the last call; 1 where MKL made none. */
int largest_team(void) {
    int answer = largest;
    largest = 1;
    return answer;
}

static void remember(int threads) {
    if (threads > largest) largest = threads;
}

static void *find(const char *library, const char *name) {
    void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle ? dlsym(handle, name) : NULL;
}

void __kmpc_push_num_threads(void *location, int thread, int threads) {
    void (*real)(void *, int, int) = (void (*)(void *, int, int))find("libiomp5.so", "__kmpc_push_num_threads");
    remember(threads);
    real(location, thread, threads);
}

void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags) {
    typedef void parallel(void (*)(void *), void *, unsigned, unsigned);
    parallel *real = (parallel *)find("libgomp.so.1", "GOMP_parallel");
    remember((int)threads);
    real(function, data, threads, flags);
}
