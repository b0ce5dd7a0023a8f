"""A program without a runtime pays for the loading of the library, and for nothing else: strace is the judge."""

import re

import pytest

from inway import PIN, build, first, probe, report, run, run_probe, show_mask

# What ld.so does to load a library.
LOADING = {"openat", "read", "pread64", "fstat", "newfstatat", "mmap", "mprotect", "close"}
CALL = re.compile(r"(\w+)\((.*)")


def system_calls(tmp_path, command, preload, trace="all", **variables):
    """[[(name, its arguments' text)...] for each process, in the order they were made], and the Run."""
    for old in tmp_path.glob("trace.*"):
        old.unlink()
    setting = [f"LD_PRELOAD={preload}"] if preload else []
    setting += [f"{name}={value}" for name, value in variables.items()]
    # strace itself stays without the library. -E: only the program gets it.
    done = run("strace", "-ff", "-qq", "-e", f"trace={trace}", "-e", "signal=none", "-o", tmp_path / "trace",
               *(word for one in setting for word in ("-E", one)), *command)
    made = sorted(tmp_path.glob("trace.*"), key=lambda path: int(path.suffix[1:]))
    assert made
    matches = [map(CALL.match, path.read_text().splitlines()) for path in made]
    return [[match.groups() for match in process if match] for process in matches], done


def without_loading(calls, so):
    """The calls without those that loaded the library, which are judged here: after each exec, one block."""
    left, inside = [], False
    for name, arguments in calls:
        if name == "openat" and f'"{so}"' in arguments:
            inside = True
        if inside:
            assert name in LOADING, f"{name}({arguments} while the library is loaded"
            inside = name != "close"
        else:
            left.append((name, arguments))
    return left


def names(calls):
    # mprotect: ld.so makes every library's relocated part read-only, after all are loaded.
    return [name for name, _ in calls if name != "mprotect"]


COMMANDS = {
    "true": ["/bin/true"],
    "ls": ["/bin/ls", "/"],
    "env": ["/usr/bin/env", "/bin/true"],
    "dash": ["/bin/sh", "-c", "/bin/true; (exit 3); x=$(/bin/ls /)"],
    "bash": ["/bin/bash", "--norc", "-c", "/bin/true; (exit 3); x=$(/bin/ls /)"],
}


def compare(so, tmp_path, command, setting):
    """(the names of the calls of each process without the library, the same with it but for the loading)"""
    without, done = system_calls(tmp_path, command, None, **setting)
    with_library, done_with = system_calls(tmp_path, command, so, **setting)
    assert done_with == done and done.err == b""
    left = [without_loading(calls, so) for calls in with_library]
    assert sum(map(len, left)) < sum(map(len, with_library)), "the library was not loaded at all"
    return [names(calls) for calls in without], [names(calls) for calls in left]


@pytest.mark.parametrize("setting", ({}, {"KNLFIX": "0"}), ids=("default", "off"))
@pytest.mark.parametrize("name", COMMANDS)
def test_no_system_call_but_for_loading(so, tmp_path, name, setting):
    for _ in range(10):
        without, left = compare(so, tmp_path, COMMANDS[name], setting)
        # Whether a shell's wait is interrupted or its read comes in two is chance: then both are run again.
        if left == without:
            return
        assert name in ("dash", "bash"), (left, without)
    assert left == without


def made(processes, so):
    """What all processes called, sorted, without numbers and without the loading of the library."""
    calls = [call for process in processes for call in process if f'"{so}"' not in call[1]]
    return sorted((name, re.sub(r"0x[0-9a-f]+|\d+", "N", arguments)) for name, arguments in calls
                  if "AT_EMPTY_PATH" not in arguments)  # an fstat, also of the library


PINNED = ["region", "fork", "vfork", "posix_spawn", "thread", "execve"]


def test_switched_off_a_pinned_program_makes_no_call_of_ours(so, tmp_path):
    command = [probe(), show_mask(), *PINNED]
    trace = "%file,sched_setaffinity,sched_getaffinity,gettid,getpid,tgkill,prctl"
    without, done = system_calls(tmp_path, command, None, trace, **PIN)
    off, done_off = system_calls(tmp_path, command, so, trace, KNLFIX="0", **PIN)
    assert done_off == done and done.status == 0
    assert made(off, so) == made(without, so)


@pytest.mark.parametrize("value", ("0", "off", "OFF", "no", "False"))
def test_switched_off_nothing_is_repaired(so, value):
    done = run_probe(preload=[so], KNLFIX=value, KNLFIX_LOG="trace")
    assert done == (0, report(first()), b"")


def test_a_pinned_program_opens_no_file_of_ours(so, tmp_path):
    command = [probe(), show_mask(), *PINNED]
    without, done = system_calls(tmp_path, command, None, "%file", **PIN)
    # A budget has a ledger.
    with_library, done_with = system_calls(tmp_path, command, so, "%file", **PIN, KNLFIX_BUDGET="off")
    assert done.status == done_with.status == 0 and done.out != done_with.out
    assert made(with_library, so) == made(without, so)


def test_a_static_program_runs_as_ever(so):
    # ld.so has no part in it. It inherits its mask, which is why a pinned parent must be widened before the exec.
    static = build("mask.c", "-static", name="mask-static")
    assert run(static, "1", "static", preload=[so]) == run(static, "1", "static")
    ways = ("vfork", "posix_spawn", "execve")
    done = run(probe(), static, "region", *ways, preload=[so], **PIN)
    assert done == (0, b"region 4950\n" + run(static, "1", "vfork").out + run(static, "1", "posix_spawn").out
                    + run(static, "1", "execve").out, b"")
