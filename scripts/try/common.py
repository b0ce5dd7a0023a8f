"""What the scripts in this directory share: the checks, what they install, and the environments they start programs in."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHM = pathlib.Path("/dev/shm")
# What would decide for a program under test: it is set by the test alone.
FOREIGN = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "KNLFIX", "LD_PRELOAD", "SLURM_", "PMI", "OMPI_")


class Checks:
    """Keeps the score, and says PASS or FAIL in a line for each check."""

    def __init__(self, name):
        self.name = name
        self.passed = self.failed = 0

    def expect(self, what, got, wanted):
        """A check; returns whether it passed."""
        good = got == wanted
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print("PASS " + what if good else "FAIL %s: expected %s, got %s" % (what, wanted, got), flush=True)
        return good

    def finish(self, versions, record=False):
        """The last line; with `record`, a row in docs/tested.md. `versions`: of the software tried. Returns the exit status."""
        if record:
            row = (self.name, versions, str(self.passed), str(self.failed))
            subprocess.run([ROOT / "scripts/record", "Environments", *row], check=True)
        print("%d passed, %d failed" % (self.passed, self.failed), flush=True)
        return 1 if self.failed else 0


def arguments(name, description):
    """The command line that all of these scripts have; returns a parser, for those that have more."""
    parser = argparse.ArgumentParser(prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the result into docs/tested.md")
    return parser


def built(variable, name):
    path = pathlib.Path(os.environ.get(variable, ROOT / "target/release" / name)).absolute()
    if not path.is_file():
        sys.exit("%s: not there: build it with cargo build --release, or point %s at one" % (path, variable))
    return path


def library():
    """target/release/libknlfix.so, or what KNLFIX_SO names."""
    return built("KNLFIX_SO", "libknlfix.so")


def command():
    """target/release/knlfix, or what KNLFIX_COMMAND names."""
    return built("KNLFIX_COMMAND", "knlfix")


def say(what):
    """What happens now; the results are on the standard output."""
    print("%s: %s" % (pathlib.Path(sys.argv[0]).name, what), file=sys.stderr, flush=True)


def unwind():
    """From now on a script that is told to end cleans up first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def isolated(namespaces, command):
    """Runs a command in namespaces of its own, as the first process of its own; lets it clean up if we are told to end. Returns its status."""
    started = subprocess.Popen(["unshare", *namespaces, "--mount", "--pid", "--fork", "--mount-proc", "--", *command])
    try:
        return started.wait()
    except (SystemExit, KeyboardInterrupt):
        children = pathlib.Path("/proc/%d/task/%d/children" % (started.pid, started.pid)).read_text()
        for child in children.split():
            os.kill(int(child), signal.SIGTERM)
        started.wait()
        raise


def apt(*packages):
    """Installs Debian packages that are missing; without root it says how, and ends the program."""
    query = ["dpkg-query", "-W", "-f", "${Status} ${Package}\\n", *packages]
    lines = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True).stdout.splitlines()
    there = {line.split()[-1] for line in lines if line.startswith("install ok installed")}
    missing = [package for package in packages if package not in there]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", *missing]
    if os.geteuid() != 0:
        sys.exit("missing: %s; install with: sudo %s" % (" ".join(missing), " ".join(install)))
    say("apt-get install " + " ".join(missing))
    # No package may start a daemon: the scripts start their own, with their own settings.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    finally:
        if is_ours:
            policy.unlink()


def apt_version(package):
    """The upstream version of a package that is installed: 4.1.4 of 4.1.4-3+b1."""
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(query, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout.split("-")[0].split(":")[-1]


def venv(name, requirements=None, **variables):
    """The python of .venv/try/NAME, with what requirements-NAME.txt lists (or another file in this directory); made or mended if need be."""
    requirements = pathlib.Path(__file__).resolve().parent / (requirements or "requirements-%s.txt" % name)
    directory = ROOT / ".venv/try" / name
    python = directory / "bin/python"
    installed = directory / "requirements.installed"
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        shutil.rmtree(directory, ignore_errors=True)
        say("python environment in .venv/try/" + name)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
        subprocess.run(install, check=True, env={**os.environ, **variables})
        shutil.copy(requirements, installed)
    return python


def environment(preload=False, **variables):
    """This environment without what would interfere, with the library or not."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    clean.update(variables)
    if preload:
        clean["LD_PRELOAD"] = str(library())
    return clean


def run(command, preload=False, timeout=120, **variables):
    """Runs a program to its end; returns what subprocess.run does, with text."""
    return subprocess.run([str(word) for word in command], env=environment(preload, **variables), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=timeout)


def answer(done):
    """The JSON object that a program wrote, or how it failed instead."""
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"failed": "status %d: %s %s" % (done.returncode, done.stdout.strip(), done.stderr.strip())}


def mapped_ledgers(pid):
    """The ledgers that a process has mapped."""
    try:
        lines = pathlib.Path("/proc/%s/maps" % pid).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {line.split(maxsplit=5)[-1] for line in lines if "%s/knlfix-" % SHM in line}
