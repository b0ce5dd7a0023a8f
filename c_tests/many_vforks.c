// Three hundred pinned threads that are all in vfork() at once, as when each thread of a large team starts a program.
// case all on none: children=300 stuck=all -> children=300 stuck=none
// env all: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "test.h"

enum { THREADS = 300 };
void bind_caller_to(int cpu);
static int born[2], go[2], stuck;

static void *run(void *argument) {
    char byte = 0;
    bind_caller_to(last_cpu());
    pid_t pid = vfork();
    if (pid == 0) {
        unsigned char mask[MASK_BYTES] = {0};
        if (write(born[1], &byte, 1) != 1) _exit(2);
        while (read(go[0], &byte, 1) < 0) {}
        raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
        _exit(!in_mask(mask, first_cpu()) || !in_mask(mask, last_cpu()));
    }
    __atomic_add_fetch(&stuck, WEXITSTATUS(wait_for(pid)), __ATOMIC_RELAXED);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    char bytes[THREADS] = {0};
    if (pipe(born) || pipe(go)) return 1;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, NULL)) return 1;
    for (int i = 0; i < THREADS; i++)
        while (read(born[0], bytes, 1) < 0) {}
    if (write(go[1], bytes, sizeof bytes) != sizeof bytes) return 1; /* all of them exist: now they may go on */
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    show_number("children", THREADS);
    show_text("stuck", stuck == 0 ? "none" : stuck == THREADS ? "all" : "some");
}
