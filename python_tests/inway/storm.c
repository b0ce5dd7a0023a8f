/* storm MASK SLOW CPU FORKS: forks while other threads hold the locks of the loader, of malloc and of stdio. Each child
 * makes a call that we hook; one that waits for a lock nobody will release is ended by its alarm. Prints how many
 * children hung, failed, and how many began on more than one CPU.
 *
 * glibc's fork makes the locks of malloc, stdio and the loader anew for its child. _Fork and the system call do not:
 * their children may only call what signal handlers may, affinity calls and exec among it. */
#include "inway.h"
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>

static volatile int stop;
static const char *slow_library;

static void *load(void *arg) {
    while (!stop) {
        void *handle = dlopen(slow_library, RTLD_NOW | RTLD_LOCAL);
        if (!handle) abort();
        dlclose(handle);
    }
    return arg;
}

static void *allocate(void *arg) {
    while (!stop) {
        for (size_t size = 16; size < 200000; size *= 3) {
            char *volatile memory = malloc(size);
            memory[0] = 1;
            free(memory);
        }
        usleep(100);
    }
    return arg;
}

static void *print(void *arg) {
    FILE *file = fopen("/dev/null", "w");
    while (!stop) {
        for (int i = 0; i < 100; i++) fprintf(file, "%d %s\n", i, "some text");
        fflush(NULL);
        usleep(100);
    }
    fclose(file);
    return arg;
}

static void *nothing(void *arg) { return arg; }

enum { WAYS = 8, MAKERS = 3 };

static pid_t make(int maker) {
    return maker == 0 ? fork() : maker == 1 ? _Fork() : (pid_t)syscall(SYS_fork);
}

static int child(int maker, int way, const char *mask, int cpu) {
    static char fd[12];
    char text[256], *argv[] = {(char *)mask, fd, "child", NULL};
    cpu_set_t set;
    pthread_t thread;
    pid_t pid;
    snprintf(fd, sizeof fd, "%d", open("/dev/null", O_WRONLY));
    mask_text(text, sizeof text);
    int wide = strpbrk(text, ",-") != NULL; /* the status of a child that makes one of its own */
    alarm(15);
    switch (way) {
    case 0:
        break;
    case 1: /* as a preexec_fn that pins */
        set_one_cpu(0, cpu);
        mask_text(text, sizeof text);
        if (atoi(text) != cpu || strpbrk(text, ",-")) return 3;
        break;
    case 2:
        if (sched_getaffinity(0, sizeof set, &set)) return 3;
        break;
    case 3:
        if (posix_spawn(&pid, mask, NULL, NULL, argv, environ) || wait_for(pid)) return 3;
        break;
    case 4:
        pid = vfork();
        if (pid == 0) {
            execve(mask, argv, environ);
            _exit(126);
        }
        if (wait_for(pid)) return 3;
        break;
    case 5:
        pid = make(maker);
        if (pid == 0) _exit(wide ? 0 : 1);
        if (wait_for(pid) != !wide) return 3;
        break;
    case 6:
        if (maker) break;
        if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL)) return 3;
        break;
    case 7: /* in place: the mask cannot be told by the status, so it is by how the child ends */
        if (!wide) _exit(1);
        execve(mask, argv, environ);
        return 3;
    }
    return wide ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc < 5) return 97;
    int hung = 0, failed = 0, wide = 0, forks = atoi(argv[4]);
    pthread_t threads[4];
    slow_library = argv[2];
    pthread_create(&threads[0], NULL, load, NULL);
    pthread_create(&threads[1], NULL, allocate, NULL);
    pthread_create(&threads[2], NULL, print, NULL);
    pthread_create(&threads[3], NULL, load, NULL);
    usleep(5000);
    enter_region();
    for (int i = 0; i < forks; i++) {
        pid_t pid = make(i / WAYS % MAKERS);
        if (pid == 0) _exit(child(i / WAYS % MAKERS, i % WAYS, argv[1], atoi(argv[3])));
        int status = pid < 0 ? 99 : wait_for(pid);
        wide += status == 0;
        hung += status == 128 + SIGALRM;
        failed += status > 1 && status != 128 + SIGALRM;
        if (hung > 1) break; /* enough has been seen */
    }
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    printf("hung %d, failed %d, wide %d\n", hung, failed, wide);
    return 0;
}
