/* TBB: algorithms of every kind, and exceptions that leave them, also through nested ones, arenas and isolation. */
extern "C" {
#include "results_checks.h"
}
#include <atomic>
#include <numeric>
#include <set>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <tbb/blocked_range.h>
#include <tbb/flow_graph.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_invoke.h>
#include <tbb/parallel_pipeline.h>
#include <tbb/parallel_reduce.h>
#include <tbb/parallel_scan.h>
#include <tbb/parallel_sort.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

namespace {

constexpr long N = 20000;

struct Thrown : std::runtime_error {
    long value;
    std::string said;
    explicit Thrown(long value) : std::runtime_error("thrown"), value(value), said("what was thrown is whole") {}
};

template <class F> long caught(F run) {
    try {
        run();
    } catch (const Thrown &thrown) {
        return thrown.said == "what was thrown is whole" ? thrown.value : -1;
    }
    return -2;
}

long sum_of(long n) {
    return tbb::parallel_reduce(
        tbb::blocked_range<long>(0, n), 0L,
        [](const tbb::blocked_range<long> &range, long sum) {
            for (long i = range.begin(); i < range.end(); ++i) sum += mix(i);
            return sum;
        },
        std::plus<long>());
}

long scan() {
    std::vector<long> sums(N);
    tbb::parallel_scan(
        tbb::blocked_range<long>(0, N), 0L,
        [&](const tbb::blocked_range<long> &range, long sum, bool is_final) {
            for (long i = range.begin(); i < range.end(); ++i) {
                sum += mix(i);
                if (is_final) sums[i] = sum;
            }
            return sum;
        },
        std::plus<long>());
    long hash = 0;
    for (long sum : sums) hash = mix(hash + sum);
    return hash;
}

long sort() {
    std::vector<long> values(N);
    for (long i = 0; i < N; ++i) values[i] = mix(i);
    tbb::parallel_sort(values.begin(), values.end());
    long hash = 0;
    for (long value : values) hash = mix(hash + value);
    return hash;
}

long pipeline() {
    long next = 0, hash = 0;
    tbb::parallel_pipeline(
        8, tbb::make_filter<void, long>(tbb::filter_mode::serial_in_order,
                                        [&](tbb::flow_control &flow) {
                                            if (next == 200) flow.stop();
                                            return next++;
                                        }) &
               tbb::make_filter<long, long>(tbb::filter_mode::parallel, [](long i) { return mix(i); }) &
               tbb::make_filter<long, void>(tbb::filter_mode::serial_in_order,
                                            [&](long value) { hash = mix(hash + value); }));
    return hash;
}

long graph() {
    tbb::flow::graph graph;
    std::atomic<long> sum{0};
    tbb::flow::function_node<long, long> first(graph, tbb::flow::unlimited, [](long i) { return mix(i); });
    tbb::flow::function_node<long> second(graph, tbb::flow::serial, [&](long value) { sum += value; });
    tbb::flow::make_edge(first, second);
    for (long i = 0; i < 200; ++i) first.try_put(i);
    graph.wait_for_all();
    return sum;
}

long groups() {
    std::atomic<long> sum{0};
    tbb::task_group group;
    for (long i = 0; i < 50; ++i) group.run([&sum, i] { sum += mix(i) + sum_of(10); });
    group.wait();
    tbb::parallel_invoke([&] { sum += 1; }, [&] { sum += 2; }, [&] { sum += sum_of(100); });
    return sum;
}

long arenas() {
    tbb::task_arena arena(3);
    long sum = 0;
    for (int i = 0; i < 3; ++i) sum += arena.execute([] { return sum_of(2000); });
    sum += tbb::this_task_arena::isolate([] { return sum_of(2000); });
    /* An arena has the size that it was made with. */
    return sum + (arena.max_concurrency() == 3 ? 0 : 1);
}

/* The program's own limit holds before, and after it is gone nothing of it stays. */
long limited() {
    long sum = 0;
    {
        tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
        sum += sum_of(3000);
        sum += tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism) == 1 ? 0 : 1;
    }
    return sum + sum_of(3000);
}

long throw_in_for() {
    return caught([] {
        tbb::parallel_for(0L, N, [](long i) {
            if (i == N / 3) throw Thrown(i);
        });
    });
}

long throw_in_nested() {
    return caught([] {
        tbb::parallel_for(0L, 8L, [](long) {
            tbb::parallel_for(0L, 100L, [](long j) {
                if (j == 55) throw Thrown(j);
            });
        });
    });
}

long throw_in_arena() {
    tbb::task_arena arena(2);
    return caught([&] {
        arena.execute([] {
            tbb::this_task_arena::isolate([] {
                tbb::parallel_for(0L, N, [](long i) {
                    if (i == 77) throw Thrown(i);
                });
            });
        });
    });
}

long throw_in_group() {
    tbb::task_group group;
    long value = caught([&] {
        for (int i = 0; i < 20; ++i) group.run([] { throw Thrown(123); });
        group.wait();
    });
    return value;
}

long throw_in_reduce_and_pipeline() {
    long value = caught([] {
        tbb::parallel_reduce(
            tbb::blocked_range<long>(0, N), 0L,
            [](const tbb::blocked_range<long> &range, long sum) {
                for (long i = range.begin(); i < range.end(); ++i)
                    if (i == 4321) throw Thrown(i);
                return sum;
            },
            std::plus<long>());
    });
    long next = 0;
    return value * 1000 + caught([&] {
               tbb::parallel_pipeline(4, tbb::make_filter<void, long>(tbb::filter_mode::serial_in_order,
                                                                      [&](tbb::flow_control &) { return next++; }) &
                                             tbb::make_filter<long, void>(tbb::filter_mode::parallel, [](long i) {
                                                 if (i >= 30) throw Thrown(30);
                                             }));
           });
}

/* Several program threads at once, some throw. */
long threads() {
    std::vector<long> values(4);
    std::vector<std::thread> all;
    for (int t = 0; t < 4; ++t)
        all.emplace_back([&values, t] {
            for (int turn = 0; turn < 5; ++turn) values[t] += t % 2 ? throw_in_for() : sum_of(1000 + t);
        });
    for (auto &thread : all) thread.join();
    return std::accumulate(values.begin(), values.end(), 0L);
}

/* How many threads take part in a loop of many tasks of half a millisecond. */
long participants() {
    std::mutex mutex;
    std::set<std::thread::id> ids;
    tbb::parallel_for(
        0, 16,
        [&](int) {
            work_for(0.5);
            std::lock_guard<std::mutex> lock(mutex);
            ids.insert(std::this_thread::get_id());
        },
        tbb::simple_partitioner());
    return ids.size();
}

}  // namespace

#define CHECK(name) say(out, #name, name())
extern "C" void checks(say_function *say, void *out) {
    say(out, "sum", sum_of(N));
    for (int i = 0; i < 5; ++i) say(out, "team.default", participants());
    CHECK(scan);
    CHECK(sort);
    CHECK(pipeline);
    CHECK(graph);
    CHECK(groups);
    CHECK(arenas);
    CHECK(limited);
    CHECK(throw_in_for);
    CHECK(throw_in_nested);
    CHECK(throw_in_arena);
    CHECK(throw_in_group);
    CHECK(throw_in_reduce_and_pipeline);
    CHECK(threads);
    say(out, "sum_again", sum_of(N));
}
