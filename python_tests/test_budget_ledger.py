"""The ledger's life: who makes it, who shares it, who gets what a killed process held, and what becomes of it."""

import os
import re
import shutil
import signal
import struct
import subprocess

import pytest

from budget import SHM, Domain, build_regions, until

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def regions(tmp_path_factory):
    return build_regions(tmp_path_factory.mktemp("regions"))


@pytest.fixture
def domain(so, regions):
    domain = Domain(so, regions, KNLFIX_LOG="warn")
    yield domain
    domain.end()


def test_the_first_region_makes_it_for_the_user_alone_and_the_last_to_leave_removes_it(domain):
    first = domain.start()
    assert first.once() == CPUS
    [ledger] = domain.ledgers()
    assert ledger.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(rf"knlfix-\d+-{os.geteuid()}-[0-9a-f]{{16}}", ledger.name)
    second = domain.start()
    second.once()
    assert domain.ledgers() == [ledger]
    assert first.end() == "" and domain.ledgers() == [ledger]
    assert second.end() == "" and domain.ledgers() == []


@pytest.mark.parametrize("end", ["terminate", "_exit"])
def test_a_pool_whose_parent_runs_no_region_leaves_none(run, end):
    """multiprocessing ends its workers by a signal, or with os._exit(): none of them can be the last to remove it."""
    program = run("""
        import multiprocessing, numpy

        def work(_):
            matrix = numpy.ones((300, 300))
            matrix @ matrix
            with open("/proc/self/maps") as maps:
                return [line.split()[-1] for line in maps if "/dev/shm/knlfix-" in line][0]

        if sys.argv[1] == "terminate":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                report(ledgers=sorted(set(pool.map(work, range(8)))))
        else:
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.write(theirs, work(0).encode())
                os._exit(0)
            os.wait()
            report(ledgers=[os.read(ours, 4096).decode()])
        """, end, preload=True)
    [ledger] = program["ledgers"]
    assert not os.path.exists(ledger)


def test_a_program_without_a_region_makes_none(domain):
    idle = domain.start()
    assert idle.end() == "" and domain.ledgers() == []


