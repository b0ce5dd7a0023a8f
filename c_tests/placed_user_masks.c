// A mask that another thread gives a placed worker's main thread frees the place for the next worker. One that the kernel
// refuses, as the process may not use its CPU, changes nothing.
// case by_key on none: worker=full main=last next=full -> worker=first main=last next=first
// case refused on none: worker=full refused=EINVAL main=full next=full -> worker=first refused=EINVAL main=first next=last
// env *: KNLFIX_PLACE=core
#include "test.h"

static pthread_t main_thread;

static void *set_main(void *argument) {
    cpu_set_t set;
    set_only(&set, last_cpu());
    pthread_setaffinity_np(main_thread, sizeof set, &set);
    return NULL;
}

int main(int argc, char **argv) {
    int ready[2], end[2];
    char byte;
    if (pipe(ready) || pipe(end)) return 1;
    pid_t worker = fork();
    if (worker == 0) {
        close(end[1]);
        show("worker");
        if (!strcmp(argv[1], "refused")) {
            cpu_set_t none;
            set_only(&none, CPU_SETSIZE - 1);
            show_errno("refused", sched_setaffinity(0, sizeof none, &none) ? errno : 0);
        } else {
            pthread_t thread;
            main_thread = pthread_self();
            if (pthread_create(&thread, NULL, set_main, NULL)) return 1;
            pthread_join(thread, NULL);
        }
        show("main");
        return write(ready[1], "", 1) != 1 || read(end[0], &byte, 1) != 0;
    }
    if (read(ready[0], &byte, 1) != 1) return 1;
    pid_t next = fork();
    if (next == 0) {
        show("next");
        return 0;
    }
    if (wait_for(next)) show_text("next", "died");
    close(end[1]);
    if (wait_for(worker)) show_text("worker", "died");
}
