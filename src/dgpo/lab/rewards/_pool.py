"""A pool of verifier processes that can be killed: every question gets exactly one reply, in the order asked."""

import atexit
import contextlib
import os
import socket
import subprocess
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from dgpo.errors import RewardError
from dgpo.lab.rewards._math_worker import BAD_GOLD, COMMAND, CRASH, FORK, KILL
from dgpo.lab.rewards._threads import DaemonThreads
from dgpo.lab.rewards._verifier import OUTCOMES, TIMEOUT, Question, Verdict, Worker, start_keeper

__all__ = ["OUTCOMES", "Question", "Verdict", "VerifierPool"]

# sympy's caches grow: a worker is replaced after so many answers.
_ANSWERS_PER_WORKER = 5000
_MAX_BAD_GOLDS = 10_000


class VerifierPool:
    """Checks answers in worker processes with a limit on time and memory; usable from any thread.

    Processes are started on first use, by a keeper process that imports math-verify once and forks workers from there,
    so replacing one takes milliseconds. All end when the pool is closed, when it is garbage, when this process exits,
    and when it is killed. After `os.fork` the child starts processes of its own; a pickled pool is its settings.

    Args:
        seconds: Processor time that an answer may take, so that a busy machine does not change a score.
        wall_seconds: Wall time after which a worker is ended all the same: one that was stopped, or waits, uses no
            processor time. By default 30 s and ten times `seconds`, which an answer that works does not come near.
        memory_mb: Address space of a worker, in MiB.
        num_workers: Workers at the same time; by default one per processor that this process may use, at most 8.

    Example:
        >>> with VerifierPool(num_workers=1) as pool:
        ...     [verdict.outcome for verdict in pool.check([Question("1/2", "0.5"), Question("1/2", "2")])]
        ['correct', 'wrong']
    """

    def __init__(
        self,
        *,
        seconds: float = 3.0,
        wall_seconds: float | None = None,
        memory_mb: int = 1024,
        num_workers: int | None = None,
    ) -> None:
        num_workers = min(8, _num_processors()) if num_workers is None else num_workers
        wall_seconds = 30 + 10 * seconds if wall_seconds is None else wall_seconds
        least = {"seconds": 0.01, "wall_seconds": seconds, "memory_mb": 256, "num_workers": 1}
        self.seconds, self.wall_seconds, self.memory_mb, self.num_workers = (
            seconds,
            wall_seconds,
            memory_mb,
            num_workers,
        )
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise RewardError(f"the verifier's {name} is {getattr(self, name)!r}; it must be at least {bound}.")
        self._reset()
        _POOLS.add(self)

    def _reset(self) -> None:
        # Held for moments only, as an event loop waits for it; the start of a keeper, which takes seconds, has its own.
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._generation = 0
        self._executor: DaemonThreads | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[Worker] = []
        self._open: set[Worker] = set()
        self._bad_golds: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seconds", "wall_seconds", "memory_mb", "num_workers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check(self, questions: Sequence[Question]) -> list[Verdict]:
        """Return one verdict per question, in order.

        Args:
            questions: What to check.

        Returns:
            The verdicts.

        Raises:
            RewardError: If no verifier can be started, because math-verify is not installed say.
        """
        futures = self.submit(questions)
        try:
            return [future.result() for future in futures]
        finally:
            # After Ctrl-C nobody waits for the rest.
            for future in futures:
                future.cancel()

    def submit(self, questions: Sequence[Question]) -> list["Future[Verdict]"]:
        """Return one future per question; `asyncio.wrap_future` makes them awaitable.

        Args:
            questions: What to check.

        Returns:
            The futures, in order.
        """
        with self._lock:
            if self._executor is None:
                self._executor = DaemonThreads(self.num_workers, "dgpo-verifier")
            return [self._executor.submit(self._verdict, question, self._generation) for question in questions]

    def close(self) -> None:
        """End all processes; the pool starts new ones if it is used again. What is being checked ends as `crash`."""
        with self._lock:
            executor, keeper, control = self._executor, self._keeper, self._control
            workers = list(self._open)
            self._executor = self._keeper = self._control = None
            self._idle, self._open = [], set()
            self._generation += 1  # whoever still has a question from before starts no process any more
        if executor is not None:
            executor.cancel_queued()
        if control is not None:
            control.close()  # the keeper kills its workers and ends
        if keeper is not None:
            try:
                keeper.wait(timeout=5)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
        if executor is not None:
            executor.shutdown()
        for worker in workers:
            worker.close()

    def _verdict(self, question: Question, generation: int) -> Verdict:
        """The verdict on a question; an answer whose worker crashed is tried once more in a new one."""
        if question.gold in self._bad_golds:
            return Verdict(BAD_GOLD)
        verdict = self._twice(question, generation)
        if verdict.outcome not in (TIMEOUT, CRASH) or generation != self._generation:
            return verdict  # a pool that was closed meanwhile says nothing about the gold answer
        # Is it the gold answer that cannot be read?
        alone = verdict if question.answer is None else self._twice(question._replace(answer=None), generation)
        if alone.outcome not in (TIMEOUT, CRASH, BAD_GOLD) or generation != self._generation:
            return verdict
        # A crash may be the machine's doing, and is not held against the gold answer for good.
        if alone.outcome != CRASH and len(self._bad_golds) < _MAX_BAD_GOLDS:
            self._bad_golds.add(question.gold)
        return Verdict(BAD_GOLD)

    def _twice(self, question: Question, generation: int) -> Verdict:
        verdict = self._attempt(question, generation)
        return self._attempt(question, generation, fresh=True) if verdict.outcome == CRASH else verdict

    def _attempt(self, question: Question, generation: int, *, fresh: bool = False) -> Verdict:
        worker = self._take(generation, fresh=fresh)
        if worker is None:
            return Verdict(CRASH)
        try:
            verdict = worker.ask(question, self.wall_seconds)
        # A socket that is closed, or a reply that is none: the worker is of no use any more.
        except (OSError, ValueError, KeyError, TypeError):
            verdict = Verdict(CRASH)
        if verdict.outcome in (TIMEOUT, CRASH) or worker.answers >= _ANSWERS_PER_WORKER:
            self._end(worker)
        else:
            self._give_back(worker)
        return verdict

    def _take(self, generation: int, *, fresh: bool) -> Worker | None:
        """An idle worker, or a new one; `None` if it died before it said hello."""
        with self._lock:
            if generation != self._generation:
                return None
            while self._idle and not fresh:
                worker = self._idle.pop()
                if worker.is_alive():
                    return worker
                self._open.discard(worker)
                worker.close()
        ours = self._fork(generation)
        if ours is None:
            return None
        try:
            worker = Worker(ours)
        except (OSError, ValueError):
            ours.close()
            return None
        if not worker.pid:
            worker.close()
            return None
        with self._lock:
            if generation == self._generation:
                self._open.add(worker)
                return worker
        worker.close()
        return None

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._open:
                self._idle.append(worker)
                return
        worker.close()

    def _end(self, worker: Worker) -> None:
        """Have the keeper kill a worker, if it still lives."""
        worker.close()
        with self._lock:
            self._open.discard(worker)
            if self._control is not None:
                with contextlib.suppress(OSError):
                    self._control.sendall(COMMAND.pack(KILL, worker.pid))

    def _fork(self, generation: int) -> socket.socket | None:
        """Our end of the socket to a new worker; `None` if the keeper is gone, or the pool was closed."""
        with self._starting:
            self._start_keeper(generation)
        with self._lock:
            if generation != self._generation or self._control is None:
                return None
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(self._control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
            finally:
                theirs.close()
        return ours

    def _start_keeper(self, generation: int) -> None:
        """Start the keeper if it does not run; the lock is free meanwhile."""
        with self._lock:
            runs = self._keeper is not None and self._control is not None and self._keeper.poll() is None
            if runs or generation != self._generation:
                return
        keeper, control = start_keeper(self.seconds, self.wall_seconds, self.memory_mb)
        with self._lock:
            wanted = generation == self._generation
            if wanted:
                if self._control is not None:
                    self._control.close()
                self._keeper, self._control = keeper, control
        if not wanted:
            control.close()
            keeper.wait()


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_POOLS: "weakref.WeakSet[VerifierPool]" = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


def _forget_all() -> None:
    """In a forked child: drop the parent's sockets, which would otherwise keep its workers alive."""
    for pool in list(_POOLS):
        if pool._control is not None:
            pool._control.close()
        for worker in pool._open:
            with contextlib.suppress(OSError):
                os.close(worker.link.fileno())
            worker.link.detach()
        if pool._keeper is not None:
            pool._keeper.returncode = 0  # another process's child: not ours to wait for
        pool._reset()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
