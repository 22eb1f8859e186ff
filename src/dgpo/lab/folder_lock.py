"""One process at a time writes a folder; the others are told which process that is."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from dgpo.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = ".lock"
# File systems that have no locks say so by one of these.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_HELD: set[int] = set()  # descriptors of this process, which forked children close


class FolderLock:
    """Lock a folder against other processes, on this machine and on others that share the disk.

    The operating system drops the lock of a process that dies, however it dies; the file that it leaves blocks nobody.

    Args:
        folder: An existing folder.
        doing: What this process does, for the message that another one gets.
        remedy: What that message advises.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with FolderLock(folder, "dgpo train", "Wait for it."):
        ...     sorted(path.name for path in folder.iterdir())
        ['.lock']
    """

    def __init__(self, folder: Path, doing: str, remedy: str) -> None:
        self.path, self.doing, self.remedy = folder / LOCK, doing, remedy
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        """Take the lock.

        Returns:
            This.

        Raises:
            ConfigError: If another process has it; the message names pid, host and since when.
            OSError: If the folder cannot be written.
        """
        for attempt in range(10):
            time.sleep(0.02 * bool(attempt))  # another process may be asking alone, see `refuse_if_held`
            if self._try():
                break
        else:
            raise ConfigError(f"{self.path.parent} is being written by {_holder(self.path)}. {self.remedy}")
        assert self._descriptor is not None
        _HELD.add(self._descriptor)
        facts = {"doing": self.doing, "pid": os.getpid(), "host": socket.gethostname()}
        text = json.dumps(facts | {"since": time.strftime("%Y-%m-%d %H:%M:%S")})
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, text.encode())
        except OSError:  # a full disk: the lock is held all the same
            logger.debug("%s could not be filled", self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            # First the name, then the lock: whoever opened the file before finds another one there, and tries again.
            with contextlib.suppress(OSError):
                self.path.unlink()
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # if nothing was written
            _HELD.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self) -> bool:
        """Whether the file could be locked, and is still the one of that name."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("The disk of %s has no locks: start nothing else in it.", self.path.parent)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                self._descriptor = descriptor
                return True
        os.close(descriptor)
        return False


def refuse_if_held(folder: Path, remedy: str) -> None:
    """Raise if another process writes a folder; change nothing.

    Args:
        folder: A folder, which need not exist.
        remedy: What the message advises.

    Raises:
        ConfigError: If it is locked.
    """
    # A name with half a character is that of no folder.
    with contextlib.suppress(OSError, UnicodeError), (folder / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder} is being written by {_holder(folder / LOCK)}. {remedy}") from None


def _holder(path: Path) -> str:
    """Who has the lock; it may have been taken a moment ago, and the file be empty yet."""
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(path.read_bytes())
            return f"another process ({facts['doing']}, pid {facts['pid']} on {facts['host']}, since {facts['since']})"
        time.sleep(0.01)
    return "another process"


def _close_in_child() -> None:
    """A child that outlives its parent must not go on holding the lock."""
    for descriptor in _HELD:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)
