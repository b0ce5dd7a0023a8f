// pthread_create(): the new thread has all CPUs, unless its attributes say otherwise.
// case no_attributes on all: child=pin parent=pin -> child=full parent=pin
// case attributes on all: child=pin stack=asked parent=pin -> child=full stack=asked parent=pin
// case affinity_last on all: child=last parent=pin -> child=last parent=pin
// case affinity_equal_to_pin on all: child=pin parent=pin -> child=pin parent=pin
// case attribute_reused on all: child=last parent=pin reread=last -> child=last parent=pin reread=last
#include "test.h"

static void *run(void *argument) {
    pthread_attr_t mine;
    size_t size = 0;
    show("child");
    if (argument) {
        pthread_getattr_np(pthread_self(), &mine);
        pthread_attr_getstacksize(&mine, &size);
        show_text("stack", size == 1 << 20 ? "asked" : "other");
    }
    return NULL;
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    pthread_t thread;
    pthread_attr_t attributes;
    cpu_set_t set;
    pin();
    pthread_attr_init(&attributes);
    set_only(&set, strcmp(name, "affinity_equal_to_pin") ? last_cpu() : first_cpu());
    if (!strncmp(name, "affinity", 8) || !strcmp(name, "attribute_reused"))
        pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    if (!strcmp(name, "attributes")) pthread_attr_setstacksize(&attributes, 1 << 20);
    pthread_create(&thread, strcmp(name, "no_attributes") ? &attributes : NULL, run, strcmp(name, "attributes") ? NULL : argv);
    pthread_join(thread, NULL);
    show("parent");
    if (!strcmp(name, "attribute_reused")) {
        unsigned char read_back[128];
        char text[256];
        memset(read_back, 0, sizeof read_back);
        pthread_attr_getaffinity_np(&attributes, sizeof read_back, (cpu_set_t *)read_back);
        unsigned char whole[MASK_BYTES] = {0};
        memcpy(whole, read_back, sizeof read_back);
        format_mask(whole, text, sizeof text);
        show_text("reread", text);
    }
}
