// Workers are placed where the stack is small, too: in a signal handler on an alternate stack of 8 KiB, and in a thread
// with the smallest stack there is. A guard page lies below each.
// case {signal,thread}:{fork,_Fork} on none: worker=full child=full grandchild=full parent=full -> worker=first child=first|last grandchild=first|last parent=full
// case {signal,thread}:ask on none: worker=full asked=1 parent=full -> worker=first asked=1 parent=full
// env *: KNLFIX_PLACE=core
// link: -Wl,-z,now
#include "test.h"
#include <limits.h>
#include <sys/mman.h>

static const char *way, *label;

static void act(void) {
    cpu_set_t mask;
    if (!strcmp(way, "ask")) return show_number("asked", !sched_getaffinity(0, sizeof mask, &mask));
    need(_Fork != NULL, "_Fork (2.34 and later have)");
    pid_t pid = strcmp(way, "fork") ? _Fork() : fork();
    if (pid == 0) {
        show(label);
        _exit(0);
    }
    wait_for(pid);
}

static void on_signal(int number) { act(); }

static void *on_smallest_stack(void *argument) {
    act();
    return NULL;
}

static char *guarded(size_t size) {
    char *pages = mmap(NULL, 4096 + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, 4096, PROT_NONE)) exit(1);
    return pages + 4096;
}

static void act_on_small_stack(const char *where) {
    if (!strcmp(where, "signal")) {
        stack_t alternate = {.ss_sp = guarded(8192), .ss_size = 8192};
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
        sigaltstack(&alternate, NULL);
        sigaction(SIGUSR1, &action, NULL);
        raise(SIGUSR1);
    } else {
        pthread_t thread;
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, (size_t)PTHREAD_STACK_MIN);
        if (pthread_create(&thread, &small, on_smallest_stack, NULL)) exit(1);
        pthread_join(thread, NULL);
    }
}

int main(int argc, char **argv) {
    char *where = strtok(argv[1], ":");
    way = strtok(NULL, ":");
    label = "child";
    if (strcmp(way, "ask")) act_on_small_stack(where);
    pid_t worker = fork();
    if (worker == 0) {
        show("worker");
        label = "grandchild";
        act_on_small_stack(where);
        return 0;
    }
    if (wait_for(worker)) show_text("worker", "died");
    show("parent");
}
