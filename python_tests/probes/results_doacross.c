/* Loops whose iterations wait for one another. LLVM's runtime crashes in them (compiled by gcc) in a team of one, so
   nobody may make the team of this object smaller there. */
#include "results_checks.h"
#include <omp.h>

enum { N = 12 };

void checks(say_function *say, void *out) {
    static long values[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) values[i][j] = i + j;
#pragma omp parallel for ordered(2) collapse(2) schedule(static, 1)
    for (int i = 1; i < N; i++)
        for (int j = 1; j < N; j++) {
#pragma omp ordered depend(sink : i - 1, j) depend(sink : i, j - 1)
            values[i][j] = mix(values[i - 1][j] + 3 * values[i][j - 1]);
#pragma omp ordered depend(source)
        }
    say(out, "doacross", values[N - 1][N - 1]);
}
