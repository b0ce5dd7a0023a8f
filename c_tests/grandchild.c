// Children of children: what was repaired stays repaired, and a child that is pinned again is repaired again.
// case fork:vfork on libgomp: child=pin -> child=full
// case fork:vfork on llvm: child=full -> child=full
// case fork:region:vfork on llvm: again=narrow child=@again -> again=narrow child=full
// case fork:user:vfork on all: child=last -> child=last
// case thread:vfork on all: child=pin -> child=full
// case threads_off:vfork on all: child=pin -> child=full
// env threads_off:*: KNLFIX_THREADS=0
// env fork:region:vfork: KNLFIX_MOVE_PINS=off
// case thread:user:vfork on all: child=last -> child=last
// case exec:self on all: child=pin|@again again=narrow -> child=full again=narrow
#include "ways.h"

static const char *name;

static void *second(void *argument) {
    if (strstr(name, ":region")) {
#pragma omp parallel num_threads(2)
        sched_getcpu();
        show("again");
    }
    if (strstr(name, ":user")) choose(0, last_cpu());
    make_child("vfork");
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread;
    name = argv[1];
    if (argc > 2) { /* exec'd by ourselves: the runtime starts afresh and pins afresh */
#pragma omp parallel num_threads(2)
        sched_getcpu();
        show("again");
        make_child("vfork");
        return 0;
    }
    pin();
    if (!strncmp(name, "exec", 4)) {
        execl("/proc/self/exe", argv[0], argv[1], "again", (char *)NULL);
    } else if (!strncmp(name, "thread", 6)) {
        pthread_create(&thread, NULL, second, NULL);
        pthread_join(thread, NULL);
    } else {
        pid_t pid = fork();
        if (pid == 0) {
            second(NULL);
            _exit(0);
        }
        wait_for(pid);
    }
}
