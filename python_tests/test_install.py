"""scripts/install: what it puts where, and that the tree can be moved."""

import pathlib
import subprocess

import pytest

INSTALL = pathlib.Path(__file__).resolve().parents[1] / "scripts/install"
HELPS = {
    "share/man/man1/knlfix.1": ["man"],
    "share/bash-completion/completions/knlfix": ["completions", "bash"],
    "share/zsh/site-functions/_knlfix": ["completions", "zsh"],
    "share/fish/vendor_completions.d/knlfix.fish": ["completions", "fish"],
}


def install(so, *arguments, **variables):
    command = [INSTALL, "--from", so.parent, *arguments]
    return subprocess.run(
        ["env", *(f"{name}={value}" for name, value in variables.items()), *command], capture_output=True, text=True
    )


def preloaded(tree):
    command = [tree / "bin/knlfix", "run", "sh", "-c", "echo $LD_PRELOAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("libdir", ["lib", "lib64", "lib/x86_64-linux-gnu"])
def test_an_installed_tree_can_be_moved(so, knlfix, tmp_path, libdir):
    there = tmp_path / "there"
    assert install(so, "--libdir", libdir, there).returncode == 0
    moved = there.rename(tmp_path / "moved")
    assert preloaded(moved) == str(moved / libdir / "libknlfix.so")
    assert (moved / libdir / "libknlfix.so").read_bytes() == so.read_bytes()
    for file, arguments in HELPS.items():
        assert (moved / file).read_text() == knlfix(*arguments), file
    version = knlfix("--version").split()[1]
    for name in ("knlfix", "knlfix-preload"):
        for form in (version, f"{version}.lua"):
            assert "@LIBDIR@" not in (moved / "share/knlfix/modulefiles" / name / form).read_text()
    assert (moved / "share/doc/knlfix/docs/howto/install.md").is_file()
    assert not list(moved.rglob("*.new"))


def test_destdir_goes_before_the_prefix(so, tmp_path):
    assert install(so, "/usr", DESTDIR=tmp_path).returncode == 0
    assert preloaded(tmp_path / "usr") == str(tmp_path / "usr/lib/libknlfix.so")


def test_programs_that_run_keep_the_library_that_they_have(so, tmp_path):
    assert install(so, tmp_path).returncode == 0
    library = tmp_path / "lib/libknlfix.so"
    with library.open("rb") as before:
        assert install(so, tmp_path).returncode == 0
        assert before.read() == so.read_bytes()
        assert library.stat().st_ino != pathlib.Path(f"/proc/self/fd/{before.fileno()}").stat().st_ino


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["not/absolute"], "absolute"),
        (["--libdir", "other", "/opt/x"], "other"),
        (["--from", "/nowhere", "/opt/x"], "/nowhere"),
        ([], "PREFIX"),
    ],
)
def test_it_says_what_is_wrong(so, arguments, said):
    done = install(so, *arguments)
    assert done.returncode != 0 and said in done.stderr and not done.stdout
