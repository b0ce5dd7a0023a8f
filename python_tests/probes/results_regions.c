/* Every OpenMP construct whose result is the same for any number of threads, in regions of the default size. This
   object neither asks for the maximum nor sets it, so its regions may be made smaller: "team.*" says how large they
   were. */
#include "results_checks.h"
#include <omp.h>

enum { N = 20000 };

static long serial(void) {
    long sum = 0;
    for (long i = 0; i < N; i++) sum += mix(i);
    return sum;
}

static long reduction(int *team) {
    long sum = 0, largest = 0;
#pragma omp parallel reduction(+ : sum) reduction(max : largest)
    {
#pragma omp master
        *team = omp_get_num_threads();
#pragma omp for schedule(static)
        for (long i = 0; i < N; i++) {
            long value = mix(i);
            sum += value;
            if (value > largest) largest = value;
        }
    }
    return sum ^ largest;
}

/* Every thread takes its part by its own arithmetic, as much code does: what counts is that the team it is told of is
   the team there is. */
static long by_hand(void) {
    long sums[256] = {0}, sum = 0;
#pragma omp parallel
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        for (long i = N * (long)me / all; i < N * (long)(me + 1) / all; i++) sums[me] += mix(i);
    }
    for (int i = 0; i < 256; i++) sum += sums[i];
    return sum;
}

static long scheduled(void) {
    static long values[N];
    long sum = 0;
#pragma omp parallel for schedule(dynamic, 64)
    for (long i = 0; i < N; i++) values[i] = mix(i);
#pragma omp parallel for schedule(guided) reduction(+ : sum)
    for (long i = 0; i < N; i++) sum += values[N - 1 - i];
#pragma omp parallel for schedule(runtime) reduction(+ : sum)
    for (long i = 0; i < N; i++) sum += values[i] * (i & 3);
    return sum;
}

static long ordered(void) {
    long hash = 0;
#pragma omp parallel for ordered schedule(dynamic, 3)
    for (long i = 0; i < 100; i++) {
        long value = mix(i);
#pragma omp ordered
        hash = mix(hash + value);
    }
    return hash;
}

static long sections(void) {
    long a = 0, b = 0, c = 0, d = 0;
#pragma omp parallel sections
    {
#pragma omp section
        for (long i = 0; i < 5000; i++) a += mix(i);
#pragma omp section
        for (long i = 0; i < 5000; i++) b += mix(i + 1);
#pragma omp section
        for (long i = 0; i < 5000; i++) c += mix(i + 2);
#pragma omp section
        for (long i = 0; i < 5000; i++) d += mix(i + 3);
    }
    return a ^ b << 1 ^ c << 2 ^ d << 3;
}

static long fibonacci(int n) {
    long a, b;
    if (n < 2) return n;
#pragma omp task shared(a) if (n > 8)
    a = fibonacci(n - 1);
    b = fibonacci(n - 2);
#pragma omp taskwait
    return a + b;
}

static long tasks(void) {
    long result = 0, chain = 0, loop = 0;
#pragma omp parallel
#pragma omp single
    {
        result = fibonacci(16);
        for (int i = 0; i < 50; i++) {
#pragma omp task depend(inout : chain)
            chain = mix(chain + i);
        }
#pragma omp taskloop grainsize(20)
        for (long i = 0; i < 1000; i++) {
#pragma omp atomic
            loop += mix(i);
        }
    }
    return result ^ chain << 8 ^ loop << 4;
}

