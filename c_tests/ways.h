/* Every way of making a child, by name, for the programs about masks and switches. Each prints "child MASK".
 * The programs named after a way test the call itself. */
#include "test.h"
#include <pty.h>
#include <spawn.h>
#include <threads.h>

static void *way_thread(void *argument) {
    show("child");
    return NULL;
}
static int way_thrd(void *argument) {
    show("child");
    return 0;
}
static int way_clone(void *argument) {
    show("child");
    return 0;
}
static void way_exit(void) {
    show("child");
    _exit(0);
}

static void make_child(const char *way) {
    static char stack[64 * 1024] __attribute__((aligned(16)));
    char *arguments[] = {"report", "child", NULL};
    pthread_t thread;
    thrd_t thrd;
    int terminal, output = dup(1);
    pid_t pid = -1;
    if (!strcmp(way, "fork")) {
        if ((pid = fork()) == 0) way_exit();
    } else if (!strcmp(way, "_Fork")) {
        need(_Fork != NULL, "_Fork (2.34 and later have)");
        if ((pid = _Fork()) == 0) way_exit();
    } else if (!strcmp(way, "forkpty")) {
        if ((pid = forkpty(&terminal, NULL, NULL, NULL)) == 0) {
            dup2(output, 1);
            way_exit();
        }
    } else if (!strcmp(way, "vfork")) {
        if ((pid = vfork()) == 0) {
            execv(reporter(), arguments);
            _exit(127);
        }
    } else if (!strcmp(way, "fork_exec")) {
        if ((pid = fork()) == 0) {
            execv(reporter(), arguments);
            _exit(127);
        }
    } else if (!strcmp(way, "posix_spawn")) {
        if (posix_spawn(&pid, reporter(), NULL, NULL, arguments, environ)) pid = -1;
    } else if (!strcmp(way, "system")) {
        if (system("report child")) show_text("child", "failed");
    } else if (!strcmp(way, "popen")) {
        FILE *pipe = popen("report child", "w");
        if (pipe) pclose(pipe);
    } else if (!strcmp(way, "clone")) {
        pid = clone(way_clone, stack + sizeof stack, SIGCHLD, NULL);
    } else if (!strcmp(way, "syscall_fork")) {
        if ((pid = (pid_t)syscall(SYS_fork)) == 0) way_exit();
    } else if (!strcmp(way, "exec")) {
        execv(reporter(), arguments);
    } else if (!strcmp(way, "pthread_create")) {
        if (!pthread_create(&thread, NULL, way_thread, NULL)) pthread_join(thread, NULL);
    } else if (!strcmp(way, "thrd_create")) {
        if (thrd_create(&thrd, way_thrd, NULL) == thrd_success) thrd_join(thrd, NULL);
    } else {
        show_text("child", "no such way");
    }
    if (pid > 0) wait_for(pid);
    close(output);
}
