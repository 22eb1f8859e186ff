"""The verifier's processes: a keeper that imports math-verify once, and the workers that it forks.

Run as a script by `_pool.py`, never imported by it: only the standard library and math-verify are loaded here, so that
a worker is small and starts within milliseconds. The keeper does nothing but fork, kill and reap, so it always answers;
a worker checks one answer after the other and may hang, crash or fill its memory.
"""

import contextlib
import functools
import gc
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
import unicodedata
from typing import Any

# One byte of command and a number: `F` with the socket of a new worker attached, `K` with the pid of one to kill.
COMMAND = struct.Struct("!cq")
FORK, KILL = b"F", b"K"
READY = b"ready"

_ARITHMETIC = re.compile(r"[-(]*[0-9][-+*/^(). 0-9]*\*\*[-+*/^(). 0-9]*")

CORRECT, WRONG, UNPARSEABLE, CRASH, BAD_GOLD = "correct", "wrong", "unparseable", "crash", "unparseable_gold"


def keep(control: socket.socket, seconds: float, wall_seconds: float, memory_bytes: int) -> None:
    """Fork and kill workers as the pool asks, until its end of the socket is closed; then end them all."""
    check_answer("\\frac{1}{2}", "0.5", raw=False)  # what math-verify sets up on first use is then shared by all
    gc.collect()
    gc.freeze()
    control.sendall(READY.ljust(512, b"\0"))
    workers: set[int] = set()
    try:
        while True:
            readable, _, _ = select.select([control], [], [], 0.5)
            _reap(workers)
            if not readable:
                continue
            message, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if len(message) < COMMAND.size:
                return
            command, pid = COMMAND.unpack(message)
            if command == FORK:
                workers.add(_fork(socket.socket(fileno=fds[0]), control, seconds, wall_seconds, memory_bytes))
            elif pid in workers:
                os.kill(pid, signal.SIGKILL)
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in workers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _reap(workers: set[int]) -> None:
    for pid in list(workers):
        if os.waitpid(pid, os.WNOHANG)[0]:
            workers.discard(pid)


def _fork(link: socket.socket, control: socket.socket, seconds: float, wall_seconds: float, memory_bytes: int) -> int:
    pid = os.fork()
    if pid:
        link.close()
        return pid
    # In the worker: never return into the keeper's loop, whatever happens.
    try:
        control.close()
        _confine(memory_bytes)
        _work(link, seconds, wall_seconds)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _confine(memory_bytes: int) -> None:
    """Limits of a worker: its memory, no file written, no process started, and no life after its keeper."""
    _die_with_parent()
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        # A limit that the system does not have, or has set lower already, stays as it is.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _die_with_parent() -> None:
    """Linux kills a worker whose keeper is killed; elsewhere it ends at its time limit or at the next answer."""
    with contextlib.suppress(Exception):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _work(link: socket.socket, seconds: float, wall_seconds: float) -> None:
    """Answer requests until the pool closes its end. The kernel ends a worker that takes too long, even in C code."""
    for signum in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(signum, signal.SIG_DFL)
    stream = link.makefile("rwb")
    stream.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    stream.flush()
    for line in stream:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)
        started = time.process_time()
        try:
            outcome, answer = check_answer(request["gold"], request["answer"], raw=request["raw"])
        except MemoryError:
            outcome, answer = CRASH, None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply = {"outcome": outcome, "answer": answer, "seconds": time.process_time() - started}
        stream.write(json.dumps(reply).encode() + b"\n")
        stream.flush()
        if outcome == CRASH:
            return  # its memory may be in pieces; a new worker costs milliseconds


def check_answer(gold: str, answer: str | None, *, raw: bool) -> tuple[str, str | None]:
    """Return the outcome, and the answer as math-verify reads it.

    Args:
        gold: The right answer.
        answer: The model's; `None` if it gave none.
        raw: Whether `answer` is a whole completion, in which math-verify looks for the answer.

    Returns:
        One of the outcomes above, and a text or `None`.
    """
    golds = _parsed_gold(gold)
    if not golds:
        return BAD_GOLD, None
    if answer is None or not answer.strip():
        return UNPARSEABLE, None
    try:
        parsed = _parse(answer, raw=raw)
    except MemoryError:
        raise
    except Exception:
        parsed = []
    text = next((part for part in parsed if isinstance(part, str)), None)
    values = [part for part in parsed if not isinstance(part, str)]
    if not values:
        return UNPARSEABLE, text
    from math_verify import verify

    try:
        return CORRECT if verify(list(golds), values, timeout_seconds=None, raise_on_error=True) else WRONG, text
    except MemoryError:
        raise
    except Exception:
        # What cannot be compared with the gold answer is not equal to it.
        return WRONG, text


@functools.lru_cache(maxsize=4096)
def _parsed_gold(gold: str) -> tuple[Any, ...]:
    try:
        return tuple(part for part in _parse(gold, raw=False) if not isinstance(part, str))
    except MemoryError:
        raise
    except Exception:
        return ()


def _parse(text: str, *, raw: bool) -> list[Any]:
    """What math-verify reads: values of sympy, and the text they came from."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    expression = ExprExtractionConfig()
    targets = (LatexExtractionConfig(boxed_match_priority=0), expression)
    text = _plain_characters(text)
    if not raw and _ARITHMETIC.fullmatch(text):
        # `2**10` is no LaTeX; sums of plain numbers are read as a programmer would.
        return parse(text, (expression,), parsing_timeout=None, raise_on_error=True)
    return parse(text if raw else f"\\boxed{{{text}}}", targets, parsing_timeout=None, raise_on_error=True)


def _plain_characters(text: str) -> str:
    """Digits of any script as ASCII digits, and the minus of typeset mathematics as a hyphen."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(char)) if unicodedata.decimal(char, None) is not None else "-" if char == "−" else char
        for char in text
    )


def main() -> None:
    """Start the keeper: `_math_worker.py FD SECONDS WALL_SECONDS MEMORY_BYTES`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(2000)
    import logging

    logging.disable(logging.CRITICAL)
    try:
        import math_verify  # noqa: F401
    except Exception as error:
        control.sendall(f"{type(error).__name__}: {error}".encode()[:512].ljust(512, b"\0"))
        return
    keep(control, float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
