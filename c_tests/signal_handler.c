// Children made in a signal handler, also one that interrupts the hooked calls themselves.
// case {fork,vfork,_Fork,posix_spawn}:raised on libgomp: child=pin parent=pin -> child=full parent=pin
// case {vfork,_Fork,posix_spawn}:raised on llvm: child=pin parent=pin -> child=full parent=pin
// case fork:raised on llvm: child=full parent=pin -> child=full parent=pin
// case syscall_fork:timer on libgomp: children=some stuck=all parent=pin -> children=some stuck=none parent=pin
#include "ways.h"
#include <sys/time.h>

static const char *way;
static volatile int children, stuck;

static void on_signal(int number) {
    int error = errno;
    make_child(way);
    errno = error;
}

/* A child that tells by its exit status whether it is stuck on one CPU. */
static void on_timer(int number) {
    int error = errno;
    pid_t pid = (pid_t)syscall(SYS_fork);
    if (pid == 0) {
        unsigned char mask[MASK_BYTES] = {0};
        raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
        _exit(!in_mask(mask, first_cpu()) || !in_mask(mask, last_cpu()));
    }
    children++;
    stuck += WEXITSTATUS(wait_for(pid));
    errno = error;
}

int main(int argc, char **argv) {
    struct itimerval every_millisecond = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    cpu_set_t set;
    pid_t pid;
    sigset_t timer;
    way = strtok(argv[1], ":");
    sigemptyset(&timer);
    sigaddset(&timer, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &timer, NULL); /* also for the team's other thread, which is not to run the handler */
    pin();
    pthread_sigmask(SIG_UNBLOCK, &timer, NULL);
    if (!strcmp(strtok(NULL, ":"), "raised")) {
        signal(SIGUSR1, on_signal);
        raise(SIGUSR1);
    } else {
        signal(SIGALRM, on_timer);
        setitimer(ITIMER_REAL, &every_millisecond, NULL);
        while (children < 100) {
            sched_getaffinity(0, sizeof set, &set);
            if (posix_spawn(&pid, "/nonexistent", NULL, NULL, argv, environ) == 0) return 1;
            if ((pid = vfork()) == 0) _exit(0);
            wait_for(pid);
        }
        setitimer(ITIMER_REAL, &never, NULL);
        show_text("children", children ? "some" : "none");
        show_text("stuck", stuck == 0 ? "none" : stuck == children ? "all" : "some");
    }
    show("parent");
}
