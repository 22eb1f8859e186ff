"""The verifier's script: loads math-verify once, forks a worker that checks answers, and forks another when it ends.

Run by `verifier.py`, never imported: the standard library, math-verify and the modules beside this one are all that is
loaded, so that a process is small and a new worker starts within milliseconds. A worker may hang, crash or fill its
memory; the script itself only waits for it.
"""

import contextlib
import gc
import importlib.util
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Exit codes of a worker: the other end of the socket was closed; a new worker is to take over.
_FINISHED, _REPLACE = 0, 64
# sympy's caches grow: a worker is replaced after so many answers.
_ANSWERS_PER_WORKER = 5000
# The process that asks ends a worker whose address space passes the limit. The kernel's own limit lies higher, as
# sympy takes a refused allocation for an answer that cannot be simplified, and the answer would be called wrong.
_HARD_LIMIT = 8

Check = Callable[..., tuple[str, str | None, str | None]]


def main() -> None:
    """Serve the socket until it is closed: `worker.py FD PARENT SECONDS WALL_SECONDS MEMORY_BYTES`."""
    fd, parent, memory_bytes = (int(sys.argv[index]) for index in (1, 2, 5))
    seconds, wall_seconds = float(sys.argv[3]), float(sys.argv[4])
    _die_with_parent(parent)
    link = socket.socket(fileno=fd)
    link.set_inheritable(False)
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(2000)
    logging.disable(logging.CRITICAL)
    try:
        import math_verify  # noqa: F401  # if it is missing, say so

        check = _load_check()
        check("\\frac{1}{2}", "0.5", raw=False)  # what math-verify sets up on first use is then shared by all workers
    except Exception as error:
        _send(link, {"error": f"{type(error).__name__}: {error}"[:500]})
        return
    gc.collect()
    gc.freeze()
    while True:
        script = os.getpid()
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):  # a worker never returns into this loop
                _die_with_parent(script)
                _confine(memory_bytes)
                os._exit(_work(link, check, seconds, wall_seconds, memory_bytes))
            os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == _FINISHED:
            return
        if code != _REPLACE:
            _send(link, {"died": code})


def _load_check() -> Check:
    """Load this folder as a package of its own: `dgpo` would load torch."""
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location("dgpo_answers", folder / "__init__.py")
    assert spec is not None
    sys.modules["dgpo_answers"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("dgpo_answers.check").check_answer  # type: ignore[no-any-return]


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    # A worker may have been killed in the middle of a line.
    link.sendall(b"\n" + json.dumps(message).encode() + b"\n")


def _die_with_parent(parent: int) -> None:
    """Linux kills this process when the thread that started it ends; elsewhere it ends at the next answer."""
    with contextlib.suppress(Exception):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it was asked for the signal
        os._exit(_FINISHED)


def _confine(memory_bytes: int) -> None:
    """Limits of a worker: its memory, no file written, no process started (root may)."""
    for limit, value in (
        (resource.RLIMIT_AS, _HARD_LIMIT * memory_bytes if os.path.exists("/proc/self/statm") else memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        # A limit that the system does not have, or has set lower already, stays as it is.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _work(link: socket.socket, check: Check, seconds: float, wall_seconds: float, memory_bytes: int) -> int:
    """Answer questions, and return the exit code. The kernel ends a worker that takes too long, even in C code."""
    _send(link, {"pid": os.getpid()})
    answers = 0
    for line in link.makefile("rb"):
        try:
            question = json.loads(line)
        except ValueError:
            continue  # the rest of a line that a killed worker had begun to read
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)
        started = time.process_time()
        try:
            outcome, answer, value = check(question["gold"], question["answer"], raw=question["raw"])
        except MemoryError:
            outcome, answer, value = "crash", None, None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory_bytes:
            outcome = "crash"
        taken = time.process_time() - started
        _send(link, {"id": question["id"], "outcome": outcome, "answer": answer, "value": value, "seconds": taken})
        answers += 1
        if outcome == "crash" or answers >= _ANSWERS_PER_WORKER:
            return _REPLACE
    return _FINISHED


if __name__ == "__main__":
    main()
