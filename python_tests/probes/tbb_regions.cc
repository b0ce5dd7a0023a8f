/* Runs TBB algorithms as it is told to, one command a line on standard input, one answer a line. It builds with oneTBB
   and with classic TBB:

     run MS [KIND]   algorithms for so many milliseconds; answers with the smallest and the largest number of threads
     once [KIND]     one algorithm; answers with its threads
     overlap         begins parallel_for from two threads, so that one of them always runs, and says so. Until a line that
                     is not that, "look MS" answers with the largest number of threads in that time
     arena           makes an arena of three threads and runs a parallel_for in it; answers with its threads
     hold            begins a parallel_for, says so, and stays in it until the next line; answers when it has ended
     throw COUNT     so many parallel_for that throw; answers with how many exceptions arrived
     limit N         sets the user's own limit (0: takes it away); answers with what TBB says the limit is
     said            what TBB says: the limit, and the most threads of the default arena
     fork            what follows is for a forked child, until it is told to quit
     quit            ends (a forked child without atexit handlers)

   KIND: for, reduce, invoke, group, graph, pipeline, arena (of 2 threads), nested, two (at a time, from two threads) */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#define TBB_SUPPRESS_DEPRECATED_MESSAGES 1
#define TBB_PREVIEW_GLOBAL_CONTROL 1
#include <tbb/flow_graph.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_invoke.h>
#include <tbb/parallel_reduce.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>
#if __has_include(<tbb/parallel_pipeline.h>)
#include <tbb/parallel_pipeline.h>
static const auto IN_ORDER = tbb::filter_mode::serial_in_order, PARALLEL = tbb::filter_mode::parallel;
#else
#include <tbb/pipeline.h>
static const auto IN_ORDER = tbb::filter::serial_in_order, PARALLEL = tbb::filter::parallel;
#endif

static const int CPUS = std::thread::hardware_concurrency();
static const int ITEMS = 4 * CPUS;
static std::atomic<int> inside{0}, most{0};

static double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/* Part of the work, which counts the threads that are at it. It sleeps, so that there may be more of them than CPUs. */
static void work(double ms) {
    int seen = ++inside, before = most;
    while (seen > before && !most.compare_exchange_weak(before, seen)) {}
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
    --inside;
}

static void run_for(double ms) {
    tbb::parallel_for(tbb::blocked_range<int>(0, ITEMS), [ms](const tbb::blocked_range<int> &range) {
        for (int i = range.begin(); i != range.end(); i++) work(ms);
    }, tbb::simple_partitioner());
}

static void check(long got, long expected) {
    if (got == expected) return;
    printf("wrong: %ld instead of %ld\n", got, expected);
    exit(3);
}

static void run_one(const std::string &kind, double ms) {
    std::atomic<long> sum{0};
    auto add = [&](int) { work(ms); ++sum; };
    if (kind == "reduce") {
        auto count = [&](const tbb::blocked_range<int> &range, long part) {
            for (int i = range.begin(); i != range.end(); i++, part++) work(ms);
            return part;
        };
        sum = tbb::parallel_reduce(tbb::blocked_range<int>(0, ITEMS), 0L, count, std::plus<long>());
    } else if (kind == "invoke") {
        auto part = [&] { for (int i = 0; i < CPUS; i++) add(i); };
        tbb::parallel_invoke(part, part, part, part);
    } else if (kind == "group") {
        tbb::task_group group;
        for (int i = 0; i < ITEMS; i++) group.run([&] { add(0); });
        group.wait();
    } else if (kind == "graph") {
        tbb::flow::graph graph;
        tbb::flow::function_node<int> node(graph, tbb::flow::unlimited, add);
        for (int i = 0; i < ITEMS; i++) node.try_put(i);
        graph.wait_for_all();
    } else if (kind == "pipeline") {
        int next = 0;
        tbb::parallel_pipeline(ITEMS, tbb::make_filter<void, int>(IN_ORDER, [&](tbb::flow_control &control) {
            if (next == ITEMS) control.stop();
            return next++;
        }) & tbb::make_filter<int, void>(PARALLEL, add));
    } else if (kind == "arena") {
        tbb::task_arena arena(2);
        arena.execute([&] { run_for(ms); });
        sum = ITEMS;
    } else if (kind == "nested") {
        tbb::parallel_for(0, CPUS, [&](int) { tbb::parallel_for(0, 4, add); });
    } else if (kind == "two") {
        std::thread other([&] { tbb::parallel_for(0, ITEMS / 2, add); });
        tbb::parallel_for(0, ITEMS / 2, add);
        other.join();
    } else {
        run_for(ms);
        sum = ITEMS;
    }
    check(sum, ITEMS);
}

