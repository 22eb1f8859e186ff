"""The folder of an evaluation: settings first, then every finished batch of completions, and the result at the end."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.io import write_atomically
from dgpo.lab.evaluation.compare import ProblemIdentity
from dgpo.lab.evaluation.intervals import Estimate
from dgpo.lab.evaluation.metrics import Sample, summarize
from dgpo.lab.evaluation.problems import NO_ANSWER
from dgpo.lab.folder_lock import LOCK, FolderLock

SETTINGS, SAMPLES, RESULT, PLOT = "settings.json", "samples.jsonl", "result.json", "pass_at_k.png"
# What a run that was killed before it had settings may leave: a folder with nothing else is as good as empty.
_LEFTOVERS = {LOCK, f"{SETTINGS}.tmp"}
_FIELDS = ("problem", "sample", "score", "answer", "tokens", "truncated", "outcome")
_KINDS: dict[str, tuple[type, ...]] = {
    "problem": (str,),
    "sample": (int,),
    "score": (int, float, type(None)),
    "answer": (str, type(None)),
    "tokens": (int,),
    "truncated": (bool,),
    "outcome": (str,),
    "value": (str, type(None)),
}
Plan = Sequence[tuple[str, int]]
"""Problem and number of every completion, in the order of the file."""


class EvaluationDirectory:
    """Reads and writes one evaluation.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, settings: dict[str, Any]) -> None:
        """Make a new folder with these settings, or continue one with equal settings.

        Args:
            settings: What decides the completions and their scores.

        Raises:
            ConfigError: If it holds something else, or cannot be written.
        """
        if self.read_settings() is None:
            try:
                if self.path.exists() and not (self.path.is_dir() and self._names() <= _LEFTOVERS):
                    fault = (
                        f"{SETTINGS} is damaged or missing, so that nobody can say how its completions were sampled"
                        if (self.path / SAMPLES).exists()
                        else "it is no evaluation to continue, and not empty"
                    )
                    raise ConfigError(f"{self.path}: {fault}; choose another --output.")
                self.path.mkdir(parents=True, exist_ok=True)
                with self.locked():
                    if self.read_settings() is None:
                        self._write(SETTINGS, settings)
            except OSError as error:
                raise ConfigError(
                    f"{self.path} cannot be written: {error.strerror}; choose another --output."
                ) from error
        self._refuse_other(settings)

    def _names(self) -> set[str]:
        return {file.name for file in self.path.iterdir()}

    def _refuse_other(self, settings: dict[str, Any]) -> None:
        stored = self.read_settings() or {}
        for key in [*settings, *stored]:
            if stored.get(key) != settings.get(key):
                raise ConfigError(
                    f"{self.path} holds an evaluation with {key}: {stored.get(key)!r}, and now it is "
                    f"{settings.get(key)!r}; a figure must not mix both. Choose another --output."
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other evaluations; two that append to one file would damage it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(FolderLock(self.path, "dgpo eval", "Wait for it, or choose another --output."))
            except OSError as error:
                raise ConfigError(
                    f"{self.path} cannot be written: {error.strerror or error}; choose another --output."
                ) from error
            yield

    def finished(self, plan: Plan, batch_size: int) -> int:
        """Return how many batches are on the disk, and cut off what a kill left of the next one.

        Args:
            plan: Every completion that is wanted.
            batch_size: Completions per batch.

        Returns:
            The number of whole batches.

        Raises:
            DataError: If the file holds other completions than planned, or is damaged.
        """
        file = self.path / SAMPLES
        if not file.exists():
            return 0
        ends = [0]  # where each whole line ends; the file may be too large to be held
        with file.open("rb") as lines:
            for line, expected in zip(lines, plan, strict=False):
                if not line.endswith(b"\n"):
                    break
                row = self._row(line, len(ends))
                if (row["problem"], row["sample"]) != tuple(expected):
                    raise DataError(f"{file}, line {len(ends)}: problem {row['problem']!r} instead of {expected[0]!r}.")
                ends.append(ends[-1] + len(line))
        whole = len(ends) - 1
        if whole < len(plan):
            whole -= whole % batch_size
        if ends[whole] < file.stat().st_size:
            with file.open("r+b") as handle:
                handle.truncate(ends[whole])
        return -(-whole // batch_size)

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add a batch; it is on the disk when this returns."""
        with (self.path / SAMPLES).open("ab") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())

    def read_settings(self) -> dict[str, Any] | None:
        """Return the settings, `None` if there are none."""
        try:
            settings = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return settings if isinstance(settings, dict) else None

    def read_samples(self) -> dict[str, list[Sample]]:
        """Return the samples of each problem.

        Returns:
            Name of the problem to its samples.

        Raises:
            DataError: If the evaluation is missing or not complete.
        """
        settings = self.read_settings()
        if settings is None:
            raise DataError(f"{self.path} holds no evaluation; name a folder that `dgpo eval` wrote.")
        if not all(isinstance(settings.get(key), int) for key in ("problems", "n")):
            raise DataError(f"{self.path / SETTINGS} does not say how many problems and completions there are.")
        problems: dict[str, list[Sample]] = {}
        for row in self._rows():
            unparseable = row["outcome"] in NO_ANSWER
            columns = row["score"], row["answer"], row["tokens"], row["truncated"]
            sample = Sample(*columns, unparseable, row.get("value"))  # older rows have no value
            problems.setdefault(row["problem"], []).append(sample)
        wanted = settings["problems"] * settings["n"]
        if (count := sum(map(len, problems.values()))) != wanted:
            raise DataError(
                f"{self.path} is not complete: {count} of {wanted} completions are there. Run the same `dgpo eval` "
                "again to continue it."
            )
        return problems

    def read_identities(self) -> dict[str, ProblemIdentity]:
        """Return what each problem was.

        Returns:
            Name of the problem to its hash and gold answer.
        """
        return {row["problem"]: ProblemIdentity(row.get("digest"), str(row.get("gold"))) for row in self._rows()}

    def read_result(self) -> dict[str, Any]:
        """Return what `result.json` must hold, made from the samples: the file itself may be damaged.

        Returns:
            The result.
        """
        return self._result(summarize(self.read_samples()))

    def outcomes(self) -> dict[str, int]:
        """Return how often each outcome came up, sorted by name."""
        counts: dict[str, int] = {}
        for row in self._rows():
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
        return dict(sorted(counts.items()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The completions; the last line only if it is whole, as a kill may leave a part of one."""
        if (self.path / SAMPLES).exists():
            with (self.path / SAMPLES).open("rb") as file:
                yield from (self._row(line, number) for number, line in enumerate(file, 1) if line.endswith(b"\n"))

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            missing = [key for key in _FIELDS if key not in row] or [key for key in row if _is_odd(key, row[key])]
        except (ValueError, TypeError) as error:
            missing, reason = list(_FIELDS), f": {error}"
        else:
            reason = f": it has no {missing[0]!r} that can be used" if missing else ""
        if missing:
            raise DataError(
                f"{self.path / SAMPLES}, line {number}, is damaged{reason}. Evaluate into another folder, or cut the "
                "file off before that line and run the same `dgpo eval` again."
            )
        return dict(row)

    def write_result(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write the result: the settings, and every metric with its interval; the same samples give the same file."""
        result = self._result(summary)
        self._write(RESULT, result)
        return result

    def _result(self, summary: dict[str, Any]) -> dict[str, Any]:
        metrics: dict[str, Estimate] = summary["metrics"]
        shown = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in metrics.items()}
        return {"settings": self.read_settings(), **summary, "metrics": shown, "outcomes": self.outcomes()}

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _is_odd(key: str, value: Any) -> bool:
    """Whether a value of a line cannot be what was written: of another type, or a number that is not finite."""
    if key not in _KINDS:
        return False
    if isinstance(value, bool) and bool not in _KINDS[key]:
        return True
    return not isinstance(value, _KINDS[key]) or (isinstance(value, float) and not math.isfinite(value))
