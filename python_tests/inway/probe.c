/* probe MASK STEP...: takes the steps in order; each that makes a child prints "STEP MASK", the child's CPU mask.
 *
 * Linked to libgomp, which pins the main thread before main when OMP_PROC_BIND is set. MASK is the path of mask.c's
 * program, for the children that execute something. The table of steps is at the end. */
#include "inway.h"
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/resource.h>
#include <limits.h>

static const char *mask_program;
static int out = 1; /* where the report goes, also the children's part of it */
static const char *label;
static char out_text[12];
static void *handle;

static void say(const char *value) {
    char line[600];
    int length = snprintf(line, sizeof line, "%s %s\n", label, value);
    if (write(out, line, (size_t)length) != length) _exit(99);
}

static void say_mask(void) {
    char mask[256];
    mask_text(mask, sizeof mask);
    say(mask);
}

static void say_number(long number) {
    char text[24];
    snprintf(text, sizeof text, "%ld", number);
    say(text);
}

static char **mask_argv(void) {
    static char *argv[4];
    snprintf(out_text, sizeof out_text, "%d", out);
    argv[0] = (char *)mask_program, argv[1] = out_text, argv[2] = (char *)label, argv[3] = NULL;
    return argv;
}

/* A name for the debugger. */
__attribute__((noinline)) void in_child(void) {
    say_mask();
    _exit(7);
}

static void self(const char *arg) { (void)arg; say_mask(); }

static void asked(const char *arg) {
    (void)arg;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) perror("sched_getaffinity");
    say_number(CPU_COUNT(&set));
}

static void region(const char *arg) {
    (void)arg;
    long sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(2)
    for (int i = 0; i < 100; i++) sum += i;
    say_number(sum);
}

static void expect(int status, int wanted) {
    if (status != wanted) {
        fprintf(stderr, "%s: child ended with %d, not %d\n", label, status, wanted);
        exit(98);
    }
}

static void forked(const char *arg) {
    (void)arg;
    errno = 77; /* fork that succeeds leaves errno alone, on both sides */
    pid_t pid = fork();
    if (errno != 77) say("errno changed");
    if (pid == 0) in_child();
    expect(wait_for(pid), 7);
}

static void bare_forked(const char *arg) {
    (void)arg;
    errno = 77;
    pid_t pid = _Fork();
    if (errno != 77) say("errno changed");
    if (pid == 0) in_child();
    expect(wait_for(pid), 7);
}

static void vforked(const char *arg) {
    (void)arg;
    char **argv = mask_argv();
    pid_t pid = vfork();
    if (pid == 0) {
        execve(mask_program, argv, environ);
        _exit(126);
    }
    expect(wait_for(pid), 0);
}

static void spawned(const char *arg) {
    (void)arg;
    pid_t pid;
    int failed = posix_spawn(&pid, mask_program, NULL, NULL, mask_argv(), environ);
    expect(failed ? failed : wait_for(pid), 0);
}

static void by_system(const char *arg) {
    (void)arg;
    char command[PATH_MAX];
    snprintf(command, sizeof command, "%s %d %s", mask_program, out, label);
    int status = system(command);
    expect(WIFEXITED(status) ? WEXITSTATUS(status) : 128, 0);
}

static void by_popen(const char *arg) {
    (void)arg;
    char command[PATH_MAX];
    snprintf(command, sizeof command, "%s %d %s", mask_program, out, label);
    FILE *pipe = popen(command, "w");
    expect(pipe ? pclose(pipe) : 97, 0);
}

static void *thread_main(void *arg) {
    say_mask();
    return arg;
}

static void threaded(const char *arg) {
    (void)arg;
    pthread_t thread;
    expect(pthread_create(&thread, NULL, thread_main, NULL), 0);
    pthread_join(thread, NULL);
}

/* The hooks run on their caller's stack, and this is the smallest there is. */
static void *tiny_main(void *arg) {
    forked(arg);
    spawned(arg);
    vforked(arg);
    return arg;
}

