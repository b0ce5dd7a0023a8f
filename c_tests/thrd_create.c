// thrd_create(): does not call pthread_create inside.
// case thread on all: child=pin result=7 parent=pin -> child=full result=7 parent=pin
#include "test.h"
#include <threads.h>

static int run(void *argument) {
    show("child");
    return 7;
}

int main(void) {
    thrd_t thread;
    int result = -1;
    pin();
    if (thrd_create(&thread, run, NULL) != thrd_success) return 1;
    thrd_join(thread, &result);
    show_number("result", result);
    show("parent");
}
