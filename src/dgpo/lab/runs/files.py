"""The files of a run directory: their names, the phases of a run, and reading and writing JSON."""

import json
from pathlib import Path
from typing import Any

from dgpo.io import finite, write_atomically
from dgpo.lab.runs.intact import intact_lines

RECIPE, ENVIRONMENT, METRICS, SUMMARY = "recipe.yaml", "environment.json", "metrics.jsonl", "summary.json"
COMPLETIONS, FINAL, CURVE, ERROR = "completions", "final", "curve.png", "error.txt"
BEFORE, TRAIN, AFTER = "before", "train", "after"
"""Values of `phase` in a line of the metrics."""


def to_json(value: Any, **options: Any) -> str:
    """Return a value as JSON: nan and infinity become null, and what JSON does not know becomes text.

    Args:
        value: Nested plain values; scalars of numpy and torch count as numbers.
        **options: Of `json.dumps`.

    Returns:
        JSON.

    Example:
        >>> to_json({"loss": float("nan"), "path": Path("a")})
        '{"loss": null, "path": "a"}'
    """
    return json.dumps(finite(value), allow_nan=False, default=_plain, **options)


def _plain(value: Any) -> Any:
    return finite(value.item()) if hasattr(value, "item") else str(value)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented; it is whole or absent."""
    write_atomically(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or `None` if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines that name a step; lines that are not whole are left out."""
    return intact_lines(path, []) if path.is_file() else []
