"""The verifier's processes: a keeper that imports math-verify once, and the workers that it forks.

Run as a script by `_pool.py`, never imported by it: only the standard library and math-verify are loaded here, so that
a worker is small and starts within milliseconds. The keeper does nothing but fork, kill and reap, so it always answers;
a worker checks one answer after the other and may hang, crash or fill its memory.
"""

import ast
import contextlib
import functools
import gc
import importlib.machinery
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

# A number and words after it. LaTeX has no words, only products of letters: `18 dollars` would be 18 d o l l a r s.
_COUNTED = re.compile(
    r"(?P<number>\\?\$?\s?[-+]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]+)?\s?\$?)\s+"
    r"(?P<words>(?:[A-Za-z]{3,}|[A-Za-z]{2,}/[A-Za-z]+)(?:[ -/]+[A-Za-z]+)*)\.?"
)
# Words that are no unit: they change the number, or join it to something else.
_NO_UNITS = re.compile(
    r"and|n?or|not|if|plus|minus|times|over|mod|modulo|less|more|than|remainder|choose|factorial|squared|cubed|percent|"
    r"hundreds?|thousands?|millions?|billions?|trillions?|dozens?|score|"
    r"hal(?:f|ves)|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?|"
    r"sqrt|root|log|exp|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|gcd|lcm|max|min|det|lim|sum|prod|int|inf|infinity|nan|"
    r"alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|rho|sigma|tau|phi|chi|psi|omega|"
    r"abcd?|bcd|mnp|pqr|rst|uvw|xyz"
)
_MAX_VALUE_CHARS = 200

# What math-verify reads and compares with; in these, no failure of memory passes for a failure to read or compare.
_WATCHED = re.compile(r"math_verify\..*|latex2sympy2_extended\.\w+|sympy\.parsing\.sympy_parser")

CORRECT, WRONG, UNPARSEABLE, CRASH, BAD_GOLD = "correct", "wrong", "unparseable", "crash", "unparseable_gold"


def keep(control: socket.socket, seconds: float, wall_seconds: float, memory_bytes: int) -> None:
    """Fork and kill workers as the pool asks, and tell it of what each died, until it closes its end of the socket."""
    check_answer("\\frac{1}{2}", "0.5", raw=False)  # what math-verify sets up on first use is then shared by all
    gc.collect()
    gc.freeze()
    control.sendall(READY.ljust(512, b"\0"))
    links: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    try:
        while True:
            readable, _, _ = select.select([control, woken], [], [])
            if woken in readable:
                woken.recv(4096)
                _reap(links)
            if control not in readable:
                continue
            message, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if len(message) < COMMAND.size:
                return
            command, pid = COMMAND.unpack(message)
            if command == FORK:
                link = socket.socket(fileno=fds[0])
                links[_fork(link, [control, woken, wake, *links.values()], seconds, wall_seconds, memory_bytes)] = link
            elif pid in links:
                os.kill(pid, signal.SIGKILL)
    finally:
        for pid in links:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in links:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _reap(links: dict[int, socket.socket]) -> None:
    """Say in the place of each worker that died of what it died: a signal of its timers, or anything else."""
    for pid in list(links):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with links.pop(pid) as link, contextlib.suppress(OSError):
                notice = json.dumps({"died": os.waitstatus_to_exitcode(status)}).encode() + b"\n"
                link.send(notice, socket.MSG_DONTWAIT)


def _fork(
    link: socket.socket, others: list[socket.socket], seconds: float, wall_seconds: float, memory_bytes: int
) -> int:
    pid = os.fork()
    if pid:
        return pid
    # In the worker: never return into the keeper's loop, whatever happens.
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in others:
            other.close()
        _confine(memory_bytes)
        _work(link, seconds, wall_seconds)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _confine(memory_bytes: int) -> None:
    """Limits of a worker: its memory, no file written, no process started (root may), no life after its keeper."""
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
            outcome, answer, value = check_answer(request["gold"], request["answer"], raw=request["raw"])
        except MemoryError:
            outcome, answer, value = CRASH, None, None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply = {"outcome": outcome, "answer": answer, "value": value, "seconds": time.process_time() - started}
        stream.write(json.dumps(reply).encode() + b"\n")
        stream.flush()
        if outcome == CRASH:
            return  # its memory may be in pieces; a new worker costs milliseconds


