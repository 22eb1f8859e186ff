"""Files that are whole or absent, and JSON that every reader takes."""

import math
import os
from pathlib import Path
from typing import Any

_AS_THEY_ARE = (str, int, bool, type(None))


def write_atomically(path: Path, data: str | bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all: a full disk or a kill leaves the file that was there before.

    Args:
        path: Where to write; missing folders are made.
        data: Text, written as UTF-8, or bytes.
        sync: Whether the file must be on the disk when this returns, a power cut included.

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
        with temporary.open("wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def finite(value: Any, *, digits: int | None = None) -> Any:
    """Return a value that JSON can hold: nan and infinity become None, tuples lists, keys text.

    Args:
        value: Numbers, text, lists, tuples and mappings, nested.
        digits: Significant digits that floats are rounded to; by default they are left as they are.

    Returns:
        A copy.

    Example:
        >>> finite({1: (0.5, float("nan"))})
        {'1': [0.5, None]}
        >>> finite([0.123456], digits=3)
        [0.123]
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {str(key): finite(item, digits=digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        # Most of the time goes into long lists: what may stand as it is gets no call.
        return [item if type(item) in _AS_THEY_ARE else finite(item, digits=digits) for item in value]
    return value
