"""Every way in which Python makes a child process or thread, each as a function that returns the children's real masks.

WAYS maps a way's name to (kind, function). The kind says what the child goes through, which is what decides who gets
stuck: fork (atfork handlers run), exec (they don't: vfork, posix_spawn, system, or a fresh interpreter), thread.
"""

import asyncio
import concurrent.futures
import json
import multiprocessing
import multiprocessing.pool
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading

from probe import bring_up, mask, parse

# A child that is no Python program: what it says about itself is what any program started this way would get.
GREP = [shutil.which("grep") or "/bin/grep", "Cpus_allowed_list", "/proc/self/status"]
SHELL = " ".join(GREP)

# What subprocess and everything built on it go through: a vfork since Python 3.10, before it a fork.
FORK_EXEC = "exec" if sys.version_info >= (3, 10) else "fork"

WAYS = {}


def way(kind, name=None, since=(3, 9)):
    """Registers a function as a way of making children, where this Python is new enough."""

    def register(function):
        if sys.version_info >= since:
            WAYS[name or function.__name__] = (kind, function)
        return function

    return register


# --- fork -----------------------------------------------------------------------------------------------------------


def from_child(make, child=mask):
    """Calls `make` (a fork that returns pid and terminal), runs `child` in the child and returns what it returned."""
    reader, writer = os.pipe()
    pid, terminal = make()
    if pid == 0:
        try:
            os.write(writer, json.dumps(child()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    # Not earlier: a terminal that closes hangs its session up.
    if terminal is not None:
        os.close(terminal)
    return json.loads(text)


def _fork():
    return os.fork(), None


@way("fork")
def os_fork(child=mask):
    return [from_child(_fork, child)]


@way("fork")
def os_fork_twice(child=mask):
    """A daemon's double fork: the grandchild reports."""
    return [from_child(_fork, lambda: from_child(_fork, child))]


@way("fork")
def pty_fork(child=mask):
    return [from_child(pty.fork, child)]


@way("fork")
def os_spawnv():
    return _through_file(lambda sh, args: os.spawnv(os.P_WAIT, sh, args))


@way("fork")
def os_spawnl():
    return _through_file(lambda sh, args: os.spawnl(os.P_WAIT, sh, *args))


@way("fork")
def os_spawnvpe():
    return _through_file(lambda sh, args: os.spawnvpe(os.P_WAIT, "sh", args, dict(os.environ, SEEN="1")))


@way("fork")
def os_spawnlp_nowait():
    return _through_file(lambda sh, args: os.waitpid(os.spawnlp(os.P_NOWAIT, "sh", *args), 0)[1])


@way("fork")
def subprocess_preexec():
    return _run(preexec_fn=os.getpid)


@way("fork")
def pty_spawn():
    """pty.spawn copies the child's terminal to our stdout; read it by way of a file instead."""
    def spawn(sh, args):
        with open(os.devnull) as nothing:
            keep = os.dup(0)
            os.dup2(nothing.fileno(), 0)
            try:
                return pty.spawn([sh] + args[1:])
            finally:
                os.dup2(keep, 0)
                os.close(keep)

    return _through_file(spawn)


# --- exec, by way of vfork (fork_exec), posix_spawn or system -------------------------------------------------------


def _through_file(start):
    """Starts a shell by start(path, argv) that writes its status into a file; for calls without a pipe to read from."""
    with tempfile.NamedTemporaryFile("r") as out:
        status = start("/bin/sh", ["sh", "-c", "exec %s > %s" % (SHELL, out.name)])
        if status != 0:
            raise RuntimeError("the shell ended with %s" % status)
        return [parse(out.read())]


def _run(args=GREP, **how):
    return [parse(subprocess.run(args, stdout=subprocess.PIPE, universal_newlines=True, check=True, **how).stdout)]


@way(FORK_EXEC)
def subprocess_run():
    return _run()


@way("exec")
def subprocess_posix_spawn():
    return _run(close_fds=False)


@way(FORK_EXEC)
def subprocess_shell():
    return _run(SHELL, shell=True)


@way(FORK_EXEC)
def subprocess_new_session():
    return _run(start_new_session=True)


@way(FORK_EXEC)
def subprocess_env():
    return _run(env=dict(os.environ, SEEN="1"))


@way(FORK_EXEC)
def subprocess_empty_env():
    """The child itself cannot be preloaded, the exec that starts it still is ours."""
    return _run(env={})


@way(FORK_EXEC)
def subprocess_cwd():
    return _run(cwd="/")


@way(FORK_EXEC)
def subprocess_umask():
    return _run(umask=0o22)


@way(FORK_EXEC, since=(3, 11))
def subprocess_process_group():
    return _run(process_group=0)


@way(FORK_EXEC)
def subprocess_popen_many():
    """Several alive at a time."""
    many = [subprocess.Popen(GREP, stdout=subprocess.PIPE, universal_newlines=True) for _ in range(4)]
    return [parse(one.communicate()[0]) for one in many]


@way(FORK_EXEC)
def subprocess_getoutput():
    return [parse(subprocess.getoutput(SHELL))]


@way(FORK_EXEC)
def subprocess_of_subprocess():
    return _run(["/bin/sh", "-c", "/bin/sh -c '%s'; true" % SHELL])


def _posix_spawn(spawn, program, **how):
    with tempfile.NamedTemporaryFile("r") as out:
        pid = spawn(program, GREP, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, out.name, os.O_WRONLY, 0)], **how)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError("the spawned program failed")
        return [parse(out.read())]


