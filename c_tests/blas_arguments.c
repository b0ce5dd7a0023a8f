// BLAS and LAPACK routines get all their arguments, and what they return comes back, in whichever register.
// case all on none: arguments=7020 mixed=123 float=1.5 double=2.5 complex=1+2 zcomplex=3+4 pair=7,-8 nested=5 stack=0 errno=kept -> arguments=7020 mixed=123 float=1.5 double=2.5 complex=1+2 zcomplex=3+4 pair=7,-8 nested=5 stack=0 errno=kept
// case jumps on none: jumps=3 after=2.5 number=2 -> jumps=3 after=2.5 number=2
// case pointers on none: arguments=7020 double=2.5 -> arguments=7020 double=2.5
// link: @routines
#include "test.h"
#include <dlfcn.h>
#include <setjmp.h>

struct pair {
    long first, second;
};
long zheevr_(long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long,
             long, long, long, long, long, long, long);
double cblas_dgemm(int, int, int, int, int, int, double, void *, int, void *, int, double, void *, int);
float sgemm_(void);
double dgemm_(void);
float _Complex cgemm_(void);
double _Complex zgemm_(void);
struct pair dgetrf_(void);
double dgesv_(void);
void dpotrf_(jmp_buf *);
long dgeqrf_(void);
extern int blas_cpu_number;

static void show_words(const char *label, const char *format, double first, double second) {
    char text[64];
    snprintf(text, sizeof text, format, first, second);
    show_text(label, text);
}

static long many(long (*call)(long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long,
                              long, long, long, long, long, long, long, long, long, long)) {
    return call(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26) + 819;
}

static void all(void) {
    char place;
    errno = ENOMEM;
    show_number("arguments", many(zheevr_));
    show_number("mixed", (long)cblas_dgemm(1, 2, 3, 4, 5, 6, 4.5, &place, 7, &place, 8, 24.0, &place, 15));
    show_words("float", "%g", sgemm_(), 0);
    show_words("double", "%g", dgemm_(), 0);
    float _Complex small = cgemm_();
    show_words("complex", "%g+%g", __real__ small, __imag__ small);
    double _Complex large = zgemm_();
    show_words("zcomplex", "%g+%g", __real__ large, __imag__ large);
    struct pair pair = dgetrf_();
    show_words("pair", "%g,%g", (double)pair.first, (double)pair.second);
    show_words("nested", "%g", dgesv_(), 0);
    show_number("stack", dgeqrf_());
    show_text("errno", errno == ENOMEM ? "kept" : "lost");
}

static void jumps(void) {
    jmp_buf back;
    volatile int times = 0;
    if (setjmp(back)) times++;
    if (times < 3) dpotrf_(&back);
    show_number("jumps", times);
    show_words("after", "%g", dgemm_(), 0);
    show_number("number", blas_cpu_number);
}

/* The code that calls need not be in an object that has a BLAS in its scope: pointers are passed about. */
static void pointers(void) {
    long (*sum)() = (long (*)())dlsym(RTLD_DEFAULT, "zheevr_");
    double (*volatile get)(void) = (double (*)(void))dlsym(RTLD_DEFAULT, "dgemm_");
    show_number("arguments", many((long (*)(long, long, long, long, long, long, long, long, long, long, long, long, long, long,
                                             long, long, long, long, long, long, long, long, long, long, long, long))sum));
    show_words("double", "%g", get(), 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "jumps")) jumps();
    else if (argc > 1 && !strcmp(argv[1], "pointers")) pointers();
    else all();
    return 0;
}
