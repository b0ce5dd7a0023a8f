// While the pinned thread waits in system(), another thread chooses a mask for it, by number: that is where it goes on.
// case last on all: child=pin after=last -> child=full after=last
// case full on all: child=pin after=full -> child=full after=full
// case pin on all: child=pin after=pin next=pin -> child=full after=pin next=pin
#include "test.h"

static pid_t main_tid;
static const char *name;
static int ready[2];

static void *mover(void *argument) {
    cpu_set_t set;
    char byte;
    while (read(ready[0], &byte, 1) < 0) {} /* the command has begun */
    CPU_ZERO(&set);
    if (strcmp(name, "last")) CPU_SET(first_cpu(), &set);
    if (!strcmp(name, "full"))
        for (int cpu = first_cpu(); cpu < last_cpu(); cpu++) CPU_SET(cpu, &set);
    if (strcmp(name, "pin")) CPU_SET(last_cpu(), &set);
    if (sched_setaffinity(main_tid, sizeof set, &set)) show_errno("moved", errno);
    return NULL;
}

int main(int argc, char **argv) {
    char command[256];
    pthread_t thread;
    name = argv[1];
    main_tid = gettid();
    if (pipe(ready)) return 1;
    pthread_create(&thread, NULL, mover, NULL);
    pin();
    snprintf(command, sizeof command, "report child; echo >&%d; sleep 0.2", ready[1]);
    if (system(command)) return 1;
    show("after");
    pthread_join(thread, NULL);
    if (!strcmp(name, "pin") && system("report next")) return 1;
}
