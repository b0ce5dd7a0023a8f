/* A preload whose constructor makes children, a thread and a mask of its own. In LD_PRELOAD after another library, its
 * constructor runs before that library's: every hook has to work by then. EARLY_CPU: the CPU it chooses. */
#include "inway.h"
#include <pthread.h>
#include <spawn.h>

static void *nothing(void *arg) { return arg; }

__attribute__((constructor)) static void early(void) {
    static char *argv[] = {"true", NULL}; /* found through PATH; itself started with this preload, hence the guard */
    if (!getenv("EARLY_CPU")) return;
    int cpu = atoi(getenv("EARLY_CPU"));
    unsetenv("EARLY_CPU");
    set_one_cpu(0, cpu);
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    int status = wait_for(pid);
    if (posix_spawnp(&pid, "true", NULL, NULL, argv, environ)) status = 1;
    else status |= wait_for(pid);
    status |= system("true");
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL)) status = 1;
    pid = vfork();
    if (pid == 0) {
        execvp("true", argv);
        _exit(126);
    }
    status |= wait_for(pid);
    if (status) _exit(97);
    if (getenv("EARLY_DONE")) dprintf(1, "early %d\n", status);
}
