// Results and errno of failing calls that make processes and threads are libc's. (In a forked child LLVM's own
// atfork handler may change errno.)
// case all on all: execv=EFAULT execve=EACCES execvp=ENOENT execle=ENOENT clone=EINVAL clone3=EINVAL pthread_create=EINVAL posix_spawn=EACCES too_long=E2BIG parent=pin -> execv=EFAULT execve=EACCES execvp=ENOENT execle=ENOENT clone=EINVAL clone3=EINVAL pthread_create=EINVAL posix_spawn=EACCES too_long=E2BIG parent=pin
// case errno on libgomp: fork=kept child=kept vfork=kept thread=kept parent=pin -> fork=kept child=kept vfork=kept thread=kept parent=pin
// case errno on llvm: fork=kept child=kept|changed vfork=kept thread=kept parent=pin -> fork=kept child=kept|changed vfork=kept thread=kept parent=pin
// cflags: -Wno-nonnull
#include "test.h"
#include <spawn.h>

static void *run(void *argument) { return argument; }
static void show_kept(const char *label) { show_text(label, errno == ENOTTY ? "kept" : "changed"); }

static void all(void) {
    static char long_word[4 << 20]; /* beyond the limit of one argument, 128 KiB */
    char *arguments[] = {"x", NULL}, *too_long[] = {"x", long_word, NULL};
    pthread_attr_t attributes;
    pthread_t thread;
    pid_t pid;
    cpu_set_t none;
    memset(long_word, 'x', sizeof long_word - 1);
    show_errno("execv", execv(NULL, arguments) ? errno : 0);
    show_errno("execve", execve("/", arguments, environ) ? errno : 0);
    show_errno("execvp", execvp("", arguments) ? errno : 0);
    show_errno("execle", execle("/nonexistent", "x", (char *)NULL, environ) ? errno : 0);
    show_errno("clone", clone(NULL, NULL, SIGCHLD, NULL) < 0 ? errno : 0);
    show_errno("clone3", syscall(SYS_clone3, NULL, 0) < 0 ? errno : 0);
    CPU_ZERO(&none);
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof none, &none);
    show_errno("pthread_create", pthread_create(&thread, &attributes, run, NULL));
    show_errno("posix_spawn", posix_spawn(&pid, "/", NULL, NULL, arguments, environ));
    show_errno("too_long", execv("/bin/true", too_long) ? errno : 0);
}

static void kept(void) {
    pthread_t thread;
    errno = ENOTTY;
    pid_t pid = fork();
    if (pid == 0) {
        show_kept("child");
        _exit(0);
    }
    show_kept("fork");
    wait_for(pid);
    errno = ENOTTY;
    if ((pid = vfork()) == 0) _exit(0);
    show_kept("vfork");
    wait_for(pid);
    errno = ENOTTY;
    pthread_create(&thread, NULL, run, NULL);
    show_kept("thread");
    pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
    pin();
    if (!strcmp(argv[1], "all")) all();
    else kept();
    show("parent");
}
