"""Counting user instructions, by the best means this machine has. Unlike times they hardly change when others use the CPUs."""
import pathlib
import re

import machine


class Perf:
    """The processor's own counter."""

    name = "perf stat"
    remark = "threads and children included unless said otherwise"

    def __init__(self, workshop):
        self._out = workshop.path / "perf.out"
        self.of_program("-", "/bin/true")

    def of_program(self, preload, *command, inherit=True, **variables):
        """User instructions of one whole run."""
        env = machine.clean_environment(**variables)
        if preload != "-":
            env["LD_PRELOAD"] = str(preload)  # perf has it too, but its counter starts with the program
        heirs = [] if inherit else ["--no-inherit"]
        machine.run(["perf", "stat", "-x", ",", "-e", "instructions:u", "-o", self._out, *heirs, *command], env=env)
        for line in self._out.read_text().splitlines():
            fields = line.split(",")
            if len(fields) > 2 and fields[2].startswith("instructions"):
                if not fields[0].isdigit():
                    raise RuntimeError(f"perf counts no instructions here ({fields[0].strip('<>')})")
                return int(fields[0])
        raise RuntimeError("perf printed no count")

    def of_operation(self, subject, operation, preload, children=True, **variables):
        """User instructions of one operation of the subject: the slope between two runs."""
        few, many = (self.of_program(preload, subject, operation, n, inherit=children, **variables) for n in ("100", "1100"))
        return (many - few) / 1000


class Step:
    """Our own single-stepper: exact and slow."""

    name = "single steps (ptrace)"
    remark = "threads and children included unless said otherwise"

    def __init__(self, workshop):
        self._step, self._out = workshop.step, workshop.path / "step.out"
        if not self._count("instructions", "-", "/bin/true"):
            raise RuntimeError("single-stepping counted nothing")

    def _count(self, what, preload, *command, **variables):
        machine.run([self._step, what, self._out, preload, *command], env=machine.clean_environment(**variables))
        return int(self._out.read_text())

    def of_program(self, preload, *command, **variables):
        """User instructions of one whole run."""
        return self._count("instructions", preload, *command, **variables)

    def of_operation(self, subject, operation, preload, children=True, **variables):
        """User instructions of one operation of the subject: the slope between two marked runs."""
        mode = "marked" if children else "alone"
        none, some = (self._count(mode, preload, subject, operation, n, "marked", **variables) for n in ("0", "5"))
        return (some - none) / 5


class Callgrind:
    """Valgrind's simulated processor. It adds a preload of its own, and a forked child's count can't be told from its parent's."""

    name = "valgrind --tool=callgrind"
    remark = "the parent process alone"

    def __init__(self, workshop):
        self._dir = workshop.path
        self.of_program("-", "/bin/true")

    def of_program(self, preload, *command, **variables):
        """User instructions of one whole run."""
        for old in self._dir.glob("callgrind.*"):
            old.unlink()
        env = machine.clean_environment(**variables)
        if preload != "-":
            env["LD_PRELOAD"] = str(preload)
        log = self._dir / "valgrind.log"
        machine.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._dir}/callgrind.%p", f"--log-file={log}.%p", *command], env=env)
        # Every process writes a log of its own. The parent waits for its children, so the last log is the parent's.
        logs = sorted(self._dir.glob("valgrind.log.*"), key=lambda path: path.stat().st_mtime_ns)
        counts = [re.search(r"I\s+refs:\s+([\d,]+)", path.read_text()) for path in logs]
        for path in logs:
            path.unlink()
        found = [int(count.group(1).replace(",", "")) for count in counts if count]
        if not found:
            raise RuntimeError("valgrind printed no count")
        return found[-1]

    def of_operation(self, subject, operation, preload, children=False, **variables):
        """User instructions of one operation of the subject, `children` never included: the slope between two runs."""
        few, many = (self.of_program(preload, subject, operation, n, **variables) for n in ("10", "110"))
        return (many - few) / 100


class Neither:
    """No counter works; the reasons are the remark."""

    name = None

    def __init__(self, reasons):
        self.remark = "; ".join(reasons)

    def of_program(self, *_, **__):
        """Unknown."""
        return None

    of_operation = of_program


_chosen = {}


def choose(workshop):
    """The first counter that works here; Neither, with the reasons, when none does."""
    if workshop.path not in _chosen:
        reasons = []
        for kind in (Perf, Step, Callgrind):
            try:
                _chosen[workshop.path] = kind(workshop)
                break
            except (OSError, RuntimeError) as problem:
                reasons.append(f"{kind.name}: {problem}")
        else:
            _chosen[workshop.path] = Neither(reasons)
    return _chosen[workshop.path]


def system_calls(workshop, preload, *command):
    """How many system calls a program makes; None where it may not be traced."""
    out = workshop.path / "calls.out"
    try:
        machine.run([workshop.step, "syscalls", out, preload, *command], env=machine.clean_environment())
    except RuntimeError:
        return None
    return int(pathlib.Path(out).read_text())
