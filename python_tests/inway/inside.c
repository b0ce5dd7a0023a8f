/* A library whose constructor starts a thread and waits for it. The loader's lock is held meanwhile, and not by that
 * thread: what it calls must not want the lock. Without -shared: the program that loads the library it is given. */
#include "inway.h"
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>

#ifdef LIBRARY
static void *nothing(void *arg) { return arg; }

static void *work(void *arg) {
    char *argv[] = {"true", NULL};
    cpu_set_t set;
    pthread_t thread;
    sched_getaffinity(0, sizeof set, &set);
    sched_setaffinity(0, sizeof set, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    syscall(SYS_sched_setaffinity, 0, sizeof set, &set);
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    int status = wait_for(pid);
    pid = vfork();
    if (pid == 0) {
        execvp("true", argv);
        _exit(126);
    }
    status |= wait_for(pid);
    status |= posix_spawnp(&pid, "true", NULL, NULL, argv, environ);
    status |= wait_for(pid);
    status |= system("true");
    status |= pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL);
    *(int *)arg = status;
    return NULL;
}

__attribute__((constructor)) static void start(void) {
    int status = -1;
    pthread_t thread;
    pthread_create(&thread, NULL, work, &status);
    pthread_join(thread, NULL);
    printf("inside %d\n", status);
    fflush(stdout);
}
#else
/* inside LIBRARY... */
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!dlopen(argv[i], RTLD_NOW)) puts(dlerror());
    return 0;
}
#endif
