"""A few threads that take work off a queue, and that the end of the program does not wait for."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class DaemonThreads:
    """`ThreadPoolExecutor` in small: the interpreter joins that one's threads at exit, after everything queued.

    Args:
        count: Threads at most; they are started as work comes in.
        name: What the threads are called.

    Example:
        >>> threads = DaemonThreads(2, "adder")
        >>> threads.submit(sum, [1, 2]).result()
        3
        >>> threads.shutdown()
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Threads hold the queue alone: when nobody holds this object any more, they end.
        weakref.finalize(self, _end, self._tasks, count).atexit = False

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Return a future of what the function returns.

        Args:
            function: Called in one of the threads.
            *args: Its arguments.

        Returns:
            The future.
        """
        future: Future[Any] = Future()
        self._tasks.put((future, function, args))
        with self._lock:
            if len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def cancel_queued(self) -> None:
        """Cancel what no thread has begun."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (task := self._tasks.get_nowait()) is not None:
                    task[0].cancel()
                    task[0].set_running_or_notify_cancel()

    def shutdown(self) -> None:
        """Cancel what is queued, and wait for what runs."""
        self.cancel_queued()
        _end(self._tasks, self._count)
        for thread in self._threads:
            thread.join()


def _end(tasks: "queue.SimpleQueue[Any]", count: int) -> None:
    for _ in range(count):
        tasks.put(None)


def _work(tasks: "queue.SimpleQueue[Any]") -> None:
    while (task := tasks.get()) is not None:
        future, function, args = task
        if future.set_running_or_notify_cancel():
            try:
                found = function(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)
        # Nothing of the work may live on while the thread waits for more: a pool that is garbage must be seen to be.
        del task, future, function, args
        found = None
