"""One verifier process as the pool sees it: what it is asked, what it replies, and how its keeper is started."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from dgpo.errors import RewardError
from dgpo.lab.rewards._math_worker import BAD_GOLD, CORRECT, CRASH, READY, UNPARSEABLE, WRONG

TIMEOUT = "timeout"
# The timers of a worker: processor time and wall time.
_OF_TIME = (-signal.SIGPROF, -signal.SIGALRM)
OUTCOMES = (CORRECT, WRONG, UNPARSEABLE, TIMEOUT, CRASH, BAD_GOLD)

_SCRIPT = Path(__file__).with_name("_math_worker.py")
# Importing sympy takes a second or two; on a machine that is busy, or from a network disk, much longer.
_START_SECONDS = 120.0
# The kernel ends a worker at its limits; this much later the pool has it killed after all.
_GRACE_SECONDS = 2.0
# A verifier that a completion talked into running code should find no keys in its environment.
_PASSED_ON = ("PATH", "PYTHON", "LD_", "DYLD_", "LC_", "LANG", "TMPDIR", "VIRTUAL_ENV")


class Question(NamedTuple):
    """One answer to check.

    Attributes:
        gold: The right answer.
        answer: The model's; `None` if it gave none.
        raw: Whether `answer` is a whole completion, in which math-verify looks for the answer.
    """

    gold: str
    answer: str | None
    raw: bool = False


class Verdict(NamedTuple):
    """What came of a question.

    Attributes:
        outcome: One of `OUTCOMES`.
        answer: The answer as math-verify read it; `None` if it read none.
        seconds: Processor time, or wall time for a worker that was ended.
        value: The answer's value as text, the same for most spellings of equal answers; `None` where it has none.
    """

    outcome: str
    answer: str | None = None
    seconds: float = 0.0
    value: str | None = None


class Worker:
    """One worker process and the socket to it."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.stream = link.makefile("rwb")
        link.settimeout(_START_SECONDS)
        self.pid = int(json.loads(self.stream.readline() or b"{}").get("pid", 0))
        self.answers = 0

    def ask(self, question: Question, wall_seconds: float) -> Verdict:
        """The verdict; `timeout` or `crash` if the worker ended instead of giving one.

        It is the keeper who says of what a worker died: on a busy machine the clock does not tell.
        """
        self.answers += 1
        started = time.monotonic()
        self.link.settimeout(wall_seconds + _GRACE_SECONDS)
        try:
            self.stream.write(json.dumps(question._asdict()).encode() + b"\n")
            self.stream.flush()
            reply = json.loads(self.stream.readline())
        except TimeoutError:
            return Verdict(TIMEOUT, None, time.monotonic() - started)
        if "died" in reply:
            return Verdict(TIMEOUT if reply["died"] in _OF_TIME else CRASH, None, time.monotonic() - started)
        if reply["outcome"] not in OUTCOMES:
            raise ValueError(f"unknown outcome {reply['outcome']!r}")
        return Verdict(reply["outcome"], reply["answer"], float(reply["seconds"]), reply["value"])

    def is_alive(self) -> bool:
        """Whether an idle worker still waits; the socket of one that was killed can be read, and holds nothing."""
        watched = select.poll()  # select.select cannot watch the high file numbers of a large process
        watched.register(self.link, select.POLLIN)
        return not watched.poll(0)

    def close(self) -> None:
        """Close the socket; an idle worker ends when it notices."""
        for part in (self.stream, self.link):
            with contextlib.suppress(OSError):
                part.close()


def start_keeper(
    seconds: float, wall_seconds: float, memory_mb: int
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    ours, theirs = socket.socketpair()
    environment = {key: value for key, value in os.environ.items() if key.startswith(_PASSED_ON)}
    # Sets of sympy iterate in the order of their hashes; with a fixed seed a score can be repeated.
    environment["PYTHONHASHSEED"] = "0"
    arguments = [str(theirs.fileno()), str(seconds), str(wall_seconds), str(memory_mb * 2**20)]
    keeper = subprocess.Popen(
        # -P: the script's own folder holds a math.py that must not stand in for the standard library's.
        [sys.executable, "-P", str(_SCRIPT), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=[theirs.fileno()],
        # Ctrl-C is for this process, which then ends the others in good order.
        start_new_session=True,
    )
    theirs.close()
    ours.settimeout(_START_SECONDS)
    hello = b""
    with contextlib.suppress(OSError):
        while len(hello) < 512 and (part := ours.recv(512 - len(hello))):
            hello += part
    if hello.rstrip(b"\0") == READY:
        return keeper, ours
    ours.close()
    keeper.kill()
    keeper.wait()
    reason = hello.rstrip(b"\0").decode(errors="replace") or f"it ended with exit code {keeper.returncode}"
    remedy = "pip install 'dgpo[eval]'" if "No module" in reason else "set DGPO_DEBUG=1 and try again"
    raise RewardError(f"the verifier of mathematical answers does not start: {reason}. Remedy: {remedy}.")
