// A new thread at once chooses a mask for the thread that created it: there the creator stays.
// case {last,full} on none: moved=300 lost=none -> moved=300 lost=none
// env *: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "test.h"

void bind_caller_to(int cpu);
static pid_t main_tid;
static int full;

static void *move(void *argument) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (full)
        for (int cpu = first_cpu(); cpu < last_cpu(); cpu++) CPU_SET(cpu, &set);
    CPU_SET(last_cpu(), &set);
    if (sched_setaffinity(main_tid, sizeof set, &set)) abort();
    return NULL;
}

int main(int argc, char **argv) {
    unsigned char chosen[MASK_BYTES] = {0}, mask[MASK_BYTES] = {0};
    int lost = 0;
    full = !strcmp(argv[1], "full");
    main_tid = gettid();
    if (full) for (int cpu = first_cpu(); cpu < last_cpu(); cpu++) chosen[cpu / 8] |= (unsigned char)(1 << cpu % 8);
    chosen[last_cpu() / 8] |= (unsigned char)(1 << last_cpu() % 8);
    for (int i = 0; i < 300; i++) {
        pthread_t thread;
        bind_caller_to(first_cpu()); /* the runtime pins */
        pthread_create(&thread, NULL, move, NULL);
        pthread_join(thread, NULL);
        raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
        lost += memcmp(mask, chosen, sizeof mask) != 0;
    }
    show_number("moved", 300);
    show_text("lost", lost ? "some" : "none");
}