static void tiny(const char *arg) {
    (void)arg;
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    expect(pthread_attr_setstacksize(&attr, (size_t)sysconf(_SC_THREAD_STACK_MIN)), 0);
    expect(pthread_create(&thread, &attr, tiny_main, NULL), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
}

static void execute(const char *arg) {
    (void)arg;
    execve(mask_program, mask_argv(), environ);
    say("failed");
}

static void execute_fails(const char *arg) {
    (void)arg;
    execve("/does/not/exist", mask_argv(), environ);
    say(strerrorname_np(errno));
    say_mask();
}

static void execute_without_environment(const char *arg) {
    (void)arg;
    execve(mask_program, mask_argv(), NULL);
    say("failed");
}

static void execute_without_arguments(const char *arg) {
    (void)arg;
    char **volatile none = NULL; /* glibc declares it nonnull, Linux takes it */
    execve(mask_program, none, NULL);
    say("failed");
}

/* A string this long is more than the kernel takes: both worlds must fail alike. */
static void execute_with_a_megabyte(const char *arg) {
    (void)arg;
    char *value = malloc(1 << 20);
    memset(value, 'x', (1 << 20) - 1);
    memcpy(value, "KNLFIX_LOG=", 11);
    value[(1 << 20) - 1] = 0;
    char *environment[] = {value, NULL};
    execve(mask_program, mask_argv(), environment);
    say(strerrorname_np(errno));
    say_mask();
    free(value);
}

static void user(const char *arg) { set_one_cpu(0, atoi(arg)); }

/* Descriptors 0, 1 and 2 are closed; the report goes on through another one. */
static void close_standard(const char *arg) {
    (void)arg;
    out = fcntl(1, F_DUPFD, 20);
    close(0), close(1), close(2);
}

/* Everything but the report is closed, behind the back of anybody who keeps a descriptor. */
static void close_all(const char *arg) {
    (void)arg;
    out = fcntl(1, F_DUPFD, 200);
    for (int fd = 3; fd < 200; fd++) close(fd);
}

/* No descriptor is left; close-on-exec, as the children's loader needs one. */
static void exhaust(const char *arg) {
    (void)arg;
    struct rlimit limit = {32, 32};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {}
    if (errno != EMFILE) say("still room");
}

/* Opens the file three times, on the lowest free descriptors, and writes to each. */
static void data(const char *arg) {
    for (int i = 0; i < 3; i++) {
        int fd = open(arg, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (write(fd, "data\n", 5) != 5) say("not written");
        say_number(fd);
    }
}

static void forbid_setaffinity(const char *arg) { forbid(SYS_sched_setaffinity, atoi(arg)); }

static void load(const char *arg) {
    handle = dlopen(arg, RTLD_NOW | RTLD_GLOBAL);
    say(handle ? "loaded" : dlerror());
}

static void unload(const char *arg) { (void)arg; say_number(dlclose(handle)); }

static const struct {
    const char *name; /* with "=" when it takes an argument */
    void (*take)(const char *arg);
} steps[] = {
    {"self", self},
    {"asked", asked},
    {"region", region},
    {"fork", forked},
    {"_Fork", bare_forked},
    {"vfork", vforked},
    {"posix_spawn", spawned},
    {"system", by_system},
    {"popen", by_popen},
    {"thread", threaded},
    {"tiny", tiny},
    {"execve", execute},
    {"execve-fails", execute_fails},
    {"execve-null-environment", execute_without_environment},
    {"execve-null-arguments", execute_without_arguments},
    {"execve-megabyte", execute_with_a_megabyte},
    {"user=", user},
    {"close-standard", close_standard},
    {"close-all", close_all},
    {"exhaust", exhaust},
    {"data=", data},
    {"forbid=", forbid_setaffinity},
    {"load=", load},
    {"unload", unload},
};

int main(int argc, char **argv) {
    mask_program = argv[1];
    for (int i = 2; i < argc; i++) {
        size_t length = strcspn(argv[i], "=");
        const char *arg = argv[i][length] ? argv[i] + length + 1 : NULL;
        size_t step = 0, count = sizeof steps / sizeof *steps;
        length += arg != NULL;
        while (step < count && (strncmp(steps[step].name, argv[i], length) || steps[step].name[length])) step++;
        if (step == count) return 97;
        label = arg ? strndup(argv[i], length - 1) : argv[i];
        steps[step].take(arg);
    }
    return 0;
}
