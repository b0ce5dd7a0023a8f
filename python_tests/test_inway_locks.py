"""Forks amid held locks, signals, atfork handlers, libraries that come and go: no child hangs or has a wrong mask."""

import pytest

from inway import PIN, build, first, full, last, run, run_probe, show_mask

FORKS = 504


def storm():
    slow = build("slow.c", "-shared", "-fPIC", name="libslow.so")
    return [build("storm.c", "-fopenmp"), show_mask(), slow, last(), FORKS]


@pytest.mark.parametrize("allocator", (None, "libjemalloc.so.2"))
def test_children_forked_while_other_threads_hold_locks(so, allocator):
    command = storm()
    before = [allocator] if allocator else []
    assert run(*command, preload=before, limit=100, **PIN) == (0, b"hung 0, failed 0, wide 0\n", b"")
    assert run(*command, preload=[*before, so], limit=100, **PIN) == (0, b"hung 0, failed 0, wide %d\n" % FORKS, b"")


def test_the_log_holds_no_lock_either(so, tmp_path):
    command = storm()
    done = run(*command, preload=[so], KNLFIX_LOG="trace", KNLFIX_LOG_FILE=str(tmp_path / "log"), limit=100, **PIN)
    assert done == (0, b"hung 0, failed 0, wide %d\n" % FORKS, b"")
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert len(lines) > FORKS and all(line.startswith(b"knlfix[") for line in lines), "lines were torn or mixed"


@pytest.mark.parametrize("pinned", (False, True), ids=("unpinned", "pinned"))
def test_hooks_called_while_a_constructor_waits_for_their_thread(so, runtimes, pinned):
    library = build("inside.c", "-shared", "-fPIC", "-DLIBRARY", name="libinside.so")
    libraries = [runtimes["libgomp"], library] if pinned else [library]
    for preload in ([], [so]):
        assert run(build("inside.c"), *libraries, preload=preload, **PIN) == (0, b"inside 0\n", b"")


def test_handlers_that_fork_while_a_hook_runs(so):
    command = [build("signals.c", "-fopenmp"), last(), "800"]
    for preload in ([], [so]):
        assert run(*command, preload=preload, limit=100, **PIN) == (0, b"lost 0, wrong 0, ticks many\n", b"")


def test_atfork_handlers_run_once_and_their_mask_is_the_user_s(so):
    command = [build("atfork.c", "-fopenmp"), last()]

    def expected(unchosen):
        return (f"fork {unchosen} child 1\nforkpty {unchosen} child 1\n_Fork {unchosen} child 0\n"
                f"fork+choice {last()} child 1\nforkpty+choice {last()} child 1\n_Fork+choice {unchosen} child 0\n"
                f"parent {first()} prepared 4, in the parent 4\n").encode()

    assert run(*command, **PIN) == (0, expected(first()), b"")
    assert run(*command, preload=[so], **PIN) == (0, expected(full()), b"")


def test_a_library_at_the_address_of_an_unloaded_runtime_is_nobody_s_runtime(so):
    runtime = build("setter.c", "-shared", "-fPIC", "-DRUNTIME", name="libsetsruntime.so")
    library = build("setter.c", "-shared", "-fPIC", name="libsets.so")
    command = [build("reload.c"), runtime, library, first(), last(), "20"]
    without = f"runtime {first()} library {last()}\n" * 20
    assert run(*command) == (0, without.encode(), b"")
    with_library = f"runtime {full()} library {last()}\n" * 20
    assert run(*command, preload=[so]) == (0, with_library.encode(), b"")


def test_a_runtime_loaded_and_unloaded_again_and_again(so, runtimes):
    # libgomp's constructor pins at every load. The probe of this test is not linked to it.
    unlinked = build("probe.c", "-Wno-unknown-pragmas", name="probe-unlinked")
    steps = [f"load={runtimes['libgomp']}", "fork", "posix_spawn", "thread", "unload"] * 40
    for preload, mask in (([], first()), ([so], full())):
        # One place only: at its next load libgomp would complain of a second one that the pinned thread cannot have.
        done = run(unlinked, show_mask(), *steps, "vfork", preload=preload, **PIN | {"OMP_PLACES": f"{{{first()}}}"})
        expected = f"load loaded\nfork {mask}\nposix_spawn {mask}\nthread {mask}\nunload 0\n" * 40 + f"vfork {mask}\n"
        assert done == (0, expected.encode(), b"")


WAYS = ("fork", "_Fork", "vfork", "posix_spawn", "system", "thread")


def test_a_program_that_loads_the_library_itself_is_left_as_it_was(so):
    """dlopen instead of LD_PRELOAD: no call comes to us, so nothing is repaired; nor does anything break, after dlclose too."""
    steps = [f"load={so}", "self", "region", *WAYS, "unload", *WAYS, f"load={so}", *WAYS, "execve"]
    children = "".join(f"{way} {first()}\n" for way in WAYS)
    expected = (f"load loaded\nself {first()}\nregion 4950\n{children}unload 0\n{children}load loaded\n{children}"
                f"execve {first()}\n")
    assert run_probe(*steps) == (0, expected.encode(), b"")
    # Preloaded and loaded once more.
    repaired = expected.replace(children, children.replace(f" {first()}\n", f" {full()}\n"))
    repaired = repaired.replace(f"execve {first()}", f"execve {full()}")
    assert run_probe(*steps, preload=[so]) == (0, repaired.encode(), b"")


def test_python_that_loads_the_library_by_ctypes(so):
    code = "import ctypes, subprocess, sys; ctypes.CDLL(sys.argv[1]); print(subprocess.check_output(['echo', 'child']))"
    assert run("python3", "-c", code, so) == (0, b"b'child\\n'\n", b"")


def test_small_stacks_are_enough(so):
    expected = f"tiny {first()}\n" * 3
    assert run_probe("tiny") == (0, expected.encode(), b"")
    assert run_probe("tiny", preload=[so]) == (0, expected.replace(first(), full()).encode(), b"")
    done = run_probe("tiny", preload=[so], KNLFIX_LOG="trace")
    assert (done.status, done.out) == (0, expected.replace(first(), full()).encode())
