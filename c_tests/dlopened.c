// libgomp loaded while the program runs, as an import does: its constructor pins the thread that loads it, and no other.
// case main:{fork,vfork,system,pthread_create} on none: loader=narrow child=@loader parent=@loader -> loader=narrow child=full parent=@loader
// case thread:{fork,vfork,system,pthread_create} on none: loader=narrow child=@loader parent=full -> loader=narrow child=full parent=full
// case user:{fork,vfork,pthread_create} on none: loader=last child=last parent=last -> loader=last child=last parent=last
// env *: OMP_PROC_BIND=true
#include "ways.h"
#include <dlfcn.h>

static void *load(void *way) {
    if (!dlopen("libgomp.so.1", RTLD_NOW)) show_text("error", dlerror());
    show("loader");
    make_child(way);
    return NULL;
}

int main(int argc, char **argv) {
    char *where = strtok(argv[1], ":"), *way = strtok(NULL, ":");
    pthread_t thread;
    if (!strcmp(where, "user")) choose(0, last_cpu());
    if (!strcmp(where, "thread")) {
        pthread_create(&thread, NULL, load, way);
        pthread_join(thread, NULL);
    } else {
        load(way);
    }
    show("parent");
}
