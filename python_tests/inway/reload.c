/* reload RUNTIME LIBRARY FIRST LAST ROUNDS: loads and unloads a runtime that pins the thread to FIRST and a library
 * that sets the user's mask LAST, in turns and at one address, and prints what the children of each had. */
#include "inway.h"
#include <dlfcn.h>

static char *load_and_set(const char *path, int cpu, void **address) {
    static char mask[256];
    int pipe_fds[2];
    void *handle = dlopen(path, RTLD_NOW);
    if (!handle) exit(96);
    void (*set)(int) = (void (*)(int))dlsym(handle, "set");
    *address = (void *)set;
    set(cpu);
    if (pipe(pipe_fds)) exit(95);
    pid_t pid = fork();
    if (pid == 0) {
        mask_text(mask, sizeof mask);
        _exit(write(pipe_fds[1], mask, sizeof mask) < 0);
    }
    wait_for(pid);
    if (read(pipe_fds[0], mask, sizeof mask) < 0) exit(94);
    close(pipe_fds[0]), close(pipe_fds[1]);
    dlclose(handle);
    return mask;
}

int main(int argc, char **argv) {
    cpu_set_t all;
    int at_one_address = 0;
    if (argc < 6) return 97;
    sched_getaffinity(0, sizeof all, &all);
    for (int i = 0; i < atoi(argv[5]); i++) {
        void *at[2];
        printf("runtime %s ", load_and_set(argv[1], atoi(argv[3]), &at[0]));
        printf("library %s\n", load_and_set(argv[2], atoi(argv[4]), &at[1]));
        at_one_address += at[0] == at[1];
        sched_setaffinity(0, sizeof all, &all);
    }
    fprintf(stderr, "%s", at_one_address ? "" : "never at one address\n");
    return 0;
}
