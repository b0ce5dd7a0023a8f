"""``python -m knlfix``: becomes Python with the same arguments and the library in ``LD_PRELOAD``."""

import os
import subprocess
import sys
from typing import List, NoReturn, Optional

from knlfix import library

USAGE = """\
usage: python -m knlfix [PYTHON OPTION]... FILE [ARGUMENT]...
       python -m knlfix [PYTHON OPTION]... -m MODULE [ARGUMENT]...
       python -m knlfix [PYTHON OPTION]... -c CODE [ARGUMENT]...
       python -m knlfix [PYTHON OPTION]... - [ARGUMENT]...        (a program on standard input)

Runs Python under libknlfix.so: every child process and thread gets the CPUs
that you allowed, and all processes of the job share them. What the library
does is set by variables (knlfix env) and shown by the knlfix command.

  -h, --help     show this
  -V, --version  show the version
"""
# The exit status when the program could not be started, as of `knlfix run`.
FAILED = 125


def main() -> NoReturn:
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        sys.exit(0)
    if arguments[:1] in (["-V"], ["--version"]):
        # Slow to import, and seldom needed.
        from importlib.metadata import version

        print("knlfix", version("knlfix"))
        sys.exit(0)
    if not arguments:
        sys.stderr.write(USAGE)
        sys.exit(2)
    path = library()
    if any(letter in path for letter in ": \t\n"):
        fail(f"{path}: LD_PRELOAD can't hold a path with a blank or a colon; move the environment")
    if not os.path.exists(path):
        fail(f"no {path}: this is not an installed knlfix")
    if not sys.executable:
        fail("Python can't tell where it is itself (sys.executable is empty)")
    command = [sys.executable, *interpreter_options(), *arguments]
    os.environ["LD_PRELOAD"] = with_library(os.environ.get("LD_PRELOAD"), path)
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        fail(f"{sys.executable}: {error.strerror}")


def interpreter_options() -> List[str]:
    """What stood before ``-m knlfix``: ``-u``, ``-X dev``, ``-W error``."""
    original: Optional[List[str]] = getattr(sys, "orig_argv", None)
    if original is None:
        # Python 3.8 and 3.9 keep them as flags only, without -u.
        options: List[str] = getattr(subprocess, "_args_from_interpreter_flags")()
        return options
    options = original[1 : len(original) - len(sys.argv) + 1]
    # The last is the module, with its option before it or in front: -m knlfix, -um knlfix, -mknlfix.
    before = options.pop()[: -len("knlfix")] or options.pop()
    return options + [before[:-1]] if before != "-m" else options


def with_library(preload: Optional[str], path: str) -> str:
    """What is preloaded already stays; the library comes first, and once."""
    others = [other for other in (preload or "").replace(":", " ").split(" ") if other and other != path]
    return ":".join([path, *others])


def fail(message: str) -> NoReturn:
    print(f"knlfix: {message}", file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()
