"""Fixtures that build a program of this directory, run it, and compare what it printed with its table."""

import shlex
import subprocess

import pytest

from programs import Workshop, format_cpus, parse_cpus


SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, runtimes):
    return Workshop(tmp_path_factory.mktemp("programs"), runtimes)


@pytest.fixture
def observe(workshop, environment, pinning, two_cpus):
    """observe(case, preload): runs the case and returns {label: value} as printed."""

    def run(case, preload):
        binary = workshop.build(case)
        variables = {} if case.runtime == "none" or case.directive("pinning") == "off" else pinning(case.runtime)
        variables |= {
            "FIRST_CPU": str(two_cpus[0]),
            "LAST_CPU": str(two_cpus[-1]),
            "REPORTER": str(workshop.reporter),
            "PROGRAMS": str(workshop.directory),
            # Last, so that a search along PATH misses a few times before it hits.
            "PATH": f"{SYSTEM_PATH}:{workshop.directory}",
        }
        words = {"$FIRST": str(two_cpus[0]), "$LAST": str(two_cpus[-1])}
        for setting in shlex.split(case.directive("env")):
            name, _, value = setting.partition("=")
            variables[name] = words.get(value, value)
        launcher = [words.get(word, word) for word in shlex.split(case.directive("launcher"))]
        made = environment(preload, **variables)
        command = [*launcher, str(binary), case.name]
        # For the failure message: the line that runs this case by hand.
        preloaded = {name: made[name] for name in ("LD_PRELOAD",) if name in made}
        run.command = shlex.join(["env", *(f"{name}={value}" for name, value in {**variables, **preloaded}.items()), *command])
        done = subprocess.run(command, env=made, capture_output=True, text=True, timeout=60)
        values = {}
        for line in done.stdout.splitlines():
            label, _, value = line.partition(" ")
            if label == "skip":
                pytest.skip(value)
            values[label] = f"{values[label]}+{value}" if label in values else value
        if done.returncode:
            values["exit"] = str(done.returncode)
        if done.stderr.strip():
            values["stderr"] = done.stderr.strip()
        return values

    return run


@pytest.fixture
def check(observe, two_cpus):
    """check(case, preload): what the case printed is what its table says."""
    words = {"full": format_cpus(two_cpus), "first": str(two_cpus[0]), "last": str(two_cpus[-1])}

    def judge(case, preload):
        seen = observe(case, preload)
        expected = case.with_library if preload else case.without
        pin = seen.pop("pin", None)
        if pin is not None and case.directive("pinning") != "off":
            if not parse_cpus(pin) < set(two_cpus):
                pytest.fail(f"the runtime pinned nothing: the thread has {pin} of {words['full']}", pytrace=False)

        def matches(value, word):
            if word == "narrow":
                return value is not None and parse_cpus(value) < set(two_cpus)
            return value == (pin if word == "pin" else seen.get(word[1:]) if word[0] == "@" else words.get(word, word))

        wrong = [f"{label}: expected {alternatives}, got {seen.get(label, 'nothing')}"
                 for label, alternatives in expected.items()
                 if not any(matches(seen.get(label), word) for word in alternatives.split("|"))]
        wrong += [f"{label}: got {value}, expected nothing" for label, value in seen.items() if label not in expected]
        if wrong:
            pytest.fail("\n".join([*wrong, f"pin is {pin}, full is {words['full']}", observe.command]), pytrace=False)

    return judge
