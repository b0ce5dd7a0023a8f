/*
 * exec: what starting a short program costs under each of several preloads.
 *
 *     exec COUNT PRELOAD...        ("-" is no preload)
 *
 * Spawns /bin/true COUNT times per preload, changing the preload with every spawn and the order with every turn, so that a slow
 * moment of the machine meets all of them alike. Prints per turn and preload: nanoseconds and minor page faults.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static const char program[] = "/bin/true";

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "exec: %s\n", what);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        die("usage: exec COUNT PRELOAD...");
    int count = atoi(argv[1]), kinds = argc - 2;
    char *child_argv[] = { (char *)program, NULL };
    char **preload = calloc(kinds, sizeof *preload);
    for (int k = 0; k < kinds; k++)
        if (strcmp(argv[k + 2], "-") && asprintf(&preload[k], "LD_PRELOAD=%s", argv[k + 2]) < 0)
            die("no memory");

    long long *ns = calloc((size_t)kinds * count, sizeof *ns);
    long *faults = calloc((size_t)kinds * count, sizeof *faults);
    for (int i = -2; i < count; i++) { /* two turns to warm up */
        for (int j = 0; j < kinds; j++) {
            int k = (i + 2 + j) % kinds, status;
            /* Equally many variables for all: ld.so walks the environment. */
            char *env[] = { "PATH=/usr/bin:/bin", preload[k] ? preload[k] : "LD_PRELOAX=", NULL };
            struct rusage used;
            pid_t pid;
            long long start = now();
            if (posix_spawn(&pid, program, NULL, NULL, child_argv, env))
                die("posix_spawn failed");
            if (wait4(pid, &status, 0, &used) != pid || status)
                die("the child failed");
            if (i >= 0) {
                ns[i * kinds + k] = now() - start;
                faults[i * kinds + k] = used.ru_minflt;
            }
        }
    }
    for (int i = 0; i < count * kinds; i++)
        printf("%lld %ld%c", ns[i], faults[i], i % kinds == kinds - 1 ? '\n' : ' ');
    return 0;
}
