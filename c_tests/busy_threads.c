// A pinned thread creates threads while another thread of its team forks: nobody is stuck, nobody hangs. At most 2 s.
// case both on libgomp: threads=2000 stuck_threads=all children=200 stuck_children=all parent=pin -> threads=2000 stuck_threads=none children=200 stuck_children=none parent=pin
// case both on llvm: threads=2000 stuck_threads=all children=200 stuck_children=all parent=pin -> threads=2000 stuck_threads=none children=200 stuck_children=none parent=pin
#include "test.h"

enum { THREADS = 2000, CHILDREN = 200 };
static int stuck_threads, stuck_children;

static int stuck(void) {
    unsigned char mask[MASK_BYTES] = {0};
    raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
    return !in_mask(mask, first_cpu()) || !in_mask(mask, last_cpu());
}
static void *run(void *argument) { return stuck() ? argument : NULL; }

static void create_threads(void) {
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        void *result = NULL;
        if (pthread_create(&thread, NULL, run, &stuck_threads)) exit(1);
        pthread_join(thread, &result);
        stuck_threads += result != NULL;
    }
}
static void make_children(void) {
    for (int i = 0; i < CHILDREN; i++) {
        pid_t pid = (pid_t)syscall(SYS_fork);
        if (pid == 0) _exit(stuck());
        stuck_children += WEXITSTATUS(wait_for(pid));
    }
}
static void show_share(const char *label, int some, int all) {
    show_text(label, some == 0 ? "none" : some == all ? "all" : "some");
}

int main(void) {
    alarm(20); /* a hang ends the test */
    pin();
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num() == 0) create_threads();
    else make_children();
    show_number("threads", THREADS);
    show_share("stuck_threads", stuck_threads, THREADS);
    show_number("children", CHILDREN);
    show_share("stuck_children", stuck_children, CHILDREN);
    show("parent");
}
