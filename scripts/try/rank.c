/* rank FILE [FIRST]: one of several ranks that share FILE, started by srun or mpiexec. Its number is FIRST and what the
   launcher says. It enters an OpenMP region of the default size and stays in it until it may leave, again and again, so
   that nothing depends on how fast the machine is; scripts/try/ranks.py tells it when.

   It asks no runtime for its maximum: the library leaves objects alone that do. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern int omp_get_num_threads(void);

enum { MOST = 64 };

/* ranks.py knows this layout. */
static struct {
    volatile int may_leave[MOST], entered[MOST], team[MOST], pid[MOST];
} *shared;

static int number_of(void) {
    static const char *const names[] = {"SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return atoi(getenv(names[i]));
    return 0;
}

int main(int argc, char **argv) {
    int rank = number_of() + (argc > 2 ? atoi(argv[2]) : 0);
    int file = argc > 1 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    if (file < 0 || rank < 0 || rank >= MOST) {
        fprintf(stderr, "usage: rank FILE [FIRST]\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) {
        perror("rank: mmap");
        return 1;
    }
    shared->pid[rank] = getpid();
    for (int count = 1; shared->may_leave[rank] >= 0; count++) {
#pragma omp parallel
        {
#pragma omp master
            {
                shared->team[rank] = omp_get_num_threads();
                shared->entered[rank] = count;
                while (shared->may_leave[rank] >= 0 && shared->may_leave[rank] < count) usleep(2000);
            }
        }
    }
    return 0;
}
