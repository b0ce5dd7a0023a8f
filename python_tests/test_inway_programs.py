"""Ordinary programs: with the library in LD_PRELOAD they print, write and return the same, byte for byte."""

import os
import pathlib
import pwd
import shutil
import stat
import subprocess

import pytest

from inway import HERE, build, run, scratch

BASH = r"""
set -u
trap 'echo exit trap $?' EXIT
trap 'echo got TERM' TERM
echo one | tr a-z A-Z | { read x; echo "piped $x"; }
( echo subshell; exit 4 ) ; echo "status $?"
diff <(printf 'a\nb\n') <(printf 'a\nc\n') || echo "diff $?"
coproc CAT { cat; }
echo through coproc >&"${CAT[1]}"
read -r line <&"${CAT[0]}"; echo "$line"
eval "exec ${CAT[1]}>&-"; wait
for i in 1 2 3 4 5 6 7 8; do ( exit $i ) & pids[i]=$!; done
for i in 1 2 3 4 5 6 7 8; do wait "${pids[i]}"; echo -n "$? "; done; echo
( kill -TERM $BASHPID; sleep 10 ) ; echo "killed $?"
kill -TERM $$
cat <<< "here string" ; ulimit -n 64; exec 3>&2; echo error >&3
f() { local v; v=$(echo deep | (cat)); echo "$v"; }; f
exec bash -c 'echo replaced; /bin/true; nosuchprogram; exit 3'
"""

DASH = r"""
echo $(echo nested $(echo deeper))
seq 1 50 | while read i; do /bin/echo $i; done | tail -n 1
(sleep 0.01; echo background) & wait $!
nosuchprogram || echo "status $?"
/bin/false; echo "$?"
sh -c 'kill -KILL $$'; echo "$?"
/etc/passwd; echo "$?"
exec /bin/sh -c 'echo replaced >&2; exit 3'
"""

# With -j the order is free, so each target writes a file.
MAKEFILE = r"""
parts := $(foreach i,1 2 3 4 5 6 7 8 9 10 11 12,part$(i))
all: $(parts)
	@cat $(parts)
	@$(MAKE) --no-print-directory inner
	@false
part%:
	@echo "$@ $(shell echo from $@ | tr a-z A-Z)" | cat > $@
inner:
	@echo inner level $(MAKELEVEL)
"""

GIT = r"""
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.org
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1
git init -b main .
printf '#!/bin/sh\necho hook $(git rev-parse --abbrev-ref HEAD 2>&1 | tail -n 1); test ! -e forbidden\n' > .git/hooks/pre-commit
chmod +x .git/hooks/pre-commit
for i in 1 2 3; do echo "text $i" > file$i; git add file$i; git commit -m "commit $i"; done
git log --stat; git -c core.pager=cat -p log --oneline
git clone -q . ../clone-of-work && git -C ../clone-of-work log --oneline && rm -rf ../clone-of-work
git checkout -q -b side HEAD~1 && echo side > side && git add side && git commit -q -m side
git checkout -q main && git merge -q --no-edit side && git log --graph --oneline
git gc -q && git fsck --strict && git status --short
touch forbidden; git commit --allow-empty -m refused || { echo "refused $?"; exit 6; }
"""

C_SOURCE = r"""
#include <stdio.h>
#include <math.h>
static int unused(int a) { return a; }
int main(int argc, char **argv) { printf("%.3f\n", sqrt(argc + 1.0)); return 42; }
"""

GCC = r"""
gcc -Wall -O2 -pipe -c source.c && gcc source.o -o program -lm && ./program; echo "status $?"
gcc -save-temps -flto -frandom-seed=1 -O2 source.c -o program-lto -lm && ./program-lto; echo "status $?"
gcc -Wall -c broken.c; echo "status $?"
gcc nosuchfile.c; echo "status $?"
ar rcs library.a source.o && nm library.a
exit 9
"""

