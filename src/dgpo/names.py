"""The nearest valid name, for messages that refuse an unknown one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the valid name nearest to `name`, or nothing if none is near.

    Args:
        name: What was written.
        valid: What could have been.

    Returns:
        A sentence with a space in front, or `""`.

    Example:
        >>> did_you_mean("chian_sum", ["chain_sum", "products"])
        " Did you mean 'chain_sum'?"
        >>> did_you_mean("zzz", ["chain_sum"])
        ''
    """
    by_lower = {option.casefold(): option for option in valid}
    near = difflib.get_close_matches(name.casefold(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""
