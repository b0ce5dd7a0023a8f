// When the user may have no more processes: every call fails as libc's does, and leaves the caller pinned.
// (Which of two errors some of them report depends on the version of glibc.)
// case {fork,vfork,_Fork,clone,syscall_fork,syscall_clone,syscall_vfork,forkpty,daemon} on all: returned=-1 errno=EAGAIN parent=pin -> returned=-1 errno=EAGAIN parent=pin
// case pthread_create on all: returned=EAGAIN parent=pin -> returned=EAGAIN parent=pin
// case posix_spawn on all: returned=EAGAIN|EPERM parent=pin -> returned=EAGAIN|EPERM parent=pin
// case thrd_create on all: returned=error parent=pin -> returned=error parent=pin
// case system on all: returned=32512|-1 errno=EAGAIN|EPERM parent=pin -> returned=32512|-1 errno=EAGAIN|EPERM parent=pin
// case popen on all: returned=NULL errno=ENOMEM|EAGAIN parent=pin -> returned=NULL errno=ENOMEM|EAGAIN parent=pin
#include "test.h"
#include <pty.h>
#include <spawn.h>
#include <sys/resource.h>
#include <threads.h>

static char stack[64 * 1024] __attribute__((aligned(16)));

static int run_process(void *argument) { return 0; }
static void *run_thread(void *argument) { return argument; }

static long make(const char *way) {
    int terminal;
    if (!strcmp(way, "fork")) return fork();
    if (!strcmp(way, "vfork")) {
        pid_t pid = vfork();
        if (pid == 0) _exit(0);
        return pid;
    }
    if (!strcmp(way, "_Fork")) return _Fork();
    if (!strcmp(way, "clone")) return clone(run_process, stack + sizeof stack, SIGCHLD, NULL);
    if (!strcmp(way, "syscall_fork")) return syscall(SYS_fork);
    if (!strcmp(way, "syscall_clone")) return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (!strcmp(way, "syscall_vfork")) return syscall(SYS_vfork);
    if (!strcmp(way, "forkpty")) return forkpty(&terminal, NULL, NULL, NULL);
    if (!strcmp(way, "daemon")) return daemon(1, 1);
    return system("true");
}

int main(int argc, char **argv) {
    const char *way = argv[1];
    struct rlimit none = {0, 0};
    pthread_t thread;
    thrd_t thrd;
    pid_t pid;
    need(strcmp(way, "_Fork") || _Fork != NULL, "_Fork (2.34 and later have)");
    pin();
    /* The limit is for everybody but root. */
    setrlimit(RLIMIT_NPROC, &none);
    if (geteuid() == 0 && setresuid(65534, 65534, 65534)) return 1;
    errno = 0;
    if (!strcmp(way, "posix_spawn")) {
        show_errno("returned", posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ));
    } else if (!strcmp(way, "pthread_create")) {
        show_errno("returned", pthread_create(&thread, NULL, run_thread, NULL));
    } else if (!strcmp(way, "thrd_create")) {
        show_text("returned", thrd_create(&thrd, run_process, NULL) == thrd_success ? "success" : "error");
    } else if (!strcmp(way, "popen")) {
        show_text("returned", popen("true", "r") ? "a pipe" : "NULL");
        show_errno("errno", errno);
    } else {
        long result = make(way);
        int error = errno;
        if (result == 0) _exit(0);
        show_number("returned", result);
        show_errno("errno", error);
    }
    show("parent");
}
