"""Calls on a stack that ends right above them: looking for the caller behind another preload's wrapper stops there."""

import pytest

from inway import build, last, run

CALLS = ("pthread_setaffinity_np", "sched_setaffinity", "syscall")


@pytest.mark.parametrize("preloads", ("alone", "other-first", "ours-first"))
@pytest.mark.parametrize("call", CALLS)
def test_a_call_from_a_fiber(so, call, preloads):
    other = build("passes_on.c", "-shared", "-fPIC", name="libpasses_on.so")
    preload = {"alone": [so], "other-first": [other, so], "ours-first": [so, other]}[preloads]
    command = [build("fiber.c"), call, last()]
    # The user's choice, which the child keeps.
    expected = (0, f"{call} 0 {last()}\nfork {last()}\n".encode(), b"")
    assert run(*command) == expected
    assert run(*command, preload=[other]) == expected
    assert run(*command, preload=preload) == expected
