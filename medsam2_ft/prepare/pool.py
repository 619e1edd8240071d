"""Runs jobs over processes, one case per worker at a time, and survives Ctrl-C and lost workers."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from medsam2_ft.errors import UserError

Job = TypeVar("Job")
Done = TypeVar("Done")

MEMORY_PER_WORKER = 2 << 30
"""Bytes of free memory that each of the default number of workers can count on."""


def default_workers() -> int:
    """Returns one worker per usable core, fewer where free memory is short."""
    import psutil

    free = int(psutil.virtual_memory().available)
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min(cores, free // MEMORY_PER_WORKER))


def run_jobs(
    work: Callable[[Job], Done],
    jobs: Sequence[Job],
    workers: int,
    on_done: Callable[[Done], None],
) -> None:
    """Does all jobs.

    Args:
        work: Does one; a function that a new process can import.
        jobs: What to do.
        workers: Number of processes; 1, or a single job, runs in this process.
        on_done: Called in this process with each result, in the order of completion.

    Raises:
        UserError: Nothing can be written, or a worker was killed.
        KeyboardInterrupt: After Ctrl-C; the workers have been stopped. What they were writing is
            not there, what ``on_done`` has seen is complete.
    """
    if workers == 1 or len(jobs) <= 1:
        for job in jobs:
            on_done(work(job))
        return
    # spawn: a forked child would inherit the locks of this process's threads
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    count = min(workers, len(jobs))
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)
    completed = False
    try:
        with _ctrl_c_ignored():
            executor.submit(os.getpid)  # starts the workers, which inherit the setting
        _drain(executor, work, jobs, 2 * count, on_done)
        completed = True
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, most often for lack of memory; finished cases are kept: "
            f"run the same command again with fewer --workers than {count}"
        ) from error
    finally:
        if not completed:
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()  # files appear whole or not at all, so nothing is damaged
        executor.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ignores Ctrl-C, so that processes started meanwhile leave it to this one."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _drain(
    executor: ProcessPoolExecutor,
    work: Callable[[Job], Done],
    jobs: Sequence[Job],
    in_flight: int,
    on_done: Callable[[Done], None],
) -> None:
    """Keeps a few jobs submitted and hands each result on as it arrives."""
    queue = iter(jobs)
    pending: set[Future[Done]] = set()
    while True:
        for job in queue:
            pending.add(executor.submit(work, job))
            if len(pending) >= in_flight:
                break
        if not pending:
            return
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            on_done(future.result())


def _start_worker() -> None:
    """Ends the worker when its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    """Ends this process when ``sentinel`` reports the parent's end (also after SIGKILL)."""
    from multiprocessing.connection import wait as wait_for

    wait_for([sentinel])
    os._exit(1)
