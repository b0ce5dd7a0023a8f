// A third party's library that binds its caller. It exports nothing a threading runtime exports.
#include "test.h"

void bind_caller_to(int cpu);
void bind_caller_to(int cpu) { choose(0, cpu); }
