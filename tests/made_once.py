"""What several tests share and takes long to make is made once, also where they are shared out to several processes."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """Return what a function returned for a new folder; the first process that asks calls it, the others wait.

    Args:
        tmp_path_factory: pytest's.
        name: Of the folder, one for each thing in a run of the tests.
        make: Called with the folder; what it returns is pickled.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    result = folder / "made.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = make(folder)
            result.with_suffix(".part").write_bytes(pickle.dumps(made))
            result.with_suffix(".part").rename(result)
        return pickle.loads(result.read_bytes())