@way("exec")
def os_posix_spawn():
    return _posix_spawn(os.posix_spawn, GREP[0])


@way("exec")
def os_posix_spawn_setpgroup():
    return _posix_spawn(os.posix_spawn, GREP[0], setpgroup=0)


@way("exec")
def os_posix_spawnp():
    return _posix_spawn(os.posix_spawnp, "grep")


@way("exec")
def os_system():
    return _through_file(lambda _sh, args: os.system(args[2]))


@way(FORK_EXEC)
def os_popen():
    with os.popen(SHELL) as out:
        return [parse(out.read())]


async def _asyncio(start, *args):
    child = await start(*args, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [parse(out.decode())]


@way(FORK_EXEC)
def asyncio_exec():
    return asyncio.run(_asyncio(asyncio.create_subprocess_exec, *GREP))


@way(FORK_EXEC)
def asyncio_shell():
    return asyncio.run(_asyncio(asyncio.create_subprocess_shell, SHELL))


# --- multiprocessing, concurrent.futures, joblib --------------------------------------------------------------------

# forkserver and spawn start a fresh interpreter by fork_exec. What the server forks later was never pinned by a runtime
# of its own, it only carries what the server was started with.
_METHODS = {"fork": "fork", "spawn": FORK_EXEC, "forkserver": FORK_EXEC}


def _process(method):
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_put_mask, args=(answers,))
    child.start()
    seen = answers.get()
    child.join()
    return [seen]


def _put_mask(answers):
    answers.put(mask())


def _pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(mask, ["thread-self"] * 4, chunksize=1)


def _executor(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(mask, ["thread-self"] * 4))


for _method, _kind in _METHODS.items():
    way(_kind, "mp_%s_process" % _method)(lambda method=_method: _process(method))
    way(_kind, "mp_%s_pool" % _method)(lambda method=_method: _pool(method))
    way(_kind, "mp_%s_executor" % _method)(lambda method=_method: _executor(method))


# What a program gets that does not choose: fork up to Python 3.13, forkserver from 3.14 on.
_DEFAULT = multiprocessing.get_all_start_methods()[0]


@way(_METHODS[_DEFAULT])
def mp_default_pool():
    return _pool(None)


@way(_METHODS[_DEFAULT])
def mp_default_executor():
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return list(pool.map(mask, ["thread-self"] * 4))


