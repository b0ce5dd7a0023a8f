// Cancelling and ending threads: cleanup handlers run and results arrive, as without the library.
// case in_pause on all: cleanup=ran destructor=ran joined=cancelled parent=pin -> cleanup=ran destructor=ran joined=cancelled parent=pin
// case in_system on all: cleanup=ran destructor=ran joined=cancelled parent=pin -> cleanup=ran destructor=ran joined=cancelled parent=pin
// case pthread_exit on all: cleanup=ran destructor=ran joined=value parent=pin -> cleanup=ran destructor=ran joined=value parent=pin
// case return on all: destructor=ran joined=value parent=pin -> destructor=ran joined=value parent=pin
// case in_system_pinned on llvm: cleanup=ran destructor=ran joined=cancelled parent=pin -> cleanup=ran destructor=ran joined=cancelled parent=pin
#include "test.h"

static const char *name;
static pthread_key_t key;
static int value;
static volatile int started;

static void cleanup(void *argument) { show_text("cleanup", argument == &value ? "ran" : "wrong argument"); }
static void destructor(void *argument) { show_text("destructor", argument == &value ? "ran" : "wrong argument"); }

static void *run(void *argument) {
    if (argument != &value) return NULL;
    pthread_setspecific(key, &value);
    if (!strcmp(name, "return")) return &value;
    pthread_cleanup_push(cleanup, &value);
    if (!strcmp(name, "in_system_pinned")) {
#pragma omp parallel num_threads(2)
        sched_getcpu();
    }
    started = 1;
    if (!strcmp(name, "pthread_exit")) pthread_exit(&value);
    if (!strncmp(name, "in_system", 9) && system("exec sleep 5") == -1) show_text("system", "failed");
    for (;;) pause();
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread;
    void *result = NULL;
    name = argv[1];
    pin();
    pthread_key_create(&key, destructor);
    if (pthread_create(&thread, NULL, run, &value)) return 1;
    if (!strncmp(name, "in_", 3)) {
        while (!started) sched_yield();
        usleep(20000);
        pthread_cancel(thread);
    }
    pthread_join(thread, &result);
    show_text("joined", result == PTHREAD_CANCELED ? "cancelled" : result == &value ? "value" : "other");
    show("parent");
}
