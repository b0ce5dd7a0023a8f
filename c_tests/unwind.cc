// C++: a cancelled thread, one that calls pthread_exit, and one that throws, unwind through the hooked call.
// case cancel on libgomp,libomp19: object=destroyed joined=cancelled parent=pin -> object=destroyed joined=cancelled parent=pin
// case exit on libgomp,libomp19: object=destroyed joined=value parent=pin -> object=destroyed joined=value parent=pin
// case throw on libgomp,libomp19: object=destroyed caught=7 child=pin parent=pin -> object=destroyed caught=7 child=full parent=pin
// case terminate on libgomp,libomp19: exit=-6 stderr=terminate -> exit=-6 stderr=terminate
#include "test.h"
#include <exception>
#include <thread>

static const char *name;
static int value;
static volatile bool started;

struct Object {
    ~Object() { show_text("object", "destroyed"); }
};

static void *run(void *) {
    Object object;
    started = true;
    if (!strcmp(name, "exit")) pthread_exit(&value);
    for (;;) pause();
    return nullptr;
}

int main(int, char **argv) {
    name = argv[1];
    pin();
    if (!strcmp(name, "throw")) {
        std::thread([] {
            try {
                Object object;
                throw 7;
            } catch (int number) {
                show_number("caught", number);
            }
            show("child");
        }).join();
    } else if (!strcmp(name, "terminate")) {
        std::set_terminate([] {
            dprintf(2, "terminate\n");
            abort();
        });
        std::thread([] { throw 7; }).join();
    } else {
        pthread_t thread;
        void *result = nullptr;
        pthread_create(&thread, nullptr, run, nullptr);
        while (!started) sched_yield();
        if (!strcmp(name, "cancel")) pthread_cancel(thread);
        pthread_join(thread, &result);
        show_text("joined", result == PTHREAD_CANCELED ? "cancelled" : result == &value ? "value" : "other");
    }
    show("parent");
}
