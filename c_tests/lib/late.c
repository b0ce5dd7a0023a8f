// A library whose destructor makes children: after main, and after some runtimes have set the mask back.
#include "test.h"

__attribute__((destructor)) static void end(void) {
    show("at_end");
    if (system("report late_system")) show_text("late_system", "failed");
    pid_t pid = fork();
    if (pid == 0) {
        show("late_fork");
        _exit(0);
    }
    wait_for(pid);
}
