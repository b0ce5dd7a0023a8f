"""What the workers of a pool do in the tests of places. They all are at work at the same time, whoever made them."""

import ctypes
import multiprocessing
import os
import pathlib
import time

from probe import mask, region_library
from ways import WITHIN_WORKER, children, in_thread


def meet(directory, name, workers):
    """Waits until so many processes have come here."""
    directory = pathlib.Path(directory)
    (directory / f"{name}-{os.getpid()}").touch()
    while len(list(directory.glob(name + "-*"))) < workers:
        time.sleep(0.005)


def real_masks(library, threads):
    """The kernel's masks of a region's threads."""
    size = 1024 // 8
    out = ctypes.create_string_buffer(threads * size)
    if library.region_real_masks(threads, out, size) != threads:
        raise RuntimeError("not the team that was asked for")
    rows = [int.from_bytes(out.raw[at:at + size], "little") for at in range(0, len(out.raw), size)]
    return [[cpu for cpu in range(8 * size) if row >> cpu & 1] for row in rows]


def pinned(directory, workers, threads):
    """Runs regions; the masks of the last one, when all others are there and have heard of it."""
    library = region_library()
    for number in range(5):
        masks = real_masks(library, threads)
        meet(directory, f"region{number}", workers)
    meet(directory, "done", workers)
    return masks


def placed(directory, workers):
    """The masks that a placed worker has and hears of, and those of what it makes."""
    meet(directory, "begin", workers)
    seen = {"own": mask(), "told": sorted(os.sched_getaffinity(0)), "thread": in_thread(mask)}
    meet(directory, "seen", workers)
    seen["children"] = children(WITHIN_WORKER)
    meet(directory, "done", workers)
    return seen


def pool(method, function, directory, workers, *args):
    """What each worker returned, of a pool that is made in this way."""
    arguments = [(str(directory), workers, *args)] * workers
    if method == "loky":
        from joblib.externals.loky import get_reusable_executor

        made = get_reusable_executor(workers)
        return [job.result() for job in [made.submit(function, *each) for each in arguments]]
    with multiprocessing.get_context(method).Pool(workers) as made:
        return made.starmap(function, arguments, chunksize=1)


def helpers(method):
    """The masks of the processes beside the workers, of a pool made in this way."""
    pids = []
    if method == "loky":
        from joblib.externals.loky.backend import resource_tracker
    else:
        from multiprocessing import resource_tracker
    resource_tracker.ensure_running()
    pids.append(resource_tracker._resource_tracker._pid)
    if method == "forkserver":
        from multiprocessing import forkserver

        pids.append(forkserver._forkserver._forkserver_pid)
    return [mask(pid) for pid in pids]