PERL = r"""
use strict; use warnings; $| = 1;
for my $i (1 .. 20) { my $pid = fork(); exit $i if !$pid; waitpid $pid, 0; print $? >> 8, " "; }
print "\n", `echo backticks; exit 3`, $? >> 8, "\n";
system "echo system \$((6*7))"; system { "sh" } "sh", "-c", "exit 7"; print $? >> 8, "\n";
open my $pipe, "-|", "sort", "-r" , "list" or die; print <$pipe>; close $pipe;
open $pipe, "|-", "tr a-z A-Z" or die; print $pipe "upper\n"; close $pipe;
local $SIG{CHLD} = sub { print "child\n" }; system "true"; kill CHLD => $$;
print STDERR "error\n"; exec "sh", "-c", "echo replaced; exit 11";
"""

NODE = r"""
const { execSync, spawn, spawnSync, fork } = require('child_process');
const { Worker } = require('worker_threads');
const os = require('os');
if (process.argv[2] === 'child') { process.send('from the child'); process.exit(0); }
console.log(os.cpus().length, os.availableParallelism ? os.availableParallelism() : 0);
console.log(execSync('echo sync').toString(), spawnSync('sh', ['-c', 'exit 7']).status);
const parallel = [1, 2, 3, 4].map(i => new Promise(done => spawn('sh', ['-c', 'exit ' + i]).on('exit', done)));
const worker = new Promise(done => new Worker(
  "require('worker_threads').parentPort.postMessage(require('child_process').execSync('echo worker').toString())",
  { eval: true }).on('message', done));
const forked = new Promise(done => fork(__filename, ['child']).on('message', done));
const crypto = new Promise(done => require('crypto').pbkdf2('a', 'b', 1000, 16, 'sha256', (e, k) => done(k.toString('hex'))));
Promise.all([...parallel, worker, forked, crypto]).then(all => { console.log(all); console.error('error'); process.exit(13); });
"""

TOOLS = r"""
timeout 0.2 sleep 10; echo "timeout $?"
seq 1 20 | xargs -P 4 -n 1 sh -c 'echo $0 > n$0' ; cat n*
env -i /bin/sh -c 'echo "environment: $(env | cut -d= -f1 | sort | tr "\n" " ")"'
awk 'BEGIN { system("echo awk"); "echo pipe" | getline x; print x; print "b\na" | "sort" }'
tar -czf t.tgz --sort=name --mtime=@0 --owner=0 --group=0 n1 n2 && tar -tzf t.tgz && gzip -dc t.tgz | cksum
nohup sh -c 'echo nohup' 2>&1 | tail -n 1; nice -n 1 echo nice; setsid -w sh -c 'exit 6'; echo $?
find . -name 'n1*' -exec sh -c 'echo found "$1"' sh {} \; | sort
taskset -c 0 sh -c 'nproc; taskset -cp $$ | sed s/.*://' ; nproc; getconf _NPROCESSORS_ONLN
python3 -c 'import os; print(os.cpu_count(), sorted(os.sched_getaffinity(0)))'
echo error >&2; exit 17
"""

FILES = {
    "make": {"Makefile": MAKEFILE},
    "gcc": {"source.c": C_SOURCE, "broken.c": "int main(void) { return undefined; }\n"},
    "perl": {"list": "a\nc\nb\n", "script.pl": PERL},
    "node": {"script.js": NODE},
}

# name: the command, its exit status, and a word of its output: two runs that fail alike would prove nothing.
CASES = {
    "bash": (["bash", "-c", BASH], 3, "replaced"),
    "dash": (["dash", "-c", DASH], 3, "background"),
    "make": (["make", "-j4"], 2, "part12 FROM PART12"),
    "git": (["sh", "-c", GIT], 6, "refused 1"),
    "gcc": (["sh", "-c", GCC], 9, "status 42"),
    "perl": (["perl", "script.pl"], 11, "UPPER"),
    "java": (["java", "-XX:-UsePerfData", "-cp", ".", "Spawn"], 5, "codes 123 on"),
    "node": (["node", "script.js"], 13, "from the child"),
    "tools": (["bash", "-c", TOOLS], 17, "timeout 124"),
}


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    assert not missing, f"not on PATH: {missing}; scripts/setup test installs what the tests run"


