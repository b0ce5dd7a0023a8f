/* TBB's parallel_for for `scripts/bench budget`: tbb STEPS, with so much work to divide. TBB has no variable for the number of
   threads, so a user who wants fewer says so in the program; here BENCH_THREADS stands for that. As a shared library it does no
   more than that, for MKL's TBB layer. */
#include "budget_crew.h"
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

namespace {

size_t threads() {
    const char *said = getenv("BENCH_THREADS");
    return said ? strtoul(said, nullptr, 10) : 1u << 16;
}

const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, threads());

constexpr int pieces = 16;
long steps;
volatile double sinks[pieces * 8];

void loop() {
    tbb::parallel_for(0, pieces, [](int i) { sinks[i * 8] = work(steps); });
}

} // namespace

int main(int argc, char **argv) {
    steps = (argc > 1 ? atol(argv[1]) : 0) / pieces;
    return serve(loop);
}
