"""Reads the credit log of a run: `RUN/credit/step-000120.jsonl.gz` and the like."""

import gzip
import json
import logging
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgpo.credit_log.record import LENGTH, PER_TOKEN_FIELDS, SCHEMA, Column, CompletionCredit, LoggedStep
from dgpo.errors import DataError
from dgpo.io import finite

logger = logging.getLogger(__name__)

FOLDER = "credit"
READABLE = ("dgpo-credit/1", SCHEMA)
_NAME = re.compile(r"step-(\d+)\.jsonl\.gz")
_BLOCK = 2**16  # bytes that are decompressed at once


def read_credit_log(run_directory: Path | str) -> list[LoggedStep]:
    """Return the logged steps of a run, in order.

    Args:
        run_directory: The run's directory.

    Returns:
        Empty if the run has no log. What is damaged is left out, with a warning.

    Raises:
        DataError: If a file was written by a version with another schema.
    """
    steps, problems = read_intact_steps(run_directory)
    for problem in problems:
        logger.warning("%s", problem)
    return steps


def read_intact_steps(run_directory: Path | str) -> tuple[list[LoggedStep], list[str]]:
    """Return the logged steps of a run as far as they are intact, and what is not.

    Args:
        run_directory: The run's directory.

    Returns:
        The steps, in order, without completions that are damaged and without files in which nothing is intact; and a
        sentence for each file of which something is left out.

    Raises:
        DataError: If a file was written by a version with another schema.
    """
    steps, problems = [], []
    for step, path in step_files(Path(run_directory) / FOLDER).items():
        reasons: list[str] = []
        lines = list(_lines(path, reasons))
        header = _header(lines[0] if lines else None, path, reasons)
        if header is None:
            problems.append(f"{path} is left out, as it cannot be read: {'; '.join(reasons)}.")
            continue
        completions = []
        for number, line in enumerate(lines[1:], start=1):
            try:
                completions.append(_completion(line, header["schema"]))
            except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
                reasons.append(f"completion {number} does not have the fields of one ({error})")
        if reasons and not completions:
            problems.append(f"{path} is left out, as it cannot be read: {'; '.join(reasons)}.")
            continue
        if reasons:
            problems.append(
                f"{path} is damaged; {len(completions)} of its completions are shown: {'; '.join(reasons)}."
            )
        steps.append(LoggedStep(step, header, completions))
    return steps, problems


def step_files(folder: Path) -> dict[int, Path]:
    """Return the files of a log by their step, in order.

    Args:
        folder: `RUN/credit`.

    Returns:
        Empty if there is no such folder.
    """
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.jsonl.gz"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def read_header(path: Path) -> dict[str, Any]:
    """Return the first line of a file of a log; empty if it cannot be read."""
    try:
        header = next(_lines(path, []), None)
    except OSError:
        return {}
    return header if isinstance(header, dict) else {}


def _lines(path: Path, reasons: list[str]) -> Iterator[Any]:
    """The JSON lines of a file up to where it is damaged; lines that are no JSON are left out."""
    data = b""
    try:
        with gzip.open(path) as file:
            while block := file.read1(_BLOCK):
                data += block
                *whole, data = data.split(b"\n")
                yield from _parsed(whole, reasons)
    except (OSError, EOFError, zlib.error) as error:
        reasons.append(f"{error}".rstrip("."))
    yield from _parsed([data] if data else [], reasons)


def _parsed(lines: list[bytes], reasons: list[str]) -> Iterator[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            reasons.append(f"a line is no JSON ({error})")


def _header(line: Any, path: Path, reasons: list[str]) -> dict[str, Any] | None:
    """The first line with `rule` and `options`; None if it is no header."""
    if not isinstance(line, dict) or not isinstance(line.get("schema"), str):
        reasons.append("there is no header in its first line")
        return None
    if line["schema"] not in READABLE:
        raise DataError(
            f"{path} has the schema {line['schema']!r} and this version of dgpo reads {SCHEMA!r}; read it with the"
            f" version that wrote it ({line.get('dgpo')})."
        )
    if line["schema"] != SCHEMA:  # the first schema had the paper's rule alone
        options = {name: line.pop(name) for name in ("tau", "kappa") if name in line}
        line |= {"rule": "dgpo", "options": options, "source": ""}
    if not isinstance(line.get("rule"), str) or not isinstance(line.get("options"), dict):
        reasons.append("its header names no credit rule")
        return None
    try:
        return dict(finite(line))
    except RecursionError:
        reasons.append("its header is nested too deeply")
        return None


def _completion(line: Any, schema: str) -> CompletionCredit:
    if not isinstance(line, dict):
        raise TypeError("it is no mapping")
    columns = _typed("columns", line.get("columns", {}), dict)
    lists: dict[str, Any] = {name: _numbers(name, line[name]) for name in PER_TOKEN_FIELDS if name in line}
    lists |= {name: _typed(name, line[name], list) for name in ("ids", "tokens")}
    lists["columns"] = {name: _numbers(name, values) for name, values in columns.items()}
    row = finite({name: value for name, value in line.items() if name not in lists})
    if schema != SCHEMA:
        row["ended"] = LENGTH if row.pop("truncated", False) else None
    places = _typed("alternatives", row.pop("alternatives", {}), dict)
    alternatives = {int(index): _place(place) for index, place in places.items()}
    completion = CompletionCredit(**row, **lists, alternatives=alternatives)
    _check(completion)
    return completion


def _check(completion: CompletionCredit) -> None:
    """Raise if a field is of the wrong kind, so that whoever reads a completion need not ask."""
    number, text = (int, float, type(None)), (str, type(None))
    kinds = {
        "prompt": str,
        "answer": text,
        "hint": text,
        "control": text,
        "ended": text,
        "group": (int, str, type(None)),
        "rewards": dict,
    }
    kinds |= dict.fromkeys(("advantage", "reward", "hint_agreement", "effective_share"), number)
    kinds |= dict.fromkeys(("num_tokens", "head"), int)
    for name, kind in kinds.items():
        _typed(name, getattr(completion, name), kind)
    for value in completion.rewards.values():
        _typed("rewards", value, number)
    for value in (completion.advantage, completion.reward, completion.effective_share, *completion.rewards.values()):
        float(value or 0)  # OverflowError: an integer beyond all floats
    for name, kind in (("ids", int), ("tokens", str)):
        for odd in set(map(type, getattr(completion, name))) - {kind}:
            raise TypeError(f"{name} holds a value of type {odd.__name__}")
    if not 0 <= completion.head <= len(completion.ids) <= completion.num_tokens < 2**53:
        raise ValueError(f"head {completion.head} and num_tokens {completion.num_tokens} do not fit its tokens")
    for place in completion.alternatives:
        if not 0 <= place < len(completion.ids):
            raise ValueError(f"alternatives are given for token {place} of {len(completion.ids)}")


def _numbers(name: str, values: Any) -> Column:
    """A list of one number or None a token; a number beyond all floats was read as infinity and is None, too."""
    for odd in set(map(type, _typed(name, values, list))) - {int, float, type(None)}:
        raise TypeError(f"{name} holds a value of type {odd.__name__}")
    column: Column = values if all(map(math.isfinite, filter(None, values))) else finite(values)
    return column


def _place(place: Any) -> Any:
    for top in _typed("alternatives", place, dict).values():
        for text, probability in top:
            _typed("alternatives", text, str)
            float(_typed("alternatives", probability, (int, float)))
    return place


def _typed(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} holds {value!r:.40}")
    return value
