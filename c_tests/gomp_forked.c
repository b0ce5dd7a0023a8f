// A forked child goes on with regions of a team that did not survive the fork, through every entry point of libgomp.
// case {parallel,default,reduction,sections,static,dynamic,guided,runtime,monotonic_dynamic,monotonic_guided,monotonic_runtime} on libgomp: parent=10 child=hangs again=10 -> parent=10 child=10 again=10
// case {start_end,sections_start,static_start,dynamic_start,guided_start,runtime_start} on libgomp: parent=10 child=hangs again=10 -> parent=10 child=10 again=10
// case grandchild on libgomp: parent=10 child=hangs again=10 -> parent=10 child=110 again=10
// case thread_ends on libgomp: parent=10 child=hangs again=10 -> parent=10 child=7 again=10
// case main_ends on libgomp: parent=10 child=hangs again=10 -> parent=10 child=0 again=10
// case settings on libgomp: parent=10 child=hangs again=10 -> parent=10 child=3 again=10
// case private on libgomp: parent=10 child=hangs again=10 -> parent=10 child=42 again=10
// case other_thread on libgomp: parent=10 child=10 again=10 -> parent=10 child=10 again=10
// case in_region on libgomp: parent=10 child=10 again=10 -> parent=10 child=10 again=10
// case off on libgomp: parent=10 child=hangs again=10 -> parent=10 child=hangs again=10
// case tasks on libgomp: parent=10 child=hangs again=10 -> parent=10 child=10 again=10
// case teams on libgomp: parent=10 child=hangs again=10 -> parent=10 child=20 again=10
// pinning: off
// env: OMP_NUM_THREADS=4 OMP_SCHEDULE=dynamic
// env in_region: OMP_NUM_THREADS=4 OMP_NESTED=true
// env off: OMP_NUM_THREADS=4 KNLFIX_FORKED_REGIONS=off
#include "gomp.h"

typedef void (*Function)(void *);
void GOMP_parallel_start(Function, void *, unsigned);
void GOMP_parallel_sections_start(Function, void *, unsigned, unsigned);
void GOMP_parallel_loop_static_start(Function, void *, unsigned, long, long, long, long);
void GOMP_parallel_loop_dynamic_start(Function, void *, unsigned, long, long, long, long);
void GOMP_parallel_loop_guided_start(Function, void *, unsigned, long, long, long, long);
void GOMP_parallel_loop_runtime_start(Function, void *, unsigned, long, long, long);
void GOMP_parallel_end(void);
unsigned GOMP_sections_next(void);
void GOMP_sections_end_nowait(void);
_Bool GOMP_loop_static_next(long *, long *);
_Bool GOMP_loop_dynamic_next(long *, long *);
_Bool GOMP_loop_guided_next(long *, long *);
_Bool GOMP_loop_runtime_next(long *, long *);
void GOMP_loop_end_nowait(void);

static int own;
#pragma omp threadprivate(own)

static void add(int *sum, int value) {
#pragma omp atomic
    *sum += value;
}

/* What gcc before 4.9 made of a region: each iteration (1 to 4), or section, adds its number. */
static _Bool (*next)(long *, long *);
static void numbers(void *sum) { add(sum, omp_get_thread_num() + 1); }
static void iterations(void *sum) {
    long from, to;
    while (next(&from, &to))
        for (long i = from; i < to; i++) add(sum, (int)i);
    GOMP_loop_end_nowait();
}
static void sections(void *sum) {
    for (unsigned section; (section = GOMP_sections_next());) add(sum, (int)section);
    GOMP_sections_end_nowait();
}
static void half(Function function, int *sum) {
    function(sum);
    GOMP_parallel_end();
}