def check_answer(gold: str, answer: str | None, *, raw: bool) -> tuple[str, str | None, str | None]:
    """Return the outcome, the answer as math-verify reads it, and its value.

    Words after a number are a unit and say nothing, unless the answer is right with their letters as factors.

    Args:
        gold: The right answer.
        answer: The model's; `None` if it gave none.
        raw: Whether `answer` is a whole completion, in which math-verify looks for the answer.

    Returns:
        One of the outcomes above; a text or `None`; and a text that most spellings of an equal answer share, or `None`.
    """
    golds = _parsed_gold(gold)
    if not golds:
        return BAD_GOLD, None, None
    if answer is None or not answer.strip():
        return UNPARSEABLE, None, None
    outcome, text, value = _compared(gold, golds, answer, raw)
    if outcome != CORRECT and not raw and (bare := _without_unit(answer)) is not None:
        return _compared(gold, golds, bare, raw)
    return outcome, text, value


def _compared(gold: str, golds: tuple[Any, ...], answer: str, raw: bool) -> tuple[str, str | None, str | None]:
    try:
        parsed = _parse(answer, raw=raw)
    except MemoryError:
        raise
    except Exception:
        parsed = []
    text = next((part for part in parsed if isinstance(part, str)), None)
    if gold.strip() in (text, answer.strip()):
        return CORRECT, text, None  # what is no number, such as 12:00, equals itself all the same
    values = [part for part in parsed if not isinstance(part, str)]
    if not values:
        return UNPARSEABLE, text, None
    from math_verify import verify

    try:
        equal = verify(list(golds), values, timeout_seconds=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:
        equal = False  # what cannot be compared with the gold answer is not equal to it
    return CORRECT if equal else WRONG, text, _canonical(values[0])


def _without_unit(answer: str) -> str | None:
    """A number with its unit as LaTeX text, which math-verify leaves out; `None` if the answer is something else."""
    match = _COUNTED.fullmatch(_plain_characters(answer.strip()))
    if match is None or any(map(_NO_UNITS.fullmatch, re.findall("[a-z]+", match["words"].lower()))):
        return None
    return f"{match['number']} \\text{{ {match['words']}}}"


def _canonical(value: Any) -> str | None:
    """The value as text: fractions reduced, decimals as fractions. Nothing is worked out, which might take for ever."""
    try:
        if value.is_Relational and value.rel_op == "==" and value.lhs.is_Symbol:
            value = value.rhs
        if value.is_Float:
            from sympy import Rational

            value = Rational(str(value))
        text = str(value)
    except Exception:
        return None
    return text if len(text) <= _MAX_VALUE_CHARS else None


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


class _MemoryErrorsPass(ast.NodeTransformer):
    """Put `except MemoryError: raise` in front of every handler that would catch it among all others."""

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.generic_visit(node)
        if any(handler.type is None or ast.unparse(handler.type) == "Exception" for handler in node.handlers):
            name = ast.Name("MemoryError", ast.Load())
            node.handlers.insert(0, ast.ExceptHandler(name, None, [ast.Raise()]))
        return node


class _WatchedLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = _MemoryErrorsPass().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _WatchedFinder(importlib.machinery.PathFinder):
    """Finds the modules of `_WATCHED`: an answer that exhausts the memory must not look like one that is wrong."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        found = super().find_spec(fullname, path, target) if _WATCHED.fullmatch(fullname) else None
        if found is not None and isinstance(found.loader, importlib.machinery.SourceFileLoader):
            found.loader = _WatchedLoader(found.loader.name, found.loader.path)
        return found


def main() -> None:
    """Start the keeper: `_math_worker.py FD SECONDS WALL_SECONDS MEMORY_BYTES`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(2000)
    import logging

    logging.disable(logging.CRITICAL)
    sys.meta_path.insert(0, _WatchedFinder)
    try:
        import math_verify  # noqa: F401
    except Exception as error:
        control.sendall(f"{type(error).__name__}: {error}".encode()[:512].ljust(512, b"\0"))
        return
    keep(control, float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
