// KNLFIX_THREADS=off holds for every way of making a thread: they stay on the pin. The name is SWITCH:WAY.
// case off:{pthread_create,thrd_create,timer,clone,syscall_clone,syscall_clone3} on all: child=pin parent=pin -> child=pin parent=pin
// case off:fork on libgomp: child=pin parent=pin -> child=full parent=pin
// case on:{pthread_create,thrd_create,timer,clone,syscall_clone,syscall_clone3} on all: child=pin parent=pin -> child=full parent=pin
// env off:*: KNLFIX_THREADS=off
// link: -lrt
#include "ways.h"
#include <linux/futex.h>
#include <semaphore.h>
#include <time.h>

enum { THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID };

static volatile int alive = 1; /* until the kernel clears it, when the thread has ended */
static sem_t expired;

static int run(void *argument) {
    show("child");
    raw(SYS_exit, 0, 0, 0); /* this thread only */
    return 0;
}

static void run_bare(void) { run(NULL); }

static void at_timer(union sigval value) {
    show("child");
    sem_post(&expired);
}

static int make_thread(const char *way) {
    static char stack[64 * 1024] __attribute__((aligned(16)));
    if (!strcmp(way, "timer")) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD};
        struct itimerspec soon = {.it_value.tv_nsec = 1000000};
        timer_t timer;
        event.sigev_notify_function = at_timer;
        sem_init(&expired, 0, 0);
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &soon, NULL)) return 1;
        while (sem_wait(&expired)) {}
        return 0;
    }
    if (!strcmp(way, "clone")) {
        if (clone(run, stack + sizeof stack, THREAD, NULL, NULL, NULL, (void *)&alive) < 0) return 1;
    } else if (!strncmp(way, "syscall", 7)) {
        /* Where syscall() returns to on the new stack. */
        void (**top)(void) = (void (**)(void))(stack + sizeof stack - 16);
        uint64_t arguments[] = {THREAD, 0, (uintptr_t)&alive, 0, 0, (uintptr_t)stack, (uintptr_t)top - (uintptr_t)stack, 0};
        *top = run_bare;
        if ((strcmp(way, "syscall_clone") ? syscall(SYS_clone3, arguments, sizeof arguments)
                                          : syscall(SYS_clone, THREAD, top, NULL, &alive, NULL)) < 0)
            return 1;
    } else {
        make_child(way);
        return 0;
    }
    while (alive) syscall(SYS_futex, &alive, FUTEX_WAIT, 1, NULL, NULL, 0);
    return 0;
}

int main(int argc, char **argv) {
    pin();
    if (make_thread(strchr(argv[1], ':') + 1)) return 1;
    show("parent");
}
