"""One verifier process: started when it is first asked, one question at a time, killed when it takes too much."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import dgpo.lab.rewards.answers as answers
from dgpo.errors import RewardError
from dgpo.lab.rewards.answers.outcomes import BAD_GOLD, CORRECT, CRASH, UNPARSEABLE, WRONG

TIMEOUT = "timeout"
OUTCOMES = (CORRECT, WRONG, UNPARSEABLE, TIMEOUT, CRASH, BAD_GOLD)

# The timers of a worker: processor time and wall time.
_OF_TIME = (-signal.SIGPROF, -signal.SIGALRM)
_SCRIPT = Path(answers.__file__).with_name("worker.py")
# Importing sympy takes a second or two; on a machine that is busy, or from a network disk, much longer.
_START_SECONDS = 120.0
# The kernel ends a worker at its limits; this much later it is killed from here after all.
_GRACE_SECONDS = 2.0
# How often the memory of a worker is looked at while it is waited for.
_TICK_SECONDS = 0.02
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


class Verifier:
    """A script that forks workers, and the socket to them; asked by one thread, closed from any.

    Args:
        seconds: Processor time that an answer may take.
        wall_seconds: Wall time after which a worker is ended all the same.
        memory_mb: Address space of a worker, in MiB.
    """

    def __init__(self, seconds: float, wall_seconds: float, memory_mb: int) -> None:
        self.seconds, self.wall_seconds, self.memory_bytes = seconds, wall_seconds, memory_mb * 2**20
        self.process: subprocess.Popen[bytes] | None = None
        # Reentrant: the garbage collector may close the pool while this very thread starts a process.
        self._lock = threading.RLock()
        self._closed = False
        self._buffer = b""
        self._serial = self._worker_pid = 0

    def ask(self, question: Question) -> Verdict:
        """Return the verdict; `timeout` or `crash` if the worker ended instead of giving one.

        Args:
            question: What to check.

        Returns:
            The verdict.

        Raises:
            RewardError: If the script does not start.
        """
        started = time.monotonic()
        try:
            reply = self._reply(question)
        except TimeoutError:
            outcome = TIMEOUT
        except (OSError, ValueError, KeyError, TypeError, MemoryError):
            outcome = CRASH  # the socket is closed, the memory used up, or the reply none
        else:
            if "died" not in reply:
                return Verdict(reply["outcome"], reply["answer"], float(reply["seconds"]), reply["value"])
            # The exit signal says of what a worker died; on a busy machine the clock does not.
            return Verdict(TIMEOUT if reply["died"] in _OF_TIME else CRASH, None, time.monotonic() - started)
        self._kill()
        return Verdict(outcome, None, time.monotonic() - started)

    def close(self) -> None:
        """Kill the script and its worker, for good; a question that is being checked ends as `crash`."""
        with self._lock:
            self._closed = True
            self._kill()

    def _reply(self, question: Question) -> dict[str, Any]:
        """The worker's reply to this question, or the notice that it died."""
        if self.process is None:
            self._start()
        while b"\n" in self._buffer or self._poll.poll(0):
            self._message(time.monotonic() + _GRACE_SECONDS)  # an idle worker was killed, and another took its place
        self._serial += 1
        deadline = time.monotonic() + self.wall_seconds + _GRACE_SECONDS
        self._link.settimeout(self.wall_seconds + _GRACE_SECONDS)
        self._link.sendall(json.dumps({"id": self._serial, **question._asdict()}).encode() + b"\n")
        while True:
            message = self._message(deadline)
            if "died" in message or message.get("id") == self._serial:
                return message

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message; raises TimeoutError at the deadline, EOFError or OSError if the script has ended."""
        while b"\n" not in self._buffer:
            if not self._poll.poll(_TICK_SECONDS * 1000):
                if self._memory() > self.memory_bytes:
                    raise MemoryError
                if time.monotonic() > deadline:
                    raise TimeoutError
                continue
            part = self._link.recv(2**16)
            if not part:
                raise ConnectionError
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line or b"{}")
        self._worker_pid = message.get("pid", self._worker_pid)
        return message  # type: ignore[no-any-return]

    def _memory(self) -> int:
        """The worker's address space in bytes; 0 where the system does not say."""
        try:
            with open(f"/proc/{self._worker_pid}/statm") as file:
                return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # it ends, or has ended
            return 0

    def _start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key.startswith(_PASSED_ON)}
        # Sets of sympy iterate in the order of their hashes; with a fixed seed a score can be repeated.
        environment["PYTHONHASHSEED"] = "0"
        ours, theirs = socket.socketpair()
        numbers = (theirs.fileno(), os.getpid(), self.seconds, self.wall_seconds, self.memory_bytes)
        with self._lock, theirs:
            if self._closed:
                ours.close()
                raise ConnectionError
            self._link, self._buffer, self._worker_pid = ours, b"", 0
            self._poll = select.poll()  # select.select cannot watch the high file numbers of a large process
            self._poll.register(ours, select.POLLIN)
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for this process, which then ends the others in good order.
                start_new_session=True,
            )
        reason = "it ended while it started"
        with contextlib.suppress(OSError, ValueError):
            deadline = time.monotonic() + _START_SECONDS
            while not (message := self._message(deadline)):
                pass
            if "error" not in message:
                return
            reason = message["error"]
        with self._lock:
            self._kill()
            if self._closed:
                raise ConnectionError
        remedy = "pip install 'dgpo[lab]'" if "No module" in reason else "set DGPO_DEBUG=1 and try again"
        raise RewardError(f"the verifier of mathematical answers does not start: {reason}. Remedy: {remedy}.")

    def _kill(self) -> None:
        with self._lock:
            process, self.process = self.process, None
            if process is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the worker too
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)  # whoever waits for a reply wakes up
            self._link.close()
            process.wait()
