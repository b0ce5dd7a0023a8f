/* Regions whose threads report themselves: each writes its number + 1 to its place, which must be a place of its own. */
#include <omp.h>

static void report(int *places, int room, int *count) {
    int number = omp_get_thread_num();
    if (number >= 0 && number < room) {
#pragma omp atomic
        places[number] += number + 1;
    }
#pragma omp single nowait
    *count = omp_get_num_threads();
}

/* A default-sized region; returns how many threads it had. */
int team(int *places, int room) {
    int count = 0;
#pragma omp parallel
    report(places, room, &count);
    return count;
}

/* A region of so many threads. */
int team_of(int threads, int *places, int room) {
    int count = 0;
#pragma omp parallel num_threads(threads)
    report(places, room, &count);
    return count;
}
