// The creator binds its new child from outside, at once: pthread_setaffinity_np on a new thread, sched_setaffinity on a
// new process. That is the user's mask, also when it equals the creator's pin, however late the child starts.
// case {thread,thrd}:last on all: children=300 lost=none parent=pin -> children=300 lost=none parent=pin
// case {thread,thrd}:equal on all: children=300 lost=none parent=pin -> children=300 lost=none parent=pin
// case {fork,_Fork}:last on libgomp: children=300 lost=none parent=pin -> children=300 lost=none parent=pin
// case {fork,_Fork}:equal on libgomp: children=300 lost=none parent=pin -> children=300 lost=none parent=pin
#include "test.h"
#include <threads.h>

enum { CHILDREN = 300 };
static int cpu, go[2];

/* Waits for the creator's word, then says whether it is where the creator put it. */
static int lost(void) {
    unsigned char mask[MASK_BYTES] = {0}, wanted[MASK_BYTES] = {0};
    char byte;
    while (read(go[0], &byte, 1) < 0) {}
    wanted[cpu / 8] = (unsigned char)(1 << cpu % 8);
    raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
    return memcmp(mask, wanted, sizeof mask) != 0;
}
static void *in_thread(void *argument) { return lost() ? argument : NULL; }
static int in_thrd(void *argument) { return lost(); }

static int one(const char *way) {
    cpu_set_t set;
    pthread_t thread;
    thrd_t thrd;
    void *result = NULL;
    int value = 0;
    pid_t pid = -1;
    set_only(&set, cpu);
    if (!strcmp(way, "thread")) {
        pthread_create(&thread, NULL, in_thread, &set);
        pthread_setaffinity_np(thread, sizeof set, &set);
        if (write(go[1], "", 1) != 1) exit(1);
        pthread_join(thread, &result);
        return result != NULL;
    }
    if (!strcmp(way, "thrd")) {
        thrd_create(&thrd, in_thrd, NULL);
        pthread_setaffinity_np((pthread_t)thrd, sizeof set, &set);
        if (write(go[1], "", 1) != 1) exit(1);
        thrd_join(thrd, &value);
        return value;
    }
    pid = strcmp(way, "fork") ? _Fork() : fork();
    if (pid == 0) _exit(lost());
    sched_setaffinity(pid, sizeof set, &set);
    if (write(go[1], "", 1) != 1) exit(1);
    return WEXITSTATUS(wait_for(pid));
}

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *which = strtok(NULL, ":");
    int sum = 0;
    need(strcmp(way, "_Fork") || _Fork != NULL, "_Fork (2.34 and later have)");
    if (pipe(go)) return 1;
    cpu = strcmp(which, "equal") ? last_cpu() : first_cpu();
    pin();
    for (int i = 0; i < CHILDREN; i++) sum += one(way);
    show_number("children", CHILDREN);
    if (sum) show_number("lost", sum);
    else show_text("lost", "none");
    show("parent");
}