def test_two_processes_share_and_one_alone_has_all(domain):
    first, second = domain.start(), domain.start()
    assert first.teams(50) == (CPUS, CPUS)
    first.say("run 1500")
    assert second.teams(1000) == (CPUS // 2, CPUS // 2)
    least, most = map(int, first.hear().split())
    assert least == CPUS // 2
    # Long after the other's last region.
    assert first.teams(300)[1] == CPUS


def test_a_process_in_a_long_region_holds_its_part(domain):
    first, second = domain.start(), domain.start()
    assert first.ask("hold") == f"holding {CPUS}"
    assert second.teams(200) == (CPUS // 2, CPUS // 2)
    assert first.ask("") == "left"


@pytest.mark.parametrize("moment", ["in a region", "between regions"])
def test_what_a_killed_process_held_is_free_again(domain, moment):
    survivor, victim = domain.start(), domain.start()
    survivor.once()
    for _ in range(3):
        if moment == "in a region":
            victim.ask("hold")
        else:
            victim.teams(20)
        assert survivor.once() == CPUS // 2
        victim.process.kill()
        # Not waited for: it is a zombie, and holds nothing all the same.
        until(lambda: survivor.teams(20)[1] == CPUS)
        victim.process.wait()
        victim = domain.start()
    victim.end()
    survivor.end()
    assert domain.ledgers() == []


def test_gc_removes_what_nobody_alive_uses(domain, knlfix):
    victim = domain.start()
    victim.ask("hold")
    [ledger] = domain.ledgers()
    assert f"{ledger}: in use by 1 process\n" in knlfix("gc", "--dry-run")
    victim.process.kill()
    victim.process.wait()
    assert f"{ledger}: would be removed, no process of it is alive\n" in knlfix("gc", "--dry-run")
    assert ledger.exists()
    assert f"{ledger}: removed, no process of it is alive\n" in knlfix("gc")
    assert not ledger.exists()


def test_a_forked_child_is_a_member_of_its_own(domain, knlfix):
    parent = domain.start(KNLFIX_FORKED_REGIONS="on")
    parent.once()
    assert parent.ask("fork").startswith("child ")
    parent.once()  # the child
    assert f"{domain.ledgers()[0]}: in use by 2 processes\n" in knlfix("gc", "--dry-run")
    assert parent.ask("quit") == "child ended 0"
    until(lambda: parent.once() == CPUS)


def test_a_program_that_execs_keeps_one_slot(domain, knlfix):
    program = domain.start()
    for _ in range(3):
        program.once()
        assert program.ask("exec") == "again"
    assert program.once() == CPUS
    assert f"{domain.ledgers()[0]}: in use by 1 process\n" in knlfix("gc", "--dry-run")


def test_jobs_do_not_share(domain):
    first, second = domain.start(), domain.start(job=domain.job + "-other")
    first.ask("hold")
    assert second.teams(50) == (CPUS, CPUS)


def test_disjoint_masks_do_not_share_and_overlapping_ones_count_in_part(domain):
    first = domain.start("taskset", "-c", "0")
    assert first.ask("hold") == "holding 1"
    second = domain.start("taskset", "-c", "1")
    assert second.teams(50) == (1, 1)
    # The first runs one thread, on one of the third's CPUs.
    third = domain.start("taskset", "-c", "0,1")
    assert third.teams(50) == (1, 1)
    assert len(domain.ledgers()) == 1


def test_one_tree_does_not_share_with_another(domain):
    trees = [domain.start(KNLFIX_SCOPE="tree") for _ in range(2)]
    trees[0].ask("hold")
    assert trees[1].teams(50) == (CPUS, CPUS)
    assert len(domain.ledgers()) == 2


def test_processes_of_one_tree_share(domain):
    shell = 'mkfifo $0; (read wait <$0; echo once | "$1") & { echo hold; sleep 1; echo; } | "$1" | { read line; echo "$line"; echo go >$0; cat; }; wait'
    fifo = SHM / f"test-fifo-{os.getpid()}"
    try:
        result = subprocess.run(["sh", "-c", shell, fifo, domain.program], text=True, capture_output=True, timeout=30,
                                env={**os.environ, "LD_PRELOAD": str(domain.so), "KNLFIX_SCOPE": "tree"}, check=True)
    finally:
        fifo.unlink()
    assert sorted(result.stdout.split("\n")) == ["", f"{CPUS // 2}", f"holding {CPUS}", "left"]


@pytest.mark.parametrize("budget, team", [("1", 1), ("50%", CPUS // 2), ("100%", CPUS), ("auto", CPUS), ("off", CPUS),
                                          ("1000", CPUS)])
def test_the_budget_holds_for_a_lone_process_too(domain, budget, team):
    lone = domain.start(KNLFIX_BUDGET=budget)
    assert lone.teams(20) == (team, team)


@pytest.mark.parametrize("switch", ["KNLFIX=off", "KNLFIX_SHARING=off", "KNLFIX_SHARING=static", "KNLFIX_BUDGET=off",
                                    "KNLFIX_LIBGOMP=off"])
def test_every_switch_turns_it_off(domain, switch):
    name, value = switch.split("=")
    holder, other = domain.start(), domain.start(**{name: value})
    other.once()  # so that it does not start while the holder is active
    holder.ask("hold")
    assert other.teams(50) == (CPUS, CPUS)


@pytest.mark.parametrize("sharing, told", [("dynamic", CPUS // 2), ("static", CPUS // 2), ("off", CPUS)])
def test_who_starts_while_another_is_active_hears_its_share(domain, sharing, told):
    holder = domain.start()
    holder.ask("hold")
    other = domain.start(KNLFIX_SHARING=sharing)
    assert other.once() == told
    # And for good: what it made of the answer stays.
    holder.process.kill()
    until(lambda: other.teams(20) == (told, told))


def test_a_governor_that_is_off_tells_its_runtime_the_whole(domain):
    holder = domain.start()
    holder.ask("hold")
    assert domain.start(KNLFIX_LIBGOMP="off").once() == CPUS


def fill_with_zeros(path):
    path.write_bytes(b"")


def fill_with_noise(path):
    path.write_bytes(os.urandom(path.stat().st_size))


def keep_head_and_add_noise(path):
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))


def raise_bound(path):
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<II", 0xffffffff, 0xffffffff))


def all_owned_by_init(path):
    data = bytearray(path.read_bytes())
    for slot in range(4096):
        struct.pack_into("<Q", data, 4096 + slot * 64, 1)
    struct.pack_into("<I", data, 8, 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [fill_with_zeros, fill_with_noise, keep_head_and_add_noise, raise_bound, all_owned_by_init])
def test_a_broken_ledger_breaks_nobody(domain, damage):
    victim = domain.start()
    victim.ask("hold")
    [ledger] = domain.ledgers()
    victim.process.kill()
    victim.process.wait()
    damage(ledger)
    program = domain.start()
    least, most = program.teams(100)
    assert 1 <= least <= most <= CPUS
    assert program.end() in ("", f"knlfix[{program.process.pid}:{program.process.pid}] warn: budget: {ledger}: making room in "
                                 "it failed (error 28); this process is not governed\n")


def make_short(path):
    path.write_bytes(b"knlfix")
    path.chmod(0o600)


def make_public(path):
    path.write_bytes(b"")
    path.chmod(0o644)


def make_link(path):
    target = path.with_name(path.name + "-target")
    target.write_bytes(b"")
    path.symlink_to(target)


def make_directory(path):
    path.mkdir()


def make_fifo(path):
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("make, why", [(make_short, "it is no ledger of this version"),
                                       (make_public, "it is not a file of this user alone"),
                                       (make_link, "opening it failed (error 40)"),
                                       (make_directory, "opening it failed (error 21)"),
                                       (make_fifo, "it is not a file of this user alone")])
def test_what_is_no_ledger_is_refused_in_one_line_and_left_alone(domain, make, why):
    scout = domain.start()
    scout.once()
    [ledger] = domain.ledgers()
    scout.end()
    make(ledger)
    try:
        program = domain.start()
        assert program.teams(20) == (CPUS, CPUS)
        said = program.end()
        assert said.count("\n") == 1 and said.endswith(f"warn: budget: {ledger}: {why}; this process is not governed\n")
        assert ledger.exists() or ledger.is_symlink()
    finally:
        shutil.rmtree(ledger) if ledger.is_dir() else ledger.unlink()
        ledger.with_name(ledger.name + "-target").unlink(missing_ok=True)


needs_root = "mounting a file system of one's own needs root"


@pytest.mark.parametrize("mount, why", [
    ("mount -t tmpfs -o size=4k tmpfs /dev/shm", "fallocate failed (error 28)|making room in it failed (error 28)"),
    ("mount -t tmpfs -o ro tmpfs /dev/shm", "opening it failed (error 30)"),
    ("mount -t tmpfs tmpfs /dev && mkdir /dev/nothing && mknod /dev/null c 1 3", "opening it failed (error 2)"),
])
def test_without_room_in_shared_memory_each_process_governs_itself(domain, mount, why):
    assert os.geteuid() == 0, needs_root
    shell = f'{mount} && exec "$@"'
    program = domain.start("unshare", "--mount", "sh", "-c", shell, "sh")
    assert program.teams(20) == (CPUS, CPUS)
    said = program.end()
    assert said.count("\n") == 1 and any(f": {reason}; this process is not governed\n" in said for reason in why.split("|"))


def test_a_limit_on_the_size_of_files_kills_nobody(domain):
    program = domain.start("prlimit", "--fsize=4096")
    assert program.teams(20) == (CPUS, CPUS)
    assert program.end().endswith(": growing it failed (error 27); this process is not governed\n")


def test_a_lock_that_nobody_gives_up_is_not_waited_for_long(domain):
    scout = domain.start()
    scout.once()
    [ledger] = domain.ledgers()
    holder = subprocess.Popen(["flock", ledger, "sleep", "30"])
    try:
        until(lambda: subprocess.run(["flock", "-n", ledger, "true"]).returncode == 1)
        program = domain.start()
        assert program.once() == CPUS
        assert program.end().endswith(": it stays locked; this process is not governed\n")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        subprocess.run(["pkill", "-x", "-f", "sleep 30"])


def test_many_processes_come_and_go_at_random_and_nothing_stays(domain, knlfix):
    for _ in range(5):
        batch = [domain.start() for _ in range(12)]
        for regions in batch:
            regions.say("run 30")
        for number, regions in enumerate(batch):
            if number % 3 == 0:
                regions.process.kill()
        for number, regions in enumerate(batch):
            regions.process.wait() if number % 3 == 0 else regions.end()
    survivor = domain.start()
    until(lambda: survivor.teams(20) == (CPUS, CPUS))
    survivor.end()
    assert domain.ledgers() == []