/* 1 + 2 + 3 + 4, whichever way. */
static int region(const char *way) {
    int sum = 0;
    if (!strcmp(way, "default")) {
#pragma omp parallel
        add(&sum, omp_get_thread_num() + 1);
    } else if (!strcmp(way, "reduction")) {
#pragma omp parallel num_threads(4) reduction(task, + : sum)
        sum += omp_get_thread_num() + 1;
    } else if (!strcmp(way, "sections")) {
#pragma omp parallel sections num_threads(4)
        {
#pragma omp section
            add(&sum, 1);
#pragma omp section
            add(&sum, 2);
#pragma omp section
            add(&sum, 7);
        }
    } else if (!strcmp(way, "static")) {
#pragma omp parallel for num_threads(4) schedule(static, 1)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "dynamic")) {
#pragma omp parallel for num_threads(4) schedule(nonmonotonic : dynamic)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "guided")) {
#pragma omp parallel for num_threads(4) schedule(nonmonotonic : guided)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "runtime")) {
#pragma omp parallel for num_threads(4) schedule(nonmonotonic : runtime)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "monotonic_dynamic")) {
#pragma omp parallel for num_threads(4) schedule(monotonic : dynamic)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "monotonic_guided")) {
#pragma omp parallel for num_threads(4) schedule(monotonic : guided)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "monotonic_runtime")) {
#pragma omp parallel for num_threads(4) schedule(monotonic : runtime)
        for (int i = 1; i < 5; i++) add(&sum, i);
    } else if (!strcmp(way, "start_end")) {
        GOMP_parallel_start(numbers, &sum, 4);
        half(numbers, &sum);
    } else if (!strcmp(way, "sections_start")) {
        GOMP_parallel_sections_start(sections, &sum, 4, 4);
        half(sections, &sum);
    } else if (!strcmp(way, "static_start")) {
        next = GOMP_loop_static_next;
        GOMP_parallel_loop_static_start(iterations, &sum, 4, 1, 5, 1, 0);
        half(iterations, &sum);
    } else if (!strcmp(way, "dynamic_start")) {
        next = GOMP_loop_dynamic_next;
        GOMP_parallel_loop_dynamic_start(iterations, &sum, 4, 1, 5, 1, 1);
        half(iterations, &sum);
    } else if (!strcmp(way, "guided_start")) {
        next = GOMP_loop_guided_next;
        GOMP_parallel_loop_guided_start(iterations, &sum, 4, 1, 5, 1, 1);
        half(iterations, &sum);
    } else if (!strcmp(way, "runtime_start")) {
        next = GOMP_loop_runtime_next;
        GOMP_parallel_loop_runtime_start(iterations, &sum, 4, 1, 5, 1);
        half(iterations, &sum);
    } else if (!strcmp(way, "tasks")) {
#pragma omp parallel num_threads(4)
#pragma omp single
        for (int i = 1; i < 5; i++) {
#pragma omp task firstprivate(i)
            add(&sum, i);
        }
    } else {
#pragma omp parallel num_threads(4)
        add(&sum, omp_get_thread_num() + 1);
    }
    return sum;
}

static int grandchild(void) {
    int sum = region("parallel");
    pid_t pid = fork();
    if (pid == 0) {
        limit_child();
        _exit(region("default"));
    }
    int status = wait_for(pid);
    return sum + (WIFEXITED(status) ? 10 * WEXITSTATUS(status) : 0);
}

static int teams(void) {
    int sum = 0;
#pragma omp teams num_teams(2)
    {
#pragma omp parallel num_threads(4)
        add(&sum, omp_get_thread_num() + 1);
    }
    return sum;
}

static void say_seven(void) { _exit(7); }

/* The child is made by a thread other than the initial one, and ends as a thread. */
static void *run_thread_that_ends(void *label) {
    region("parallel");
    pid_t pid = fork();
    if (pid == 0) {
        limit_child();
        atexit(say_seven); /* the last thread's end is the process's */
        pthread_exit(NULL);
    }
    show_child(label, pid);
    return NULL;
}
static void *run_other_thread(void *label) {
    pid_t pid = fork();
    if (pid == 0) {
        limit_child();
        _exit(region("parallel"));
    }
    show_child(label, pid);
    return NULL;
}
static void in_thread(void *(*run)(void *)) {
    pthread_t thread;
    pthread_create(&thread, NULL, run, "child");
    pthread_join(thread, NULL);
}
/* A child made inside a region may go on with inner ones; its own is lost. */
static void fork_in_region(void) {
    omp_set_max_active_levels(2);
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num() == 0)
    {
        pid_t pid = fork();
        if (pid == 0) {
            limit_child();
            _exit(region("parallel"));
        }
        show_child("child", pid);
    }
    omp_set_max_active_levels(1);
}

int main(int argc, char **argv) {
    own_domain(argv);
    const char *way = argv[1];
    show_number("parent", region(way));
    if (!strcmp(way, "thread_ends")) {
        in_thread(run_thread_that_ends);
    } else if (!strcmp(way, "other_thread")) {
        in_thread(run_other_thread);
    } else if (!strcmp(way, "in_region")) {
        fork_in_region();
    } else {
        omp_set_num_threads(4);
        if (!strcmp(way, "settings")) omp_set_num_threads(3);
        own = 42;
        pid_t pid = fork();
        if (pid == 0) {
            int result = 0;
            limit_child();
            if (!strcmp(way, "grandchild")) result = grandchild();
            else if (!strcmp(way, "main_ends")) pthread_exit(NULL);
            else if (!strcmp(way, "teams")) result = teams();
            else if (!strcmp(way, "settings")) {
#pragma omp parallel
                if (omp_get_thread_num() == 0)
                result = omp_get_num_threads();
            } else if (!strcmp(way, "private")) {
#pragma omp parallel num_threads(2)
                if (omp_get_thread_num() == 0)
                result = own;
            } else result = region(way);
            _exit(result);
        }
        show_child("child", pid);
    }
    omp_set_num_threads(4);
    show_number("again", region(way));
}
