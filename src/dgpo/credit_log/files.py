"""The credit log: what every token of a few completions got, step by step, in files that any engine can write.

`RUN/credit/step-000120.jsonl.gz` holds one step: a header line, then one completion a line. A file is whole or absent
(it is renamed when finished), and needs no other file. Nothing here needs an engine, and nothing here stops a run: what
cannot be written is said once, and the training goes on.
"""

import contextlib
import gzip
import json
import logging
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dgpo.errors import DataError
from dgpo.versions import __version__

logger = logging.getLogger(__name__)

FOLDER, SCHEMA = "credit", "dgpo-credit/1"
MAX_COMPLETIONS, MAX_TOKENS, MAX_BYTES = 8, 4096, 64 * 2**20
_DIGITS = 5  # significant; enough to tell a weight of 1.0001 from 1
_AS_IT_IS = (str, int, bool, type(None))
_NAME = re.compile(r"step-(\d+)\.jsonl\.gz")
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error)
_PER_TOKEN = ("w", "d", "h", "s", "logp", "log_ratio")


@dataclass(frozen=True)
class CreditSettings:
    """What the figures of a log depend on; it heads every file.

    Attributes:
        rule: The credit rule, as it was named.
        options: Its options, defaults included.
        source: SHA-256 digest of the file that defines it, `""` where there is none.
        vocab_size: V, which d and h run over.
        engine: `"trl"`, `"verl"`, or `"inspect"`.
        credit_policy: `"current"` or `"old"`: whose distribution gave the credit.
        temperature: Of the sampling; both distributions are taken at it.
    """

    rule: str
    options: dict[str, Any]
    source: str
    vocab_size: int
    engine: str
    credit_policy: str = "current"
    temperature: float = 1.0


