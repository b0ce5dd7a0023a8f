"""What `knlfix doctor` finds in situations that are made for real."""

import json
import os
import shutil
import subprocess
import sys

import pytest

SLEEP = "import time; time.sleep(1)"


@pytest.fixture
def doctor(so, environment):
    """doctor(*command, preload=False, prefix=(), **variables): the JSON, and the exit status."""

    def run(*command, preload=False, prefix=(), library=None, **variables):
        made = environment(preload, **variables)
        if library:
            made["LD_PRELOAD"] = str(library)
        args = [*prefix, so.parent / "knlfix", "doctor", "--json", *(["--", *command] if command else [])]
        done = subprocess.run(args, env=made, capture_output=True, text=True, timeout=120)
        return Report(json.loads(done.stdout), done.returncode)

    return run


class Report:
    def __init__(self, told, status):
        self.told, self.status = told, status
        assert (told["format"], told["version"]) == ("knlfix-doctor", 1)
        for finding in told["findings"]:
            assert set(finding) == {"id", "severity", "title", "meaning", "advice"}
            assert finding["severity"] in ("ok", "note") or finding["meaning"] or finding["advice"], finding

    def __getitem__(self, name):
        """The one finding of that name."""
        (found,) = [finding for finding in self.told["findings"] if finding["id"] == name]
        return found

    def severity(self, name):
        return self[name]["severity"]

    def names(self):
        return [finding["id"] for finding in self.told["findings"]]


def test_a_quiet_machine_has_no_problem(doctor, allowed):
    report = doctor()
    assert report.status == 0 and report.told["worst"] != "problem"
    assert report.severity("pinning") == "ok" and report.severity("preload") == "note"
    assert report.told["program"] is None


def test_one_cpu_by_taskset(doctor, allowed):
    report = doctor(prefix=["taskset", "-c", str(allowed[0])])
    assert report.told["machine"]["allowed"] == str(allowed[0])
    assert report.severity("cpus") == "warning" and "taskset" in report["cpus"]["meaning"]


@pytest.mark.parametrize("variables, name", [
    ({"OMP_PLACES": "cores"}, "places"),
    ({"OMP_PROC_BIND": "close"}, "proc-bind"),
    ({"GOMP_CPU_AFFINITY": "0-1"}, "gomp-cpu-affinity"),
    ({"KMP_AFFINITY": "compact,granularity=fine"}, "kmp-affinity"),
])
def test_what_pins_is_a_warning_without_the_library_and_well_with_it(doctor, variables, name):
    without, with_it = doctor(**variables), doctor(preload=True, **variables)
    assert without.severity(name) == "warning" and "knlfix run" in without[name]["advice"]
    assert with_it.severity(name) == "ok"
    assert "pinning" not in without.names()


def test_what_does_not_pin_is_well(doctor):
    report = doctor(OMP_PROC_BIND="false", KMP_AFFINITY="none")
    assert report.severity("proc-bind") == report.severity("kmp-affinity") == "ok"


def test_more_threads_than_cpus_and_misspelt_names(doctor, allowed):
    report = doctor(OMP_NUM_THREADS=str(len(allowed) + 1), OMP_PROCBIND="true", KNLFIX_AFINITY="off", OMP_OF_MINE="1")
    assert report.severity("thread-count") == "warning"
    assert report["unknown-variable"]["advice"] == "Did you mean OMP_PROC_BIND?"
    assert "KNLFIX_AFFINITY?" in report["knlfix-variable"]["advice"]
    malformed = doctor(KNLFIX_BUDGET="many")["knlfix-variable"]
    assert "auto|N|N%|cores|off" in malformed["title"] + malformed["advice"]


def test_a_missing_preload_is_a_problem(doctor, tmp_path):
    report = doctor(library=tmp_path / "libknlfix.so")
    assert report.severity("preload-file") == report.severity("preload") == "problem"
    assert report.status == 1
    (tmp_path / "libknlfix.so").write_text("no library")
    assert doctor(library=tmp_path / "libknlfix.so").severity("preload-file") == "problem"


def test_the_library_of_another_build(doctor, so, tmp_path):
    other = tmp_path / "libother.so"
    other.write_bytes(so.read_bytes() + b"\0")
    assert doctor(library=other).severity("preload-other") == "warning"
    report = doctor(preload=True)
    assert report.severity("preload") == "ok" and "preload-other" not in report.names()


