"""The figures of the experiment, from its committed results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(results: Mapping[str, Any], folder: Path | None = None) -> list[Path]:
    """Write all figures.

    Args:
        results: What `summary.summarize` gives.
        folder: `docs/figures` by default.

    Returns:
        The files.
    """
    return []
