"""`knlfix report --trace` and KNLFIX_TRACE: the timeline, against programs that know what they did, and in Perfetto itself."""

import collections
import contextlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest
import viztracer

import browser

TOLERANCE = 0.02


class Timeline:
    def __init__(self, path):
        self.json = json.loads(path.read_text())
        self.events = self.json["traceEvents"]

    def of(self, **wanted):
        return [event for event in self.events if all(event.get(name) == value for name, value in wanted.items())]

    def regions(self):
        return [event for event in self.of(ph="X") if event["cat"] not in ("process", "knlfix")]

    def named(self, kind):
        return {(event["pid"], event.get("tid")): event["args"]["name"] for event in self.of(ph="M", name=kind)}


@pytest.fixture
def trace(so, environment, tmp_path):
    """trace(program, ...): runs it under `knlfix report --trace`."""

    def run(*program, check=True, **variables):
        path = tmp_path / "trace.json"
        command = [so.parent / "knlfix", "report", "--trace", path, "--", *program]
        done = subprocess.run(command, env=environment(False, **variables), capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        timeline = Timeline(path)
        timeline.output, timeline.said = done.stdout, done.stderr
        return timeline

    return run


POOL = """
    import multiprocessing, numpy, subprocess, threading
    def work(_):
        a = numpy.random.rand(200, 200)
        for _ in range(20):
            a @ a
    if __name__ == "__main__":
        with multiprocessing.get_context("fork").Pool(3) as pool:
            pool.map(work, range(3))
            pool.close()
            pool.join()
        threads = [threading.Thread(target=work, args=[0]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        subprocess.run(["true"], check=True)
"""


def test_regions_are_where_and_as_long_as_the_program_says(trace, split, measured):
    def test():
        timeline = trace(split("libgomp"), "20", "0.03", "0.02")
        inside = float(timeline.output.split()[0])
        regions = timeline.regions()
        assert len(regions) == 21
        assert sum(region["dur"] for region in regions) / 1e6 == pytest.approx(inside, rel=TOLERANCE)
        assert {(region["cat"], region["name"]) for region in regions} == {("GNU OpenMP", "split-libgomp")}
        allowed = len(os.sched_getaffinity(0))
        # The first one, which starts the runtime, has one thread.
        assert {(region["args"]["asked"], region["args"]["granted"]) for region in regions[1:]} == {(allowed, allowed)}
        # It spins for 0.03 s between them.
        gaps = [later["ts"] - before["ts"] - before["dur"] for before, later in zip(regions[1:], regions[2:])]
        assert min(gaps) >= 29_900

    measured(test)


def test_each_thread_has_a_track_and_its_regions_do_not_overlap(trace, python):
    timeline = trace(*python(POOL))
    tracks = collections.defaultdict(list)
    for region in timeline.regions():
        tracks[region["pid"], region["tid"]].append(region)
    # Three workers' main threads, and two threads of the parent.
    assert sorted(len(regions) for regions in tracks.values()) == [20] * 5
    assert sum(pid == tid for pid, tid in tracks) == 3
    names = timeline.named("thread_name")
    for (pid, tid), regions in tracks.items():
        assert names[pid, tid] == ("main thread" if pid == tid else f"thread {tid}")
        assert all(later["ts"] >= before["ts"] + before["dur"] - 0.002 for before, later in zip(regions, regions[1:]))


def test_forks_and_other_children_are_on_the_parents_track(trace, python):
    timeline = trace(*python(POOL))
    forks = timeline.of(cat="knlfix", name="fork")
    lives = {life["pid"]: life for life in timeline.of(cat="process")}
    assert len(forks) == 3 and len({fork["pid"] for fork in forks}) == 1
    for fork in forks:
        assert lives[fork["args"]["child"]]["ts"] >= fork["ts"]
    [other] = timeline.of(name="child started")
    assert other["pid"] == forks[0]["pid"] and lives[other["args"]["child"]]["name"] == "true"


def test_pins_and_repairs_are_there(trace, python, runtimes):
    timeline = trace(*python(f"""
        import ctypes, os, subprocess
        ctypes.CDLL({str(runtimes["libgomp"])!r})
        subprocess.run(["true"], check=True)
        os.sched_setaffinity(0, [0])
    """), OMP_PROC_BIND="true", OMP_PLACES="threads")
    names = [event["name"] for event in timeline.of(ph="i") if event["name"] != "child started"]
    assert names == ["pin", "mask repaired", "user mask"]
    assert timeline.of(name="pin")[0]["args"] == {"first_cpu": min(os.sched_getaffinity(0))}


def test_a_counter_says_how_many_threads_are_granted(trace, python):
    timeline = trace(*python(POOL))
    steps = [event["args"]["threads"] for event in timeline.of(ph="C", pid=0)]
    assert steps[-1] == 0 and min(steps) == 0
    # For a moment after somebody has come there may be one region more.
    assert 1 <= max(steps) <= 5


def test_what_has_no_room_is_counted(trace, split):
    timeline = trace(split("libgomp"), "20", "0.001", "0.001", KNLFIX_TRACE_EVENTS="10")
    assert len(timeline.regions()) == 10
    assert timeline.json["otherData"]["events_without_room"] == 11
    [line] = [line for line in timeline.said.splitlines() if line.startswith("knlfix: ")]
    assert line.endswith(": 11 events found no room; KNLFIX_TRACE_EVENTS makes more")


def test_a_killed_worker_leaves_its_regions(trace, python, split):
    timeline = trace(*python(f"""
        import subprocess, time
        worker = subprocess.Popen([{str(split("libgomp"))!r}, "5000", "0.01", "0.01"], stdout=subprocess.PIPE)
        time.sleep(1)
        worker.kill()
        worker.wait()
    """))
    assert 5 <= len(timeline.regions()) < 5000


def test_the_variable_alone_writes_the_file_and_says_nothing(environment, python, tmp_path):
    path = tmp_path / "timeline.json"
    done = subprocess.run(python(POOL), env=environment(True, KNLFIX_TRACE="timeline.json"), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(Timeline(path).regions()) == 100
    assert not list(pathlib.Path("/dev/shm").glob("knlfix-report-*"))


def test_report_and_timeline_in_one_run(environment, python, tmp_path):
    variables = environment(True, KNLFIX_TRACE=str(tmp_path / "timeline.json"), KNLFIX_REPORT="1")
    done = subprocess.run(python(POOL), env=variables, capture_output=True, text=True, check=True)
    assert done.stderr.count("knlfix report:") == 1
    assert len(Timeline(tmp_path / "timeline.json").regions()) == 100


@contextlib.contextmanager
def perfetto(path):
    """A page with Perfetto, as viztracer brings it, that has loaded the file."""
    home = str(pathlib.Path(viztracer.__file__).parent / "web_dist")

    class Files(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            # What the page asks for by itself.
            if self.path.endswith(("vizviewer_info", "file_info")):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")
            else:
                super().do_GET()

        def translate_path(self, asked):
            return str(path) if asked.endswith("localtrace") else super().translate_path(asked)

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=home)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server, browser.page() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto("http://127.0.0.1:%d/" % server.server_port, wait_until="domcontentloaded")
        page.wait_for_function("self.app && self.app.trace && !self.app.isLoadingTrace", timeout=90_000)
        yield page
        server.shutdown()


def query(page, sql):
    """Rows of Perfetto's own trace processor."""
    return page.evaluate("""async sql => {
        const result = await self.app.trace.engine.query(sql), rows = [];
        for (const row = result.iter({}); row.valid(); row.next())
            rows.push(result.columns().map(name => typeof row.get(name) === "bigint" ? Number(row.get(name)) : row.get(name)));
        return rows;
    }""", sql)


def test_perfetto_loads_it(trace, python, tmp_path):
    timeline = trace(*python(POOL))
    with perfetto(tmp_path / "trace.json") as page:
        assert query(page, "select name, value from stats where severity != 'info' and value > 0") == []
        rows = dict(query(page, "select category, count(*) from slice where dur > 0 group by category"))
        assert rows == {"OpenBLAS/BLIS": 100, "process": len(timeline.of(cat="process")), "knlfix": 3}
        [[length]] = query(page, "select sum(dur) from slice where category = 'OpenBLAS/BLIS'")
        assert length / 1e3 == pytest.approx(sum(region["dur"] for region in timeline.regions()), rel=1e-3)
        [[tracks]] = query(page, "select count(distinct track_id) from slice where category = 'OpenBLAS/BLIS'")
        assert tracks == 5
