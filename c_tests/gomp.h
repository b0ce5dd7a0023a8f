/* What the programs about libgomp share: a domain of their own, and a neighbour in it. */
#ifndef GOMP_H
#define GOMP_H
#include "test.h"
#include <sys/prctl.h>

/* No other process on the machine is in this program's domain: its job has a name of its own. */
static inline void own_domain(char **argv) {
    char job[32];
    if (getenv("GOMP_TEST")) return;
    setenv("GOMP_TEST", "1", 1);
    snprintf(job, sizeof job, "gomp-%d", (int)getpid());
    setenv("SLURM_JOB_ID", job, 1);
    execv("/proc/self/exe", argv);
    abort();
}

/* The neighbour goes first, so that the last of the domain tidies up. */
static pid_t neighbour;
static inline void stop_neighbour(void) {
    kill(neighbour, SIGKILL);
    wait_for(neighbour);
}

/* Another process of the domain, until this one ends: in regions all the time, or ("comes_and_goes") every now and then. */
static inline void start(char *what) {
    pid_t parent = getpid();
    neighbour = fork();
    if (neighbour) {
        atexit(stop_neighbour);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    execl("/proc/self/exe", what, what, (char *)NULL);
    _exit(127);
}
static inline void start_neighbour(void) { start("neighbour"); }
static inline void be_neighbour(char **argv) {
    volatile long sum = 0;
    int comes_and_goes = !strcmp(argv[0], "comes_and_goes");
    if (!comes_and_goes && strcmp(argv[0], "neighbour")) return;
    for (int round = 1;; round++) {
#pragma omp parallel
        for (int i = 0; i < 1000; i++) sum = sum + i;
        if (comes_and_goes && round % 500 == 0) usleep(50000);
    }
}

/* What a child had to say. It is killed after a while: without the library most of these children hang. */
static inline void limit_child(void) { alarm(getenv("LD_PRELOAD") ? 50 : 1); }
static inline void show_child(const char *label, pid_t pid) {
    int status = wait_for(pid);
    if (WIFSIGNALED(status)) show_text(label, WTERMSIG(status) == SIGALRM ? "hangs" : "crashed");
    else show_number(label, WEXITSTATUS(status));
}
#endif
