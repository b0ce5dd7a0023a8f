// A placed worker that shares its CPU goes to one that has become free, and its threads go with it.
// case third on none: main=full thread=full moved=full followed=full -> main=first thread=first moved=last followed=last
// env *: KNLFIX_PLACE=core
#include "test.h"

static pthread_barrier_t barrier;

static void *run(void *argument) {
    show("thread");
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    show("followed");
    return NULL;
}

/* A worker that waits until it is killed. */
static pid_t neighbour(void) {
    int ready[2];
    char byte;
    if (pipe(ready)) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        if (write(ready[1], "", 1) != 1) exit(1);
        while (1) pause();
    }
    if (read(ready[0], &byte, 1) != 1) exit(1);
    return pid;
}

int main(int argc, char **argv) {
    int shown[2], gone[2];
    char byte;
    pid_t first = neighbour(), last = neighbour();
    if (pipe(shown) || pipe(gone)) return 1;
    pid_t worker = fork();
    if (worker == 0) {
        pthread_t thread;
        cpu_set_t mask;
        show("main");
        pthread_barrier_init(&barrier, NULL, 2);
        if (pthread_create(&thread, NULL, run, NULL)) return 1;
        pthread_barrier_wait(&barrier);
        if (write(shown[1], "", 1) != 1 || read(gone[0], &byte, 1) != 1) return 1;
        sched_getaffinity(0, sizeof mask, &mask);
        show("moved");
        pthread_barrier_wait(&barrier);
        pthread_join(thread, NULL);
        return 0;
    }
    if (read(shown[0], &byte, 1) != 1) return 1;
    kill(last, SIGKILL);
    wait_for(last);
    if (write(gone[1], "", 1) != 1 || wait_for(worker)) show_text("worker", "died");
    kill(first, SIGKILL);
    wait_for(first);
}
