"""Set-uid programs that load the library through /etc/ld.so.preload: its variables come from somebody less trusted."""

import os
import pathlib
import pwd
import shutil

import pytest

from inway import build, run, scratch

LOUD = ("KNLFIX_LOG=trace", "KNLFIX_THREADS=maybe")


@pytest.fixture
def nobody():
    assert os.geteuid() == 0, "this test makes a set-uid program and an /etc/ld.so.preload of its own: run it as root"
    return pwd.getpwnam("nobody")


@pytest.fixture
def etc(so, tmp_path):
    """An /etc whose ld.so.preload has the library, and little else."""
    public = scratch() / so.name
    shutil.copy(so, public)
    public.chmod(0o755)
    for name in ("passwd", "group", "ld.so.cache"):
        shutil.copy(pathlib.Path("/etc", name), tmp_path)
    (tmp_path / "ld.so.preload").write_text(f"{public}\n")
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    return tmp_path


def run_as_nobody(etc, nobody, program, *variables):
    """In a mount namespace of its own: nobody else sees that /etc."""
    bind = 'mount --bind "$1" /etc || exit 90; shift; exec "$@"'
    return run("unshare", "--mount", "sh", "-c", bind, "sh", etc, "setpriv", f"--reuid={nobody.pw_uid}",
               f"--regid={nobody.pw_gid}", "--clear-groups", "env", *variables, program)


@pytest.fixture(params=("open", "private"))
def directory(request, nobody):
    """Where the log would be: a directory for everybody, and one where only root may write."""
    path = scratch() / f"log-{request.param}"
    path.mkdir(exist_ok=True)
    path.chmod(0o777 if request.param == "open" else 0o700)
    yield path
    shutil.rmtree(path)


def test_a_set_uid_program_writes_no_log(etc, nobody, directory):
    ordinary = pathlib.Path(build("setuid.c", name="ordinary-preloaded"))
    privileged = pathlib.Path(build("setuid.c", name="privileged-preloaded"))
    ordinary.chmod(0o755)
    privileged.chmod(0o4755)
    log = directory / "log"
    variables = (*LOUD, f"KNLFIX_LOG_FILE={log}")

    def line(euid):
        return f"uid {nobody.pw_uid} euid {euid} library 1 variable 0\n".encode()

    # It is loaded, and runs with the rights of root; nothing is written, and no file is made.
    assert run_as_nobody(etc, nobody, privileged, *variables) == (4, line(0), b"")
    assert not log.exists()
    # An existing file of root's is not written to.
    log.write_text("before\n")
    assert run_as_nobody(etc, nobody, privileged, *variables) == (4, line(0), b"")
    assert log.read_text() == "before\n"
    log.unlink()
    # Without the bit, nobody gets the log, where nobody may write.
    done = run_as_nobody(etc, nobody, ordinary, *variables)
    assert (done.status, done.out) == (4, line(nobody.pw_uid))
    assert log.exists() == (directory.name == "log-open")
    if log.exists():
        assert "KNLFIX_THREADS" in log.read_text()
