// A worker is forked after its parent's libgomp has counted the CPUs, and libgomp pins the worker's threads to the CPUs that
// its siblings' have, too: they stay in the worker's own place. This is the second of two workers, beside a pinned parent.
// case second on libgomp: thread0=first thread1=last -> thread0=first thread1=first
// env *: KNLFIX_PLACE=core
#include "test.h"

int main(int argc, char **argv) {
    int ready[2], end[2];
    char byte;
    if (pipe(ready) || pipe(end)) return 1;
    pid_t other = fork();
    if (other == 0) {
        close(end[1]);
        return write(ready[1], "", 1) != 1 || read(end[0], &byte, 1) != 0;
    }
    if (read(ready[0], &byte, 1) != 1) return 1;
    pid_t worker = fork();
    if (worker == 0) {
        close(end[1]);
#pragma omp parallel num_threads(2)
        {
#pragma omp critical
            show(omp_get_thread_num() ? "thread1" : "thread0");
        }
        return 0;
    }
    if (wait_for(worker)) show_text("worker", "died");
    close(end[1]);
    if (wait_for(other)) show_text("other", "died");
}
