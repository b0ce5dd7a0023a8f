/* BLAS calls from a fiber whose stack ends at a page that nobody may touch: blas_fiber LIBRARY

   LIBRARY is numpy's OpenBLAS. Prints "8 8", an element of each product, after calls at many distances from the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { N = 8, STACK = 1 << 20, PAGE = 4096, DISTANCES = 64 };

typedef void dgemv(int, int, long, long, double, double *, long, double *, long, double, double *, long);
typedef void dgemm(int, int, int, long, long, long, double, double *, long, double *, long, double, double *, long);

static dgemv *gemv;
static dgemm *gemm;
static ucontext_t back, fiber;
static double ones[N * N], vector[N], matrix[N * N];

static void calls(void) {
    gemv(101, 111, N, N, 1, ones, N, ones, 1, 0, vector, 1);
    gemm(101, 111, 111, N, N, N, 1, ones, N, ones, N, 0, matrix, N);
}

static void *find(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return found;
}

int main(int count, char **arguments) {
    void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (!library) return 2;
    gemv = (dgemv *)find(RTLD_DEFAULT, "scipy_cblas_dgemv64_");
    gemm = (dgemm *)find(RTLD_DEFAULT, "scipy_cblas_dgemm64_");
    for (int i = 0; i < N * N; i++) ones[i] = 1;
    calls(); /* What is looked up at the first call takes other ways. */
    char *stack = mmap(NULL, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack + STACK, PAGE, PROT_NONE)) return 2;
    for (int distance = 0; distance < DISTANCES; distance++) {
        vector[N - 1] = matrix[N * N - 1] = 0;
        getcontext(&fiber);
        fiber.uc_stack.ss_sp = stack;
        fiber.uc_stack.ss_size = STACK - 8 * distance;
        fiber.uc_link = &back;
        makecontext(&fiber, calls, 0);
        if (swapcontext(&back, &fiber)) return 2;
        if (vector[N - 1] != N || matrix[N * N - 1] != N) return 3;
    }
    printf("%g %g\n", vector[N - 1], matrix[N * N - 1]);
    return 0;
}
