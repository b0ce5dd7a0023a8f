"""Processes that run regions under the library, and what they share."""

import contextlib
import os
import pathlib
import subprocess
import time

PROBES = pathlib.Path(__file__).resolve().parent / "probes"
SHM = pathlib.Path("/dev/shm")


def build_regions(directory):
    """The probe, linked to the system's libgomp."""
    program = directory / "regions"
    if not program.exists():
        command = ["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fopenmp", PROBES / "regions.c", "-o", program]
        subprocess.run(command, check=True)
    return program


class Regions:
    """The probe, running."""

    def __init__(self, command, environment, **options):
        self.ledgers = set()
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=environment, **options)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        answer = self.process.stdout.readline().strip()
        assert answer, f"the program ended: {self.process.wait()}, {self.process.stderr.read()}"
        self.ledgers |= mapped_ledgers(self.process.pid)
        return answer

    def ask(self, line):
        self.say(line)
        return self.hear()

    def teams(self, milliseconds):
        """The smallest and the largest team in so many milliseconds of regions."""
        return tuple(map(int, self.ask(f"run {milliseconds}").split()))

    def once(self):
        return int(self.ask("once"))

    def end(self):
        """Ends it, and returns what it said on standard error."""
        with contextlib.suppress(BrokenPipeError):
            self.say("quit")
        _, said = self.process.communicate(timeout=30)
        return said


class Domain:
    """Processes of one job that nobody else has, so that the machine's other processes don't count."""

    count = 0

    def __init__(self, so, program, **environment):
        Domain.count += 1
        self.job = f"knlfix-test-{os.getpid()}-{Domain.count}"
        self.so, self.program, self.environment = so, program, environment
        self.started = []

    def start(self, *prefix, job=None, preload=None, options=None, **environment):
        preload = str(self.so) if preload is None else preload
        variables = {**os.environ, "SLURM_JOB_ID": job or self.job, "LD_PRELOAD": preload, **self.environment, **environment}
        # `env` so that whatever starts the program (taskset, unshare) runs without the library.
        preloaded = ["env", f"LD_PRELOAD={variables.pop('LD_PRELOAD')}", self.program]
        regions = Regions([*prefix, *preloaded], variables, **(options or {}))
        self.started.append(regions)
        return regions

    def ledgers(self):
        """The ledgers that its processes have or had mapped, as far as they are still there."""
        return sorted({ledger for regions in self.started for ledger in regions.ledgers if ledger.exists()})

    def end(self):
        for regions in self.started:
            if regions.process.poll() is None:
                regions.process.kill()
            regions.process.communicate()
        for ledger in self.ledgers():
            with contextlib.suppress(FileNotFoundError):
                ledger.unlink()


def mapped_ledgers(pid):
    try:
        lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    except FileNotFoundError:
        return set()
    paths = {line.split(maxsplit=5)[-1] for line in lines if f"{SHM}/knlfix-" in line}
    return {pathlib.Path(path) for path in paths if not path.endswith(" (deleted)")}


def until(true, seconds=10):
    """Waits until `true()` is. Fails after a time that no machine needs."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
