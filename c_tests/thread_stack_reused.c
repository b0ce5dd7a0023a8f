// A thread on the stack of one that a runtime had pinned and that has ended: its user mask, equal to the old pin, is its
// own, and its forks keep it. The name is WAY:SOURCE, where the mask comes from.
// case {fork,_Fork,forkpty,vfork,syscall_fork,system,pthread_create}:{attribute,inherited} on all: reused=yes own=first child=first -> reused=yes own=first child=first
// case {fork,vfork}:nothing on llvm: reused=yes own=full child=full -> reused=yes own=full child=full
#include "ways.h"

static pthread_t old;

static void *pinned(void *argument) {
    old = pthread_self();
    pin();
    return NULL;
}

static void *makes_child(void *way) {
    show_text("reused", pthread_equal(old, pthread_self()) ? "yes" : "no");
    show("own");
    make_child(way);
    return NULL;
}

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *source = strtok(NULL, ":");
    pthread_attr_t attributes;
    pthread_t thread;
    cpu_set_t set;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 512 * 1024); /* of a size that no runtime's own thread has */
    pthread_create(&thread, &attributes, pinned, NULL);
    pthread_join(thread, NULL);
    if (!strcmp(source, "attribute")) {
        set_only(&set, first_cpu());
        pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    }
    if (!strcmp(source, "inherited")) choose(0, first_cpu());
    pthread_create(&thread, &attributes, makes_child, way);
    pthread_join(thread, NULL);
}
