"""Keeps the libraries quiet, so that what a run prints is about the run."""

import logging
import os
import sys
import warnings

from dgpo.lab.foreign_text import visible_lines

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def quiet_libraries() -> None:
    """Silence the progress bars, warnings and log lines of the libraries; DGPO's own warnings still reach the user.

    `DGPO_VERBOSE=1` in the environment leaves everything as it is.
    """
    if os.environ.get("DGPO_VERBOSE"):
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"dgpo(\.|$)")

    # They read the environment when they are loaded; a command that needs neither need not wait for them.
    if "transformers" in sys.modules:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

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
