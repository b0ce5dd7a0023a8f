// Processes made through libc's syscall().
// case fork on all: child=pin parent=pin -> child=full parent=pin
// case clone on all: child=pin parent=pin -> child=full parent=pin
// case clone3 on all: child=pin parent=pin -> child=full parent=pin
// case vfork on all: child=pin parent=pin -> child=full parent=pin
// case clone_vfork on all: child=pin parent=pin -> child=full parent=pin
// case {clone_own_stack,clone3_own_stack}:{copied,shared} on all: child=pin parent=pin -> child=full parent=pin
// cflags: -fno-omit-frame-pointer
#include "test.h"
#include <linux/sched.h>

/* A vfork child that came back from syscall() shares the stack its parent will return on: it must leave the words
 * below its stack pointer alone, or the parent returns to a wrong place (with libc alone too). Locals are reached
 * through the frame pointer. */
#define STEP_AWAY() __asm__ volatile("sub $65536, %%rsp" ::: "memory")

/* A child on a stack of its own returns from syscall() too: the top of that stack says where to. */
static char stack[64 * 1024] __attribute__((aligned(16)));
static void child_on_own_stack(void) {
    __asm__ volatile("and $-16, %%rsp" ::: "memory");
    show("child");
    raw(SYS_exit, 0, 0, 0);
}
static long on_own_stack(const char *name) {
    long shared = strstr(name, ":shared") ? CLONE_VM | CLONE_VFORK : 0;
    void **top = (void **)(stack + sizeof stack - 64);
    *top = (void *)child_on_own_stack;
    if (!strncmp(name, "clone3", 6)) {
        struct clone_args arguments = {.flags = (uint64_t)shared, .exit_signal = SIGCHLD};
        arguments.stack = (uint64_t)(uintptr_t)stack;
        arguments.stack_size = (uint64_t)((char *)top - stack);
        return syscall(SYS_clone3, &arguments, sizeof arguments);
    }
    return syscall(SYS_clone, shared | SIGCHLD, top, NULL, NULL, NULL);
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    long pid = -1;
    pin();
    if (!strcmp(name, "vfork")) {
        pid = syscall(SYS_vfork);
        if (pid == 0) {
            STEP_AWAY();
            show("child");
            _exit(0);
        }
    } else if (!strcmp(name, "clone_vfork")) {
        pid = syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL);
        if (pid == 0) {
            STEP_AWAY();
            show("child");
            _exit(0);
        }
    } else if (strstr(name, "own_stack")) {
        pid = on_own_stack(name);
    } else {
        if (!strcmp(name, "fork")) pid = syscall(SYS_fork);
        if (!strcmp(name, "clone")) pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (!strcmp(name, "clone3")) pid = syscall(SYS_clone3, &arguments, sizeof arguments);
        if (pid == 0) {
            show("child");
            _exit(0);
        }
    }
    wait_for((pid_t)pid);
    show("parent");
}
