"""A progress bar for data that takes a while to read or make."""

import sys
from collections.abc import Iterable, Sized
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str) -> Iterable[Item]:
    """Return the items, under a progress bar that goes away at the end; without a terminal, nothing is shown.

    Args:
        items: Anything to iterate over; the bar has an end if it has a length.
        description: What stands before the bar.

    Returns:
        The items, one by one.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(file=sys.stderr)
    total = len(items) if isinstance(items, Sized) else None
    return rich_track(items, description, total=total, transient=True, console=console, disable=not console.is_terminal)
