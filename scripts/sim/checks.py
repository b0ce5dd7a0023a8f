"""The checks of scripts/simtest, run on the node itself: checks.py WHICH CPUS SMALL DIRECTORY LIBRARY [long]

WHICH is `all` or `topology` (and places), CPUS how many the node has online, SMALL a size in bytes of a mask too small for it, DIRECTORY
has the programs `children`, `many`, `report`, `topology` and `places-` with a runtime's name. C programs and Pools by fork and spawn are run without the library first: they have to show the known trouble.
"""

import collections
import errno
import itertools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "python_tests"))

import hwloc

WAYS = ["fork", "_Fork", "forkpty", "vfork", "fork_exec", "posix_spawn", "system", "popen", "clone", "syscall_fork",
        "pthread_create", "thrd_create"]
# A worker for each of 272 CPUs takes some minutes to get through.
LIMIT = 1200
FOREIGN = ("OMP_", "GOMP_", "KMP_", "KNLFIX", "LD_PRELOAD")


def listed(cpus):
    """[0, 1, 2, 8] -> "0-2,8" """
    runs = []
    for cpu in cpus:
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join("%d-%d" % (a, b) if b > a else str(a) for a, b in runs)


class Node:
    """Runs programs on this node and keeps the score."""

    def __init__(self, small, directory, library):
        self.small, self.directory, self.library = small, directory, library
        self.cpus = sorted(os.sched_getaffinity(0))
        self.passed = self.failed = 0

    def expect(self, what, got, wanted):
        good = got == wanted
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print("PASS " + what if good else "FAIL %s: expected %s, got %s" % (what, wanted, got), flush=True)

    def run(self, preload, command, **variables):
        """The program's output and error output; a program that fails has neither, and fails a check."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        # Passive: hundreds of waiting threads that spin would take the host's few CPUs from those that work.
        environment.update(variables, OMP_PROC_BIND="close", OMP_WAIT_POLICY="passive",
                           REPORTER=self.directory + "/report", PATH=environment["PATH"] + ":" + self.directory)
        if preload:
            environment["LD_PRELOAD"] = self.library
        try:
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, universal_newlines=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.expect("%s ends" % command, "no end in %d s" % LIMIT, "an end")
            return "", ""
        if done.returncode:
            self.expect("%s succeeds" % command, "status %d: %s" % (done.returncode, done.stderr.strip()), "status 0")
            return "", ""
        return done.stdout, done.stderr

    def children(self, what, preload, cpus, team, ways, launcher=()):
        """A C program pinned to the first of `cpus`, which are all that its user lets it have."""
        out, err = self.run(preload, [*launcher, self.directory + "/children", str(team), str(self.small), *ways])
        lines = [line.partition(" ")[::2] for line in out.splitlines()]
        values, masks = dict(lines), [mask for label, mask in lines if label == "child"]
        pin = listed(cpus[:1])
        self.expect(what + "each of %d threads has a CPU of its own" % team, values.get("team"), "%d of %d" % (team, team))
        self.expect(what + "the main thread stays pinned",
                    [mask for label, mask in lines if label == "parent"], [pin, pin])
        self.expect(what + "sched_getaffinity counts", values.get("counted"), str(len(cpus) if preload else 1))
        self.expect(what + "a mask of %d bytes is refused" % self.small, values.get("small"), str(errno.EINVAL))
        for way, mask in zip(ways, masks + ["nothing"] * len(ways)):
            self.expect(what + way, mask, listed(cpus) if preload else pin)
        self.expect(what + "is silent", err, "")

    def pool(self, what, preload, method, workers, chosen=()):
        """A Python Pool; `chosen` are the CPUs that the program itself sets before it."""
        out, err = self.run(preload, [sys.executable, "-W", "ignore", str(HERE / "pool.py"), method, str(workers)]
                            + ([",".join(map(str, chosen))] if chosen else []))
        found = json.loads(out or "{}")
        first = self.cpus[:1]
        seen = self.cpus if preload else first
        self.expect(what + "the runtime pins the main thread", found.get("pinned"), first)
        self.expect(what + "len(os.sched_getaffinity(0))", len(found.get("sched_getaffinity", [])), len(seen))
        self.expect(what + "CPUs of a subprocess", listed(found.get("subprocess", [])), listed(seen))
        self.expect(what + "%d workers answer" % workers, found.get("workers"), workers)
        self.expect(what + "CPUs of each worker", [listed(mask) for mask in found.get("masks", [])],
                    [listed(chosen or seen)])
        self.expect(what + "the main thread's mask afterwards", found.get("parent"), list(chosen or first))
        self.expect(what + "is silent", err, "")

    def budget(self, what, preload, processes, shared, total, cpus=None, launcher=()):
        """So many processes on one ledger, each with a region of the default size."""
        cpus = cpus or len(self.cpus)
        # Pins would keep the runtime from sharing its threads out evenly; this is about their number.
        out, err = self.run(preload, [*launcher, "env", "OMP_PROC_BIND=false", self.directory + "/many", str(processes), str(cpus)])
        self.expect(what + "teams", out, "first=%d\nshared=%s\nsum=%d\nalone=%d\n" % (cpus, shared, total, cpus))
        self.expect(what + "is silent", err, "")

    def quota(self):
        """A budget of 8 threads: 7.5 CPUs' time for the cgroup above that of the processes."""
        cgroups = pathlib.Path("/sys/fs/cgroup")
        job = cgroups / "outer/job"
        for parent in cgroups, job.parent:
            parent.mkdir(exist_ok=True)
            (parent / "cgroup.subtree_control").write_text("+cpu")
        job.mkdir()
        (job.parent / "cpu.max").write_text("750000 100000")
        enter = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(job))
        self.budget("3 processes, cgroup quota, with: ", True, 3, "2-3", 8, 8, enter)

    def topology(self, cpus):
        """What the library reads of these CPUs, as hwloc numbers it."""
        out, _ = self.run(False, ["taskset", "-c", listed(cpus), self.directory + "/topology"])
        rows = list(itertools.zip_longest(hwloc.printed(out), hwloc.view(cpus)))
        self.expect("topology of %d CPUs" % len(cpus), len(rows), len(cpus))
        self.expect("topology of %d CPUs: hwloc's" % len(cpus), [row for row in rows if row[0] != row[1]][:4], [])

    def places(self, what, runtime, setting, numbers, wanted, preload=True):
        """Forked workers, each with a team; numbers: workers, threads and maybe events. On which CPUs they are pinned."""
        command = ["env", "-u", "OMP_PROC_BIND", *setting, self.directory + "/places-" + runtime, *map(str, numbers)]
        out, err = self.run(preload, command)
        words = out.split()
        found = dict(zip(words[::2], map(int, words[1::2])))
        label = "%s %s, %s%s" % (runtime, " ".join(setting), what, "" if preload else ", without")
        self.expect(label, {name: found.get(name) for name in wanted}, wanted)
        self.expect(label + ": is silent", err, "")

    def ledgers(self):
        """Nobody is left to claim anything."""
        left = sorted(file.name for file in pathlib.Path("/dev/shm").glob("knlfix-*"))
        self.expect("no ledger is left", left, [])

    def log(self):
        """What a user reads: long masks have to come out whole."""
        _, err = self.run(True, [self.directory + "/children", "2", str(self.small), "fork"], KNLFIX_LOG="debug")
        pins = re.findall(r"pin: thread \d+, (\S+) -> (\S+), set by (\w+)", err)
        self.expect("log: the pin", pins[:1], [(listed(self.cpus), listed(self.cpus[:1]), "libgomp")])


