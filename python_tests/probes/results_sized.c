/* Code that sizes by what it is told: omp_get_max_threads, and then regions that must not have one thread more, or
   (where it passes the number on) one less. A write past what was sized ends the program. */
#include "results_checks.h"
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, N = 20000 };

/* A page for each thread, and one before and behind that nobody may touch. */
static char *guarded(int threads) {
    size_t size = (threads + 2) * (size_t)PAGE;
    char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, PAGE, PROT_NONE)) abort();
    if (mprotect(pages + size - PAGE, PAGE, PROT_NONE)) abort();
    return pages + PAGE;
}

static void release(char *pages, int threads) { munmap(pages - PAGE, (threads + 2) * (size_t)PAGE); }

static long total(char *pages, int threads) {
    long sum = 0;
    for (int i = 0; i < threads; i++) sum += *(long *)(pages + i * (size_t)PAGE);
    return sum;
}

/* Sized once, used by many regions of the default size, with time for the share to change in between. */
static long default_size(void) {
    int threads = omp_get_max_threads();
    char *pages = guarded(threads);
    for (int turn = 0; turn < 30; turn++) {
#pragma omp parallel
        {
            char *page = pages + omp_get_thread_num() * (size_t)PAGE;
            for (char *at = page; at < page + PAGE; at += 64) *(volatile char *)at |= 0;
#pragma omp for
            for (long i = 0; i < N; i++) *(long *)page += mix(i + turn);
        }
        if (turn % 3 == 0) usleep(1000);
    }
    long sum = total(pages, threads);
    release(pages, threads);
    return sum;
}

/* As scikit-learn and XGBoost do it: the number goes to num_threads, the parts are dealt out beforehand, thread i does
   part i. With a thread less a part is missing; with one more there is a write behind the end. */
static long dealt_out(void) {
    long sum = 0;
    for (int turn = 0; turn < 30; turn++) {
        int threads = omp_get_max_threads();
        char *pages = guarded(threads);
#pragma omp parallel num_threads(threads)
        {
            int me = omp_get_thread_num();
            long *mine = (long *)(pages + me * (size_t)PAGE);
            for (long i = N * (long)me / threads; i < N * (long)(me + 1) / threads; i++) *mine += mix(i ^ turn);
        }
        sum += total(pages, threads);
        release(pages, threads);
        if (turn % 3 == 0) usleep(1000);
    }
    return sum;
}

/* The maximum at the first region is the maximum at every later one. */
static long constant_maximum(void) {
    static int first;
    long changed = 0;
    if (!first) first = omp_get_max_threads();
    for (int turn = 0; turn < 20; turn++) {
        changed += omp_get_max_threads() != first;
#pragma omp parallel reduction(+ : changed)
        changed += omp_get_max_threads() != first;
        usleep(500);
    }
    return changed;
}

/* What is set is what is told, and never exceeded. In a thread of its own, as it stays set. */
static void *set_counts(void *out) {
    long *wrong = out;
    static const int counts[] = {5, 2, 1, 3, 4};
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        char *pages;
        omp_set_num_threads(counts[i]);
        *wrong += omp_get_max_threads() != counts[i];
        pages = guarded(omp_get_max_threads());
#pragma omp parallel
        {
            long *mine = (long *)(pages + omp_get_thread_num() * (size_t)PAGE);
#pragma omp for
            for (long j = 0; j < 1000; j++) *mine += 1;
        }
        *wrong += total(pages, counts[i]) != 1000;
        *wrong += omp_get_max_threads() != counts[i];
        release(pages, counts[i]);
    }
    return NULL;
}

#ifndef NOT_LIBGOMP
static volatile int forking;

/* Forks children that run regions of both kinds, in a thread that ran none: no runtime needs help with that. */
static void *fork_children(void *out) {
    long *failed = out;
    for (int i = 0; i < 6; i++) {
        pid_t child = fork();
        if (child == 0) {
            long sum = 0;
            alarm(60);
            for (int turn = 0; turn < 5; turn++) {
#pragma omp parallel num_threads(3)
#pragma omp atomic
                sum += 1;
#pragma omp parallel for reduction(+ : sum)
                for (int j = 0; j < 100; j++) sum += 1;
            }
            _exit(sum == 5 * 103 ? 0 : 9);
        }
        int status = -1;
        if (child < 0 || waitpid(child, &status, 0) != child || status) *failed += 1000 + status;
    }
    forking = 0;
    return NULL;
}

static long regions_meanwhile(long *failed) {
    pthread_t thread;
    long wrong = 0, right = -1;
    forking = 1;
    if (pthread_create(&thread, NULL, fork_children, failed)) abort();
    while (forking) {
        long sum = 0;
#pragma omp parallel for reduction(+ : sum)
        for (long i = 0; i < N; i++) sum += mix(i);
        if (right < 0) right = sum;
        wrong += sum != right;
    }
    pthread_join(thread, NULL);
    return wrong;
}
#endif

void checks(say_function *say, void *out) {
    long wrong = 0;
    pthread_t thread;
    say(out, "default_size", default_size());
    say(out, "dealt_out", dealt_out());
    say(out, "constant_maximum", constant_maximum());
    if (pthread_create(&thread, NULL, set_counts, &wrong) || pthread_join(thread, NULL)) abort();
    say(out, "set_counts", wrong);
#ifndef NOT_LIBGOMP
    long failed = 0;
    say(out, "regions_while_forking", regions_meanwhile(&failed));
    say(out, "children", failed);
#endif
}
