"""The processes of `scripts/bench budget`: started as the workers of a pool are, they do the same work at the same time."""
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import typing

import machine

CPUS = len(os.sched_getaffinity(0))

# Between two looks at who wants to run; looking takes well under a hundredth of it.
LOOK = 0.012


@dataclasses.dataclass
class Turn:
    """What a crew did in one go."""

    rate: float  # units of work a second, of all processes together
    wall: float  # seconds until the last one was done
    cpu: float   # CPU seconds used, over those that there were
    per_cpu: float  # units of work for each CPU second used
    # Threads that wanted to run beyond the CPUs there are, or one a process if that is more; over that number, on average.
    over: typing.Optional[float] = None


# A crew has a parent of its own, as a pool has: the library takes those for siblings that have the same one.
PARENT = """
import json, os, subprocess, sys
programs = []
for command, request, answer in json.loads(sys.argv[1]):
    programs.append(subprocess.Popen(command, stdin=request, stdout=answer))
    os.close(request)
    os.close(answer)
print(*[program.pid for program in programs], flush=True)
for program in programs:
    program.wait()
"""


class Worker:
    """One process, and the pipes to talk to it."""

    def __init__(self, command):
        self.command = [str(part) for part in command]
        self.pid = None
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self.theirs = (requests, answers)
        self._requests, self._answers = os.fdopen(self._requests, "w"), os.fdopen(self._answers)

    def tell(self, line):
        self._requests.write(line + "\n")
        self._requests.flush()

    def answer(self):
        """A line; nothing once the process has ended."""
        if not select.select([self._answers], [], [], 120)[0]:
            raise RuntimeError(f"{self.command[0]} says nothing for two minutes")
        return self._answers.readline().strip()

    def running(self):
        """How many of its threads run, or could."""
        count = 0
        try:
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{thread}/stat", "rb") as stat:
                    count += stat.read().rpartition(b") ")[2][:1] == b"R"
        except (FileNotFoundError, ProcessLookupError):
            pass
        return count

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()


class Crew:
    """Processes in a domain of their own. `commands`: one for each."""

    _made = 0

    def __init__(self, commands, environment):
        Crew._made += 1
        self.job = f"knlfix-bench-{os.getpid()}-{Crew._made}"
        self._workers = [Worker(command) for command in commands]
        self._errors = tempfile.TemporaryFile("w+")
        self._parent = subprocess.Popen(
            [machine.python(), "-c", PARENT, json.dumps([(worker.command, *worker.theirs) for worker in self._workers])],
            env=machine.clean_environment(SLURM_JOB_ID=self.job, **environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self._errors, universal_newlines=True, start_new_session=True, pass_fds=[end for worker in self._workers for end in worker.theirs])
        for worker in self._workers:
            for end in worker.theirs:
                os.close(end)
        for worker, pid in zip(self._workers, self._parent.stdout.readline().split()):
            worker.pid = int(pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self._parent.pid, signal.SIGKILL)
        self._parent.communicate()
        self._errors.close()
        for worker in self._workers:
            worker.end()

    def wait_until_ready(self):
        """Until each has done its work once, and all threads sleep."""
        if set(self._answers()) != {"ready"}:
            raise RuntimeError(f"{self._workers[0].command} did not say that it is ready")
        self._settle()

    def work(self, warm, seconds):
        """Everybody works so long; what is done in the first `warm` seconds does not count."""
        start = time.monotonic() + 0.01
        self._tell([f"{start} {warm} {seconds}"] * len(self._workers))
        time.sleep(max(0.0, start + warm - time.monotonic()))
        running = [self._running()]
        while time.monotonic() < start + warm + seconds - LOOK:
            time.sleep(LOOK)
            running.append(self._running())
        answers = self._numbers()
        self._settle()
        room = max(CPUS, len(self._workers))
        over = sum(max(0, count - room) for count in running) / len(running) / room
        return self._turn(sum(done / wall for done, _, wall in answers), answers, over)

    def finish(self, counts):
        """Everybody does so many units, and is then done."""
        start = time.monotonic() + 0.01
        self._tell([f"{start} tasks {count}" for count in counts])
        answers = self._numbers()
        self._settle()
        return self._turn(sum(counts) / max(wall for _, _, wall in answers), answers)

    @staticmethod
    def _turn(rate, answers, over=None):
        cpu = sum(cpu / wall for _, cpu, wall in answers) / CPUS
        return Turn(rate, max(wall for _, _, wall in answers), cpu, rate / CPUS / max(cpu, 1e-9), over)

    def _tell(self, lines):
        for worker, line in zip(self._workers, lines):
            worker.tell(line)

    def _numbers(self):
        return [[float(word) for word in line.split()] for line in self._answers()]

    def _answers(self):
        lines = [worker.answer() for worker in self._workers]
        if not all(lines):
            self._errors.seek(0)
            words = self._errors.read().strip().splitlines() or ["no message"]
            raise RuntimeError(f"{self._workers[0].command} ended: {words[-1]}")
        return lines

    def _running(self):
        return sum(worker.running() for worker in self._workers)

    def _settle(self):
        """Teams go on spinning for a while after their last region; the next crew's turn comes after that."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end and self._running():
            time.sleep(0.005)
