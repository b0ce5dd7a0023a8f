"""Under strace, gdb and valgrind, and in programs built with a sanitizer."""

import re

import pytest

from inway import CHILDREN, PIN, build, first, full, probe, report, run, scratch, show_mask


def settings(so, **variables):
    """NAME=value words for the program alone: the tracer itself runs without the library."""
    variables = {**PIN, **variables, **({"LD_PRELOAD": str(so)} if so else {})}
    return [f"{name}={value}" for name, value in variables.items()]


def expected(so):
    return report(full() if so else first())


def test_under_strace(so):
    for library in (None, so):
        options = [word for one in settings(library) for word in ("-E", one)]
        command = [*options, probe(), show_mask(), "self", "region", *CHILDREN]
        done = run("strace", "-f", "-qq", "-o", "/dev/null", *command)
        assert done == (0, expected(library), b"")


def gdb(so, follow, *commands, steps):
    """What gdb and the probe in it print; without a shell in between."""
    batch = ["set confirm off", "set debuginfod enabled off", "set startup-with-shell off",
             f"set follow-fork-mode {follow}", *(f"set environment {one.replace('=', ' ', 1)}" for one in settings(so)),
             *commands]
    options = [word for one in batch for word in ("-ex", one)]
    done = run("gdb", "-nx", "-batch", *options, "--args", probe(), show_mask(), *steps)
    return done.out.decode()


def test_a_breakpoint_in_a_forked_child(so):
    commands = ["break in_child", "run", "backtrace 3", "continue"]
    for library, mask in ((None, first()), (so, full())):
        text = gdb(library, "child", *commands, steps=("region", "fork", "self"))
        assert re.search(r"hit Breakpoint 1, in_child", text), text
        assert re.search(r"#1 .* forked ", text), f"the stack of the child cannot be read: {text}"
        assert f"\nfork {mask}\n" in text and f"\nself {first()}\n" in text and "exited with code 07" in text, text


def test_gdb_follows_the_parent_through_every_way(so):
    for library in (None, so):
        text = gdb(library, "parent", "run", steps=("self", "region", *CHILDREN))
        wanted = expected(library).decode().splitlines()
        assert [line for line in text.splitlines() if line in wanted] == wanted, text
        assert "exited normally" in text


@pytest.mark.parametrize("call, step", (("execve", "execve-fails"), ("clone", "fork"), ("vfork", "vfork")))
def test_a_backtrace_leads_through_a_hook(so, call, step):
    """Stopped in the kernel below one of our hooks, gdb finds the way back to main."""
    text = gdb(so, "parent", f"catch syscall {call}", "run", "backtrace", steps=("region", step))
    assert "libknlfix" in text and re.search(r"#\d+ .* main \(", text), text


# valgrind runs vfork as fork, and a clone it does not know as an error, so these are the ways that it has.
VALGRIND_WAYS = ("fork", "_Fork", "vfork", "posix_spawn", "system", "popen", "thread")


def memcheck(so, *steps):
    log = scratch() / "memcheck"
    command = ["valgrind", "--trace-children=no", "--child-silent-after-fork=yes", "--error-exitcode=77",
               f"--log-file={log}", probe(), show_mask(), *steps]
    done = run("env", *settings(so), *command)
    return done, log.read_text()


def test_under_valgrind(so):
    for library in (None, so):
        done, log = memcheck(library, "self", "region", *VALGRIND_WAYS)
        assert done == (0, report(full() if library else first(), ways=VALGRIND_WAYS), b""), (done, log)
        assert "ERROR SUMMARY: 0 errors from 0 contexts" in log and "libknlfix" not in log, log


def test_valgrind_itself_with_the_library(so):
    # The whole of it preloaded: valgrind's launcher execs its tool, and the tool's children are the program's.
    command = ["valgrind", "-q", "--error-exitcode=77", probe(), show_mask(), "region", "fork", "system"]
    done = run(*command, preload=[so], **PIN)
    assert done == (0, f"region 4950\nfork {full()}\nsystem {full()}\n".encode(), b"")


# ---- sanitizers ------------------------------------------------------------------------------------------------


def sanitized(kind):
    return build("sanitized.c", "-fopenmp", f"-fsanitize={kind}", name=f"sanitized-{kind}")


def printed(mask):
    return 0, f"fork {mask} 1\nthread {mask} 1\nstatus 0\n".encode(), b""


def test_an_asan_program_refuses_the_library_in_asan_s_own_words(so):
    """AddressSanitizer wants to be the first library of all, and says so itself; no preload can change that."""
    assert run(sanitized("address"), **PIN) == printed(first())
    done = run(sanitized("address"), preload=[so], **PIN)
    assert done.status == 1 and done.out == b""
    assert b"ASan runtime does not come first in initial library list" in done.err


def test_an_asan_program_works_with_its_runtime_in_front(so):
    asan = run("gcc", "-print-file-name=libasan.so").out.decode().strip()
    assert run(sanitized("address"), preload=[asan, so], **PIN) == printed(full())


def test_an_asan_program_works_with_its_check_turned_off(so):
    done = run(sanitized("address"), preload=[so], ASAN_OPTIONS="verify_asan_link_order=0", **PIN)
    assert done == printed(full())


@pytest.mark.parametrize("kind", ("undefined", "thread", "leak"))
def test_programs_with_other_sanitizers_work(so, kind):
    assert run(sanitized(kind), **PIN) == printed(first())
    assert run(sanitized(kind), preload=[so], **PIN) == printed(full())