def main(which, count, small, directory, library, length="short"):
    node = Node(int(small), directory, library)
    node.expect("the node has %s CPUs" % count, len(node.cpus), int(count))
    node.topology(node.cpus)
    node.topology(node.cpus[1::3])
    places(node)
    placed(node)
    if which == "all":
        run(node)
    if length == "long":
        many_places(node)
    print("%d passed, %d failed on %d CPUs, Linux %s" % (
        node.passed, node.failed, len(node.cpus), platform.release()), flush=True)
    return 1 if node.failed else 0


CLOSE, SPREAD = ["OMP_PROC_BIND=close", "OMP_PLACES=threads"], ["OMP_PROC_BIND=spread", "OMP_PLACES=threads"]
COMPACT, SCATTER = ["KMP_AFFINITY=compact,granularity=fine"], ["KMP_AFFINITY=scatter,granularity=fine"]


def places(node):
    """A thread for each of some CPUs: none holds two, and close ones stay together."""
    workers = 16 if len(node.cpus) > 64 else 4
    what = "%d workers of 4 threads" % workers
    # A forked child of libgomp does not pin its first thread again.
    others = {"cpus": 3 * workers, "most": 1, "free": workers}
    everybody = {"cpus": 4 * workers, "most": 1, "free": 0}
    stacked = {"cpus": 4, "most": workers}
    node.places(what, "libgomp", CLOSE, (workers, 4), stacked, preload=False)
    node.places(what, "libgomp", CLOSE, (workers, 4), others)
    node.places(what, "libgomp", SPREAD, (workers, 4), others)
    node.places(what, "libomp19", COMPACT, (workers, 4), everybody)
    node.places(what, "iomp2026", SCATTER, (workers, 4), everybody)
    for level in "core", "spread":
        node.places("%d workers" % workers, "libgomp", ["KNLFIX_PLACE=" + level], (workers, 0), {"most": 1, "free": 0})
    node.places(what + " after others", "libgomp", CLOSE, (workers, 4, 40), others)
    node.ledgers()


