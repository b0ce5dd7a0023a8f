"""Reads the table in the header of each C program, builds the program, and runs it.

A program's header:

    // What it shows, in a sentence.
    // case NAMES on RUNTIMES: LABEL=VALUE ... -> LABEL=VALUE ...
    // env [PATTERN]: VARIABLE=VALUE ...      (further variables for the cases whose name matches)
    // pinning [PATTERN]: off                 (no pinning variable is set)
    // launcher [PATTERN]: COMMAND ...        (runs the program, as in: taskset -c $LAST)
    // cflags: ...                            (for compiling)
    // link: ...                              (for linking; @NAME is lib/NAME.c as a shared library)

NAMES is one name, or several by braces as in a shell: {fork,system}:after. The program gets the name as its argument and
prints one "LABEL VALUE" line for each thing it observes. What stands before the arrow must come out without the library
(so the trouble is real), what stands after it with the library.
RUNTIMES is "all", "llvm" (all but libgomp), "none" (a program without OpenMP), or names with commas between.
A VALUE is a word: full (every allowed CPU), first, last (the first or last allowed CPU), pin (what the program printed
as "pin"), @LABEL (what it printed as LABEL), and otherwise itself; A|B is either of the two.
"""

import fnmatch
import itertools
import pathlib
import re
import shlex
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
LLVM = ["libomp14", "libomp19", "iomp2018", "iomp2026"]
GROUPS = {"all": ["libgomp", *LLVM], "llvm": LLVM, "none": ["none"]}
CASE = re.compile(r"// case (\S+) on (\S+): (.*) -> (.*)$")
DIRECTIVE = re.compile(r"// (env|launcher|cflags|link|pinning)(?: (\S+))?: (.*)$")


class Case:
    """One line of a program's table, for one runtime."""

    def __init__(self, program, name, runtime, without, with_library, directives):
        self.program, self.name, self.runtime = program, name, runtime
        self.without, self.with_library, self.directives = parse_values(without), parse_values(with_library), directives

    def directive(self, kind):
        """The last line of that kind whose pattern this case's name matches."""
        found = [text for (of, pattern), text in self.directives.items() if of == kind and fnmatch.fnmatchcase(self.name, pattern)]
        return found[-1] if found else ""

    @property
    def id(self):
        return "-".join(part for part in (self.program.stem, self.name, self.runtime) if part != "none")


def parse_values(text):
    return dict(token.split("=", 1) for token in text.split())


def expand_braces(text):
    """"{a,b}:c" -> ["a:c", "b:c"]"""
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [part.split(",") if inside else [part] for part, inside in zip(parts, itertools.cycle((False, True)))]
    return ["".join(choice) for choice in itertools.product(*choices)]


def read_cases(program):
    cases, directives = [], {}
    for line in program.read_text().splitlines():
        if not line.startswith("//"):
            break
        if match := DIRECTIVE.match(line):
            directives[match[1], match[2] or "*"] = match[3]
        elif match := CASE.match(line):
            groups = [GROUPS.get(group, [group]) for group in match[2].split(",")]
            for name, runtime in itertools.product(expand_braces(match[1]), itertools.chain(*groups)):
                cases.append(Case(program, name, runtime, match[3], match[4], directives))
        elif re.match(r"// (case|env|launcher|cflags|link|pinning)\b.*:", line):
            raise ValueError(f"{program.name}: not understood: {line}")
    return cases


def format_cpus(cpus):
    """{0, 1, 3} -> "0-1,3", as test.h prints it."""
    runs = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def parse_cpus(text):
    cpus = set()
    for run in text.split(","):
        first, _, last = run.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


class Workshop:
    """Compiles each program once per session, and links it once per runtime."""

    def __init__(self, directory, runtimes):
        self.directory, self.runtimes = directory, runtimes
        self.run_gcc("-O1", HERE / "report.c", "-o", directory / "report")
        self.run_gcc("-O1", "-static", HERE / "report.c", "-o", directory / "report-static")
        self.libraries = {}

    def run_gcc(self, *arguments, compiler="gcc"):
        flags = ["-std=gnu17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-pthread", f"-I{HERE}"]
        if compiler == "g++":
            flags[0] = "-std=gnu++17"
        done = subprocess.run([compiler, *flags, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{compiler} {arguments}: {done.stderr}", pytrace=False)

    def library(self, name):
        """lib/NAME.c as libNAME.so, without OpenMP: a third party's library."""
        to = self.directory / f"lib{name}.so"
        if not to.exists():
            self.run_gcc("-O1", "-shared", "-fPIC", HERE / "lib" / f"{name}.c", "-o", to)
        return to

    def build(self, case):
        binary = self.directory / f"{case.program.stem}-{case.runtime}"
        if binary.exists():
            return binary
        compiler = "g++" if case.program.suffix == ".cc" else "gcc"
        openmp = [] if case.runtime == "none" else ["-fopenmp"]
        compiled = self.directory / f"{case.program.stem}{'-openmp' if openmp else ''}.o"
        if not compiled.exists():
            cflags = shlex.split(case.directive("cflags"))
            self.run_gcc("-O1", *openmp, *cflags, "-c", case.program, "-o", compiled, compiler=compiler)
        link = []
        for word in shlex.split(case.directive("link")):
            if word.startswith("@"):  # @NAME: a library of ours
                link += [self.library(word[1:]), f"-Wl,-rpath,{self.directory}"]
            else:
                link.append(word)
        if openmp and "-static-runtime" in link:
            link[link.index("-static-runtime")] = self.static_libgomp()
        elif openmp:
            library = self.runtimes[case.runtime]
            link += ["-Wl,--no-as-needed", library, f"-Wl,-rpath,{library.parent}"]
        # glibc before 2.34 has forkpty and dlopen in libraries of their own.
        self.run_gcc(compiled, "-o", binary, *link, "-lutil", "-ldl", compiler=compiler)
        return binary

    @staticmethod
    def static_libgomp():
        path = subprocess.run(["gcc", "-print-file-name=libgomp.a"], capture_output=True, text=True, check=True).stdout
        return path.strip()

    @property
    def reporter(self):
        return self.directory / "report"
