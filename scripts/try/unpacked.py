"""Debian packages that exclude one another, or that nobody shall find installed afterwards: unpacked, and laid over
the system for one program.
"""

import os
import pathlib
import subprocess
import tempfile

from common import ROOT, say


def package(name):
    """The directory in which the package is unpacked; done once."""
    to = ROOT / ".venv/try/unpacked" / name
    if not (to / "usr").is_dir():
        say("unpacking %s in .venv/try/unpacked" % name)
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            os.chmod(scratch, 0o755)
            subprocess.run(["apt-get", "download", "-qq", name], cwd=scratch, check=True, stderr=subprocess.DEVNULL)
            subprocess.run(["dpkg", "-x", *pathlib.Path(scratch).glob("*.deb"), to], check=True)
    return to


def laid_over(name):
    """What to put before a command so that it, and nobody else, finds the package installed.

    A mount namespace of its own, gone with the command; without root in a user namespace.
    """
    directory = package(name)
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    over = "mount -t overlay overlay -o lowerdir={0}/{1}:/{1} /{1}"
    script = " && ".join([over.format(directory, "usr"), over.format(directory, "etc"), 'exec "$@"'])
    return [*alone, "--", "sh", "-c", script, "sh"]


def version(name):
    """Of the package: 8.6.19 of 8.6.19-1."""
    changes = next((package(name) / "usr/share/doc" / name).glob("changelog.Debian.gz"))
    text = subprocess.run(["zcat", changes], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
    return text.split("(")[1].split("-")[0]
