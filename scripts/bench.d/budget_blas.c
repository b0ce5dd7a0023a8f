/* Products of square matrices for `scripts/bench budget`: blas SIZE, linked with any BLAS. */
#include "budget_crew.h"

void dgemm_(const char *, const char *, const int *, const int *, const int *, const double *, const double *, const int *,
            const double *, const int *, const double *, double *, const int *);

static int size;
static double *left, *product;

static void multiply(void) {
    const double one = 1.0, zero = 0.0;
    dgemm_("N", "N", &size, &size, &size, &one, left, &size, left, &size, &zero, product, &size);
}

int main(int argc, char **argv) {
    size = argc > 1 ? atoi(argv[1]) : 512;
    left = malloc(sizeof *left * (size_t)size * (size_t)size);
    product = malloc(sizeof *product * (size_t)size * (size_t)size);
    if (!left || !product) return 1;
    for (long i = 0; i < (long)size * size; i++) left[i] = 1.0;
    return serve(multiply);
}
