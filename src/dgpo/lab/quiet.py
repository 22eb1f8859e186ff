"""Keeps the libraries quiet, so that what a run prints is about the run."""

import logging
import os
import sys
import warnings

from dgpo.lab.foreign_text import visible_lines


def quiet_libraries() -> None:
    """Silence the progress bars, warnings and log lines of the libraries; DGPO's own warnings still reach the user.

    `DGPO_VERBOSE=1` in the environment leaves everything as it is.
    """
    if os.environ.get("DGPO_VERBOSE"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"dgpo(\.|$)")

    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("trl", "accelerate", "peft", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _show_own_warnings()


class _Visible(logging.Formatter):
    """Formats a line of the log as everything else that is printed; it may hold names of others."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def _show_own_warnings() -> None:
    own = logging.getLogger("dgpo")
    if not own.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Visible("Note: %(message)s"))
        own.addHandler(handler)
        own.propagate = False
