"""The version of this package, and the check that another package is of a version that was tested."""

import os
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from dgpo.errors import UnsupportedVersionError

__version__ = "0.1.0"


def release_of(text: str, length: int) -> tuple[int, ...]:
    """Return the leading numbers of a version.

    Args:
        text: A version, such as `"0.9.1.post1"`.
        length: How many numbers; missing ones are 0.

    Returns:
        That many numbers.

    Example:
        >>> release_of("0.9.1.post1", 3)
        (0, 9, 1)
    """
    numbers = [int(part) for part in text.split(".")[:length] if part.isdigit()]
    return tuple(numbers + [0] * (length - len(numbers)))


def requirement(package: str, supported: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """Return a range of versions as pip would write it.

    Args:
        package: Its name.
        supported: The lowest release, and the first one that is not supported any more.

    Returns:
        A requirement.

    Example:
        >>> requirement("trl", ((1, 16), (1, 17)))
        'trl>=1.16,<1.17'
    """
    low, high = (".".join(map(str, bound)) for bound in supported)
    return f"{package}>={low},<{high}"


def check_version(
    package: str,
    supported: tuple[tuple[int, ...], tuple[int, ...]],
    installed: str | None = None,
    *,
    find_differences: Callable[[], list[str]] | None = None,
) -> None:
    """Refuse a package of a version whose hooks have not been tested.

    `DGPO_ALLOW_UNTESTED_TRL=1` (the package's name in capitals) tries another version all the same, with one warning,
    if `find_differences` says that every hook is as it was.

    Args:
        package: Its name, which is also the extra that installs it.
        supported: The lowest release, and the first one that is not supported any more.
        installed: Version to judge; that of the installed package by default.
        find_differences: Says what of the installed hooks differs from what is relied on; called where it matters.

    Raises:
        UnsupportedVersionError: If the package is absent or outside of the range, or a hook differs.

    Example:
        >>> check_version("trl", ((1, 16), (1, 17)), "1.16.3")
    """
    if installed is None:
        try:
            installed = version(package)
        except PackageNotFoundError:
            raise UnsupportedVersionError(
                f"{package} is not installed. Install it with: pip install 'dgpo[{package}]'"
            ) from None
    wanted = requirement(package, supported)
    in_range = supported[0] <= release_of(installed, len(supported[0])) < supported[1]
    allowed = os.environ.get(f"DGPO_ALLOW_UNTESTED_{package.upper()}") == "1"
    differences = find_differences() if find_differences is not None and (in_range or allowed) else []
    if in_range and not differences:
        return
    remedy = f"Run: pip install '{wanted}'"
    if differences:
        listed = "; ".join(differences)
        raise UnsupportedVersionError(
            f"{package} {installed} is installed, and dgpo relies on hooks that differ in it: {listed}. {remedy}"
        )
    if allowed and find_differences is not None:
        warnings.warn(
            f"{package} {installed} has not been tested with this version of dgpo ({wanted} has). Every hook that it"
            " relies on is there with the same parameters; what they do may differ all the same.",
            stacklevel=3,
        )
        return
    raise UnsupportedVersionError(
        f"{package} {installed} is installed, but this version of dgpo has been tested with {wanted} only; it relies on"
        f" {package}'s inner hooks. {remedy}, or set DGPO_ALLOW_UNTESTED_{package.upper()}=1 to try this version if its"
        " hooks match."
    )
