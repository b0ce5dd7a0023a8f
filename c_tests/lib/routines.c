/* A stand-in for OpenBLAS: as far as the library can see it is one, and its routines say what they were passed. */
#include <setjmp.h>
#include <stddef.h>

int blas_cpu_number = 2;
int exec_blas_async(void) { return 0; }

/* 26 arguments, as zheevr_ has: the sum says whether each of them came through, and in its place. */
long zheevr_(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j, long k, long l, long m, long n,
             long o, long p, long q, long r, long s, long t, long u, long v, long w, long x, long y, long z) {
    long all[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y, z}, sum = 0;
    for (size_t at = 0; at < sizeof all / sizeof *all; at++) sum += all[at] * (long)(at + 1);
    return sum;
}

/* Scalars by value among pointers and numbers. */
double cblas_dgemm(int a, int b, int c, int d, int e, int f, double alpha, void *g, int h, void *i, int j, double beta,
                   void *k, int l) {
    return alpha * 10 + beta + a + b + c + d + e + f + h + j + l + (g != NULL) + (i != NULL) + (k != NULL);
}

/* What comes back in one register of each kind, and in two. */
float sgemm_(void) { return 1.5F; }
double dgemm_(void) { return 2.5; }
float _Complex cgemm_(void) { return 1.0F + 2.0iF; }
double _Complex zgemm_(void) { return 3.0 + 4.0i; }
struct pair {
    long first, second;
};
struct pair dgetrf_(void) { return (struct pair){7, -8}; }

/* A routine that calls another, through the table as Debian's LAPACK does. */
double (*volatile inner)(void) = dgemm_;
double dgesv_(void) { return inner() * 2; }

/* One that does not return, as R's error handler does not. */
void dpotrf_(jmp_buf *back) { longjmp(*back, 1); }

/* The stack as a routine finds it: 0 if it is aligned as the ABI says. */
long dgeqrf_(void) { return (long)((size_t)__builtin_frame_address(0) & 15); }