def placed(node):
    """A worker for each tile and for each NUMA node, and two. Their threads and their memory are there, too."""
    rows = hwloc.view(node.cpus)
    tiles, nodes = (collections.Counter(row[place] for row in rows) for place in (3, 2))
    if len(set(tiles.values())) == 1 < len(tiles):
        workers = min(len(tiles), 16)
        node.places("%d workers" % workers, "libgomp", ["KNLFIX_PLACE=tile"], (workers, 0),
                    {"cpus": workers * tiles[0], "most": 1, "free": 0})
    if len(nodes) > 1:
        setting = ["KNLFIX_PLACE=numa"]
        for each in 1, 2:
            workers = each * len(nodes)
            node.places("%d workers" % workers, "libgomp", setting, (workers, 0),
                        {"cpus": len(rows), "most": each, "free": 0, "local": workers})
        # The libgomp of a forked worker believes that it has all nodes, and pins where it has none. The parent is pinned
        # too, so of nodes of different sizes the larger one may have room for two.
        if len(set(nodes.values())) == 1:
            node.places("%d workers of 4 threads" % len(nodes), "libgomp", CLOSE + setting, (len(nodes), 4),
                        {"cpus": len(rows), "most": 4, "free": 0, "local": len(nodes)})
    node.ledgers()


def many_places(node):
    """As many as a node has cores, and as it has CPUs; and so many that come and go."""
    cores = len({(pathlib.Path("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu)).read_text()
                 for cpu in node.cpus})
    if len(node.cpus) == 4 * cores:
        what = "%d workers of 4 threads" % cores
        node.places(what, "libgomp", CLOSE, (cores, 4), {"cpus": 4, "cores": 1, "most": cores}, preload=False)
        node.places(what, "libgomp", CLOSE, (cores, 4), {"cores": cores, "most": 1})
    for workers in cores, len(node.cpus):
        node.places("%d workers" % workers, "libgomp", ["KNLFIX_PLACE=core"], (workers, 0),
                    {"cpus": len(node.cpus), "cores": cores, "most": 1, "free": 0})
    workers = len(node.cpus)
    after = "%d workers after %d events" % (workers, 4 * workers)
    node.places(after, "libgomp", ["KNLFIX_PLACE=core"], (workers, 0, 4 * workers), {"cpus": workers, "most": 1, "free": 0})
    node.ledgers()
    # The first thread of each is not pinned.
    node.places(after, "libgomp", CLOSE, (workers, 2, 4 * workers), {"cpus": workers, "most": 1, "free": workers})
    node.ledgers()


def run(node):
    every, few = node.cpus, [node.cpus[3], *node.cpus[-4:]]

    node.children("C, without: ", False, every, 8, WAYS)
    node.children("C, with: ", True, every, len(every), WAYS)
    taskset = ("taskset", "-c", listed(few))
    node.children("C, taskset %s, with: " % listed(few), True, few, 2, ["fork", "vfork", "system", "pthread_create"], taskset)
    node.log()

    node.pool("Pool, fork, without: ", False, "fork", 8)
    node.pool("Pool, fork, with: ", True, "fork", len(every))
    node.pool("Pool, spawn, without: ", False, "spawn", 2)
    node.pool("Pool, spawn, with: ", True, "spawn", 4)
    node.pool("Pool, forkserver, with: ", True, "forkserver", 4)
    node.pool("Pool after os.sched_setaffinity, with: ", True, "fork", 4, [every[1], every[-1]])

    cpus = len(every)
    node.budget("4 processes, without: ", False, 4, "%d-%d" % (cpus, cpus), 4 * cpus)
    node.budget("5 processes, with: ", True, 5, "%d-%d" % (cpus // 5, -(-cpus // 5)), cpus)
    node.budget("%d processes, with: " % cpus, True, cpus, "1-1", cpus)
    node.quota()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
