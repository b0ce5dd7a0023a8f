// A library whose constructor makes children, before main and perhaps before a preload's constructor.
#include "test.h"

__attribute__((constructor)) static void start(void) {
    show("at_start");
    pid_t pid = fork();
    if (pid == 0) {
        show("early_fork");
        _exit(0);
    }
    wait_for(pid);
    if (system("report early_system")) show_text("early_system", "failed");
}