def contents(directory):
    """Every file below the directory with its bytes; git's index holds inode numbers and times."""
    return {str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "index"}


def run_case(name, directory, preload=(), **variables):
    """Runs the case in a fresh directory of always the same name; returns the Run and the files it left."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file, text in FILES.get(name, {}).items():
        (directory / file).write_text(text)
    if name == "java":
        shutil.copy(compiled_java(), directory)
    command, _, _ = CASES[name]
    return run(*command, cwd=directory, preload=preload, **variables), contents(directory)


def compiled_java():
    need("javac")
    if not (scratch() / "Spawn.class").exists():
        subprocess.run(["javac", "-d", scratch(), HERE / "Spawn.java"], check=True)
    return scratch() / "Spawn.class"


@pytest.mark.parametrize("name", CASES)
def test_a_program_prints_writes_and_returns_the_same(so, tmp_path, name):
    command, status, word = CASES[name]
    need(command[0], name if name in ("git", "gcc") else command[0])
    without, files = run_case(name, tmp_path / "work")
    assert without.status == status and word in without.out.decode(), without
    assert b"knlfix" not in without.err
    with_library, files_with = run_case(name, tmp_path / "work", preload=[so])
    assert with_library == without
    assert files_with == files


@pytest.mark.parametrize("name", ("bash", "perl", "node"))
def test_the_log_at_its_loudest_leaves_a_program_s_outputs_alone(so, tmp_path, name):
    without, files = run_case(name, tmp_path / "work")
    log = {"KNLFIX_LOG": "trace", "KNLFIX_LOG_FILE": str(tmp_path / "log")}
    # The variables themselves must not differ: a shell's environment is part of what it does.
    assert run_case(name, tmp_path / "work", **log) == (without, files)
    assert run_case(name, tmp_path / "work", preload=[so], **log) == (without, files)


# ---- set-uid programs ------------------------------------------------------------------------------------------


@pytest.fixture
def root():
    assert os.geteuid() == 0, "this test makes a set-uid program and runs it as another user: run it as root"


def as_nobody(*argv, library):
    """The command that runs argv as nobody, with the library in LD_PRELOAD or with none."""
    nobody = pwd.getpwnam("nobody")
    preload = [f"LD_PRELOAD={library}"] if library else []
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "env", *preload, *argv]


def public_copy(so):
    """The library where any user can read it: it may be missing from the program only because ld.so refused it."""
    path = scratch() / so.name
    shutil.copy(so, path)
    path.chmod(0o755)
    return path


def test_a_set_uid_program_ignores_the_library_and_works(so, root):
    library = public_copy(so)
    ordinary = pathlib.Path(build("setuid.c", name="ordinary"))
    privileged = pathlib.Path(build("setuid.c", name="privileged"))
    privileged.chmod(0o4755)
    ordinary.chmod(0o755)
    nobody = pwd.getpwnam("nobody").pw_uid

    def line(euid, loaded, variable):
        return f"uid {nobody} euid {euid} library {loaded} variable {variable}\n".encode()

    # The same file without the bit shows that nobody can load the library at all.
    assert run(*as_nobody(ordinary, library=library)) == (4, line(nobody, 1, 1), b"")
    without = run(*as_nobody(privileged, library=None))
    assert without == (4, line(0, 0, 0), b"")
    # ld.so drops the variable too.
    assert run(*as_nobody(privileged, library=library)) == without


@pytest.mark.parametrize("argv", (["su", "--version"], ["mount"], ["passwd", "--status", "nobody"]))
def test_the_system_s_set_uid_programs_work(so, argv):
    need(argv[0])
    assert os.stat(shutil.which(argv[0])).st_mode & stat.S_ISUID, f"{argv[0]} is not set-uid here"
    library = public_copy(so)
    if os.geteuid() == 0:
        without, with_library = run(*as_nobody(*argv, library=None)), run(*as_nobody(*argv, library=library))
    else:
        without, with_library = run(*argv), run(*argv, preload=[library])
    assert without.out or without.err
    assert with_library == without
