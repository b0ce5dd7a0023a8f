"""The log, at its loudest, in places that are not for it: it waits for nobody, and takes nobody's file for its own."""

import os

import pytest

from inway import CHILDREN, first, full, last, report, run_probe


def test_a_log_file_that_is_a_pipe_nobody_reads(so, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run_probe(preload=[so], KNLFIX_LOG="trace", KNLFIX_LOG_FILE=str(pipe), limit=10)
    assert (done.status, done.out) == (0, report(full()))


def test_a_log_file_that_is_a_full_pipe(so, tmp_path):
    """Somebody has it open and does not read: what does not fit is lost."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        done = run_probe(preload=[so], KNLFIX_LOG="trace", KNLFIX_LOG_FILE=str(pipe), limit=10)
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.status, done.out) == (0, report(full()))


@pytest.mark.parametrize("before", ((), ("fork",)), ids=("silent", "logged"))
def test_standard_error_closed_and_its_number_reused(so, tmp_path, before):
    """A line belongs to the file that descriptor 2 was at the start, not to the one the program opens in its place."""
    data = tmp_path / "data"
    # Nothing that executes: the new program's standard error would be the data file, also without us.
    ways = ("fork", "_Fork", "thread", "user=" + last(), "fork", "thread")
    steps = (*before, "close-standard", f"data={data}", *ways)
    for preload, child in (([], first()), ([so], full())):
        data.unlink(missing_ok=True)
        done = run_probe(*steps, preload=preload, KNLFIX_LOG="trace")
        masks = [*((way, child) for way in before), ("data", 0), ("data", 1), ("data", 2),
                 *((way, child) for way in ways[:3]), *((way, last()) for way in ways[4:])]
        assert (done.status, done.out) == (0, "".join(f"{way} {value}\n" for way, value in masks).encode())
        assert data.read_text() == "data\n" * 3


@pytest.mark.parametrize("off", ("0", "off"))
def test_switched_off_nothing_is_said(so, tmp_path, off):
    log = tmp_path / "log"
    malformed = {"KNLFIX_AFFINITY": "maybe", "KNLFIX_THREADS": "2", "KNLFIX_VIRTUAL_MASK": "of",
                 "KNLFIX_RUNTIMES": "+a,-", "KNLFIX_AFINITY": "on"}
    for level in ("trace", "loud"):
        done = run_probe("self", "region", *CHILDREN, preload=[so], KNLFIX=off, KNLFIX_LOG=level, **malformed)
        assert done == (0, report(first()), b"")
        done = run_probe("self", "region", *CHILDREN, preload=[so], KNLFIX=off, KNLFIX_LOG=level,
                         KNLFIX_LOG_FILE=str(log), **malformed)
        assert done == (0, report(first()), b"") and not log.exists()
