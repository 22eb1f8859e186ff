"""Files that are whole or absent, and values that JSON can hold."""

import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file that other processes see whole or not at all; a file of that name is replaced.

    Args:
        path: The file; its folder is made.
        data: Its content; text is written as UTF-8.

    Raises:
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new" / "a.txt"
        >>> write_atomically(path, "hi")
        >>> path.read_text()
        'hi'
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """Return nested plain values as JSON can hold them: nan and infinity become `None`.

    Args:
        value: Mappings, lists, tuples, texts, numbers and `None`.

    Returns:
        The same with lists for tuples and texts for keys.

    Example:
        >>> finite({1: (0.5, float("nan"))})
        {'1': [0.5, None]}
    """
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
