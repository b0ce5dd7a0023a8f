/*
 * subject: a process that does one thing many times, when told to. Built three times: plain, with libgomp, with libomp.
 *
 * It reads requests, one per line, and answers each with one line:
 *
 *     OPERATION[,OPERATION...] COUNT    COUNT samples of each in turn, in nanoseconds, as "a b c a b c ..."
 *     cpus                              the CPUs this thread really may use, and those a forked child of it gets (up to 127)
 *     memory COUNT                      touches so many megabytes more, which every fork then has to copy the tables of; answers 0
 *
 * With arguments (OPERATION COUNT [marked]) it does that without a clock and exits: for counting instructions. "marked" puts a
 * SIGSTOP before and after, for scripts/bench.d/step.c.
 *
 * Everything measured is called through a pointer, the hooked symbol (what the program would call) and libc's own alike.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef pid_t fork_fn(void);
typedef long syscall_fn(long, ...);
typedef int getaffinity_fn(pid_t, size_t, cpu_set_t *);
typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static struct { /* as the program sees them, and as libc defines them */
    fork_fn *fork;
    syscall_fn *syscall;
    getaffinity_fn *getaffinity;
    create_fn *create;
} seen, own;

#define MASK_BYTES 1024 /* 8192 CPUs */
static unsigned char mask[MASK_BYTES], every_cpu[MASK_BYTES];

static void die(const char *what)
{
    fprintf(stderr, "subject: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *look_up(void *handle, const char *name)
{
    void *symbol = dlsym(handle, name);
    if (!symbol)
        die(name);
    return symbol;
}

static void find_symbols(void)
{
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    if (!libc)
        die("libc.so.6");
    /* Before glibc 2.34 libpthread held pthread_create, and a fork that only forwards. */
    void *libpthread = dlopen("libpthread.so.0", RTLD_LAZY | RTLD_NOLOAD);
    void *threads = dlsym(libc, "pthread_create") || !libpthread ? libc : libpthread;
    own.fork = (fork_fn *)look_up(libc, "fork");
    own.syscall = (syscall_fn *)look_up(libc, "syscall");
    own.getaffinity = (getaffinity_fn *)look_up(libc, "sched_getaffinity");
    own.create = (create_fn *)look_up(threads, "pthread_create");
    seen.fork = (fork_fn *)look_up(RTLD_DEFAULT, "fork");
    seen.syscall = (syscall_fn *)look_up(RTLD_DEFAULT, "syscall");
    seen.getaffinity = (getaffinity_fn *)look_up(RTLD_DEFAULT, "sched_getaffinity");
    seen.create = (create_fn *)look_up(RTLD_DEFAULT, "pthread_create");
}

/* The real mask, past every hook. */
static int real_cpus(void)
{
    long bytes = own.syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    int cpus = 0;
    for (long i = 0; i < bytes; i++)
        cpus += __builtin_popcount(mask[i]);
    return cpus;
}

/* As an exit status holds it: enough to tell one CPU from all of them. */
static int at_most_127(int cpus)
{
    return cpus < 127 ? cpus : 127;
}

static void reap(pid_t pid)
{
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        die("fork");
}

static void fork_seen(void)
{
    pid_t pid = seen.fork();
    if (pid == 0)
        _exit(0);
    reap(pid);
}

static void fork_own(void)
{
    pid_t pid = own.fork();
    if (pid == 0)
        _exit(0);
    reap(pid);
}

/* What a program has to do for its child itself, when no library does it. */
static void fork_by_hand(void)
{
    pid_t pid = own.fork();
    if (pid == 0) {
        own.syscall(SYS_sched_setaffinity, 0, sizeof every_cpu, every_cpu);
        _exit(0);
    }
    reap(pid);
}

static void *nothing(void *arg)
{
    return arg;
}

static void create_and_join(create_fn *create)
{
    pthread_t thread;
    if (create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL))
        die("pthread_create");
}

static void thread_seen(void) { create_and_join(seen.create); }
static void thread_own(void) { create_and_join(own.create); }
static void syscall_seen(void) { seen.syscall(SYS_getppid); }
static void syscall_own(void) { own.syscall(SYS_getppid); }
static void getaffinity_seen(void) { seen.getaffinity(0, sizeof mask, (cpu_set_t *)mask); }
static void getaffinity_own(void) { own.getaffinity(0, sizeof mask, (cpu_set_t *)mask); }

static const struct operation {
    const char *name;
    void (*run)(void);
    int per_sample; /* calls per reading of the clock */
} operations[] = {
    { "fork", fork_seen, 1 },
    { "fork-libc", fork_own, 1 },
    { "fork-by-hand", fork_by_hand, 1 },
    { "thread", thread_seen, 1 },
    { "thread-libc", thread_own, 1 },
    { "syscall", syscall_seen, 1000 },
    { "syscall-libc", syscall_own, 1000 },
    { "getaffinity", getaffinity_seen, 1000 },
    { "getaffinity-libc", getaffinity_own, 1000 },
};

static const struct operation *find_operation(const char *name)
{
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(operations[i].name, name))
            return &operations[i];
    errno = EINVAL;
    die(name);
    return NULL;
}

