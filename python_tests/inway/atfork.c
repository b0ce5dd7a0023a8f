/* atfork CPU: a program with atfork handlers of its own; the child's sets a mask. Prints how often each ran, and the
 * mask of each child. */
#include "inway.h"
#include <pthread.h>
#include <pty.h>

static int prepared, in_parent, in_child, cpu, chooses;

static void prepare(void) { prepared++; }
static void parent(void) { in_parent++; }
static void child(void) {
    in_child++;
    if (chooses) set_one_cpu(0, cpu);
}

static void report_child(const char *label) {
    char mask[256];
    mask_text(mask, sizeof mask);
    dprintf(1, "%s %s child %d\n", label, mask, in_child);
    _exit(0);
}

int main(int argc, char **argv) {
    int terminal, out = dup(1);
    cpu = argc > 1 ? atoi(argv[1]) : 0;
    pthread_atfork(prepare, parent, child);
    enter_region();
    for (chooses = 0; chooses < 2; chooses++) {
        pid_t pid = fork();
        if (pid == 0) report_child(chooses ? "fork+choice" : "fork");
        wait_for(pid);
        pid = forkpty(&terminal, NULL, NULL, NULL);
        if (pid == 0) {
            dup2(out, 1);
            report_child(chooses ? "forkpty+choice" : "forkpty");
        }
        wait_for(pid);
        close(terminal);
        pid = _Fork(); /* runs no handlers */
        if (pid == 0) report_child(chooses ? "_Fork+choice" : "_Fork");
        wait_for(pid);
    }
    char mask[256];
    mask_text(mask, sizeof mask);
    dprintf(1, "parent %s prepared %d, in the parent %d\n", mask, prepared, in_parent);
    return 0;
}
