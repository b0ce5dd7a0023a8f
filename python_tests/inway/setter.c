/* A library that sets the calling thread's mask. With -DRUNTIME it exports a runtime's entry point, and so its mask is
 * a pin; without, it is anybody's, and its mask the user's. */
#include "inway.h"
#include <pthread.h>

#ifdef RUNTIME
#define ENTRY GOMP_parallel
#else
#define ENTRY APPS_parallel /* as long, so that both libraries are laid out alike */
#endif

void ENTRY(void (*fn)(void *), void *data, unsigned threads, unsigned flags);
void ENTRY(void (*fn)(void *), void *data, unsigned threads, unsigned flags) {
    (void)threads, (void)flags;
    fn(data);
}

void set(int cpu);
void set(int cpu) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(cpu, &mask);
    if (pthread_setaffinity_np(pthread_self(), sizeof mask, &mask)) abort();
}
