// While explicit regions are squeezed a thread of the library's own is in the process. Nobody notices.
// case {signal,setuid,exit,main_ends,fork,no_memory} on libgomp: there=no right=yes -> there=yes right=yes
// pinning: off
// cflags: -fno-builtin
#include "gomp.h"
#include <dirent.h>
#include <sys/resource.h>

static int threads(void) {
    int count = -2; /* "." and ".." */
    DIR *tasks = opendir("/proc/self/task");
    while (readdir(tasks)) count++;
    closedir(tasks);
    return count;
}
static int region(void) {
    int sum = 0, size = omp_get_num_procs();
#pragma omp parallel num_threads(size)
#pragma omp atomic
    sum++;
    return sum == size;
}
static long virtual_memory(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1) abort();
    fclose(file);
    return pages * 4096;
}

/* Runs regions until the process has more threads than its team; without the library it never has. */
static void wait_for_ballast(void) {
    int own = threads(), there = 0, tries = getenv("LD_PRELOAD") ? 20000 : 100;
    start_neighbour();
    while (!there && tries--) {
        region();
        usleep(1000);
        there = threads() > own;
    }
    show_text("there", there ? "yes" : "no");
}

int main(int argc, char **argv) {
    own_domain(argv);
    be_neighbour(argv);
    int right = region();
    if (!strcmp(argv[1], "no_memory")) {
        /* Room for the thread, but not for its team: libgomp would end the process. */
        struct rlimit limit = {(rlim_t)virtual_memory() + (5 << 20), RLIM_INFINITY};
        setrlimit(RLIMIT_AS, &limit);
    }
    wait_for_ballast();
    if (!strcmp(argv[1], "signal")) {
        /* A signal that is blocked in all threads waits to be taken. */
        sigset_t set;
        int taken = 0;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        omp_pause_resource_all(omp_pause_soft); /* the team, which has it unblocked */
        kill(getpid(), SIGUSR1);
        usleep(10000);
        right &= sigwait(&set, &taken) == 0 && taken == SIGUSR1;
    } else if (!strcmp(argv[1], "setuid")) {
        alarm(20);
        right &= setuid(getuid()) == 0;
    } else if (!strcmp(argv[1], "fork")) {
        pid_t pid = fork();
        if (pid == 0) {
            limit_child();
            int ok = threads() == 1;
            if (getenv("LD_PRELOAD"))
                for (int i = 0; i < 50; i++) ok &= region();
            _exit(!ok);
        }
        right &= wait_for(pid) == 0;
    }
    for (int i = 0; i < 50; i++) right &= region();
    show_text("right", right ? "yes" : "no");
    if (!strcmp(argv[1], "main_ends")) pthread_exit(NULL);
}
