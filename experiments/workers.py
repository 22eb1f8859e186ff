"""A process for each job: one that dies takes no other job with it, and none outlives the process that started it."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

Job = TypeVar("Job")


def run_jobs(
    function: Callable[[Any], None], jobs: Sequence[Job], done: Callable[[Job, str | None], None], *, workers: int
) -> None:
    """Call a function on every job, over processes with one torch thread each.

    Args:
        function: A function of a module, or a partial of one: it is pickled, as the jobs are. It returns nothing and
            leaves its results in files.
        jobs: Worked on in this order.
        done: Called in this process as each job ends, with the error or `None`.
        workers: Processes at a time; 0 calls the function here.

    Example:
        >>> run_jobs(print, ["a"], lambda job, error: print(job, error), workers=0)
        a
        a None
    """
    if workers == 0:
        for job in jobs:
            done(job, _error_of(function, job))
        return
    # Forked from a server that has imported torch and started no thread: a process starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    waiting = deque(jobs)
    running: dict[Any, tuple[BaseProcess, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(function, waiting[0], sender))
                process.start()
                sender.close()  # the process has the only one: where it dies, the receiver comes to an end
                running[receiver] = process, waiting.popleft()
            for ended in cast("list[Connection]", wait(list(running))):
                child, job = running.pop(ended)
                try:
                    error = ended.recv()
                except EOFError:
                    error = "RuntimeError: the process died, perhaps for want of memory"
                child.join()
                done(job, error)
    finally:
        for child, _ in running.values():
            child.terminate()


def _work(function: Callable[[Job], None], job: Job, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(_error_of(function, job))


def _end_with_parent() -> None:
    """A parent that is killed can tell nobody, and its processes would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _error_of(function: Callable[[Job], None], job: Job) -> str | None:
    # Jobs are spread over processes; threads of their own would only compete for the same cores.
    import torch

    torch.set_num_threads(1)
    try:
        function(job)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
