/* threads TEST ARGUMENT...: ways for a thread to begin, to end and to fail, each with one line of outcome. */
#include "inway.h"
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <threads.h>

static char mask[256];

/* ---- how a thread ends --------------------------------------------------------------------------------------- */

static _Atomic int cleaned, ready;

static void clean(void *arg) {
    (void)arg;
    cleaned++;
}

static void *returns(void *arg) { return arg; }

static void *exits(void *arg) {
    pthread_cleanup_push(clean, NULL);
    pthread_exit(arg);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *sleeps(void *arg) {
    pthread_cleanup_push(clean, NULL);
    ready = 1;
    for (;;) pause();
    pthread_cleanup_pop(0);
    return arg;
}

/* system is a point of cancellation: it ends its shell and then the thread. */
static void *calls_system(void *arg) {
    pthread_cleanup_push(clean, NULL);
    ready = 1;
    system("exec sleep 100");
    pthread_cleanup_pop(0);
    return arg;
}

static int thrd(void *arg) { return (int)(long)arg; }
static int thrd_leaves(void *arg) { thrd_exit((int)(long)arg); }

static void ends(void) {
    static const struct {
        const char *name;
        void *(*start)(void *);
        int cancel;
    } kinds[] = {{"return", returns, 0}, {"exit", exits, 0}, {"cancel", sleeps, 1}, {"cancel-system", calls_system, 1}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pthread_t thread;
        void *result;
        cleaned = ready = 0;
        if (pthread_create(&thread, NULL, kinds[i].start, (void *)0x123456789)) abort();
        if (kinds[i].cancel) {
            while (!ready) usleep(1000);
            usleep(20000);
            pthread_cancel(thread);
        }
        pthread_join(thread, &result);
        if (result == PTHREAD_CANCELED) printf("%s canceled, cleaned %d\n", kinds[i].name, cleaned);
        else printf("%s %p, cleaned %d\n", kinds[i].name, result, cleaned);
    }
    thrd_t thread;
    int result;
    if (thrd_create(&thread, thrd, (void *)-7) != thrd_success) abort();
    thrd_join(thread, &result);
    printf("thrd %d\n", result);
    if (thrd_create(&thread, thrd_leaves, (void *)8) != thrd_success) abort();
    thrd_join(thread, &result);
    printf("thrd_exit %d\n", result);
}

/* ---- what cannot be made ------------------------------------------------------------------------------------- */

static void fails(const char *mask_program) {
    char *argv[] = {"x", NULL};
    int errors[5] = {0};
    for (int i = 0; i < 2000; i++) {
        pthread_t thread;
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 1UL << 46); /* more than there is of memory addresses */
        errors[0] = pthread_create(&thread, &attr, returns, NULL);
        pthread_attr_destroy(&attr);
        if (i % 10) continue;
        pid_t pid;
        errors[1] = posix_spawn(&pid, "/does/not/exist", NULL, NULL, argv, environ);
        pid = vfork();
        if (pid == 0) {
            execv("/does/not/exist", argv);
            _exit(errno == ENOENT ? 12 : 13);
        }
        errors[2] = wait_for(pid);
        execv("/does/not/exist", argv);
        errors[3] = errno;
        errors[4] = WEXITSTATUS(system("exit 14"));
    }
    printf("errors %s %s %d %s %d\n", strerrorname_np(errors[0]), strerrorname_np(errors[1]), errors[2],
           strerrorname_np(errors[3]), errors[4]);
    mask_text(mask, sizeof mask);
    printf("self %s\n", mask);
    fflush(stdout);
    char *fd_argv[] = {(char *)mask_program, "1", "vfork", NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        execv(mask_program, fd_argv);
        _exit(126);
    }
    wait_for(pid);
}

/* From here on no process and no thread can be made. */
static void refused(void) {
    static const int numbers[] = {SYS_clone, SYS_clone3, SYS_fork, SYS_vfork};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) forbid(numbers[i], EAGAIN);
    char *argv[] = {"/bin/true", NULL};
    pthread_t thread;
    pid_t pid;
    long result;
#define TRY(call) (errno = 0, result = (long)(call), printf("%s: %ld %s\n", #call, result, strerrorname_np(errno)))
    TRY(fork());
    TRY(_Fork());
    TRY(vfork());
    TRY(syscall(SYS_fork));
    TRY(system("true"));
    TRY(popen("true", "r"));
    TRY(-posix_spawn(&pid, argv[0], NULL, NULL, argv, environ));
    TRY(-pthread_create(&thread, NULL, returns, NULL));
    mask_text(mask, sizeof mask);
    printf("self %s\n", mask);
}

/* ---- many at a time ------------------------------------------------------------------------------------------ */

enum { MANY = 300 }; /* more than the 272 of a Knights Landing node */

static void (*pin)(int cpu);
static int pin_to, pipe_to_wait[2], pipe_to_report[2];
static pthread_barrier_t barrier;

/* Each is pinned by the runtime it is given, and then all are inside vfork at once. */
static void *vforks(void *arg) {
    char byte, text[256];
    pin(pin_to);
    pthread_barrier_wait(&barrier);
    pid_t pid = vfork();
    if (pid == 0) {
        /* The end of this pipe is closed only when all children wait for it. */
        if (write(pipe_to_report[1], "x", 1) < 0 || read(pipe_to_wait[0], &byte, 1) < 0) _exit(96);
        mask_text(text, sizeof text);
        _exit(strpbrk(text, ",-") != NULL);
    }
    return (void *)(long)(wait_for(pid) + (arg != NULL));
}