def test_a_static_program(doctor, tmp_path):
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 7; }")
    subprocess.run(["gcc", "-static", "-o", tmp_path / "static", source], check=True)
    report = doctor(tmp_path / "static", preload=True)
    assert report.severity("static") == "problem"
    # The program's own status counts more.
    assert report.status == 7
    assert doctor(tmp_path / "static").severity("static") == "warning"


def test_a_set_uid_interpreter_behind_a_script(doctor, tmp_path):
    if os.getuid() == 0:
        program = tmp_path / "true"
        shutil.copy("/bin/true", program)
        os.chown(program, 65534, 65534)
        program.chmod(0o4755)
    else:
        program = shutil.which("su", path="/usr/bin:/bin")
    script = tmp_path / "script"
    script.write_text(f"#!{program} --help\n")
    script.chmod(0o755)
    assert doctor(script).severity("set-uid") == "warning"


def test_a_child_whose_environment_was_cleaned(doctor):
    report = doctor("sh", "-c", "env -i sleep 1; true", preload=True)
    assert report.severity("children") == "warning"
    assert "sleep" in report["children"]["meaning"] and "env -i" in report["children"]["advice"]
    assert doctor("sh", "-c", "sleep 1; true", preload=True).severity("children") == "ok"


def test_copies_of_openblas_in_wheels(doctor):
    report = doctor(sys.executable, "-c", f"import numpy, sklearn.cluster; {SLEEP}")
    runtimes = report.told["program"]["runtimes"]
    assert sorted(runtime["kind"] for runtime in runtimes) == ["GNU OpenMP", "OpenBLAS", "OpenBLAS"]
    duplicates = report["duplicates"]
    assert "numpy.libs" in duplicates["meaning"] and "scipy.libs" in duplicates["meaning"]
    assert report.status == 0


def test_kmp_affinity_disabled_counts_for_the_intel_runtimes_that_abort(doctor, runtimes):
    def with_runtime(name):
        load = f"import ctypes; ctypes.CDLL({str(runtimes[name])!r}); {SLEEP}"
        return doctor(sys.executable, "-c", load, KMP_AFFINITY="disabled").severity("kmp-affinity-disabled")

    assert [with_runtime(name) for name in ("iomp2026", "iomp2018", "libomp19")] == ["problem", "note", "note"]


def test_a_pool_whose_workers_stack(doctor, runtimes):
    pool = "import ctypes, multiprocessing, time\n" \
           f"ctypes.CDLL({str(runtimes['libgomp'])!r})\n" \
           "if __name__ == '__main__':\n" \
           "    with multiprocessing.get_context('fork').Pool(2) as pool: pool.map(time.sleep, [1, 1])\n"
    variables = {"OMP_PROC_BIND": "true", "OMP_PLACES": "threads"}
    without = doctor(sys.executable, "-c", pool, **variables)
    assert without.severity("stacked") == without.severity("libgomp-fork") == "warning"
    assert "stacked" not in doctor(sys.executable, "-c", pool, preload=True, **variables).names()


def test_a_spawned_pool_is_no_forked_one(doctor, runtimes, tmp_path):
    pool = tmp_path / "pool.py"
    pool.write_text("import ctypes, multiprocessing, time\n"
                    f"ctypes.CDLL({str(runtimes['libgomp'])!r})\n"
                    "def meet(barrier): barrier.wait()\n"
                    "if __name__ == '__main__':\n"
                    "    context = multiprocessing.get_context('spawn')\n"
                    "    with context.Pool(2, meet, (context.Barrier(2),)) as pool: pool.map(time.sleep, [1, 1])\n")
    report = doctor(sys.executable, pool)
    (libgomp,) = report.told["program"]["runtimes"]
    # Now and then it is seen in a child that is about to become the resource tracker, too.
    assert len(libgomp["pids"]) in (3, 4) and "libgomp-fork" not in report.names()


def test_text_fits_80_columns_and_says_the_worst_first(so, environment, tmp_path):
    made = environment(False, OMP_PLACES="cores", KMP_AFFINITY="disabled", OMP_NUM_THREADS="9999", OMP_WAIT_POLICY="active")
    made["LD_PRELOAD"] = str(tmp_path / "not-there.so")
    done = subprocess.run([so.parent / "knlfix", "doctor"], env=made, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and max(map(len, lines)) <= 80, done.stdout
    severities = [line.split()[0] for line in lines[1:] if line and not line.startswith(" ")]
    order = ["problem", "warning", "note", "ok"]
    assert severities == sorted(severities, key=order.index) and set(severities) == set(order)
    assert lines[0].startswith("1 problem, ")
