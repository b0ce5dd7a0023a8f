// A thread of a placed worker makes a program: that has all CPUs again, also where the main thread has left the place; and
// it has the mask that the user gave the thread, also where that is the place.
// case same:{fork_exec,vfork,posix_spawn,clone,system} on none: thread=full chosen=first child=first -> thread=first chosen=first child=first
// case left:{fork_exec,vfork,posix_spawn,clone,system} on none: thread=full main=last child=full -> thread=first main=last child=full
// env *: KNLFIX_PLACE=core
#include "ways.h"

static char *where, *way;
static pthread_barrier_t barrier;

static void *run(void *argument) {
    show("thread");
    if (!strcmp(where, "same")) {
        choose(0, first_cpu());
        show("chosen");
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    make_child(way);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread;
    where = strtok(argv[1], ":");
    way = strtok(NULL, ":");
    pid_t worker = fork();
    if (worker) return wait_for(worker) != 0;
    pthread_barrier_init(&barrier, NULL, 2);
    if (pthread_create(&thread, NULL, run, NULL)) return 1;
    pthread_barrier_wait(&barrier);
    if (!strcmp(where, "left")) {
        choose(0, last_cpu());
        show("main");
    }
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    return 0;
}
