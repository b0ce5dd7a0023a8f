// Four threads at once, each with a random history of masks set by itself and by a "runtime", and children made in
// random ways: at each step a child has the thread's user mask, the thread is told that mask, and has what was set last.
// case {1,2,3,4} on none: steps=8000 children=wrong told=wrong self=right -> steps=8000 children=right told=right self=right
// env *: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
// cflags: -fno-omit-frame-pointer
#include "test.h"

enum { THREADS = 4, STEPS = 2000 };
void bind_caller_to(int cpu);
static int wrong_children, wrong_told, wrong_self;

typedef struct {
    unsigned char bytes[MASK_BYTES];
} Mask;

static Mask full;

static int same_as(const Mask *expected) {
    Mask now;
    memset(&now, 0, sizeof now);
    raw(SYS_sched_getaffinity, 0, sizeof now, (long)&now);
    return !memcmp(&now, expected, sizeof now);
}
static Mask only(int cpu) {
    Mask mask;
    memset(&mask, 0, sizeof mask);
    mask.bytes[cpu / 8] = (unsigned char)(1 << cpu % 8);
    return mask;
}
static void *in_thread(void *expected) { return same_as(expected) ? NULL : expected; }
static int in_clone(void *expected) { return !same_as(expected); }

static int child_is_wrong(int way, Mask *expected) {
    char stack[32 * 1024] __attribute__((aligned(16)));
    pthread_t thread;
    void *result = NULL;
    pid_t pid;
    switch (way) {
    case 0: pid = fork(); break;
    case 1: pid = (pid_t)syscall(SYS_fork); break;
    case 2: pid = clone(in_clone, stack + sizeof stack, SIGCHLD, expected); break;
    case 3: pid = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, expected); break;
    case 4:
        if ((pid = vfork()) == 0) _exit(!same_as(expected));
        break;
    default:
        if (pthread_create(&thread, NULL, in_thread, expected)) exit(1);
        pthread_join(thread, &result);
        return result != NULL;
    }
    if (pid == 0) _exit(!same_as(expected));
    return pid < 0 || wait_for(pid) != 0;
}

static void add(int *to) { __atomic_add_fetch(to, 1, __ATOMIC_RELAXED); }

static void *live(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    Mask user = full, now = full, told;
    for (int step = 0; step < STEPS; step++) {
        int cpu = rand_r(&state) % 2 ? first_cpu() : last_cpu();
        switch (rand_r(&state) % 8) {
        case 0: /* the program chooses one CPU */
            choose(0, cpu);
            user = now = only(cpu);
            break;
        case 1: /* or all of them, as numbers of CPUs go: by the system call */
            syscall(SYS_sched_setaffinity, 0, sizeof full, &full);
            user = now = full;
            break;
        case 2:
        case 3: /* the runtime pins */
            bind_caller_to(cpu);
            now = only(cpu);
            break;
        default:
            if (child_is_wrong(rand_r(&state) % 6, &user)) add(&wrong_children);
        }
        memset(&told, 0, sizeof told);
        sched_getaffinity(0, sizeof told, (cpu_set_t *)&told);
        if (memcmp(&told, &user, sizeof told)) add(&wrong_told);
        if (!same_as(&now)) add(&wrong_self);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    raw(SYS_sched_getaffinity, 0, sizeof full, (long)&full);
    alarm(60);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, live, (void *)(uintptr_t)(atoi(argv[1]) * 100 + i))) return 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    show_number("steps", THREADS * STEPS);
    show_text("children", wrong_children ? "wrong" : "right");
    show_text("told", wrong_told ? "wrong" : "right");
    show_text("self", wrong_self ? "wrong" : "right");
}
