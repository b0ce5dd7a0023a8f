// A mask in the process's default thread attributes (pthread_setattr_default_np) is the user's.
// case last on all: child=last parent=pin -> child=last parent=pin
// case equal on all: child=pin parent=pin -> child=pin parent=pin
#include "ways.h"

int main(int argc, char **argv) {
    pthread_attr_t attributes;
    cpu_set_t set;
    pin();
    set_only(&set, strcmp(argv[1], "equal") ? last_cpu() : first_cpu());
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    if (pthread_setattr_default_np(&attributes)) return 1;
    make_child("pthread_create");
    show("parent");
}
