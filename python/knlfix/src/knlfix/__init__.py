"""libknlfix gives every child process and thread of an OpenMP program its CPUs back.

``python -m knlfix app.py`` runs a Python program under it, ``knlfix run PROGRAM`` any program.
"""

import os

__all__ = ["library"]


def library() -> str:
    """The path of libknlfix.so, for ``LD_PRELOAD``."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "libknlfix.so")
