"""Loads what a training needs, without looking for garbage meanwhile."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Let libraries load inside of the block without Python's collector, and never look at them again.

    Torch, transformers and TRL make a million objects that stay. Python's collector goes over them some 1,600 times
    while they load, a twelfth of the processor time, and over all of them whenever it collects during the training.
    Where they have been loaded before, nothing is to be gained.
    """
    if "trl" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else what is collected at the end is reported as leaked
        gc.enable()
