"""Writes the credit log of a run: what every token of a few completions got, one file a step.

`RUN/credit/step-000120.jsonl.gz` holds a header line, then one completion a line. A file is whole or absent and needs
no other file. Nothing here needs an engine, and nothing here stops a run: what cannot be written is warned of once, and
the training goes on.
"""

import gzip
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgpo.credit_log.reader import FOLDER, read_header, step_files
from dgpo.credit_log.record import (
    MAX_BYTES,
    MAX_COMPLETIONS,
    MAX_TOKENS,
    PER_TOKEN_FIELDS,
    SCHEMA,
    CompletionCredit,
    CreditSettings,
)
from dgpo.io import finite, write_atomically
from dgpo.versions import __version__

logger = logging.getLogger(__name__)

_DIGITS = 5  # significant; enough to tell a weight of 1.0001 from 1


class CreditLog:
    """Writes the credit log of a run. One process writes: use it in the main process alone.

    Steps 1, `every`, 2 `every`, ... are due. Above `max_bytes` every second step is deleted, half as many are logged
    from then on, with a warning: the log of a long run covers all of it.

    Args:
        run_directory: The run's directory; `credit/` is made in it with the first step.
        settings: What heads every file.
        every: Steps between two that are logged, at least 1.
        max_completions: Completions kept of a step.
        max_tokens: Tokens kept of a completion, the first and the last ones.
        max_bytes: Size of the log of the whole run on the disk.

    Example:
        >>> import tempfile
        >>> from dgpo.credit_log import read_credit_log
        >>> settings = CreditSettings(rule="even", options={}, source="", vocab_size=4, engine="trl")
        >>> run = tempfile.mkdtemp()
        >>> log = CreditLog(run, settings, every=20)
        >>> log.start(step=0)
        >>> [step for step in range(1, 61) if log.is_due(step) and log.write(step, [])]
        [1, 20, 40, 60]
        >>> read_credit_log(run)[-1].header["rule"]
        'even'
    """

    def __init__(
        self,
        run_directory: Path | str,
        settings: CreditSettings,
        *,
        every: int = 20,
        max_completions: int = MAX_COMPLETIONS,
        max_tokens: int = MAX_TOKENS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder, self.settings = Path(run_directory) / FOLDER, settings
        self.every, self.max_completions = every, max_completions
        self.max_tokens, self.max_bytes = max_tokens, max_bytes
        self._next_due = 1
        self._has_warned = False

    def start(self, step: int = 0) -> None:
        """Begin after a step: 0 for a new run, that of the checkpoint for a resumed one.

        The steps after it are deleted, as they will be made again. A new run that finds the log of another one in its
        directory moves it aside, to `credit.1`, `credit.2` and so on.
        """
        try:
            if step == 0 and step_files(self.folder):
                taken = {path.name for path in self.folder.parent.glob(f"{FOLDER}.*")}
                number = next(n for n in range(1, len(taken) + 2) if f"{FOLDER}.{n}" not in taken)
                self.folder.rename(self.folder.with_name(f"{FOLDER}.{number}"))
                logger.warning("The credit log of an earlier run in this directory is now %s.%d.", FOLDER, number)
            forget_after(self.folder.parent, step)
            # A log that was thinned out before goes on at its wider distance.
            for path in list(step_files(self.folder).values())[-1:]:
                every = read_header(path).get("every")
                self.every = max(self.every, every if isinstance(every, int) else 0)
        except OSError as error:
            self._warn(error)
        self._next_due = 1 if step == 0 else self._after(step)

    def is_due(self, step: int) -> bool:
        """Return whether a step is to be logged: the first one at which credit is given since the last was due.

        Args:
            step: The optimizer step that is being made, counted from 1.

        Returns:
            True from then on until `write` is called.
        """
        return step >= self._next_due

    def write(self, step: int, completions: Sequence[CompletionCredit], *, out_of: int | None = None) -> Path | None:
        """Write the file of one step; the next one is due `every` steps later.

        Args:
            step: The optimizer step, counted from 1.
            completions: The first `max_completions` are written.
            out_of: How many completions the step had, for the header.

        Returns:
            The file; `None` if it could not be written, of which one warning is given.
        """
        path = self.folder / f"step-{step:06d}.jsonl.gz"
        try:
            data = self._file(step, completions, out_of)
            while self._thin_out(len(data)):
                data = self._file(step, completions, out_of)  # with the new `every` in its header
            write_atomically(path, data)
        except OSError as error:
            self._warn(error)
            return None
        finally:
            self._next_due = self._after(step)
        return path

    def _file(self, step: int, completions: Sequence[CompletionCredit], out_of: int | None) -> bytes:
        header = {
            "schema": SCHEMA,
            "step": step,
            **asdict(self.settings),
            "dgpo": __version__,
            "every": self.every,
            "completions": min(len(completions), self.max_completions),
            "out_of": out_of,
            "max_tokens": self.max_tokens,
        }
        logged = [completion.shortened(self.max_tokens) for completion in completions[: self.max_completions]]
        lines = [finite(header), *(finite(_row(completion), digits=_DIGITS) for completion in logged)]
        text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":"), default=str) + "\n" for line in lines)
        return gzip.compress(text.encode(), compresslevel=6, mtime=0)

    def _after(self, step: int) -> int:
        return (step // self.every + 1) * self.every

    def _thin_out(self, more: int) -> bool:
        """Delete every second step if so many bytes more would be too many; return whether that was so."""
        files = step_files(self.folder)
        if not files or sum(path.stat().st_size for path in files.values()) + more <= self.max_bytes:
            return False
        for step in list(files)[::-2]:
            files[step].unlink()
        self.every *= 2
        logger.warning(
            "The credit log has reached its %.3g MB: every second logged step was deleted, and every %d steps one is"
            " logged from now on.",
            self.max_bytes / 2**20,
            self.every,
        )
        return True

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            reason = error.strerror or error
            logger.warning("The credit log %s cannot be written (%s); the training goes on.", self.folder, reason)
        self._has_warned = True


def forget_after(run_directory: Path | str, step: int) -> None:
    """Delete the logged steps after `step`, which a resumed run makes again, and what a killed one left unfinished.

    Args:
        run_directory: The run's directory.
        step: The step of the checkpoint that the run continues from.
    """
    folder = Path(run_directory) / FOLDER
    for logged_step, path in step_files(folder).items():
        if logged_step > step:
            path.unlink()
    for path in folder.glob("step-*.tmp"):
        path.unlink()


def _row(completion: CompletionCredit) -> dict[str, Any]:
    """The fields of a completion, without the lists of numbers and the facts of a hint that it does not have."""
    row = vars(completion)
    absent = [name for name in PER_TOKEN_FIELDS if not any(value is not None for value in row[name])]
    absent += [name for name in ("hint", "control", "hint_agreement") if row[name] is None]
    return {name: value for name, value in row.items() if name not in absent}
