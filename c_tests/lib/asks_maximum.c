/* A library that sizes something by the number of threads it can have, and then has a region. */
#include <stdarg.h>

extern int omp_get_max_threads(void);
void __kmpc_fork_call(void *, int, void (*)(int *, int *, ...), ...);

static struct {
    int a, flags, b, c;
    const char *source;
} here = {0, 2, 0, 0, ";unknown;unknown;0;0;;"};

static int count;

static void count_thread(int *thread, int *bound, ...) { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); }

int maximum_and_team(int *team) {
    int maximum = omp_get_max_threads();
    count = 0;
    __kmpc_fork_call(&here, 0, count_thread);
    *team = count;
    return maximum;
}