static void many(const char *runtime, const char *cpu) {
    pthread_t threads[MANY];
    char byte;
    int wide = 0, other = 0;
    pin = (void (*)(int))dlsym(dlopen(runtime, RTLD_NOW), "set");
    pin_to = atoi(cpu);
    pthread_barrier_init(&barrier, NULL, MANY);
    if (pipe(pipe_to_wait) || pipe(pipe_to_report)) abort();
    for (int i = 0; i < MANY; i++)
        if (pthread_create(&threads[i], NULL, vforks, NULL)) abort();
    for (int i = 0; i < MANY; i++)
        if (read(pipe_to_report[0], &byte, 1) != 1) abort();
    for (int i = 0; i < MANY; i++)
        if (write(pipe_to_wait[1], "x", 1) != 1) abort();
    for (int i = 0; i < MANY; i++) {
        void *status;
        pthread_join(threads[i], &status);
        wide += status == (void *)1;
        other += status != (void *)1 && status != (void *)0;
    }
    printf("wide %d, other %d\n", wide, other);
}

/* Thousands of threads, one after the other, are pinned and end; the last ones are remembered as well as the first. */
static void *pinned_forks(void *arg) {
    char text[256];
    pin(pin_to);
    if (!arg) return NULL;
    pid_t pid = fork();
    if (pid == 0) {
        mask_text(text, sizeof text);
        _exit(strpbrk(text, ",-") != NULL);
    }
    return (void *)(long)wait_for(pid);
}

static void churn(const char *runtime, const char *cpu) {
    int wide = 0, asked = 0;
    pin = (void (*)(int))dlsym(dlopen(runtime, RTLD_NOW), "set");
    pin_to = atoi(cpu);
    for (int i = 0; i < 300; i++) {
        pthread_t threads[40];
        void *status;
        for (int j = 0; j < 40; j++) {
            pthread_attr_t attr; /* stacks of many sizes, so that few threads are where an earlier one was */
            pthread_attr_init(&attr);
            pthread_attr_setstacksize(&attr, (size_t)(64 + i) << 12);
            if (pthread_create(&threads[j], &attr, pinned_forks, j == 0 ? &asked : NULL)) abort();
            pthread_attr_destroy(&attr);
        }
        for (int j = 0; j < 40; j++) {
            pthread_join(threads[j], &status);
            if (j == 0) asked++, wide += status == (void *)1;
        }
    }
    printf("asked %d, wide %d\n", asked, wide);
}

/* Threads of both kinds, pinned and of the user's choice, make children all at once. Each child reports its kind. */
enum { CROWD = 8, ROUNDS = 40 };

static const char *mask_program;
static int choice;

static void *reports(void *label) {
    char text[256];
    mask_text(text, sizeof text);
    dprintf(1, "%s %s\n", (char *)label, text);
    return NULL;
}

static void *makes_children(void *label) {
    char *argv[] = {(char *)mask_program, "1", label, NULL};
    pin(pin_to);
    if (!strcmp(label, "user")) set_one_cpu(0, choice);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid;
        pthread_t thread;
        pid = fork();
        if (pid == 0) reports(label), _exit(0);
        wait_for(pid);
        pid = vfork();
        if (pid == 0) execve(mask_program, argv, environ), _exit(126);
        wait_for(pid);
        if (posix_spawn(&pid, mask_program, NULL, NULL, argv, environ)) abort();
        wait_for(pid);
        if (pthread_create(&thread, NULL, reports, label)) abort();
        pthread_join(thread, NULL);
    }
    return NULL;
}

static void crowd(char **argv) {
    pthread_t threads[CROWD];
    pin = (void (*)(int))dlsym(dlopen(argv[0], RTLD_NOW), "set");
    pin_to = atoi(argv[1]), choice = atoi(argv[2]), mask_program = argv[3];
    for (int i = 0; i < CROWD; i++)
        if (pthread_create(&threads[i], NULL, makes_children, i % 2 ? "user" : "pinned")) abort();
    for (int i = 0; i < CROWD; i++) pthread_join(threads[i], NULL);
}

/* ---- a handler on a small stack ------------------------------------------------------------------------------ */

static int handled;

static void on_signal(int signal) {
    (void)signal;
    cpu_set_t set;
    char *argv[] = {"/bin/true", NULL};
    sched_getaffinity(0, sizeof set, &set);
    pid_t pid = _Fork();
    if (pid == 0) {
        sched_setaffinity(0, sizeof set, &set);
        _exit(0);
    }
    handled += wait_for(pid) == 0;
    pid = vfork();
    if (pid == 0) {
        execve(argv[0], argv, environ);
        _exit(126);
    }
    handled += wait_for(pid) == 0;
    handled += posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0 && wait_for(pid) == 0;
}

static void small_stack(size_t size) {
    /* Nothing is mapped below it. */
    char *memory = mmap(NULL, size + 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + 65536, size, PROT_READ | PROT_WRITE);
    stack_t stack = {.ss_sp = memory + 65536, .ss_size = size};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    if (sigaltstack(&stack, NULL) || sigaction(SIGUSR1, &action, NULL)) abort();
    for (int i = 0; i < 5; i++) raise(SIGUSR1);
    printf("handled %d\n", handled);
}

int main(int argc, char **argv) {
    if (argc < 2) return 97;
    setvbuf(stdout, NULL, _IOLBF, 0);
    enter_region();
    if (!strcmp(argv[1], "ends")) ends();
    else if (!strcmp(argv[1], "fails")) fails(argv[2]);
    else if (!strcmp(argv[1], "refused")) refused();
    else if (!strcmp(argv[1], "many")) many(argv[2], argv[3]);
    else if (!strcmp(argv[1], "churn")) churn(argv[2], argv[3]);
    else if (!strcmp(argv[1], "crowd")) crowd(argv + 2);
    else if (!strcmp(argv[1], "small-stack")) small_stack((size_t)atoi(argv[2]));
    else return 98;
    return 0;
}
