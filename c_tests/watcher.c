// A thread that only asks for another thread's mask (a monitor, a job's progress thread) is not pinned by that. Some
// runtimes pin whoever calls into them first. The name is ASKS:WHEN the watcher is made, before or after the pin.
// case {function,pthread,syscall}:before on llvm: heard=pin own=full child=full parent=pin -> heard=full own=full child=full parent=pin
// case {function,pthread,syscall}:after on all: heard=pin own=pin child=pin parent=pin -> heard=full own=full child=full parent=pin
// case {function,pthread,syscall}:before on libgomp: heard=pin own=pin child=pin parent=pin -> heard=full own=full child=full parent=pin
#include "ways.h"

static pid_t main_tid;
static pthread_t main_thread;
static pthread_barrier_t pinned;

static void *watch(void *how) {
    unsigned char mask[MASK_BYTES] = {0};
    char text[512];
    pthread_barrier_wait(&pinned);
    if (!strcmp(how, "function")) sched_getaffinity(main_tid, sizeof mask, (cpu_set_t *)mask);
    if (!strcmp(how, "pthread")) pthread_getaffinity_np(main_thread, sizeof mask, (cpu_set_t *)mask);
    if (!strcmp(how, "syscall")) syscall(SYS_sched_getaffinity, main_tid, sizeof mask, mask);
    format_mask(mask, text, sizeof text);
    show_text("heard", text);
    show("own");
    make_child("vfork");
    return NULL;
}

int main(int argc, char **argv) {
    char *how = strtok(argv[1], ":"), *when = strtok(NULL, ":");
    pthread_t thread;
    main_tid = gettid();
    main_thread = pthread_self();
    pthread_barrier_init(&pinned, NULL, 2);
    if (!strcmp(when, "after")) pin();
    pthread_create(&thread, NULL, watch, how);
    if (!strcmp(when, "before")) pin();
    pthread_barrier_wait(&pinned);
    pthread_join(thread, NULL);
    show("parent");
}
