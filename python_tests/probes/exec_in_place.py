"""Brings a runtime up, then replaces this program by one that prints its status: exec_in_place.py WAY."""

import os
import sys

from probe import bring_up, main_mask, report
from ways import GREP

PROGRAM, ENVIRONMENT = GREP[0], dict(os.environ, SEEN="1")

EXECS = {
    "execv": lambda: os.execv(PROGRAM, GREP),
    "execve": lambda: os.execve(PROGRAM, GREP, ENVIRONMENT),
    "execvp": lambda: os.execvp("grep", GREP),
    "execvpe": lambda: os.execvpe("grep", GREP, ENVIRONMENT),
    "execl": lambda: os.execl(PROGRAM, *GREP),
    "execle": lambda: os.execle(PROGRAM, *(GREP + [ENVIRONMENT])),
    "execlp": lambda: os.execlp("grep", *GREP),
    "fexecve": lambda: os.execve(os.open(PROGRAM, os.O_RDONLY), GREP, ENVIRONMENT),
}


def fails(start):
    """Tries an exec that cannot succeed."""
    try:
        start()
    except OSError:
        return
    raise RuntimeError("the exec did not fail")


def main():
    report(runtimes=bring_up(), pinned=main_mask())
    fails(lambda: os.execv("/nonexistent/program", ["program"]))
    fails(lambda: os.execve("/nonexistent/program", ["program"], ENVIRONMENT))
    fails(lambda: os.execve(os.open("/dev/null", os.O_RDONLY), ["program"], ENVIRONMENT))
    report(failed_exec=main_mask())
    EXECS[sys.argv[1]]()


if __name__ == "__main__":
    main()
