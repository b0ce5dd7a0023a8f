// Children made where the stack is small: in a signal handler on an alternate stack of 8 KiB, and in threads with the
// smallest stack there is. A guard page lies below each.
// (LLVM's own atfork handler needs more than 8 KiB.)
// case signal:{fork,_Fork,vfork,clone,pthread_create} on libgomp: child=pin parent=pin -> child=full parent=pin
// case signal:{_Fork,vfork,clone} on llvm: child=pin parent=pin -> child=full parent=pin
// case thread:{fork,_Fork,vfork,posix_spawn,clone,pthread_create} on all: child=pin parent=pin -> child=full parent=pin
#include "ways.h"
#include <limits.h>
#include <sys/mman.h>

static const char *way;

static void on_signal(int number) { make_child(way); }

static void *on_smallest_stack(void *argument) {
    make_child(way);
    return NULL;
}

static char *guarded(size_t size) {
    char *pages = mmap(NULL, 4096 + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, 4096, PROT_NONE)) exit(1);
    return pages + 4096;
}

int main(int argc, char **argv) {
    char *where = strtok(argv[1], ":");
    way = strtok(NULL, ":");
    pin();
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
        if (pthread_create(&thread, &small, on_smallest_stack, NULL)) return 1;
        pthread_join(thread, NULL);
    }
    show("parent");
}
