"""Children forked from a process that has loaded the libraries and has one thread.

A fork of the tests' own process would cost no start either, but by then trackers, verifiers and pytest-xdist run
threads in it: the child has their locks, perhaps closed, and not the threads that would open them.
"""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from ctypes import CDLL
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_SHOW_STACKS = signal.SIGUSR1


class Forked:
    """A forked child that calls a function, with what a test needs of `subprocess.Popen`.

    It starts in this process's working directory, with its environment and import path, and ends with its parent.

    Args:
        function: Called in the child; what it returns is the exit code. Pickled: no lambda and no closure.
        variables: Of the child's environment, beside this process's.
        out: Gets what it prints.
        err: Gets its errors.
    """

    def __init__(self, function: Callable[[], int | None], variables: Mapping[str, str], out: Path, err: Path) -> None:
        for path in (out, err):
            path.write_bytes(b"")
        _ensure_server()
        # Of processes on a CPU, accelerate would set the threads otherwise.
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
        self._err = err
        self._process = _CONTEXT.Process(target=_be_child, args=(function, environment, out, err), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended, be it a moment ago."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.signal(signal.SIGKILL)

    def wait(self, patience: float | None = None) -> int | None:
        """Wait for its end and return the exit code; None after `patience` seconds: it hangs, and has said where."""
        self._process.join(patience)
        if self.poll() is None:
            self.signal(_SHOW_STACKS)
            end = time.monotonic() + 30
            while self.poll() is None and time.monotonic() < end:
                if "most recent call first" in self._err.read_text(errors="replace"):
                    break
                time.sleep(0.1)
            time.sleep(0.5)  # the frames follow at once
        return self.poll()

    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal; fails if it has ended."""
        assert self.poll() is None, f"it ended instead of stopping: {self._err.read_text()[-5000:]}"
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _ensure_server() -> None:
    """Start the process that loads the libraries and forks, once in this process's life."""
    _CONTEXT.set_forkserver_preload(["forked_libraries"])
    # Arrow's allocator would start a thread on import.
    here = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    here["PYTHONPATH"] = str(Path(__file__).parent)
    before = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _be_child(function: Callable[[], int | None], environment: Mapping[str, str], out: Path, err: Path) -> None:
    code = 1
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        # Where the tests run in the background of a script, the shell has them ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.register(_SHOW_STACKS, file=2, all_threads=True)
        if sys.platform == "linux":
            CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        os.environ.clear()
        os.environ.update(environment)
        assert "forked_libraries" in sys.modules, "the server of forks could not load its libraries"
        code = function() or 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it has ended: a late Ctrl-C is no part of it
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = code or 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
