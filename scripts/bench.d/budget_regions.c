/* OpenMP regions for `scripts/bench budget`:

       regions calibrate           prints how many steps of work a microsecond has
       regions default STEPS       regions of the default number of threads, with so much work to divide
       regions explicit STEPS      the same, each asking for OMP_NUM_THREADS or all CPUs by num_threads
       regions empty 0             regions that do nothing, HUNDRED at a time
       regions count TIMES         so many of these, and no more: for counting instructions
       regions crowd PROCESSES     so many processes, each of which enters a region now and then, until stdin ends

   With KMPC defined the regions are made as clang and Intel's compilers make them. */
#include "budget_crew.h"
#include <signal.h>
#include <sys/prctl.h>

enum { HUNDRED = 100, PIECES = 16 /* more than threads, so that a team of any size divides them well */ };

static long steps;
static int threads;
static volatile double sinks[PIECES * 8];

static void piece(int i) { sinks[i * 8] = work(steps); }

#ifdef KMPC
#include <stdarg.h>

typedef struct {
    int reserved_1, flags, reserved_2, reserved_3;
    const char *source;
} location_t;
typedef void microtask_t(int *thread, int *bound, ...);

int __kmpc_global_thread_num(location_t *);
void __kmpc_push_num_threads(location_t *, int thread, int threads);
void __kmpc_fork_call(location_t *, int argc, microtask_t *, ...);
void __kmpc_for_static_init_4(location_t *, int thread, int schedule, int *last, int *lower, int *upper, int *stride, int increment, int chunk);
void __kmpc_for_static_fini(location_t *, int thread);

static location_t here = {0, 2, 0, 0, ";unknown;unknown;0;0;;"};

static void nothing(int *thread, int *bound, ...) { (void)thread, (void)bound; }

static void divided(int *thread, int *bound, ...) {
    (void)bound;
    int last = 0, lower = 0, upper = PIECES - 1, stride = 1;
    __kmpc_for_static_init_4(&here, *thread, 34, &last, &lower, &upper, &stride, 1, 1);
    for (int i = lower; i <= upper && i < PIECES; i++) piece(i);
    __kmpc_for_static_fini(&here, *thread);
}

static void empty(void) { __kmpc_fork_call(&here, 0, nothing); }
static void by_default(void) { __kmpc_fork_call(&here, 0, divided); }
static void by_number(void) {
    __kmpc_push_num_threads(&here, __kmpc_global_thread_num(&here), threads);
    __kmpc_fork_call(&here, 0, divided);
}
#else
static void empty(void) {
#pragma omp parallel
    __asm__ volatile("");
}

static void by_default(void) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < PIECES; i++) piece(i);
}

static void by_number(void) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < PIECES; i++) piece(i);
}
#endif

static void empties(void) {
    for (int i = 0; i < HUNDRED; i++) empty();
}

static int calibrate(void) {
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double begin = now();
        sinks[0] = work(1000000);
        if (now() - begin < best) best = now() - begin;
    }
    printf("%f\n", 1000000 / (best * 1e6));
    return 0;
}

static int crowd(int processes) {
    for (int i = 0; i < processes; i++) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) {
                empty();
                usleep(5000);
            }
        }
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return 0;
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    long number = argc > 2 ? atol(argv[2]) : 0;
    const char *said = getenv("OMP_NUM_THREADS");
    threads = said ? atoi(said) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    steps = number / PIECES;
    if (!strcmp(kind, "calibrate")) return calibrate();
    if (!strcmp(kind, "default")) return serve(by_default);
    if (!strcmp(kind, "explicit")) return serve(by_number);
    if (!strcmp(kind, "empty")) return serve(empties);
    if (!strcmp(kind, "crowd")) return crowd((int)number);
    if (strcmp(kind, "count")) return 2;
    for (long i = 0; i < number; i++) empty();
    return 0;
}