@way(FORK_EXEC)
def mp_spawn_subprocess():
    """A worker's own child."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run)


@way("fork")
def mp_fork_subprocess():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_run)


@way(FORK_EXEC)
def mp_spawn_manager():
    """The manager's server process, seen through the shared dictionary's process."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        return [mask(manager._process.pid)]


def _joblib(backend):
    import joblib

    return joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(mask)() for _ in range(4))


@way(FORK_EXEC)
def joblib_loky():
    try:
        return _joblib("loky")
    finally:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


@way("fork")
def joblib_multiprocessing():
    return _joblib("multiprocessing")


@way("thread")
def joblib_threading():
    return _joblib("threading")


# --- threads --------------------------------------------------------------------------------------------------------


def in_thread(function):
    """Runs a function on a new thread and returns what it returned."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@way("thread")
def threading_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(mask()))
    thread.start()
    thread.join()
    return seen


@way("thread")
def threading_timer():
    seen = []
    thread = threading.Timer(0, lambda: seen.append(mask()))
    thread.start()
    thread.join()
    return seen


@way("thread")
def thread_pool_executor():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(mask, ["thread-self"] * 8))


@way("thread")
def thread_pool():
    with multiprocessing.pool.ThreadPool(2) as pool:
        return pool.map(mask, ["thread-self"] * 4)


@way("thread", since=(3, 14))
def interpreter_pool_executor():
    with concurrent.futures.InterpreterPoolExecutor(2) as pool:
        return list(pool.map(mask, ["thread-self"] * 4))


@way("thread")
def asyncio_to_thread():
    return [asyncio.run(asyncio.to_thread(mask))]


@way("thread")
def thread_of_thread():
    return [in_thread(lambda: in_thread(mask))]


@way("thread")
def fork_in_thread():
    """LLVM's atfork handler repairs only what is forked from a thread that the runtime knows."""
    return in_thread(os_fork)


@way("thread")
def subprocess_in_thread():
    return in_thread(_run)


@way("fork")
def thread_in_fork():
    """A thread of a forked child."""
    return [from_child(_fork, lambda: in_thread(mask))]


# --- the short list -------------------------------------------------------------------------------------------------

# One of each mechanism, for tests that ask about a mask rather than about a way.
MAIN = ("os_fork", "pty_fork", "subprocess_run", "subprocess_posix_spawn", "subprocess_preexec", "os_system",
        "mp_fork_process", "mp_spawn_process", "threading_thread")


def children(names=MAIN):
    """Makes children by each of the named ways: a dictionary of way -> list of masks."""
    return {name: WAYS[name][1]() for name in names}


# The same where daemonic processes have to do: a Pool's workers may have no multiprocessing children.
WITHIN_WORKER = tuple(name for name in MAIN if not name.startswith("mp_"))


# --- what workers do, in a module so that every start method finds it -----------------------------------------------


def narrow_and_make_children(cpus):
    """Narrows this worker's own mask, as a program does on purpose, and makes children."""
    os.sched_setaffinity(0, cpus)
    return {"own": mask(), "children": children(WITHIN_WORKER)}


def pin_again_and_make_children():
    """Brings the runtime up in this worker, which pins it as it pinned the parent, and makes children."""
    before = mask()
    bring_up()
    return {"before": before, "own": mask(), "children": children(WITHIN_WORKER)}


WORKERS = {
    "os_fork": lambda function, *args: from_child(_fork, lambda: function(*args)),
    "mp_fork": lambda function, *args: _in_worker("fork", function, *args),
    "mp_spawn": lambda function, *args: _in_worker("spawn", function, *args),
    "mp_forkserver": lambda function, *args: _in_worker("forkserver", function, *args),
    "loky": lambda function, *args: _in_loky(function, *args),
}


def _in_worker(method, function, *args):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(function, args)


def _in_loky(function, *args):
    import joblib

    return joblib.Parallel(n_jobs=2, backend="loky")([joblib.delayed(function)(*args)])[0]
