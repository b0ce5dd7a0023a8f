/* fiber CALL CPU: sets its mask from a fiber whose stack ends right above the call, where nothing can be read. The call
 * goes through a pointer, as foreign-function interfaces make it. */
#include "inway.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

static ucontext_t outside, fiber;
static const char *name;
static void *function;
static cpu_set_t set;

static void run_fiber(void) {
    char mask[256];
    long result;
    if (!strcmp(name, "syscall")) {
        result = ((long (*)(long, ...))function)(SYS_sched_setaffinity, 0, sizeof set, &set);
    } else if (!strcmp(name, "sched_setaffinity")) {
        result = ((int (*)(pid_t, size_t, const cpu_set_t *))function)(0, sizeof set, &set);
    } else {
        result = ((int (*)(pthread_t, size_t, const cpu_set_t *))function)(pthread_self(), sizeof set, &set);
    }
    mask_text(mask, sizeof mask);
    printf("%s %ld %s\n", name, result, mask);
}

int main(int argc, char **argv) {
    if (argc < 3) return 97;
    enum { SIZE = 1 << 16 };
    name = argv[1];
    function = dlsym(RTLD_DEFAULT, name);
    CPU_SET(atoi(argv[2]), &set);
    char *stack = mmap(NULL, SIZE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack + SIZE, 4096, PROT_NONE) || getcontext(&fiber)) return 96;
    fiber.uc_stack.ss_sp = stack;
    fiber.uc_stack.ss_size = SIZE;
    fiber.uc_link = &outside;
    makecontext(&fiber, run_fiber, 0);
    swapcontext(&outside, &fiber);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char mask[256];
        mask_text(mask, sizeof mask);
        dprintf(1, "fork %s\n", mask);
        _exit(0);
    }
    return wait_for(pid);
}
