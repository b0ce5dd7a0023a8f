/* What every program here shares: entering a region so that the runtime pins us, reading masks behind everybody's
 * back, and printing "label value" lines, which the driver compares with the table in the program's header. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

extern char **environ;

/* Not in every glibc the tests run on. */
pid_t _Fork(void) __attribute__((weak));
int execveat(int, const char *, char *const[], char *const[], int) __attribute__((weak));

/* A system call that no preload can see: libc's syscall() is one of the names under test. */
static inline long raw(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

#define MASK_BYTES 1024 /* 8192 CPUs */

static inline int in_mask(const unsigned char *mask, int cpu) { return mask[cpu / 8] >> cpu % 8 & 1; }

/* No malloc, no stdio, little stack: what prints is also for vfork children and signal handlers. */
static inline char *put_number(char *to, long number) {
    char digits[24];
    int count = 0;
    unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
    if (number < 0) *to++ = '-';
    do digits[count++] = (char)('0' + rest % 10);
    while (rest /= 10);
    while (count) *to++ = digits[--count];
    *to = 0;
    return to;
}

/* "0-3,8" as taskset prints it, cut off where the text is full. */
static inline void format_mask(const unsigned char *mask, char *text, size_t size) {
    char *start = text, *end = text + size - 24;
    *text = 0;
    for (int cpu = 0; cpu < MASK_BYTES * 8 && text < end; cpu++) {
        int last = cpu;
        if (!in_mask(mask, cpu)) continue;
        while (last + 1 < MASK_BYTES * 8 && in_mask(mask, last + 1)) last++;
        if (text > start) *text++ = ',';
        text = put_number(text, cpu);
        if (last > cpu) {
            *text++ = '-';
            text = put_number(text, last);
        }
        cpu = last;
    }
}

/* One write, so that lines of several threads do not mix. */
static inline void show_text(const char *label, const char *value) {
    char line[640];
    size_t used = strlen(label);
    memcpy(line, label, used);
    line[used++] = ' ';
    size_t length = strlen(value) < sizeof line - used - 1 ? strlen(value) : sizeof line - used - 1;
    memcpy(line + used, value, length);
    used += length;
    line[used++] = '\n';
    if (write(1, line, used) < 0) _exit(1);
}
static inline void show_number(const char *label, long value) {
    char text[24];
    put_number(text, value);
    show_text(label, text);
}
static inline void show_errno(const char *label, int number) {
    static const struct {
        int number;
        const char *name;
    } names[] = {{E2BIG, "E2BIG"}, {EACCES, "EACCES"}, {EAGAIN, "EAGAIN"}, {EBADF, "EBADF"}, {EFAULT, "EFAULT"},
                 {EINVAL, "EINVAL"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"}, {ENOSYS, "ENOSYS"}, {EPERM, "EPERM"},
                 {ESRCH, "ESRCH"}, {ETIMEDOUT, "ETIMEDOUT"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number) return show_text(label, names[i].name);
    show_number(label, number);
}
/* For a primitive that this glibc has not: the driver skips the case, and says so. */
static inline void need(int there, const char *name) {
    if (there) return;
    show_text("skip this glibc has no", name);
    exit(0);
}

/* The mask the kernel has for a thread, whatever a preload would tell us. */
static inline void show_mask_of(const char *label, pid_t tid) {
    unsigned char mask[MASK_BYTES];
    char text[512];
    memset(mask, 0, sizeof mask);
    if (raw(SYS_sched_getaffinity, tid, sizeof mask, (long)mask) < 0) strcpy(text, "error");
    else format_mask(mask, text, sizeof text);
    show_text(label, text);
}
static inline void show(const char *label) { show_mask_of(label, 0); }

/* The first and the last allowed CPU, from the driver: this process may have been pinned before main. */
static inline int first_cpu(void) { return atoi(getenv("FIRST_CPU")); }
static inline int last_cpu(void) { return atoi(getenv("LAST_CPU")); }

static inline void set_only(cpu_set_t *set, int cpu) {
    CPU_ZERO(set);
    CPU_SET(cpu, set);
}
/* The user's own choice of a CPU. */
static inline void choose(pid_t tid, int cpu) {
    cpu_set_t set;
    set_only(&set, cpu);
    if (sched_setaffinity(tid, sizeof set, &set)) show_errno("choose", errno);
}

/* The program that prints its own mask as "child MASK": not linked to any runtime, so nobody pins it again. */
static inline const char *reporter(void) { return getenv("REPORTER"); }

static inline int wait_for(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

#ifdef _OPENMP
/* Makes the runtime pin this thread, and says to which CPUs. */
static inline void pin(void) {
    volatile int threads = 0;
#pragma omp parallel num_threads(2)
#pragma omp atomic
    threads++;
    if (threads < 1) abort();
    show("pin");
}
#endif