@dataclass
class CompletionCredit:
    """One completion and the credit of its tokens. The lists are one entry a token, in order.

    Attributes:
        prompt: The prompt as text, special tokens by name.
        ids: Token ids.
        tokens: Their text, from `token_texts`; the empty string begins a character that a later token completes.
        w: Weights, mean 1 over the trained tokens; `None` for a token that is not trained (a tool's answer).
        d: Squared Hellinger distances, in [0, 1].
        h: Normalised entropies H / log V, in [0, 1].
        s: Gated scores d * h^kappa, in [0, 1].
        logp: The policy's log-probability of the token, natural logarithm.
        log_ratio: `logp` minus the reference's log-probability of the token.
        advantage: A of the completion; `None` where there is none.
        reward: The weighted sum of the rewards; `None` where there is none.
        rewards: Each reward function's value by its name.
        truncated: Whether the completion was cut off at its greatest length.
        num_tokens: Tokens of the whole completion, where only the first ones are kept.
        effective_share: ESS / T over all trained tokens, in (0, 1]; `None` where none is trained.
        alternatives: For some tokens, by index: `{"policy": [[text, probability], ...], "reference": [...]}`, the
            likeliest tokens at that place.
    """

    prompt: str
    ids: list[int]
    tokens: list[str]
    w: list[float | None]
    d: list[float | None]
    h: list[float | None]
    s: list[float | None]
    logp: list[float | None]
    log_ratio: list[float | None]
    advantage: float | None = None
    reward: float | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)
    truncated: bool = False
    num_tokens: int = 0
    effective_share: float | None = None
    alternatives: dict[int, dict[str, list[tuple[str, float]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("ids", "tokens", *_PER_TOKEN)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"All lists of a completion have one entry a token, got lengths {lengths}.")
        self.num_tokens = self.num_tokens or len(self.ids)
        trained = [w for w in self.w if w is not None]
        if self.effective_share is None and any(trained):
            self.effective_share = sum(trained) ** 2 / sum(w * w for w in trained) / len(trained)

    def first(self, max_tokens: int) -> "CompletionCredit":
        """Return this completion with its first tokens only; what is said of the whole stays as it was."""
        if len(self.ids) <= max_tokens:
            return self
        facts = dict(vars(self))
        for name in ("ids", "tokens", *_PER_TOKEN):
            facts[name] = facts[name][:max_tokens]
        facts["alternatives"] = {index: found for index, found in self.alternatives.items() if index < max_tokens}
        return CompletionCredit(**facts)


@dataclass(frozen=True)
class LoggedStep:
    """What one file holds.

    Attributes:
        step: The optimizer step, counted from 1.
        header: The file's first line: schema, settings, and how the completions were chosen.
        completions: In the order of the file.
    """

    step: int
    header: dict[str, Any]
    completions: list[CompletionCredit]


class CreditLog:
    """Writes the credit log of a run. One process writes: use it in the main process alone.

    Steps 1, `every`, 2 `every`, ... are due. Above `max_bytes` every second step is deleted, half as many are logged
    from then on, and a warning says so: a long run keeps a log that covers all of it.

    Args:
        run_directory: The run's directory; `credit/` is made in it with the first step.
        settings: What heads every file.
        every: Steps between two that are logged, at least 1.
        max_completions: Completions kept of a step.
        max_tokens: Tokens kept of a completion, the first ones.
        max_bytes: Size of the log of the whole run on the disk.

    Example:
        >>> import tempfile
        >>> settings = CreditSettings("dgpo", {"tau": 0.5}, source="", vocab_size=4, engine="trl")
        >>> run = tempfile.mkdtemp()
        >>> log = CreditLog(run, settings, every=20)
        >>> log.start(step=0)
        >>> [step for step in range(1, 61) if log.is_due(step) and log.write(step, [])]
        [1, 20, 40, 60]
        >>> read_credit_log(run)[-1].header["options"]
        {'tau': 0.5}
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
        self.every, self.max_completions, self.max_tokens, self.max_bytes = (
            every,
            max_completions,
            max_tokens,
            max_bytes,
        )
        self._next_due = 1
        self._has_warned = False

    def start(self, step: int = 0) -> None:
        """Begin after a step: 0 for a new run, that of the checkpoint for a resumed one.

        The steps after it are deleted, as they will be made again. A new run that finds the log of another one in its
        directory moves it aside, to `credit.1`, `credit.2` and so on.
        """
        try:
            if step == 0 and _files(self.folder):
                taken = {path.name for path in self.folder.parent.glob(f"{FOLDER}.*")}
                number = next(n for n in range(1, len(taken) + 2) if f"{FOLDER}.{n}" not in taken)
                self.folder.rename(self.folder.with_name(f"{FOLDER}.{number}"))
                logger.warning("The credit log of an earlier run in this directory is now %s.%d.", FOLDER, number)
            forget_after(self.folder.parent, step)
            # A log that was thinned out before goes on at its wider distance.
            written = [_read(path)[0]["every"] for path in list(_files(self.folder).values())[-1:]]
            self.every = max(self.every, *written)
        except OSError as error:
            self._warn(error)
        except _UNREADABLE:
            pass  # damaged: read_credit_log says so when it is read
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
            The file; `None` if it could not be written, which is said once and stops nothing.
        """
        self._next_due = self._after(step)
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
        kept = [completion.first(self.max_tokens) for completion in completions[: self.max_completions]]
        lines = [header, *(_plain(vars(completion)) for completion in kept)]
        path = self.folder / f"step-{step:06d}.jsonl.gz"
        temporary = path.with_name(path.name + ".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with gzip.GzipFile(temporary, "wb", compresslevel=6, mtime=0) as file:
                for line in lines:
                    file.write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")
            temporary.replace(path)
            self._thin_out()
        except OSError as error:
            self._discard(temporary)
            self._warn(error)
            return None
        return path

    def _after(self, step: int) -> int:
        return (step // self.every + 1) * self.every

    def _thin_out(self) -> None:
        """Delete every second step while the log is too large; the newest one is always kept."""
        files = _files(self.folder)
        while len(files) > 1 and sum(path.stat().st_size for path in files.values()) > self.max_bytes:
            for step in list(files)[-2::-2]:
                files.pop(step).unlink()
            self.every *= 2
            self._next_due = self._after(list(files)[-1])
            logger.warning(
                "The credit log has reached its %.3g MB: every second logged step was deleted, and every %d steps one"
                " is logged from now on.",
                self.max_bytes / 2**20,
                self.every,
            )

    def _discard(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # the reason was said already
            path.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            reason = error.strerror or error
            logger.warning("The credit log %s cannot be written (%s); the training goes on.", self.folder, reason)
        self._has_warned = True


def read_credit_log(run_directory: Path | str) -> list[LoggedStep]:
    """Return the logged steps of a run, in order.

    Args:
        run_directory: The run's directory.

    Returns:
        Empty if the run has no log. Files that are not whole are left out, with a warning.

    Raises:
        DataError: If a file was written by a version with another schema.
    """
    steps = []
    for step, path in _files(Path(run_directory) / FOLDER).items():
        try:
            header, *rows = _read(path)
            schema = header["schema"]
            completions = [_completion(row) for row in rows] if schema == SCHEMA else []
        except _UNREADABLE as error:
            logger.warning("%s is left out, as it cannot be read: %s.", path, error)
            continue
        if schema != SCHEMA:
            raise DataError(
                f"{path} has the schema {schema!r} and this version of dgpo reads {SCHEMA!r}; read it with the version"
                f" that wrote it ({header.get('dgpo')})."
            )
        steps.append(LoggedStep(step, header, completions))
    return steps


def forget_after(run_directory: Path | str, step: int) -> None:
    """Delete the logged steps after `step`, which a resumed run makes again, and what a killed one left unfinished.

    Args:
        run_directory: The run's directory.
        step: The step of the checkpoint that the run continues from.
    """
    folder = Path(run_directory) / FOLDER
    for found, path in _files(folder).items():
        if found > step:
            path.unlink()
    for path in folder.glob("step-*.tmp"):
        path.unlink()


def _files(folder: Path) -> dict[int, Path]:
    """The files of a log by their step, in order."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.jsonl.gz"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def _read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _completion(row: dict[str, Any]) -> CompletionCredit:
    alternatives = {int(index): found for index, found in row.pop("alternatives", {}).items()}
    return CompletionCredit(**row, alternatives=alternatives)


def _plain(value: Any) -> Any:
    """What JSON can say: numbers with a few digits, and null for nan and infinity."""
    # By exact type, and leaves without a call: this is most of the time that a logged step takes.
    kind = type(value)
    if kind is float:
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if kind is list or kind is tuple:
        return [item if type(item) in _AS_IT_IS else _plain(item) for item in value]
    if kind is dict:
        return {str(key): _plain(item) for key, item in value.items()}
    return value
