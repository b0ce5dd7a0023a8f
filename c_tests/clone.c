// clone() of libc, as a fork, as a vfork, and as a bare thread.
// case fork_like on all: child=pin parent=pin -> child=full parent=pin
// case vfork_like on all: child=pin parent=pin -> child=full parent=pin
// case vfork_exec on all: child=pin parent=pin -> child=full parent=pin
// case thread_like on all: child=pin parent=pin -> child=full parent=pin
// case alias on all: child=pin parent=pin -> child=full parent=pin
// case argument on all: argument=kept returned=7 parent=pin -> argument=kept returned=7 parent=pin
#include "test.h"
#include <linux/futex.h>

static char stack[256 * 1024] __attribute__((aligned(16)));
static char *const top = stack + sizeof stack;

int __clone(int (*function)(void *), void *stack, int flags, void *argument, ...);

static int run_show(void *argument) {
    show("child");
    raw(SYS_exit, 0, 0, 0); /* not exit_group: thread_like shares our process */
    return 0;
}
static int run_exec(void *argument) {
    execl(reporter(), "report", "child", (char *)NULL);
    return 127;
}
static int run_argument(void *argument) {
    show_text("argument", argument == stack ? "kept" : "lost");
    return 7; /* clone() turns it into the exit status */
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    pin();
    if (!strcmp(name, "fork_like")) wait_for(clone(run_show, top, SIGCHLD, NULL));
    if (!strcmp(name, "alias")) wait_for(__clone(run_show, top, SIGCHLD, NULL));
    if (!strcmp(name, "vfork_like")) wait_for(clone(run_show, top, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    if (!strcmp(name, "vfork_exec")) wait_for(clone(run_exec, top, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    if (!strcmp(name, "argument")) show_number("returned", WEXITSTATUS(wait_for(clone(run_argument, top, SIGCHLD, stack))));
    if (!strcmp(name, "thread_like")) {
        /* All seven arguments: the kernel clears the word and wakes us when the thread has ended. */
        static volatile int alive = 1;
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
        clone(run_show, top, flags, NULL, NULL, NULL, (void *)&alive);
        while (alive) syscall(SYS_futex, &alive, FUTEX_WAIT, 1, NULL, NULL, 0);
    }
    show("parent");
}
