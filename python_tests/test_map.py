"""The pictures of `knlfix map`, of a real pool that real OpenMP pins, read by those who will read them."""

import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

POOL = pathlib.Path(__file__).resolve().parent.parent / "examples/pinned_pool.py"
WORKERS, THREADS = 3, 2


@pytest.fixture(scope="module")
def pool(environment, runtimes):
    """The pool without the library, its threads pinned by libgomp."""
    libgomp = os.path.dirname(runtimes["libgomp"])
    variables = environment(False, OMP_PROC_BIND="close", LD_LIBRARY_PATH=libgomp)
    command = [sys.executable, POOL, str(WORKERS), str(THREADS), "600"]
    process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == f"{WORKERS} workers with {THREADS} threads each are ready\n"
    yield process
    process.terminate()
    process.wait()
    process.stderr.close()


def test_json_has_every_process_thread_and_cpu(knlfix, pool, allowed):
    seen = json.loads(knlfix("map", "--json", str(pool.pid)))
    parent, *workers = seen["processes"]
    assert (parent["pid"], parent["label"], len(workers)) == (pool.pid, None, WORKERS)
    assert [worker["label"] for worker in workers] == ["A", "B", "C"]
    first, second = allowed[:2]
    for worker in workers:
        assert worker["parent"] == pool.pid
        assert [thread["cpus"] for thread in worker["threads"]] == [str(first), str(second)]
        assert f"pinned_pool.py {WORKERS} {THREADS}" in worker["command"]
    assert [cpu["cpu"] for cpu in seen["cpus"] if cpu["pinned"]] == [first, second]
    assert seen["cpus"][0]["pinned"] == [worker["pid"] for worker in workers]
    assert sorted(cpu["cpu"] for cpu in seen["cpus"]) == allowed
    assert knlfix("map", str(pool.pid)).startswith(seen["summary"])
    assert f"2 CPUs hold several, up to {WORKERS}" in seen["summary"]


def test_svg_is_xml_with_a_title_on_each_cpu(knlfix, pool, allowed, tmp_path):
    file = tmp_path / "map.svg"
    assert knlfix("map", "--svg", str(file), str(pool.pid)) == ""
    root = xml.etree.ElementTree.parse(file).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == svg + "svg"
    titles = [path.find(svg + "title").text for path in root.iter(svg + "path") if path.find(svg + "title") is not None]
    assert len(titles) == len(allowed)
    assert titles[0].startswith(f"CPU {allowed[0]}, core 0: A (")


def test_svg_of_a_strange_command_is_xml(knlfix, allowed, tmp_path):
    file = tmp_path / "map.svg"
    command = ["taskset", "-c", str(allowed[0]), "sh", "-c", "echo; read line", '<&"\x01\x1b\ufffe']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as strange:
        strange.stdout.readline()
        knlfix("map", "--svg", str(file), str(strange.pid))
        told = knlfix("map", "--json", str(strange.pid))
        strange.stdin.close()
    root = xml.etree.ElementTree.parse(file).getroot()
    assert any('<&"??' in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert any('<&"\x01\x1b\ufffe' in process["command"] for process in json.loads(told)["processes"])
