// split COUNT SERIAL REGION: spins COUNT times for SERIAL seconds outside and REGION seconds inside a region, and says
// how long it was inside regions and in main, by its own clock. A region before that starts the runtime, which is work of
// its own.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void spin(double seconds)
{
    double end = now() + seconds;
    while (now() < end)
        ;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
#pragma omp parallel num_threads(1)
    spin(0);
    double begun = now(), inside = 0;
    for (int left = atoi(argv[1]); left > 0; left--) {
        spin(atof(argv[2]));
        double entered = now();
#pragma omp parallel
        spin(atof(argv[3]));
        inside += now() - entered;
    }
    printf("%.6f %.6f\n", inside, now() - begun);
    fflush(stdout);
    return 0;
}
