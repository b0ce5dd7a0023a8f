"""`knlfix report` and KNLFIX_REPORT: where the time went, against programs that know it themselves."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree

import jsonschema
import pytest

import browser

HERE = pathlib.Path(__file__).resolve().parent
SCHEMA = json.loads((HERE.parent / "docs/report.schema.json").read_text())
# Reported times against the program's own.
TOLERANCE = 0.02


class Reported:
    """What a program said, and what the report says of it."""

    def __init__(self, done, path):
        self.output, self.text, self.status = done.stdout, done.stderr, done.returncode
        self.json = json.loads(path.read_text())
        jsonschema.validate(self.json, SCHEMA)
        self.processes = self.json["processes"]


@pytest.fixture
def report(so, environment, tmp_path):
    """report(program, ...): runs it under `knlfix report`."""

    def run(*program, check=True, **variables):
        path = tmp_path / "report.json"
        command = [so.parent / "knlfix", "report", "--json", path, "--", *program]
        done = subprocess.run(command, env=environment(False, **variables), capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return Reported(done, path)

    return run


def known(output):
    inside, all_of_it = map(float, output.split())
    return inside, 1 - inside / all_of_it


@pytest.mark.parametrize("runtime", ["libgomp", "libomp14", "libomp19", "iomp2026"])
def test_region_time_and_serial_fraction_are_what_the_program_measures_itself(report, split, runtime, measured):
    def test():
        name = "GNU OpenMP" if runtime == "libgomp" else "LLVM/Intel OpenMP"
        reported = report(split(runtime), "20", "0.03", "0.02")
        inside, serial = known(reported.output)
        assert reported.json["region_s"] == pytest.approx(inside, rel=TOLERANCE)
        assert reported.json["serial_fraction"] == pytest.approx(serial, abs=TOLERANCE)
        [source] = reported.json["sources"]
        assert (source["runtime"], source["library"], source["regions"]) == (name, f"split-{runtime}", 21)
        assert reported.json["budget"] == len(os.sched_getaffinity(0))

    measured(test)


def test_a_real_dgemm_is_numpys_time(report, python, measured):
    def test():
        reported = report(*python("""
            import time, numpy
            begun = time.perf_counter()
            a = numpy.random.rand(1000, 1000)
            inside = 0
            for _ in range(10):
                end = time.perf_counter() + 0.03
                while time.perf_counter() < end:
                    pass
                entered = time.perf_counter()
                a @ a
                inside += time.perf_counter() - entered
            print(inside, time.perf_counter() - begun)
        """))
        inside, _ = known(reported.output)
        assert reported.json["region_s"] == pytest.approx(inside, rel=TOLERANCE)
        [source] = reported.json["sources"]
        assert source["runtime"] == "OpenBLAS/BLIS" and source["library"].startswith("numpy/")
        assert source["regions"] == 10

    measured(test)


def test_the_trees_cpu_time_is_the_kernels(report, python, measured):
    def test():
        reported = report(*python("""
            import os, resource, subprocess, sys
            spin = "import time\\nend = time.process_time() + 0.2\\nwhile time.process_time() < end: pass"
            for _ in range(3):
                subprocess.run([sys.executable, "-c", spin], check=True)
            mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
            print(mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime, flush=True)
            os._exit(0)
        """))
        assert reported.json["cpu_s"] == pytest.approx(float(reported.output), rel=TOLERANCE)
        assert reported.json["process_count"] == 4
        assert reported.json["serial_fraction"] == 1

    measured(test)


def test_a_thousand_short_children_are_counted_and_not_listed(report):
    reported = report("sh", "-c", "for i in $(seq 1000); do /bin/true; done")
    # The shell, its `seq` and the subshell around that.
    assert 1002 <= reported.json["process_count"] <= 1003
    assert len(reported.processes) <= 1


def test_what_a_killed_worker_did_is_there(report, python, split):
    reported = report(*python(f"""
        import os, signal, subprocess, time
        worker = subprocess.Popen([{str(split("libgomp"))!r}, "1", "0.1", "30"], stdout=subprocess.DEVNULL)
        time.sleep(1)
        worker.kill()
        worker.wait()
    """))
    [worker] = [process for process in reported.processes if "split" in process["command"]]
    assert not worker["ended"]
    assert worker["sources"][0]["regions"] == 2
    assert 0.5 < worker["region_s"] < 1.1
    assert worker["cpu_s"] > 0


def test_a_process_that_leaves_by_underscore_exit_or_execs_is_whole(report, python, split, measured):
    def test():
        program = str(split("libgomp"))
        reported = report(*python(f"""
            import os
            for _ in range(2):
                if os.fork() == 0:
                    os.execv({program!r}, [{program!r}, "5", "0.01", "0.01"])
                os.wait()
            os.execv({program!r}, [{program!r}, "5", "0.01", "0.01"])
        """))
        inside = sum(float(line.split()[0]) for line in reported.output.splitlines())
        assert reported.json["region_s"] == pytest.approx(inside, rel=TOLERANCE, abs=0.002)
        assert reported.json["regions"] == 18
        assert reported.json["process_count"] == 3

    measured(test)


def test_forks_in_forks_have_records_of_their_own(report, python):
    reported = report(*python("""
        import os
        import numpy
        a = numpy.random.rand(300, 300)
        def go(depth):
            a @ a
            if depth:
                if os.fork() == 0:
                    go(depth - 1)
                    os._exit(0)
                os.wait()
        go(3)
    """))
    assert [process["sources"][0]["regions"] for process in reported.processes] == [1, 1, 1, 1]
    assert len({process["pid"] for process in reported.processes}) == 4
    assert all(process["ended"] for process in reported.processes)


def test_the_programs_exit_status_and_output_are_its_own(report):
    reported = report("sh", "-c", "echo out; exit 7", check=False)
    assert (reported.status, reported.output) == (7, "out\n")
    assert report("sh", "-c", "kill -9 $$", check=False).status == 128 + signal.SIGKILL


def test_a_pin_its_repair_and_a_user_mask_are_counted(report, python, runtimes):
    reported = report(*python(f"""
        import ctypes, os, subprocess
        ctypes.CDLL({str(runtimes["libgomp"])!r})
        for _ in range(3):
            subprocess.run(["true"], check=True)
        os.sched_setaffinity(0, [0])
    """), OMP_PROC_BIND="true", OMP_PLACES="threads")
    [process] = reported.processes
    assert (process["pins_seen"], process["children_repaired"], process["user_masks_respected"]) == (1, 3, 1)


def test_what_is_not_granted_is_avoided_oversubscription(report, python):
    reported = report(*python("""
        import multiprocessing, numpy
        def work(_):
            a = numpy.random.rand(500, 500)
            for _ in range(20):
                a @ a
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(4) as pool:
                pool.map(work, range(4))
                pool.close()
                pool.join()
    """))
    assert reported.json["avoided_thread_s"] > 0
    assert sum(reported.json["asks"].values()) == sum(reported.json["grants"].values()) == reported.json["regions"] == 80
    assert reported.json["mean_threads"] < len(os.sched_getaffinity(0))


def test_the_variable_alone_prints_the_table_of_the_whole_tree_once(environment, split):
    program = split("libgomp")
    command = ["sh", "-c", f"{program} 5 0.01 0.01; {program} 5 0.01 0.01; true"]
    done = subprocess.run(command, env=environment(True, KNLFIX_REPORT="1"), capture_output=True, text=True, check=True)
    assert done.stderr.count("knlfix report:") == 1
    assert " 12 " in done.stderr and "GNU OpenMP" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_script_that_has_the_variable_but_not_the_library_is_not_waited_for(so, environment, split):
    """As a batch script that loads the module: the programs that it starts tell of themselves."""
    program = split("libgomp")
    command = ["sh", "-c", f"export LD_PRELOAD={so}; {program} 5 0.01 0.01; {program} 5 0.01 0.01; true"]
    variables = environment(False, KNLFIX_REPORT="1")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stderr.count("knlfix report:") == 2 and done.stderr.count(" 6 ") >= 2
    assert not list(pathlib.Path("/dev/shm").glob("knlfix-report-*"))


def test_four_ranks_with_files_of_their_own_are_merged(environment, split, so, tmp_path, measured):
    def test():
        ranks = []
        for rank in range(4):
            variables = environment(True, KNLFIX_REPORT=f"rank{rank}.json", SLURM_JOB_ID=os.environ["SLURM_JOB_ID"])
            command = [split("libgomp"), "5", "0.02", "0.02"]
            ranks.append(subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        inside = 0
        for rank in ranks:
            output, errors = rank.communicate(timeout=60)
            assert (rank.returncode, errors) == (0, "")
            inside += known(output)[0]
        files = [tmp_path / f"rank{rank}.json" for rank in range(4)]
        command = [so.parent / "knlfix", "report", "--json", "-", *files]
        merged = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        jsonschema.validate(merged, SCHEMA)
        assert merged["region_s"] == pytest.approx(inside, rel=TOLERANCE)
        assert (len(merged["runs"]), len(merged["processes"]), merged["regions"]) == (4, 4, 24)
        assert [process["run"] for process in merged["processes"]] == [0, 1, 2, 3]

    measured(test)


def test_the_page_is_whole_and_needs_nothing_else(so, environment, split, tmp_path):
    page = tmp_path / "report.html"
    command = [so.parent / "knlfix", "report", "--html", page, "--", split("libgomp"), "10", "0.02", "0.02"]
    subprocess.run(command, env=environment(False), capture_output=True, check=True)
    text = page.read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3
    assert all(len(list(xml.etree.ElementTree.fromstring(picture).iter())) > 5 for picture in pictures)
    assert "http" not in text and "<script" not in text and "src=" not in text


def test_a_browser_shows_the_page_offline(so, environment, python, tmp_path):
    html = tmp_path / "report.html"
    command = [so.parent / "knlfix", "report", "--html", html, "--", *python("""
        import multiprocessing, numpy
        def work(_):
            a = numpy.random.rand(400, 400)
            for _ in range(20):
                a @ a
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                pool.map(work, range(4))
                pool.close()
                pool.join()
    """)]
    subprocess.run(command, env=environment(False), capture_output=True, check=True)
    said, asked = [], []
    with browser.page(viewport={"width": 1000, "height": 900}) as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.context.set_offline(True)
        page.goto(html.as_uri())
        boxes = [picture.bounding_box() for picture in page.locator("svg").all()]
        shapes = [picture.locator("rect, polygon").count() for picture in page.locator("svg").all()]
        inside = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert said == [] and asked == [html.as_uri()]
    assert len(boxes) == 3 and all(box["width"] > 500 and box["height"] > 30 for box in boxes)
    assert all(count > 0 for count in shapes) and inside


def test_a_file_that_is_no_report_is_named(so, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    done = subprocess.run([so.parent / "knlfix", "report", tmp_path / "other.json"], capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr == f"knlfix: {tmp_path}/other.json: not a report of knlfix\n"


@pytest.mark.parametrize("option", ["--json", "--html", "--trace"])
def test_a_file_that_cannot_be_written_is_named_before_the_program_runs(so, tmp_path, option):
    path = tmp_path / "no/such/file"
    command = [so.parent / "knlfix", "report", option, path, "--", "touch", tmp_path / "ran"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (125, f"knlfix: {path}: No such file or directory (os error 2); nothing was run\n")
    assert not (tmp_path / "ran").exists()


def test_gc_removes_the_records_of_a_run_whose_first_program_was_killed(environment, python, split, knlfix):
    command = python(f"""
        import subprocess, time
        subprocess.run([{str(split("libgomp"))!r}, "1", "0.01", "0.01"], check=True, stdout=subprocess.DEVNULL)
        print("done", flush=True)
        time.sleep(60)
    """)
    root = subprocess.Popen(command, env=environment(True, KNLFIX_REPORT="1"), stdout=subprocess.PIPE, text=True)
    assert root.stdout.readline() == "done\n"
    [directory] = pathlib.Path("/dev/shm").glob(f"knlfix-report-*-{root.pid}-*")
    assert str(directory) not in knlfix("gc")
    root.kill()
    root.wait()
    assert f"{directory}: would be removed, records of a run that nobody reported on\n" in knlfix("gc", "--dry-run")
    assert f"{directory}: removed, records of a run that nobody reported on\n" in knlfix("gc")
    assert not directory.exists()


def test_nothing_is_left_in_shared_memory(report, python):
    report(*python("import os; os._exit(0)"))
    assert not list(pathlib.Path("/dev/shm").glob("knlfix-report-*"))
