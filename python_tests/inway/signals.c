/* signals CPU FORKS: forks while a timer interrupts whatever is going on, our hooks included, and its handler calls
 * what it may: _Fork, vfork, exec, and the affinity calls. Prints what was counted. */
#include "inway.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/time.h>

static _Atomic int reaped, ticks, wrong; /* any thread may run a handler */
static int cpu;

static void on_child(int signal) {
    (void)signal;
    int saved = errno, status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
        reaped++;
        if (!WIFEXITED(status) || WEXITSTATUS(status)) wrong++;
    }
    errno = saved;
}

static void on_tick(int signal) {
    (void)signal;
    int saved = errno;
    cpu_set_t set;
    ticks++;
    if (sched_getaffinity(0, sizeof set, &set)) wrong++;
    pid_t pid = _Fork();
    if (pid == 0) {
        set_one_cpu(0, cpu);
        _exit(0);
    }
    pid = vfork();
    if (pid == 0) {
        char *argv[] = {"/bin/true", NULL};
        execve(argv[0], argv, environ);
        _exit(126);
    }
    errno = saved;
}

static void *nothing(void *arg) { return arg; }

int main(int argc, char **argv) {
    if (argc < 3) return 97;
    cpu = atoi(argv[1]);
    struct sigaction child = {.sa_handler = on_child, .sa_flags = SA_RESTART};
    struct sigaction tick = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 4000}, {0, 4000}}, never = {{0, 0}, {0, 0}};
    sigaddset(&child.sa_mask, SIGALRM);
    sigaddset(&tick.sa_mask, SIGCHLD);
    sigaction(SIGCHLD, &child, NULL);
    sigaction(SIGALRM, &tick, NULL);
    enter_region();
    int made = 0, forks = atoi(argv[2]);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < forks; i++) {
        char *true_argv[] = {"/bin/true", NULL};
        cpu_set_t set;
        pthread_t thread;
        pid_t pid;
        switch (i % 4) {
        case 0:
            pid = fork();
            if (pid == 0) _exit(0);
            made += pid > 0;
            break;
        case 1:
            made += posix_spawn(&pid, "/bin/true", NULL, NULL, true_argv, environ) == 0;
            break;
        case 2:
            if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL)) wrong++;
            break;
        case 3:
            if (sched_getaffinity(0, sizeof set, &set)) wrong++;
            break;
        }
    }
    setitimer(ITIMER_REAL, &never, NULL);
    made += 2 * ticks;
    for (int i = 0; i < 5000 && reaped < made; i++) usleep(2000);
    printf("lost %d, wrong %d, ticks %s\n", made - reaped, wrong, ticks > 3 ? "many" : "few");
    return 0;
}
