"""Figures: how a median, its uncertainty and its target are kept and shown."""
import dataclasses
import json
import pathlib
import random
import statistics
import time
import typing

import machine


def median(values):
    """The middle one; means say nothing on a machine that others use."""
    return statistics.median(values)


def interval(statistic, rounds, draws=1000):
    """The 95 % bootstrap interval of `statistic(rounds)`, drawing whole rounds: samples within one share the machine's mood."""
    dice = random.Random(1)
    drawn = sorted(statistic([dice.choice(rounds) for _ in rounds]) for _ in range(draws))
    return drawn[draws * 25 // 1000], drawn[draws * 975 // 1000 - 1]


@dataclasses.dataclass
class Target:
    """A figure that counts, and what it should reach."""

    text: str
    value: float
    limit: float
    unit: str = "x"
    low: typing.Optional[float] = None
    high: typing.Optional[float] = None
    at_least: bool = False

    @classmethod
    def of_rounds(cls, text, statistic, rounds, limit, unit="x", at_least=False):
        """From per-round medians, with the interval."""
        return cls(text, statistic(rounds), limit, unit, *interval(statistic, rounds), at_least)

    def verdict(self):
        """Reached or not, and whether the noise leaves that open."""
        word = "reached" if (self.value >= self.limit if self.at_least else self.value <= self.limit) else "not reached"
        if self.low is not None and self.low <= self.limit <= self.high:
            word += ", within the noise"
        return word

    def _number(self, value):
        return f"{value:.3f}" if self.unit == "x" else f"{value:.2f}" if self.unit == "ns" else f"{value:,.0f}"

    def row(self):
        """The cells of the table of targets."""
        unit = "x" if self.unit == "x" else f" {self.unit}" if self.unit else ""
        spread = "" if self.low is None else f"{self._number(self.low)} to {self._number(self.high)}"
        return [self.text, self._number(self.value) + unit, spread, f"{'>=' if self.at_least else '<='} {self.limit:g}{unit}", self.verdict()]


@dataclasses.dataclass
class Section:
    """One thing measured: a table, remarks on how, the targets, and what could not be measured."""

    title: str
    head: typing.List[str] = dataclasses.field(default_factory=list)
    rows: typing.List[typing.List[str]] = dataclasses.field(default_factory=list)
    notes: typing.List[str] = dataclasses.field(default_factory=list)
    targets: typing.List[Target] = dataclasses.field(default_factory=list)
    problems: typing.List[str] = dataclasses.field(default_factory=list)
    raw: typing.Dict[str, typing.Any] = dataclasses.field(default_factory=dict)


def append(sections, section):
    """Adds one; what has the title and the head of the last one goes on in its table."""
    last = sections[-1] if sections else None
    if last and (last.title, last.head) == (section.title, section.head):
        for kept, new in ((last.rows, section.rows), (last.targets, section.targets), (last.problems, section.problems)):
            kept.extend(new)
        last.raw.update(section.raw)
    else:
        sections.append(section)


@dataclasses.dataclass
class Context:
    """What a measure is given."""

    workshop: typing.Any
    rounds: int
    root: pathlib.Path
    patience: float = 0
    quick: bool = False

    def wait_for_calm(self):
        """Called before every round: waits until others leave the CPUs alone, as long as the patience of the whole run lasts."""
        start = time.monotonic()
        while self.patience > 0:
            load = machine.Load()
            time.sleep(0.2)
            if load.report()["others"] < machine.CALM:
                break
            now = time.monotonic()
            self.patience, start = self.patience - (now - start), now


def _columns(head, rows):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        yield "  " + "   ".join(cells).rstrip()


def _pipes(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|--:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


TARGET_HEAD = ["target", "measured", "95 % interval", "limit", "verdict"]


@dataclasses.dataclass
class Report:
    """Everything one run found."""

    command: str
    machine: dict
    load: dict
    library: dict
    sections: typing.List[Section]

    def _about(self):
        where, load = self.machine, self.load
        kind = "virtual machine" if where["virtual"] else "bare metal"
        return [
            f"machine: {where['cpu']}, {where['cpus']} CPUs ({where['allowed']} allowed), {kind}, "
            f"Linux {where['kernel']}, {where['libc']}, Python {where['python']}, gcc {where['gcc']}",
            f"noise: others used {load['others']:.0%} of the CPUs meanwhile, the hypervisor took {load['steal']:.0%}: "
            + ("noisy" if load["noisy"] else "calm"),
            f"library: {self.library['name']}, {self.library['bytes']:,} bytes, sha256 {self.library['sha256'][:16]}, "
            f"measured {where['date']}",
        ]

    def _targets(self):
        return [target.row() for section in self.sections for target in section.targets]

    def text(self):
        """For a terminal."""
        lines = [f"scripts/bench {self.command}", *self._about()]
        for section in self.sections:
            lines += ["", section.title]
            lines += _columns(section.head, section.rows) if section.rows else []
            lines += [f"  {note}" for note in section.notes]
            lines += [f"  PROBLEM: {problem}" for problem in section.problems]
        if self._targets():
            lines += ["", "targets", *_columns(TARGET_HEAD, self._targets())]
        return "\n".join(lines)

    def markdown(self):
        """For a README."""
        lines = []
        if self._targets():
            lines += [*_pipes(TARGET_HEAD, self._targets()), ""]
        lines += [f"* {line}" for line in self._about()]
        for section in self.sections:
            lines += ["", f"**{section.title}**", ""]
            lines += [*_pipes(section.head, section.rows), ""] if section.rows else []
            lines += [f"* {note}" for note in section.notes]
            lines += [f"* PROBLEM: {problem}" for problem in section.problems]
        return "\n".join(lines)

    def json(self):
        """For a program; the targets carry their verdicts."""
        whole = dataclasses.asdict(self)
        for section, kept in zip(self.sections, whole["sections"]):
            for target, cells in zip(section.targets, kept["targets"]):
                cells["verdict"] = target.verdict()
        return json.dumps(whole, indent=1)
