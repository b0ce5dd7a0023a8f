// What a program is told about its CPUs: outside a region the user's mask, inside one the place where it runs.
// case outside on all: function=pin pthread=pin syscall=pin by_tid=pin by_peer=pin parent=pin -> function=full pthread=full syscall=full by_tid=full by_peer=full parent=pin
// case inside on all: master=pin worker=@worker_really worker_really=narrow -> master=pin worker=@worker_really worker_really=narrow
// case after_region on all: function=pin parent=pin -> function=full parent=pin
// case user_mask on all: function=last pthread=last syscall=last by_tid=last by_peer=last parent=last -> function=last pthread=last syscall=last by_tid=last by_peer=last parent=last
// case switched_off on all: function=pin pthread=pin syscall=pin by_tid=pin by_peer=pin parent=pin -> function=pin pthread=pin syscall=pin by_tid=pin by_peer=pin parent=pin
// case new_thread on all: function=pin child=pin parent=pin -> function=full child=full parent=pin
// env switched_off: KNLFIX_VIRTUAL_MASK=0
#include "test.h"

static pid_t main_tid;
static pthread_t main_thread;

static void tell(const char *label, const void *set) {
    unsigned char mask[MASK_BYTES] = {0};
    char text[512];
    memcpy(mask, set, sizeof(cpu_set_t));
    format_mask(mask, text, sizeof text);
    show_text(label, text);
}
static void ask_function(const char *label, pid_t tid) {
    cpu_set_t set;
    if (sched_getaffinity(tid, sizeof set, &set)) show_errno(label, errno);
    else tell(label, &set);
}
static pthread_barrier_t created;
static void *ask_peer(void *argument) {
    cpu_set_t set;
    pthread_barrier_wait(&created); /* its mask is another one for the moment that it creates us */
    if (pthread_getaffinity_np(main_thread, sizeof set, &set)) show_text("by_peer", "failed");
    else tell("by_peer", &set);
    return NULL;
}
static void *in_thread(void *argument) {
    ask_function("function", 0);
    show("child");
    return NULL;
}

int main(int argc, char **argv) {
    const char *name = argv[1];
    cpu_set_t set;
    pthread_t thread;
    main_tid = gettid();
    main_thread = pthread_self();
    pin();
    if (!strcmp(name, "inside")) {
#pragma omp parallel num_threads(2)
        {
            if (omp_get_thread_num() == 0) ask_function("master", 0);
            if (omp_get_thread_num() == 1) {
                ask_function("worker", 0);
                show("worker_really");
            }
        }
        return 0;
    }
    if (!strcmp(name, "new_thread")) {
        pthread_create(&thread, NULL, in_thread, NULL);
        pthread_join(thread, NULL);
        show("parent");
        return 0;
    }
    if (!strcmp(name, "after_region")) {
#pragma omp parallel num_threads(2)
        sched_getcpu();
        ask_function("function", 0);
        show("parent");
        return 0;
    }
    if (!strcmp(name, "user_mask")) choose(0, last_cpu());
    ask_function("function", 0);
    if (pthread_getaffinity_np(pthread_self(), sizeof set, &set)) return 1;
    tell("pthread", &set);
    CPU_ZERO(&set); /* unlike the function, the system call leaves the rest of the buffer alone */
    if (syscall(SYS_sched_getaffinity, 0, sizeof set, &set) < 0) return 1;
    tell("syscall", &set);
    ask_function("by_tid", main_tid);
    pthread_barrier_init(&created, NULL, 2);
    pthread_create(&thread, NULL, ask_peer, NULL);
    pthread_barrier_wait(&created);
    pthread_join(thread, NULL);
    show("parent");
}
