// A program that exports an entry point of OpenBLAS, as one linked to a static OpenBLAS with -rdynamic: the masks
// it sets are its user's. What a runtime beside it sets is a pin as ever.
// case {fork,vfork,posix_spawn,system,pthread_create}:user on none: child=first parent=first -> child=first parent=first
// case {fork,vfork,posix_spawn,system,pthread_create}:user on libgomp: child=first parent=first -> child=first parent=first
// case {fork,vfork,system,pthread_create}:runtime on libgomp: child=first parent=first -> child=full parent=first
// case exec:user on none,libgomp: child=first -> child=first
// link: -rdynamic
#include "ways.h"

char *openblas_get_config(void);
char *openblas_get_config(void) { return "static"; }
int scipy_openblas_get_config64_(void);
int scipy_openblas_get_config64_(void) { return 0; }

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *setter = strtok(NULL, ":");
#ifdef _OPENMP
    pin();
#endif
    if (!strcmp(setter, "user")) choose(0, first_cpu());
    make_child(way);
    show("parent");
}
