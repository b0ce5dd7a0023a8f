/* many N CPUS: N processes share one budget. One after the other enters an OpenMP region of the default size and stays
   in it; then each in turn leaves its region and enters another, while all others are in theirs; then all but the first
   are killed. Nothing depends on how fast the node is. Prints

     first=TEAM      the team of the first process, alone
     shared=A-B      the smallest and largest team of the second round
     sum=S           all of them together
     alone=TEAM      the first process's team in the end, at most a minute after the kills */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern int omp_get_num_threads(void);

/* How many regions each process may have left, and entered; and the team of the last. */
static struct {
    volatile int may_leave[4096], entered[4096], team[4096];
} *shared;

static void region(int number, int count) {
#pragma omp parallel
    {
#pragma omp master
        {
            shared->team[number] = omp_get_num_threads();
            shared->entered[number] = count;
            while (shared->may_leave[number] < count) usleep(2000);
        }
    }
}

static void enter(int number, int count) {
    while (shared->entered[number] < count) usleep(1000);
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 2, whole = argc > 2 ? atoi(argv[2]) : 2;
    int least = 1 << 30, most = 0, sum = 0;
    pid_t *children = calloc(count, sizeof *children);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < count; i++) {
        if ((children[i] = fork()) == 0)
            for (int n = 1;; n++) region(i, n);
        enter(i, 1);
        if (i == 0) printf("first=%d\n", shared->team[0]);
    }
    for (int i = 0; i < count; i++) {
        shared->may_leave[i] = 1;
        enter(i, 2);
    }
    for (int i = 0; i < count; i++) {
        int team = shared->team[i];
        sum += team;
        if (team < least) least = team;
        if (team > most) most = team;
    }
    printf("shared=%d-%d\nsum=%d\n", least, most, sum);
    for (int i = 1; i < count; i++) kill(children[i], SIGKILL);
    for (int i = 1; i < count; i++) waitpid(children[i], NULL, 0);
    for (int n = 2; n < 600 && shared->team[0] != whole; n++) {
        shared->may_leave[0] = n;
        enter(0, n + 1);
        usleep(100000);
    }
    printf("alone=%d\n", shared->team[0]);
    kill(children[0], SIGKILL);
    return 0;
}