static double sample(const struct operation *operation)
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < operation->per_sample; i++)
        operation->run();
    clock_gettime(CLOCK_MONOTONIC, &to);
    return ((to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / operation->per_sample;
}

static void measure(char *names, int count)
{
    const struct operation *chosen[8];
    int kinds = 0;
    for (char *name = strtok(names, ","); name && kinds < 8; name = strtok(NULL, ","))
        chosen[kinds++] = find_operation(name);
    double *ns = calloc((size_t)count * kinds, sizeof *ns);
    for (int i = -2; i < count; i++) /* two turns to warm up */
        for (int j = 0; j < kinds; j++) {
            int k = (i + 2 + j) % kinds;
            double taken = sample(chosen[k]);
            if (i >= 0)
                ns[i * kinds + k] = taken;
        }
    for (int i = 0; i < count * kinds; i++)
        printf("%.2f ", ns[i]);
    printf("\n");
    free(ns);
}

static void count(const struct operation *operation, int times, int marked)
{
    for (int i = 0; i < 3; i++) /* symbols are bound by then */
        operation->run();
    if (marked)
        raise(SIGSTOP);
    for (int i = 0; i < times; i++)
        operation->run();
    if (marked)
        raise(SIGSTOP);
}

static void show_cpus(void)
{
    int mine = at_most_127(real_cpus()), status;
    pid_t pid = seen.fork();
    if (pid == 0)
        _exit(at_most_127(real_cpus()));
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        die("fork");
    printf("%d %d\n", mine, WEXITSTATUS(status));
}

static void grow(int megabytes)
{
    char *memory = malloc((size_t)megabytes << 20);
    if (!memory)
        die("memory");
    for (size_t at = 0; at < (size_t)megabytes << 20; at += 4096)
        memory[at] = 1;
    __asm__ volatile("" : : "r"(memory) : "memory"); /* or the compiler sees that nobody reads it */
    printf("0\n");
}

#ifdef REGION
void region(void);
#else
static void region(void) { }
#endif

int main(int argc, char **argv)
{
    memset(every_cpu, 0xff, sizeof every_cpu);
    find_symbols();
    region();
    if (argc >= 3) {
        count(find_operation(argv[1]), atoi(argv[2]), argc > 3);
        return 0;
    }
    char line[256];
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    while (fgets(line, sizeof line, stdin)) {
        char *names = strtok(line, " \n"), *count = strtok(NULL, " \n");
        if (names && !strcmp(names, "cpus"))
            show_cpus();
        else if (names && count && !strcmp(names, "memory"))
            grow(atoi(count));
        else if (names && count)
            measure(names, atoi(count));
        fflush(stdout);
    }
    return 0;
}
