// Everything that may be in a default-sized region, while its size changes from one time to the next: results are right.
// case {cancel,ordered,doacross,tasks,taskloop,sections,reduction,barriers,copyin,lastprivate,nested,threads} on libgomp: wrong=0 sizes=one -> wrong=0 sizes=several
// env: OMP_NUM_THREADS=4 OMP_CANCELLATION=true
// pinning: off
#include "gomp.h"

enum { N = 240 };
static int mine;
#pragma omp threadprivate(mine)
static unsigned sizes;

static void note_size(void) {
#pragma omp single nowait
    sizes |= 1U << omp_get_num_threads();
}

static int is_right(const char *what) {
    long sum = 0, last = 0, order[N], chain[N + 1];
    int at = 0;
    if (!strcmp(what, "cancel")) {
        int found = -1;
#pragma omp parallel
        {
            note_size();
#pragma omp for schedule(dynamic)
            for (int i = 0; i < N; i++) {
                if (i == N / 2) {
#pragma omp atomic write
                    found = i;
#pragma omp cancel for
                }
#pragma omp cancellation point for
            }
        }
#pragma omp parallel
        {
#pragma omp cancel parallel if (omp_get_thread_num() == 0)
#pragma omp barrier
#pragma omp atomic
            sum++;
        }
        return found == N / 2 && sum == 0;
    }
    if (!strcmp(what, "ordered")) {
#pragma omp parallel
        {
            note_size();
#pragma omp for ordered schedule(dynamic, 3)
            for (int i = 0; i < N; i++) {
#pragma omp ordered
                order[at++] = i;
            }
        }
        for (int i = 0; i < N; i++) sum += order[i] == i;
        return sum == N;
    }
    if (!strcmp(what, "doacross")) {
        chain[0] = 0;
#pragma omp parallel
        {
            note_size();
#pragma omp for ordered(1) schedule(dynamic)
            for (int i = 1; i <= N; i++) {
#pragma omp ordered depend(sink : i - 1)
                chain[i] = chain[i - 1] + i;
#pragma omp ordered depend(source)
            }
        }
        return chain[N] == N * (N + 1) / 2;
    }
    if (!strcmp(what, "tasks")) {
#pragma omp parallel
        {
            note_size();
#pragma omp single
#pragma omp taskgroup task_reduction(+ : sum)
            for (int i = 1; i <= N; i++) {
#pragma omp task in_reduction(+ : sum) depend(inout : order[i % 5])
                sum += i;
            }
        }
        return sum == N * (N + 1) / 2;
    }
    if (!strcmp(what, "taskloop")) {
#pragma omp parallel reduction(task, + : sum)
        {
            note_size();
#pragma omp single
#pragma omp taskloop in_reduction(+ : sum) grainsize(7)
            for (int i = 1; i <= N; i++) sum += i;
        }
        return sum == N * (N + 1) / 2;
    }
    if (!strcmp(what, "sections")) {
        long parts[3] = {0};
#pragma omp parallel
        {
            note_size();
#pragma omp sections
            {
#pragma omp section
                parts[0] = 1;
#pragma omp section
                parts[1] = 2;
#pragma omp section
                parts[2] = 3;
            }
        }
        return parts[0] + parts[1] + parts[2] == 6;
    }
    if (!strcmp(what, "barriers")) {
        int wrong = 0;
#pragma omp parallel
        {
            note_size();
            for (int i = 1; i < 20; i++) {
#pragma omp atomic
                sum++;
#pragma omp barrier
#pragma omp atomic
                wrong += sum != (long)i * omp_get_num_threads();
#pragma omp barrier
            }
        }
        return !wrong;
    }
    if (!strcmp(what, "copyin")) {
        mine = 5;
#pragma omp parallel copyin(mine) reduction(+ : sum, last)
        {
            note_size();
            sum += mine;
            last += 5;
        }
        return sum == last && sum > 0;
    }
    if (!strcmp(what, "lastprivate")) {
#pragma omp parallel
        {
            note_size();
#pragma omp for lastprivate(last) firstprivate(sum)
            for (int i = 0; i < N; i++) last = sum + i;
        }
        return last == N - 1;
    }
    if (!strcmp(what, "nested")) {
        omp_set_max_active_levels(2);
#pragma omp parallel
        {
            note_size();
#pragma omp parallel num_threads(2) reduction(+ : last)
            last += omp_get_num_threads() == 2;
#pragma omp atomic
            sum++;
        }
        return sum >= 1;
    }
    if (!strcmp(what, "threads")) {
        unsigned seen = 0;
        int size = 0, all = 0;
#pragma omp parallel
        {
            note_size();
            size = omp_get_num_threads();
            all = omp_get_team_size(1);
#pragma omp atomic
            seen |= 1U << omp_get_thread_num();
        }
        return seen == (1U << size) - 1 && all == size;
    }
#pragma omp parallel reduction(+ : sum)
    {
        note_size();
#pragma omp for
        for (int i = 1; i <= N; i++) sum += i;
    }
    return sum == N * (N + 1) / 2;
}

int main(int argc, char **argv) {
    own_domain(argv);
    be_neighbour(argv);
    int wrong = 0;
    for (int i = 0; i < 50; i++) wrong += !is_right(argv[1]);
    start("comes_and_goes");
    for (int i = 0; i < 400; i++) {
        wrong += !is_right(argv[1]);
        usleep(500);
    }
    show_number("wrong", wrong);
    show_text("sizes", sizes & (sizes - 1) ? "several" : "one");
}
