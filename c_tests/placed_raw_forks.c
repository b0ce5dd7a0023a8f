// What a placed worker makes by a raw system call is no worker and has no place: a mask that the user gives one of its threads
// stays, also where that is the worker's place.
// case {clone,syscall_fork} on none: worker=full made=full chosen=first child=first -> worker=first made=full chosen=first child=first
// env *: KNLFIX_PLACE=core
#include "ways.h"

static void *run(void *argument) {
    choose(0, first_cpu());
    show("chosen");
    make_child("posix_spawn");
    return NULL;
}

static int made(void *argument) {
    pthread_t thread;
    show("made");
    if (pthread_create(&thread, NULL, run, NULL)) _exit(1);
    pthread_join(thread, NULL);
    _exit(0);
}

int main(int argc, char **argv) {
    static char stack[64 * 1024] __attribute__((aligned(16)));
    pid_t worker = fork();
    if (worker) return wait_for(worker) != 0;
    show("worker");
    pid_t child = strcmp(argv[1], "clone") ? (pid_t)syscall(SYS_fork) : clone(made, stack + sizeof stack, SIGCHLD, NULL);
    if (child == 0) made(NULL);
    return wait_for(child) != 0;
}
