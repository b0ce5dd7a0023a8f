/* Regions on demand, and the CPUs that their threads are pinned to. Reads commands, a line each, and answers each with a line:

   region N   runs a region of N threads: "REAL/TOLD" for each, the mask that it has and the one that it hears of
   stay N     the same, and does not leave the region before the next line comes, which is not answered
   mask       the main thread's, in the same form
   set LIST   sets the main thread's mask, as a program does on purpose: what it is then
   refused    tries to set it to a CPU that is not there: the error's number
   threads N  N threads, one after the other, each of which runs a region of its own: "threads"
   flap N     N times a region of 2 threads and one of 4: "flap"
   pause      has the runtime give up its threads and its pins (omp_pause_resource_all): what the mask is then
   cat        executes cat in its place, which answers each line with the same line
   nothing    tries to execute a program that is not there: the error's number

   A mask is a list of CPUs with commas. */
#define _GNU_SOURCE
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 64, TEXT = 8192 };

static char seen[MOST][TEXT];

/* The kernel's answer, whoever else may want to give one. */
static cpu_set_t real_mask(void) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    register long number __asm__("rax") = SYS_sched_getaffinity;
    __asm__ volatile("syscall" : "+r"(number) : "D"(0L), "S"((long)sizeof mask), "d"(&mask) : "rcx", "r11", "memory");
    return mask;
}

static cpu_set_t told_mask(void) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask)) perror("sched_getaffinity");
    return mask;
}

static char *list(char *out, cpu_set_t mask) {
    const char *between = "";
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &mask)) {
            out += sprintf(out, "%s%d", between, cpu);
            between = ",";
        }
    return out;
}

static void look(char *out) {
    out = list(out, real_mask());
    *out++ = '/';
    *list(out, told_mask()) = 0;
}

static int next_line(char *line, int bytes) {
    if (!fgets(line, bytes, stdin)) return 0;
    line[strcspn(line, "\n")] = 0;
    return 1;
}

static void region(int threads, int stays) {
    if (threads < 1 || threads > MOST) exit(3);
    memset(seen, 0, sizeof seen);
#pragma omp parallel num_threads(threads)
    {
        look(seen[omp_get_thread_num()]);
#pragma omp barrier
#pragma omp master
        {
            for (int thread = 0; thread < omp_get_num_threads(); thread++) printf(thread ? " %s" : "%s", seen[thread]);
            puts("");
            fflush(stdout);
            char line[8];
            if (stays) next_line(line, sizeof line);
        }
#pragma omp barrier
    }
}

static void empty_region(int threads) {
#pragma omp parallel num_threads(threads)
    sched_getcpu();
}

static void *region_of_its_own(void *argument) {
    (void)argument;
    empty_region(1);
    return NULL;
}

static void threads(int count) {
    for (int done = 0; done < count; done++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, region_of_its_own, NULL)) exit(6);
        pthread_join(thread, NULL);
    }
}

/* Not in every runtime that this is linked to. */
int omp_pause_resource_all(omp_pause_resource_t) __attribute__((weak));

static cpu_set_t parse(char *text) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    for (char *cpu = strtok(text, ","); cpu; cpu = strtok(NULL, ",")) CPU_SET(atoi(cpu), &mask);
    return mask;
}

int main(void) {
    char line[TEXT];
    while (next_line(line, sizeof line) && strcmp(line, "quit")) {
        char *rest = strchr(line, ' ');
        if (rest) *rest++ = 0;
        if (!strcmp(line, "region")) {
            region(atoi(rest), 0);
        } else if (!strcmp(line, "stay")) {
            region(atoi(rest), 1);
        } else if (!strcmp(line, "mask")) {
            look(seen[0]);
            puts(seen[0]);
        } else if (!strcmp(line, "set")) {
            cpu_set_t mask = parse(rest);
            if (sched_setaffinity(0, sizeof mask, &mask)) perror("sched_setaffinity");
            look(seen[0]);
            puts(seen[0]);
        } else if (!strcmp(line, "refused")) {
            cpu_set_t mask;
            CPU_ZERO(&mask);
            CPU_SET(CPU_SETSIZE - 1, &mask);
            printf("%d\n", sched_setaffinity(0, sizeof mask, &mask) ? errno : 0);
        } else if (!strcmp(line, "threads")) {
            threads(atoi(rest));
            puts("threads");
        } else if (!strcmp(line, "flap")) {
            for (int count = atoi(rest); count > 0; count--) {
                empty_region(2);
                empty_region(4);
            }
            puts("flap");
        } else if (!strcmp(line, "pause")) {
            if (!omp_pause_resource_all || omp_pause_resource_all(omp_pause_hard)) return 7;
            look(seen[0]);
            puts(seen[0]);
        } else if (!strcmp(line, "cat")) {
            puts("cat");
            fflush(stdout);
            execlp("cat", "cat", NULL);
            return 4;
        } else if (!strcmp(line, "nothing")) {
            execl("/nonexistent", "nonexistent", NULL);
            printf("%d\n", errno);
        } else {
            return 5;
        }
        fflush(stdout);
    }
    return 0;
}