static long nested(void) {
    long sum = 0;
    int before = omp_get_max_active_levels();
#ifndef NOT_LIBGOMP
    /* Old copies want to be asked for nesting as well; LLVM's runtime complains. */
    omp_set_nested(1);
#endif
    omp_set_max_active_levels(3);
    for (int turn = 0; turn < 2; turn++) {
#pragma omp parallel for reduction(+ : sum) schedule(static, 1)
        for (int i = 0; i < 8; i++) {
            long inner = 0;
#pragma omp parallel for reduction(+ : inner)
            for (long j = 0; j < 500; j++) inner += mix(i * 500 + j);
            long fixed = 0;
#pragma omp parallel num_threads(2) reduction(+ : fixed)
            fixed += omp_get_num_threads() == 2;
            sum += inner + (fixed == 2 ? 0 : 1000000000);
        }
    }
#ifndef NOT_LIBGOMP
    omp_set_nested(0);
#endif
    omp_set_max_active_levels(before);
    return sum;
}

#ifndef NOT_LIBGOMP
/* What is cancelled ends early, and the regions after it are whole again. */
static long cancellation(void) {
    long seen = 0;
    int team;
    if (!omp_get_cancellation()) return -1;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 16)
        for (long i = 0; i < N; i++) {
            if (i == N / 2) {
#pragma omp atomic write
                seen = 1;
#pragma omp cancel for
            }
#pragma omp cancellation point for
        }
    }
    long late = 0;
#pragma omp parallel shared(late)
    {
        if (omp_get_thread_num() == 0) {
#pragma omp atomic
            late++;
#pragma omp cancel parallel
        }
#pragma omp cancellation point parallel
    }
#pragma omp parallel
#pragma omp single
#pragma omp taskgroup
    {
        for (int i = 0; i < 20; i++) {
#pragma omp task
            {
                if (i == 10) {
#pragma omp cancel taskgroup
                }
            }
        }
    }
    return seen + 2 * late + 4 * reduction(&team);
}
#endif

static int private_value;
#pragma omp threadprivate(private_value)

/* threadprivate data, copyin, barriers, single copyprivate, locks, atomics: all threads of the team see each other. */
static long team_work(void) {
    long errors = 0, arrived = 0;
    private_value = 41;
#pragma omp parallel copyin(private_value) reduction(+ : errors)
    {
        long value = 0;
        int all = omp_get_num_threads();
        errors += private_value != 41;
#pragma omp atomic
        arrived++;
#pragma omp barrier
        errors += arrived != all;
#pragma omp single copyprivate(value)
        value = 7;
        errors += value != 7;
#pragma omp barrier
#pragma omp critical
        arrived--;
#pragma omp barrier
        errors += arrived != 0;
    }
    return errors;
}

/* A count that is asked for is what comes, whoever else is there. */
static long explicit_counts(void) {
    long wrong = 0;
    static const int counts[] = {2, 3, 5, 1, 4, 2};
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        int team = 0;
        long arrived = 0;
#pragma omp parallel num_threads(counts[i])
        {
#pragma omp master
            team = omp_get_num_threads();
#pragma omp atomic
            arrived++;
        }
        wrong += team != counts[i];
        wrong += arrived != counts[i];
    }
    return wrong;
}

static long offered(void) {
    long sum = 0;
#pragma omp teams num_teams(2) reduction(+ : sum)
#pragma omp distribute parallel for reduction(+ : sum)
    for (long i = 0; i < 2000; i++) sum += mix(i);
    return sum;
}

#define CHECK(name) say(out, #name, name())
void checks(say_function *say, void *out) {
    int team = 0;
    CHECK(serial);
    say(out, "reduction", reduction(&team));
    say(out, "team.default", team);
    for (int i = 0; i < 20; i++) {
#pragma omp parallel
        {
#pragma omp master
            team = omp_get_num_threads();
            work_for(0.5);
        }
        say(out, "team.default", team);
    }
    CHECK(by_hand);
    CHECK(scheduled);
    CHECK(ordered);
    CHECK(sections);
    CHECK(tasks);
    CHECK(nested);
#ifndef NOT_LIBGOMP
    CHECK(cancellation);
#endif
    CHECK(team_work);
    CHECK(explicit_counts);
    CHECK(offered);
    say(out, "reduction_again", reduction(&team));
}
