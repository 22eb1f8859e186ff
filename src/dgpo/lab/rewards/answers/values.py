"""Whether two values are equal: exact ones exactly, decimals by the digits that are given, expressions everywhere."""

from fractions import Fraction
from typing import Any

from .evaluate import UndefinedError, exact, number, points, symbols
from .terms import Tree

# A decimal stands for a value that it rounds to if it has so many digits; one of fewer is the value that it says.
_ROUNDED_DIGITS = 6


def constant_ratio(first: Tree, second: Tree) -> Any:
    """Return the factor between two expressions, if it is the same everywhere and real; else `None`.

    Args:
        first: A tree with variables.
        second: Another.

    Returns:
        The factor, a number of mpmath, or `None`.
    """
    names = symbols(first) | symbols(second)
    if not names or symbols(first) != symbols(second):
        return None
    ratios = []
    for values in points(names):
        try:
            ratio = number(first, 40, values) / number(second, 40, values)
        except (UndefinedError, ZeroDivisionError):
            continue
        ratios.append(ratio)
        if getattr(ratio, "imag", 0) != 0 or not _close(ratio, ratios[0], 25):
            return None
    return ratios[0] if len(ratios) > 1 else None


def values_equal(gold: Tree, answer: Tree) -> bool:
    """Return whether two expressions are equal, neither of them a list or a relation.

    Args:
        gold: The gold answer's tree.
        answer: The answer's.

    Returns:
        True if they are equal; a sign of percent may be left out on either side.

    Raises:
        TooLargeError: If a value has too many digits to be worked out here.
    """
    for node in (gold, answer):
        if node[0] == "chain" and not all(values_equal(node[1][-1], part) for part in node[1][:-1]):
            return False
    try:
        values = exact(gold), exact(answer)
    except UndefinedError:
        return False
    for percent, other in ((0, 1), (1, 0)):
        # The sign of percent may be left out on either side.
        if (gold, answer)[percent][0] == "pct" and (gold, answer)[other][0] != "pct":
            pair = [gold, answer]
            pair[percent] = pair[percent][1]
            if _plain_equal(pair[0], pair[1], exact(pair[0]), exact(pair[1])):
                return True
    return _plain_equal(gold, answer, *values)


def _plain_equal(gold: Tree, answer: Tree, gold_value: Fraction | None, answer_value: Fraction | None) -> bool:
    if gold_value is not None and answer_value is not None and gold_value == answer_value:
        return True
    names = symbols(gold) | symbols(answer)
    if names:
        return gold_value is None and answer_value is None and _equal_everywhere(gold, answer, names)
    infinite = _infinity(gold), _infinity(answer)
    if infinite != (0, 0):
        return infinite[0] == infinite[1]
    decimals = [value for node in (gold, answer) if (value := _decimal(node)) is not None]
    if decimals:
        return _equal_by_digits(gold, answer, decimals)
    if gold_value is not None and answer_value is not None:
        return False
    return _equal_constants(gold, answer)


def _infinity(node: Tree) -> int:
    if node == ("const", "inf"):
        return 1
    if node[0] == "mul" and len(node[1]) == 2 and node[1][0] == ("num", Fraction(-1), None):
        return -_infinity(node[1][1])
    return 0


def _decimal(node: Tree) -> tuple[int, Fraction] | None:
    """Significant digits and half a unit of the last one, of a number with a decimal point; `None` for anything else.

    `1.5 \\times 10^3` is such a number too.
    """
    if node[0] == "pct":
        inner = _decimal(node[1])
        return None if inner is None else (inner[0], inner[1] / 100)
    if node[0] == "num" and node[2] is not None:
        return node[2], _half_unit(node[1], node[2])
    if node[0] == "mul":
        written = [part for part in node[1] if part[0] == "num" and part[2] is not None]
        others = [part for part in node[1] if part not in written]
        if len(written) == 1 and all(part[0] in ("num", "pow") for part in others):
            value = exact(node)
            return None if value is None else (written[0][2], _half_unit(value, written[0][2]))
    return None


def _half_unit(value: Fraction, digits: int) -> Fraction:
    if value == 0:
        return Fraction(0)
    size = abs(value)
    power = len(str(size.numerator)) - len(str(size.denominator))
    if size < Fraction(10) ** power:
        power -= 1
    return Fraction(10) ** (power - digits + 1) / 2


def _equal_by_digits(gold: Tree, answer: Tree, decimals: list[tuple[int, Fraction]]) -> bool:
    digits, tolerance = min(decimals)
    if digits < _ROUNDED_DIGITS:
        return False
    try:
        first, second = number(gold, 60), number(answer, 60)
    except UndefinedError:
        return False
    if digits > _ROUNDED_DIGITS:
        tolerance *= Fraction(199, 100)  # cut off instead of rounded: less than a unit of the last digit
    distance = abs(first - second)
    return bool(distance <= abs(tolerance.numerator * (1 + 1e-9)) / tolerance.denominator)


def _close(first: Any, second: Any, digits: int) -> bool:
    import mpmath

    return bool(abs(first - second) <= mpmath.mpf(10) ** -digits * max(abs(first), abs(second)))


def _equal_constants(gold: Tree, answer: Tree) -> bool:
    """Agreement to 40 digits, then to 300: values that differ in a later one have exponents that no answer has."""
    coarse: list[Any] = []
    for precision, digits in ((60, 40), (330, 300)):
        try:
            pair = [number(gold, precision), number(answer, precision)]
        except UndefinedError:
            return False
        if not _close(pair[0], pair[1], digits):
            # What cancellation leaves of zero shrinks with the precision; a value that is small does not.
            small = _both_vanish(pair[0], pair[1], digits)
            if not small or any(_close(old, new, 30) for old, new in zip(coarse, pair, strict=False) if new != 0):
                return False
        coarse = pair
    return True


def _both_vanish(first: Any, second: Any, digits: int) -> bool:
    import mpmath

    return bool(max(abs(first), abs(second)) < mpmath.mpf(10) ** -(digits + 10))


def _equal_everywhere(gold: Tree, answer: Tree, names: frozenset[str]) -> bool:
    """The same value at points of both signs: where both are real, else where both are defined."""
    real, complex_ = 0, 0
    differs = False
    for values in points(names):
        try:
            first, second = number(gold, 40, values), number(answer, 40, values)
        except UndefinedError:
            continue
        close = _close(first, second, 25) or _both_vanish(first, second, 20)
        if getattr(first, "imag", 0) == 0 and getattr(second, "imag", 0) == 0:
            real += 1
            if not close:
                return False
        else:
            complex_ += 1
            differs = differs or not close
    return real >= 2 or (complex_ >= 2 and not differs)
