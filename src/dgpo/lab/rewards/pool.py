"""A pool of verifier processes that can be killed: every question gets exactly one verdict, in the order asked."""

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from dgpo.errors import RewardError
from dgpo.lab.rewards.answers.outcomes import BAD_GOLD, CRASH
from dgpo.lab.rewards.verifier import OUTCOMES, TIMEOUT, Question, Verdict, Verifier

__all__ = ["OUTCOMES", "Question", "Verdict", "VerifierPool"]

_MAX_BAD_GOLDS = 10_000


class VerifierPool:
    """Checks answers in worker processes with a limit on time and memory; usable from any thread.

    Processes are started on first use. Each loads math-verify once and forks its worker from there, so that replacing
    one takes milliseconds. All end when the pool is closed, when it is garbage, when this process exits, and when it is
    killed. After `os.fork` the child starts processes of its own; a pickled pool is its settings.

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
        self.seconds, self.memory_mb = seconds, memory_mb
        self.wall_seconds = 30 + 10 * seconds if wall_seconds is None else wall_seconds
        self.num_workers = min(8, _num_processors()) if num_workers is None else num_workers
        for name, bound in {"seconds": 0.01, "wall_seconds": seconds, "memory_mb": 256, "num_workers": 1}.items():
            if not getattr(self, name) >= bound:
                raise RewardError(f"the verifier's {name} is {getattr(self, name)!r}; it must be at least {bound}.")
        self._reset()
        _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads: _Threads | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

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
            if self._threads is None:
                self._threads = _Threads(self.num_workers, (self.seconds, self.wall_seconds, self.memory_mb))
                self._finalizer = weakref.finalize(self, self._threads.close)
            return [self._threads.submit(question) for question in questions]

    def close(self) -> None:
        """End all processes; the pool starts new ones if it is used again. What is being checked ends as `crash`."""
        with self._lock:
            threads, finalizer = self._threads, self._finalizer
            self._threads = self._finalizer = None
        if threads is not None and finalizer is not None:
            finalizer()
            threads.join()


class _Threads:
    """Threads that take questions off a queue, each with a verifier of its own.

    The end of the program does not wait for them, unlike those of `ThreadPoolExecutor`. They hold no reference to the
    pool, so that they end when nobody holds the pool any more.
    """

    def __init__(self, count: int, limits: tuple[float, float, int]) -> None:
        self.verifiers: list[Verifier] = []
        self.threads: list[threading.Thread] = []
        self._count, self._limits = count, limits
        self._queue: queue.SimpleQueue[tuple[Future[Verdict], Question] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._num_unfinished = 0
        self._closed = False
        self._bad_golds: set[str] = set()

    def submit(self, question: Question) -> "Future[Verdict]":
        """A future of the verdict; a thread is added while there are fewer than questions."""
        future: Future[Verdict] = Future()
        with self._lock:
            self._num_unfinished += 1
            if len(self.threads) < min(self._count, self._num_unfinished):
                self.verifiers.append(Verifier(*self._limits))
                name = f"dgpo-verifier-{len(self.threads)}"
                self.threads.append(
                    threading.Thread(target=self._serve, args=self.verifiers[-1:], name=name, daemon=True)
                )
                self.threads[-1].start()
        self._queue.put((future, question))
        return future

    def close(self) -> None:
        """Cancel what is queued and kill the processes; the threads end soon after."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while task := self._queue.get_nowait():
                    task[0].cancel()
                    task[0].set_running_or_notify_cancel()
            for verifier in self.verifiers:
                verifier.close()
                self._queue.put(None)

    def join(self) -> None:
        for thread in self.threads:
            thread.join()

    def _serve(self, verifier: Verifier) -> None:
        while task := self._queue.get():
            future, question = task
            if future.set_running_or_notify_cancel():
                try:
                    verdict = self._verdict(verifier, question)
                except BaseException as error:
                    self._finish()
                    future.set_exception(error)
                else:
                    self._finish()
                    future.set_result(verdict)
            else:
                self._finish()
            # Nothing of a question may live on while the thread waits: a pool that is garbage must be seen to be.
            del task, future, question
        verifier.close()

    def _finish(self) -> None:
        with self._lock:
            self._num_unfinished -= 1

    def _verdict(self, verifier: Verifier, question: Question) -> Verdict:
        """The verdict on a question; an answer whose worker crashed is tried once more in a new one."""
        if question.gold in self._bad_golds:
            return Verdict(BAD_GOLD)
        verdict = self._twice(verifier, question)
        if verdict.outcome not in (TIMEOUT, CRASH) or self._closed:
            return verdict  # a pool that was closed meanwhile says nothing about the gold answer
        # Is it the gold answer that cannot be read?
        alone = verdict if question.answer is None else self._twice(verifier, question._replace(answer=None))
        if alone.outcome not in (TIMEOUT, CRASH, BAD_GOLD) or self._closed:
            return verdict
        # A crash may be the machine's doing, and is not held against the gold answer for good.
        if alone.outcome != CRASH and len(self._bad_golds) < _MAX_BAD_GOLDS:
            self._bad_golds.add(question.gold)
        return Verdict(BAD_GOLD)

    def _twice(self, verifier: Verifier, question: Question) -> Verdict:
        verdict = verifier.ask(question)
        return verifier.ask(question) if verdict.outcome == CRASH and not self._closed else verdict


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_POOLS: "weakref.WeakSet[VerifierPool]" = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: the processes are the parent's, and must not be ended from here."""
    for pool in list(_POOLS):
        if pool._finalizer is not None:
            pool._finalizer.detach()
        pool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
