// A program that looks for LLVM's runtime finds the library's names. Where there is no runtime, regions have one thread.
// case region on none: region=missing -> region=1 arguments=right maximum=1
// link: -rdynamic -ldl
#include "test.h"
#include <dlfcn.h>
#include <stdarg.h>

static int threads, right;

static void region(int *thread, int *bound, ...) {
    va_list arguments;
    threads++;
    va_start(arguments, bound);
    right = *thread == 0;
    for (long i = 1; i < 8; i++) right &= va_arg(arguments, long) == i;
    va_end(arguments);
}

int main(void) {
    void (*fork_call)(void *, int, void *, ...) = (void (*)(void *, int, void *, ...))dlsym(RTLD_DEFAULT, "__kmpc_fork_call");
    int (*ask)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    if (!fork_call || !ask) return show_text("region", "missing"), 0;
    fork_call(NULL, 7, (void *)(uintptr_t)region, 1L, 2L, 3L, 4L, 5L, 6L, 7L);
    show_number("region", threads);
    show_text("arguments", right ? "right" : "wrong");
    show_number("maximum", ask());
}
