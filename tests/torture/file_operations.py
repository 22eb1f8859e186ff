"""Faults at one of the file operations of a process: a kill, Ctrl-C, a stop, or a disk that is full from then on.

`install` replaces what writes files in this process: open, write, replace, rename, mkdir, unlink, rmdir, fsync and
truncate of `os` and `io`, and the writers of torch and safetensors, which are not Python. Only paths below one folder
count. Meant for a forked child that then runs a command.
"""

import builtins
import contextlib
import errno
import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path

KILL, INTERRUPT, FULL, STOP = "kill", "interrupt", "full", "stop"


@dataclass(frozen=True)
class After:
    """The operation that follows one of a name.

    Its number varies where two processes write: a folder is made by whichever of them comes first.

    Args:
        name: An operation and its file, `replace checksums.json.tmp`.
        time: Which of that name, counted from 1.
    """

    name: str
    time: int = 1


class Faults:
    """Counts file operations, and strikes at one of them.

    Args:
        folder: Operations on paths below it count.
        kind: What happens, or None to count alone.
        at: At which operation, counted from 1; or after which.
        log: Gets the name of each operation, a line each.
    """

    def __init__(self, folder: Path, kind: str | None = None, at: int | After = 0, log: Path | None = None) -> None:
        self.folder, self.kind, self.at = str(folder.resolve()), kind, at
        self.count, self.seen, self.is_full = 0, 0, False
        self.log = log
        self._log: int | None = None

    def begin(self) -> None:
        """Count from here on, with the functions of `os` as they are now."""
        self._log = None if self.log is None else os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._write, self._kill = os.write, os.kill

    def concerns(self, path) -> bool:
        """Whether a path lies in the folder."""
        if isinstance(path, int) or path is None:
            return False
        name = os.path.realpath(os.fsdecode(path))
        return name == self.folder or name.startswith(self.folder + os.sep)

    def strikes(self, name: str, path="") -> bool:
        """Count an operation; say whether it is the one."""
        self.count += 1
        operation = f"{name} {os.path.basename(os.fsdecode(path))}"
        if self._log is not None:
            self._write(self._log, f"{operation}\n".encode())
        if isinstance(self.at, After) and operation == self.at.name:
            self.seen += 1
            if self.seen == self.at.time:
                self.at = self.count + 1
        return self.count == self.at and self.kind is not None

    def strike(self) -> None:
        """Do what happens at the operation."""
        if self.kind == KILL:
            self._kill(os.getpid(), signal.SIGKILL)
        elif self.kind == INTERRUPT:
            raise KeyboardInterrupt
        elif self.kind == STOP:
            self._kill(os.getpid(), signal.SIGSTOP)
        else:
            self.is_full = True

    def before(self, name: str, path, *, grows: bool) -> None:
        """Strike before an operation that happens at once; on a full disk what needs space fails."""
        if self.strikes(name, path):
            self.strike()
        if self.is_full and grows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))


def install(faults: Faults) -> None:
    """Replace what writes files in this process, for good."""
    faults.begin()
    _install_open(faults)
    _install_writers(faults)
    for name, grows in (
        *(("replace", False), ("rename", False), ("unlink", False), ("remove", False), ("rmdir", False)),
        *(("mkdir", True), ("truncate", False)),
    ):
        _install_call(faults, name, grows)
    _install_descriptors(faults)


class _File(io.FileIO):
    """A file whose writes may end in the middle."""

    def __init__(self, faults: Faults, file, mode: str, opener=None) -> None:
        self.faults, self.named = faults, file
        super().__init__(file, mode, opener=opener)

    def write(self, data) -> int:
        data = bytes(data)
        strikes = self.faults.strikes("write", self.named)
        if strikes and self.faults.kind == INTERRUPT:
            self.faults.strike()  # the system interrupts a write before it has begun, not in the middle
        if strikes or self.faults.is_full:
            written = super().write(data[: len(data) // 2]) if strikes else 0
            if strikes:
                self.faults.strike()
            if self.faults.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return written
        return super().write(data)


def _install_open(faults: Faults) -> None:
    plain = io.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not set(mode) & set("wax+") or not faults.concerns(file) or buffering == 0:
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        faults.before("open", file, grows=not os.path.exists(file))
        raw = _File(faults, file, mode.replace("b", "").replace("t", ""), opener)
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text

    io.open = builtins.open = opened


def _install_call(faults: Faults, name: str, grows: bool) -> None:
    plain = getattr(os, name)

    def called(path, *args, **options):
        # shutil.rmtree names files by a descriptor of their folder; it is called for run directories alone.
        if options.get("dir_fd") is not None or faults.concerns(path):
            faults.before(name, path, grows=grows)
        return plain(path, *args, **options)

    # shutil looks a function up in this set to see whether it takes a descriptor of a folder.
    for functions in (os.supports_dir_fd, os.supports_follow_symlinks, os.supports_fd):
        if plain in functions:
            functions.add(called)
    setattr(os, name, called)


def _install_descriptors(faults: Faults) -> None:
    plain_open, plain_sync, plain_truncate = os.open, os.fsync, os.ftruncate

    def opened(path, flags, *args, **options):
        if flags & os.O_CREAT and options.get("dir_fd") is None and faults.concerns(path):
            faults.before("open", path, grows=not os.path.exists(path))
        return plain_open(path, flags, *args, **options)

    def synced(descriptor):
        faults.before("fsync", "", grows=False)
        return plain_sync(descriptor)

    def truncated(descriptor, length):
        faults.before("ftruncate", "", grows=False)
        return plain_truncate(descriptor, length)

    for functions in (os.supports_dir_fd,):
        functions.add(opened)
    os.open, os.fsync, os.ftruncate = opened, synced, truncated


def _install_writers(faults: Faults) -> None:
    """torch and safetensors write by themselves: the file is written, and cut in half when the fault strikes."""
    import safetensors.torch
    import torch
    from safetensors import SafetensorError

    plain_truncate = os.truncate

    def surround(module, name: str, place: int, error: Exception) -> None:
        plain = getattr(module, name)

        def written(*args, **options):
            path = args[place] if len(args) > place else options.get("filename", options.get("f"))
            if not isinstance(path, str | os.PathLike) or not faults.concerns(path):
                return plain(*args, **options)
            strikes = faults.strikes(name, path)
            if faults.is_full:
                raise error
            result = plain(*args, **options)
            if strikes and faults.kind != STOP:
                with contextlib.suppress(OSError):
                    plain_truncate(path, os.path.getsize(path) // 2)
            if strikes:
                faults.strike()
            if faults.is_full:
                raise error
            return result

        setattr(module, name, written)

    reason = "[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"
    surround(torch, "save", 1, RuntimeError(reason))
    reason = "Error while serializing: I/O error: No space left on device (os error 28)"
    surround(safetensors.torch, "serialize_file", 1, SafetensorError(reason))
