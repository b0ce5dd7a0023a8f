/* Workers that run OpenMP teams, forked, and the CPUs that they are pinned to: places WORKERS THREADS [EVENTS]

   Prints how many CPUs and cores hold a pinned thread, the most threads that one CPU holds, how many threads are not
   pinned, and for how many workers memory comes from the node that they run on, as "cpus 4 cores 1 most 16 free 0 local 16".
   Who is placed without threads of its own counts with its main thread: THREADS is 0.
   With EVENTS, so many times a worker comes or goes first, one of WORKERS at random. Most go by a signal, whatever they do. */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CPUS = 2048, MOST_WORKERS = 1024, MOST_THREADS = 64, BYTES = MOST_CPUS / 8 };

typedef struct {
    unsigned char bits[BYTES];
} mask;

typedef struct {
    atomic_int ready, go, local;
    mask masks[MOST_WORKERS][MOST_THREADS];
} shared;

static shared *all;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* The kernel's answer, whoever else may want to give one. */
static mask mask_of(long task) {
    mask now = {{0}};
    register long number __asm__("rax") = SYS_sched_getaffinity;
    __asm__ volatile("syscall" : "+r"(number) : "D"(task), "S"((long)BYTES), "d"(now.bits) : "rcx", "r11", "memory");
    if (number < 0) exit(2);
    return now;
}

static int holds(const mask *mask, int cpu) { return mask->bits[cpu / 8] >> (cpu % 8) & 1; }

static int count(const mask *mask) {
    int count = 0;
    for (int cpu = 0; cpu < MOST_CPUS; cpu++) count += holds(mask, cpu);
    return count;
}

static void work(int threads) {
#pragma omp parallel num_threads(threads)
    { usleep(100); }
}

/* What a worker does in a round: enough for it to hear of neighbours that have come meanwhile. */
static void do_a_round(int threads) {
    cpu_set_t seen;
    sched_getaffinity(0, sizeof seen, &seen);
    for (int region = 0; threads > 0 && region < 2; region++) work(threads);
}

/* Asleep: hundreds that look again and again would take the host's few CPUs from those that come. */
static void wait_for(int go) {
    atomic_fetch_add(&all->ready, 1);
    for (int now; (now = atomic_load(&all->go)) < go;) syscall(SYS_futex, &all->go, FUTEX_WAIT, now, NULL, NULL, 0);
}

static void tell(int go) {
    atomic_store(&all->go, go);
    syscall(SYS_futex, &all->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Whether new memory is on the node that this thread runs on. */
static int has_local_memory(void) {
    enum { NODE_OF_ADDRESS = 3 }; /* MPOL_F_NODE | MPOL_F_ADDR */
    unsigned runs_on = 0;
    int is_on = -1;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) fail("mmap");
    *page = 1;
    return !syscall(SYS_getcpu, NULL, &runs_on, NULL) &&
           !syscall(SYS_get_mempolicy, &is_on, NULL, 0L, page, (long)NODE_OF_ADDRESS) && (int)runs_on == is_on;
}

static void worker(int number, int threads) {
    do_a_round(threads);
    wait_for(1);
    do_a_round(threads);
    atomic_fetch_add(&all->local, has_local_memory());
    if (threads > 0) {
#pragma omp parallel num_threads(threads)
        all->masks[number][omp_get_thread_num()] = mask_of(0);
    } else {
        all->masks[number][0] = mask_of(0);
    }
    wait_for(2);
    exit(0);
}

static pid_t start(int number, int threads) {
    pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid == 0) worker(number, threads);
    return pid;
}

static void come_and_go(int workers, int threads, int events) {
    static pid_t there[MOST_WORKERS];
    srand(1);
    while (events-- > 0) {
        int at = rand() % workers;
        if (there[at] == 0) {
            there[at] = fork();
            if (there[at] < 0) fail("fork");
            if (there[at] == 0) {
                int stays = rand() % 3;
                do_a_round(threads > 0 ? 1 + rand() % threads : 0);
                if (!stays) exit(0);
                /* Waiting, as a worker without work: the simulated CPUs share few real ones. */
                while (1) pause();
            }
        } else {
            kill(there[at], rand() % 2 ? SIGKILL : SIGTERM);
            waitpid(there[at], NULL, 0);
            there[at] = 0;
        }
    }
    for (int at = 0; at < workers; at++)
        if (there[at]) {
            kill(there[at], SIGKILL);
            waitpid(there[at], NULL, 0);
        }
}

/* The lowest CPU of the core that a CPU is in. */
static int core_of(int cpu) {
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    if (!file) return cpu;
    if (fscanf(file, "%d", &first) != 1) first = cpu;
    fclose(file);
    return first;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: places WORKERS THREADS [EVENTS]\n");
        return 2;
    }
    int workers = atoi(argv[1]), threads = atoi(argv[2]);
    if (workers > MOST_WORKERS || threads > MOST_THREADS) return 2;
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) fail("mmap");
    mask allowed = mask_of(getppid()); /* libgomp may have pinned this process when it was loaded */
    if (argc > 3) come_and_go(workers, threads, atoi(argv[3]));
    for (int number = 0; number < workers; number++) start(number, threads);
    for (int round = 1; round <= 2; round++) {
        while (atomic_load(&all->ready) < round * workers) usleep(10000);
        if (round == 1) tell(1);
    }

    static int on[MOST_CPUS], cores[MOST_CPUS];
    int cpus = 0, used_cores = 0, most = 0, unpinned = 0, rows = threads > 0 ? threads : 1;
    for (int number = 0; number < workers; number++)
        for (int thread = 0; thread < rows; thread++) {
            mask *mask = &all->masks[number][thread];
            if (count(mask) == count(&allowed)) unpinned++;
            for (int cpu = 0; cpu < MOST_CPUS && count(mask) < count(&allowed); cpu++) on[cpu] += holds(mask, cpu);
        }
    for (int cpu = 0; cpu < MOST_CPUS; cpu++)
        if (on[cpu]) {
            cpus++;
            if (on[cpu] > most) most = on[cpu];
            if (!cores[core_of(cpu)]++) used_cores++;
        }
    printf("cpus %d cores %d most %d free %d local %d\n", cpus, used_cores, most, unpinned, atomic_load(&all->local));
    tell(2);
    while (wait(NULL) > 0) {}
    return 0;
}
