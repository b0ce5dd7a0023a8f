/* What the checks of results_main's libraries share. No result may depend on how many threads took part. */
#include <time.h>

typedef void say_function(void *out, const char *name, long value);

/* Work whose result is known only by doing it, and exact however it is split. */
static inline long mix(long value) {
    unsigned long x = (unsigned long)value * 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    return (long)((x ^ (x >> 32)) & 0xffffff);
}

static inline void work_for(double ms) {
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begin.tv_sec) * 1e3 + (now.tv_nsec - begin.tv_nsec) / 1e6 < ms);
}
