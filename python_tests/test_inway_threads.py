"""Threads that begin, end and fail in every way, many at a time, and handlers on small stacks."""

import pytest

from inway import PIN, build, first, full, last, run, show_mask

LOGS = ({}, {"KNLFIX_LOG": "trace", "KNLFIX_LOG_FILE": "/dev/null"})


def threads(*arguments, **kwargs):
    # -fexceptions: cancellation unwinds the stack, through whatever is on it.
    program = build("threads.c", "-fopenmp", "-fexceptions", "-Wno-unused-result", "-Wno-clobbered")
    return run(program, *arguments, **kwargs)


def test_threads_end_as_they_do(so):
    without = threads("ends", **PIN)
    assert without == (0, b"return 0x123456789, cleaned 0\nexit 0x123456789, cleaned 1\ncancel canceled, cleaned 1\n"
                       b"cancel-system canceled, cleaned 1\nthrd -7\nthrd_exit 8\n", b"")
    for setting in (*LOGS, {"KNLFIX_THREADS": "0"}):
        assert threads("ends", preload=[so], **PIN, **setting) == without


def test_a_thousand_failures_cost_nothing(so):
    expected = f"errors EAGAIN ENOENT 12 ENOENT 14\nself {first()}\nvfork %s\n"
    assert threads("fails", show_mask(), **PIN) == (0, (expected % first()).encode(), b"")
    assert threads("fails", show_mask(), preload=[so], **PIN) == (0, (expected % full()).encode(), b"")


def test_a_call_that_makes_no_child_fails_alike_and_leaves_the_pin(so):
    without = threads("refused", **PIN)
    assert without.status == 0 and without.out.count(b"EAGAIN") == 7
    assert without.out.endswith(f"self {first()}\n".encode())
    for setting in LOGS:
        assert threads("refused", preload=[so], **PIN, **setting) == without


def runtime():
    return build("setter.c", "-shared", "-fPIC", "-DRUNTIME", name="libsetsruntime.so")


def test_many_pinned_threads_inside_vfork_at_once(so):
    assert threads("many", runtime(), first()) == (0, b"wide 0, other 0\n", b"")
    assert threads("many", runtime(), first(), preload=[so]) == (0, b"wide 300, other 0\n", b"")


def test_thousands_of_pinned_threads_one_after_the_other(so):
    assert threads("churn", runtime(), first()) == (0, b"asked 300, wide 0\n", b"")
    assert threads("churn", runtime(), first(), preload=[so], KNLFIX_LOG="warn") == (0, b"asked 300, wide 300\n", b"")


def test_a_crowd_of_pinned_and_of_user_s_threads(so):
    command = ("crowd", runtime(), first(), last(), show_mask())
    for preload, mask in (([], first()), ([so], full())):
        done = threads(*command, preload=preload)
        lines = done.out.decode().splitlines()
        assert (done.status, done.err, len(lines)) == (0, b"", 8 * 40 * 4)
        assert {line: lines.count(line) for line in lines} == {f"pinned {mask}": 640, f"user {last()}": 640}


# 8192 is SIGSTKSZ as programs know it, of which the kernel's frame takes nearly half where there is AVX-512.
@pytest.mark.parametrize("size, pin, level", ((8192, {}, "off"), (8192, PIN, "off"), (16384, PIN, "trace")),
                         ids=("unpinned", "pinned", "pinned-trace"))
def test_a_signal_handler_on_a_small_stack(so, size, pin, level):
    for preload in ([], [so]):
        done = threads("small-stack", str(size), preload=preload, KNLFIX_LOG=level, KNLFIX_LOG_FILE="/dev/null", **pin)
        assert done == (0, b"handled 15\n", b"")
