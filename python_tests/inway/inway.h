/* What the programs of this folder share: the mask the kernel has for the calling thread, whatever a preload says. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MASK_BYTES = 1024 };

/* A system call that no preload can see. */
static inline long raw(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

/* "0-3,8". Neither malloc nor a lock: also for forked children of threaded parents, and small stacks. */
static inline void mask_text(char *text, size_t size) {
    unsigned char mask[MASK_BYTES] = {0};
    size_t used = 0;
    text[0] = 0;
    if (raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask) < 0) snprintf(text, size, "unreadable");
    for (int cpu = 0; cpu < MASK_BYTES * 8 && used < size; cpu++) {
        int end = cpu;
        while (end < MASK_BYTES * 8 && mask[end / 8] >> end % 8 & 1) end++;
        if (end == cpu) continue;
        used += (size_t)snprintf(text + used, size - used, end > cpu + 1 ? "%s%d-%d" : "%s%d", used ? "," : "", cpu,
                                 end - 1);
        cpu = end;
    }
}

static inline void set_one_cpu(pid_t tid, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(tid, sizeof set, &set)) perror("sched_setaffinity");
}

/* Exit status, or 128 + signal. */
static inline int wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* A system call fails with this error from now on, in this process and all that come from it. */
static inline void forbid(int number, int error) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {4, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        perror("seccomp");
        exit(96);
    }
}

#ifdef _OPENMP
/* Links the program to libgomp, and leaves a team of threads behind. */
static inline void enter_region(void) {
    volatile int threads = 0;
#pragma omp parallel num_threads(2)
#pragma omp atomic
    threads++;
    if (threads < 1) exit(93);
}
#endif