static int threads_of(const std::string &kind, double ms) {
    most = 0;
    run_one(kind, ms);
    return most;
}

static void overlap() {
    char line[64];
    std::atomic<bool> is_over{false};
    auto loops = [&] {
        while (!is_over) run_for(0.5);
    };
    std::thread first(loops), second(loops);
    puts("overlapping");
    fflush(stdout);
    for (int ms; fgets(line, sizeof line, stdin) && sscanf(line, "look %d", &ms) == 1; fflush(stdout)) {
        most = 0;
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        printf("%d\n", most.load());
    }
    is_over = true;
    first.join();
    second.join();
}

static int throw_so_many(int count) {
    int arrived = 0;
    for (int i = 0; i < count; i++) {
        try {
            tbb::parallel_for(0, 4, [i](int j) {
                if (j == i % 4) throw i;
            });
        } catch (int thrown) {
            arrived += thrown == i;
        }
    }
    return arrived;
}

/* For a program that has this as a library. */
extern "C" int threads_of_one() {
    return threads_of("for", 0.5);
}

int main() {
    char line[64];
    bool is_child = false;
    std::unique_ptr<tbb::global_control> limit;
    while (fgets(line, sizeof line, stdin)) {
        char kind[16] = "for";
        int number = 0;
        if (!strncmp(line, "run", 3)) {
            sscanf(line, "run %d %15s", &number, kind);
            int least = 1 << 30, largest = 0;
            for (double begin = now(); now() - begin < number;) {
                int threads = threads_of(kind, 0.5);
                least = std::min(least, threads);
                largest = std::max(largest, threads);
            }
            printf("%d %d\n", least, largest);
        } else if (!strncmp(line, "once", 4)) {
            sscanf(line, "once %15s", kind);
            printf("%d\n", threads_of(kind, 0.5));
        } else if (!strncmp(line, "hold", 4)) {
            tbb::parallel_for(0, 1, [&](int) {
                puts("holding");
                fflush(stdout);
                if (!fgets(line, sizeof line, stdin)) exit(3);
            });
            puts("left");
        } else if (!strncmp(line, "overlap", 7)) {
            overlap();
            puts("over");
        } else if (!strncmp(line, "arena", 5)) {
            tbb::task_arena arena(3);
            most = 0;
            arena.execute([] { run_for(0.5); });
            printf("%d\n", most.load());
        } else if (sscanf(line, "throw %d", &number) == 1) {
            printf("%d\n", throw_so_many(number));
        } else if (sscanf(line, "limit %d", &number) == 1) {
            const auto what = tbb::global_control::max_allowed_parallelism;
            limit.reset(number ? new tbb::global_control(what, number) : nullptr);
            printf("%zu\n", tbb::global_control::active_value(what));
        } else if (!strncmp(line, "said", 4)) {
            printf("%zu %d\n", tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism),
                   tbb::this_task_arena::max_concurrency());
        } else if (!strncmp(line, "fork", 4)) {
            pid_t child = fork();
            if (child == 0) {
                is_child = true;
                printf("child %d\n", (int)getpid());
            } else {
                int status;
                waitpid(child, &status, 0);
                printf("child ended %d\n", status);
            }
        } else {
            break;
        }
        fflush(stdout);
    }
    fflush(stdout);
    if (is_child) _exit(0);
    return 0;
}
