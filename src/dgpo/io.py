"""Files that are whole or absent, and JSON that every reader takes."""

import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all: a full disk or a kill leaves the file that was there before.

    Args:
        path: Where to write; missing folders are made.
        data: Text, written as UTF-8, or bytes.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "runs" / "note.txt"
        >>> write_atomically(path, "done")
        >>> path.read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """Return a value that JSON can hold: nan and infinity become None, tuples lists, keys text.

    Args:
        value: Numbers, text, lists, tuples and mappings, nested.

    Returns:
        A copy.

    Example:
        >>> finite({1: (0.5, float("nan"))})
        {'1': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
