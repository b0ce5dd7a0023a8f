"""Drives the ranks of rank.c, and reads of the kernel where their threads may run."""

import json
import mmap
import pathlib
import struct
import subprocess
import time

import common

MOST = 64
FIELDS = ["may_leave", "entered", "team", "pid"]
# Seconds; long enough for a machine that has much else to do.
PATIENCE = 300


def build(directory):
    """The program, linked to the system's libgomp."""
    program = directory / "rank"
    source = pathlib.Path(__file__).resolve().parent / "rank.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", source, "-o", program], check=True)
    return program


class Ranks:
    """`count` ranks that whoever started them gave `self.path`."""

    def __init__(self, directory, name, count):
        self.path, self.count = directory / ("ranks-" + name), count
        self.path.write_bytes(bytes(4 * MOST * len(FIELDS)))
        with self.path.open("r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 0)

    def offset(self, field, rank):
        return 4 * (FIELDS.index(field) * MOST + rank)

    def get(self, field, rank):
        return struct.unpack_from("=i", self.shared, self.offset(field, rank))[0]

    def put(self, field, rank, value):
        struct.pack_into("=i", self.shared, self.offset(field, rank), value)

    def entered(self, rank, count):
        """Waits until the rank is in its region number `count`."""
        end = time.monotonic() + PATIENCE
        while self.get("entered", rank) < count:
            if time.monotonic() > end:
                raise TimeoutError("rank %d does not enter region %d" % (rank, count))
            time.sleep(0.005)

    def teams(self):
        """The sizes of the teams: each rank in turn leaves its region and enters another, while all others are in theirs."""
        for rank in range(self.count):
            self.entered(rank, 1)
        for rank in range(self.count):
            self.put("may_leave", rank, 1)
            self.entered(rank, 2)
        return [self.get("team", rank) for rank in range(self.count)]

    def pids(self):
        return [self.get("pid", rank) for rank in range(self.count)]

    def pins(self):
        """Where each rank's main thread may run."""
        return [mask(pid) for pid in self.pids()]

    def ledgers(self):
        """The ledgers of each rank."""
        return [sorted(common.mapped_ledgers(pid)) for pid in self.pids()]

    def end(self):
        """Lets them end."""
        for rank in range(self.count):
            self.put("may_leave", rank, -1)


def mask(pid, thread=None):
    """The CPUs that a thread (else the main thread) may use, as the kernel lists them."""
    status = pathlib.Path("/proc/%d/task/%d/status" % (pid, thread or pid)).read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list:"))


def is_alive(pid):
    try:
        return pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true, what):
    """Waits as long as no machine needs."""
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it never happened: " + what)
        time.sleep(0.02)


class Trial:
    """Checks of ranks, whoever starts them."""

    def __init__(self, directory, checks, python):
        self.directory, self.checks, self.python = directory, checks, python
        self.rank = build(directory)
        self.count = 0
        # Of all ranks ever seen: none of these may be left in the end.
        self.pids = set()

    def start(self, words, **variables):
        environment = common.environment(**{name: str(value) for name, value in variables.items()})
        return subprocess.Popen([str(word) for word in words], env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)

    def new(self, name, count):
        self.count += 1
        return Ranks(self.directory, "%s-%d" % (name, self.count), count)

    def tried(self, name):
        """The command of a rank that tries its children."""
        return [self.python, common.ROOT / "scripts/try/children.py", self.directory, name]

    def children(self, name):
        """What such ranks found, by rank."""
        files = sorted(self.directory.glob("%s-*.json" % name))
        return [json.loads(file.read_text()) for file in files]

    def expect_children(self, what, found, allowed, preload, pin=None):
        """Each rank is bound as its launcher was told to, and all its children too; without the library they are on `pin`."""
        self.checks.expect(what + ": the ranks' CPUs", sorted(rank["allowed"] for rank in found), allowed)
        for kind in "subprocess", "thread", "fork", "spawn":
            seen = sorted({mask for rank in found for mask in ([rank[kind]] if isinstance(rank[kind], str) else rank[kind])})
            self.checks.expect("%s: the CPUs of each child (%s)" % (what, kind), seen, sorted(set(allowed)) if preload else [pin])

    def shared(self, what, group, started, total, pins=None):
        """Ranks that run regions at the same time: so many threads together; returns each one's ledgers."""
        try:
            teams = group.teams()
            self.checks.expect(what + ": threads of %d ranks" % group.count, sum(teams), total)
            if pins:
                self.checks.expect(what + ": where the main threads are", sorted(group.pins()), pins)
            return group.ledgers()
        except TimeoutError as error:
            self.checks.expect(what, str(error), "an answer")
            return []
        finally:
            self.pids |= set(group.pids())
            group.end()
            for process in started:
                _, said = process.communicate(timeout=PATIENCE)
                if process.returncode:
                    self.checks.expect(what + ": ends", said.strip(), "")

    def expect_ledgers(self, what, ledgers, count):
        """The ranks have so many ledgers together."""
        self.checks.expect(what + ": ledgers", len({path for paths in ledgers for path in paths}), count)

    def left(self):
        """What is in /dev/shm of ours, and which of the ranks live."""
        return sorted(path.name for path in common.SHM.glob("knlfix-*")), sorted(filter(is_alive, self.pids))
