// Regions of LLVM's and Intel's runtimes, alone and beside another process that runs regions.
// case alone on llvm: default=whole explicit=3 one=1 then=whole max=same -> default=whole explicit=3 one=1 then=whole max=same
// case crowded on llvm: default=whole explicit=3 one=1 then=whole max=same -> default=less explicit=3 one=1 then=less max=same
// case inside on llvm: same=yes -> same=yes
// case asks on llvm: library=whole program=whole -> library=whole program=less
// case killed on llvm: before=whole after=whole -> before=less after=whole
// case arguments on llvm: right=20 -> right=20
// case condition on libomp19,iomp2026: false=1 true=whole argument=yes -> false=1 true=less argument=yes
// case threads on llvm: wrong=0 -> wrong=0
// case switched_off on llvm: default=whole explicit=3 one=1 then=whole max=same -> default=whole explicit=3 one=1 then=whole max=same
// env switched_off: KNLFIX_LLVM_OPENMP=off
// pinning: off
// link: @asks_maximum -ldl
#include "kmpc.h"

int maximum_and_team(int *team);
void __kmpc_fork_call_if(location_t *, int argc, microtask_t, int condition, void *argument) __attribute__((weak));
extern int omp_get_thread_num(void);

static int max_in_region;

static void ask_maximum(int *thread, int *bound, ...) {
    if (*thread == 0) max_in_region = max_threads();
}

static void sizes(void) {
    int max = max_threads();
    show_team("default", default_team());
    show_number("explicit", explicit_team(3));
    show_number("one", explicit_team(1));
    show_team("then", default_team());
    show_text("max", max_threads() == max ? "same" : "changed");
}

/* Nine of them are on the stack; and the shorter calls. */
static int right_arguments;
static void take(int *thread, int *bound, ...) {
    va_list arguments;
    int right = 1;
    if (*thread != 0) return;
    va_start(arguments, bound);
    long count = va_arg(arguments, long);
    for (long i = 1; i < count; i++) right &= va_arg(arguments, long) == i * 1000003;
    va_end(arguments);
    right_arguments += right;
}

#define A(i) i * 1000003L
static void arguments(void) {
    for (int again = 0; again < 2; again++) {
        if (again) explicit_team(2);
        __kmpc_fork_call(&here, 1, (microtask_t)take, 1L);
        __kmpc_fork_call(&here, 2, (microtask_t)take, 2L, A(1));
        __kmpc_fork_call(&here, 3, (microtask_t)take, 3L, A(1), A(2));
        __kmpc_fork_call(&here, 4, (microtask_t)take, 4L, A(1), A(2), A(3));
        __kmpc_fork_call(&here, 5, (microtask_t)take, 5L, A(1), A(2), A(3), A(4));
        __kmpc_fork_call(&here, 6, (microtask_t)take, 6L, A(1), A(2), A(3), A(4), A(5));
        __kmpc_fork_call(&here, 7, (microtask_t)take, 7L, A(1), A(2), A(3), A(4), A(5), A(6));
        __kmpc_fork_call(&here, 8, (microtask_t)take, 8L, A(1), A(2), A(3), A(4), A(5), A(6), A(7));
        __kmpc_fork_call(&here, 12, (microtask_t)take, 12L, A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11));
        __kmpc_fork_call(&here, 13, (microtask_t)take, 13L, A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11), A(12));
    }
    show_number("right", right_arguments);
}

static int true_count;
static void count_if(int *thread, int *bound, void *argument) {
    if (argument == &here) __atomic_add_fetch(&true_count, 1, __ATOMIC_RELAXED);
}

static void condition(void) {
    __kmpc_fork_call_if(&here, 1, (microtask_t)(void *)count_if, 0, &here);
    show_number("false", true_count);
    true_count = 0;
    __kmpc_fork_call_if(&here, 1, (microtask_t)(void *)count_if, 1, &here);
    show_team("true", true_count);
    show_text("argument", true_count ? "yes" : "no");
}

/* Numbers that many threads push at once reach their own regions. */
static void *push(void *number) {
    long wrong = 0;
    for (int i = 0; i < 200; i++) wrong += explicit_team(1 + (int)((long)number + i) % 3) != 1 + (int)((long)number + i) % 3;
    return (void *)wrong;
}

static void threads(void) {
    pthread_t made[8];
    long wrong = 0;
    for (long i = 0; i < 8; i++) pthread_create(&made[i], NULL, push, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *found;
        pthread_join(made[i], &found);
        wrong += (long)found;
    }
    show_number("wrong", wrong);
}

int main(int argc, char **argv) {
    if (!strcmp(argv[1], "neighbour")) be_neighbour();
    be_a_job();
    if (!strcmp(argv[1], "alone")) return sizes(), 0;
    if (!strcmp(argv[1], "arguments")) return arguments(), 0;
    default_team(); /* before there is anybody to share with: the process is told that it may have all */
    pid_t neighbour = start_neighbour();
    if (!strcmp(argv[1], "inside")) {
        int max = max_threads();
        __kmpc_fork_call(&here, 0, (microtask_t)ask_maximum);
        show_text("same", max_in_region == max && max_threads() == max ? "yes" : "no");
    } else if (!strcmp(argv[1], "asks")) {
        int team, max = maximum_and_team(&team);
        show_text("library", team == max && max == allowed_cpus() ? "whole" : "less");
        show_team("program", default_team());
    } else if (!strcmp(argv[1], "killed")) {
        show_team("before", default_team());
        kill(neighbour, SIGKILL); /* and nobody has waited for it yet */
        show_team("after", until(default_team, allowed_cpus()));
    } else if (!strcmp(argv[1], "condition")) {
        condition();
    } else if (!strcmp(argv[1], "threads")) {
        threads();
    } else {
        sizes();
    }
    kill_neighbour(neighbour);
}
