"""Bounds of time and memory around work that text of somebody's decides, such as a chat template."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


@contextlib.contextmanager
def limited(seconds: float, megabytes: int) -> Iterator[None]:
    """Raise `TimeoutError` or `MemoryError` inside where it takes longer, or more memory on top of what is in use.

    Python's own loops are ended at once, a single operation in C when it is done. Only in the main thread and where the
    operating system has the limits; elsewhere nothing is bounded.

    Args:
        seconds: Of processor time; wall time would say how busy the machine is.
        megabytes: Of address space, of the whole process while this lasts.

    Example:
        >>> with limited(5, 1000):
        ...     "a" * 10
        'aaaaaaaaaa'
    """
    with _limited_memory(megabytes), _limited_time(seconds):
        yield


@contextlib.contextmanager
def _limited_time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} seconds of processor time")

    previous = signal.signal(signal.SIGVTALRM, end)
    left, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, left, interval)
        signal.signal(signal.SIGVTALRM, previous)


@contextlib.contextmanager
def _limited_memory(megabytes: int) -> Iterator[None]:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + megabytes * 2**20
        if soft == resource.RLIM_INFINITY or wanted < soft:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
