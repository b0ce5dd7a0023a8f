// Twenty thousand threads that are bound, make nothing and end; the next one is still known, bound by a runtime or by
// its user. The library that binds is called a runtime in one half of the cases.
// case runtime on none: bound=20000 child=last other=full -> bound=20000 child=full other=full
// case user on none: bound=20000 child=last other=full -> bound=20000 child=last other=full
// case alive:runtime on none: bound=1000 child=last other=full -> bound=1000 child=full other=full
// env *runtime: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "ways.h"

void bind_caller_to(int cpu);
static pthread_barrier_t all_bound, done;

static void *bound(void *argument) {
    bind_caller_to(last_cpu());
    if (argument) { /* stays alive while the others come */
        pthread_barrier_wait(&all_bound);
        pthread_barrier_wait(&done);
    }
    return NULL;
}
static void *bound_parent(void *argument) {
    bind_caller_to(last_cpu());
    make_child("vfork");
    return NULL;
}
static void *other(void *argument) {
    show("other");
    return NULL;
}
static pthread_t start(void *(*function)(void *), void *argument) {
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    if (pthread_create(&thread, &small, function, argument)) exit(1);
    return thread;
}

int main(int argc, char **argv) {
    int alive = !strncmp(argv[1], "alive", 5), count = alive ? 1000 : 20000;
    static pthread_t threads[1000];
    pthread_barrier_init(&all_bound, NULL, 1001);
    pthread_barrier_init(&done, NULL, 1001);
    for (int i = 0; i < count; i++) {
        pthread_t thread = start(bound, alive ? &all_bound : NULL);
        if (alive) threads[i] = thread;
        else pthread_join(thread, NULL);
    }
    if (alive) pthread_barrier_wait(&all_bound);
    show_number("bound", count);
    pthread_join(start(bound_parent, NULL), NULL);
    pthread_join(start(other, NULL), NULL);
    if (alive) {
        pthread_barrier_wait(&done);
        for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    }
}
