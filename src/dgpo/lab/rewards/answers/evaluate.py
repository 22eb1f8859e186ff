"""Values of trees: exact fractions where there are any, else numbers of as many digits as are asked for."""

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .parser import Tree

_NUMERIC_NAMES = """
sin cos tan cot sec csc sinh cosh tanh exp floor ceil
"""

_MAX_BITS = 200_000
_MAX_FACTORIAL = 3000
_MAX_POWER = 10_000


class TooLargeError(ArithmeticError):
    """The value has more digits than are worked out here."""


class UndefinedError(ArithmeticError):
    """There is no value: a division by zero, a logarithm of zero, or no expression at all."""


def exact(node: Tree) -> Fraction | None:
    """Return the value of an expression as a fraction, or `None` if it is not rational as it is written.

    Args:
        node: A tree.

    Returns:
        The fraction, or `None`; `\\sqrt{4}` is 2, `\\sqrt{2}\\sqrt{2}` is `None`.

    Raises:
        TooLargeError: If it has too many digits.
        UndefinedError: For a division by zero.
    """
    match node:
        case ("num", value, _):
            return value  # type: ignore[no-any-return]
        case ("add" | "mul", parts):
            total = Fraction(0 if node[0] == "add" else 1)
            for part in parts:
                value = exact(part)
                if value is None:
                    return None
                total = total + value if node[0] == "add" else total * value
                _check_size(total)
            return total
        case ("div", upper, lower):
            return _quotient(exact(upper), exact(lower))
        case ("pow", base, exponent):
            return _power(exact(base), exact(exponent))
        case ("pct", part):
            value = exact(part)
            return None if value is None else value / 100
        case ("fn", name, arguments):
            return _exact_function(name, [exact(argument) for argument in arguments])
        case ("chain", parts):
            return exact(parts[-1])
    return None


def _check_size(value: Fraction) -> None:
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise TooLargeError


def _quotient(upper: Fraction | None, lower: Fraction | None) -> Fraction | None:
    if lower == 0:
        raise UndefinedError
    return None if upper is None or lower is None else upper / lower


def _power(base: Fraction | None, exponent: Fraction | None) -> Fraction | None:
    if exponent is not None and exponent.denominator == 1 and abs(exponent) > _MAX_POWER and base not in (0, 1, -1):
        raise TooLargeError
    if base is None or exponent is None:
        return None
    if base == 0 and exponent <= 0:
        raise UndefinedError
    size = base.numerator.bit_length() + base.denominator.bit_length()
    if base not in (0, 1, -1) and size * abs(exponent) > _MAX_BITS:
        raise TooLargeError
    if exponent.denominator != 1:
        root = _root(base, exponent.denominator)
        return None if root is None else root**exponent.numerator
    return base**exponent.numerator


def _root(value: Fraction, degree: int) -> Fraction | None:
    """The root if it is rational."""
    if value < 0:
        root = _root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    roots = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    return None if None in roots else Fraction(*roots)  # type: ignore[arg-type]


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 1000 or degree > 1000:
        return None
    guess = round(value ** (1 / degree))
    return next((root for root in (guess - 1, guess, guess + 1) if root >= 0 and root**degree == value), None)


def _exact_function(name: str, values: list[Fraction | None]) -> Fraction | None:
    if any(value is None for value in values):
        return None
    numbers: list[Any] = values
    integers = all(value.denominator == 1 for value in numbers)
    if name == "root" and numbers[1].denominator == 1 and numbers[1] > 0:
        return _root(numbers[0], int(numbers[1]))
    if name == "factorial" and integers and numbers[0] >= 0:
        if numbers[0] > _MAX_FACTORIAL:
            raise TooLargeError
        return Fraction(math.factorial(int(numbers[0])))
    if name == "binomial" and integers and 0 <= numbers[1] <= numbers[0]:
        if numbers[0] > _MAX_FACTORIAL:
            raise TooLargeError
        return Fraction(math.comb(int(numbers[0]), int(numbers[1])))
    if name in ("floor", "ceil"):
        return Fraction(math.floor(numbers[0]) if name == "floor" else math.ceil(numbers[0]))
    if name == "abs":
        return abs(numbers[0])  # type: ignore[no-any-return]
    if name in ("gcd", "lcm") and integers:
        return Fraction(getattr(math, name)(*map(int, numbers)))
    if name in ("max", "min"):
        return (max if name == "max" else min)(numbers)  # type: ignore[no-any-return]
    return None


def symbols(node: Any) -> frozenset[str]:
    """Return the names of the variables in a tree.

    Args:
        node: A tree.

    Returns:
        The names; those of functions end in `()`.
    """
    if isinstance(node, list):
        return frozenset().union(*map(symbols, node))
    if not isinstance(node, tuple) or not node:
        return frozenset()
    if node[0] == "sym":
        return frozenset([node[1]])
    names = frozenset().union(*(symbols(part) for part in node[1:] if isinstance(part, (tuple, list))))
    return names | {f"{node[1]}()"} if node[0] == "call" else names


def points(names: frozenset[str]) -> Iterator[dict[str, Fraction]]:
    """Yield values for the variables, always the same: of both signs, none of them special.

    Args:
        names: The variables.

    Yields:
        dict[str, Fraction]: A value for each.
    """
    rng = random.Random(20_260_503)
    for index in range(8):
        signs = (1, 1, -1, 1, -1, 1, -1, 1)
        yield {
            name: signs[index] * Fraction(rng.randrange(1, 10**6), 10 ** (6 - index % 2) // 3) for name in sorted(names)
        }


def number(node: Tree, digits: int, values: dict[str, Fraction] | None = None) -> Any:
    """Return the value of an expression as a number of mpmath with so many digits.

    Args:
        node: A tree.
        digits: Decimal digits to compute with.
        values: What the variables stand for.

    Returns:
        A real or complex number.

    Raises:
        TooLargeError: If an exponent is too large to work with.
        UndefinedError: If there is no value.
    """
    import mpmath

    with mpmath.workdps(digits):
        try:
            value = _number(node, values or {})
        except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
            raise UndefinedError from error
        if not mpmath.isfinite(value):
            raise UndefinedError
        return +value


def _number(node: Tree, values: dict[str, Fraction]) -> Any:
    import mpmath

    match node:
        case ("num", value, _):
            return mpmath.mpf(value.numerator) / value.denominator
        case ("sym", name):
            value = values.get(name)
            if value is None:
                raise UndefinedError
            return mpmath.mpf(value.numerator) / value.denominator
        case ("const", name):
            constant = {"pi": mpmath.pi, "e": mpmath.e, "i": mpmath.mpc(0, 1)}.get(name)
            if constant is None:
                raise UndefinedError
            return +constant
        case ("add", parts):
            return mpmath.fsum(_number(part, values) for part in parts)
        case ("mul", parts):
            return mpmath.fprod(_number(part, values) for part in parts)
        case ("div", upper, lower):
            return _number(upper, values) / _number(lower, values)
        case ("pow", base, exponent):
            return _numeric_power(_number(base, values), _number(exponent, values), exponent)
        case ("pct", part):
            return _number(part, values) / 100
        case ("chain", parts):
            return _number(parts[-1], values)
        case ("call", name, arguments):
            # Any function will do, as long as it is always the same one.
            seed = sum(ord(char) * 31**index for index, char in enumerate(name)) % 997 + 2
            return sum(mpmath.sin(_number(part, values) * (seed + k)) + seed for k, part in enumerate(arguments))
        case ("fn", name, arguments):
            return _numeric_function(name, [_number(argument, values) for argument in arguments])
    raise UndefinedError


def _numeric_power(base: Any, exponent: Any, written: Tree) -> Any:
    import mpmath

    if abs(exponent) > _MAX_POWER:
        raise TooLargeError
    # An odd root of a negative number is real, as in school.
    if written[0] == "div" and mpmath.im(base) == 0 and base < 0:
        fraction = exact(written)
        if fraction is not None and fraction.denominator % 2 == 1:
            root = -mpmath.power(-base, mpmath.mpf(1) / fraction.denominator)
            return root**fraction.numerator
    return mpmath.power(base, exponent)


@lru_cache(maxsize=1)
def _functions() -> dict[str, Any]:
    import mpmath

    named = {name: getattr(mpmath, name) for name in _NUMERIC_NAMES.split()}
    inverse = {f"arc{name}": getattr(mpmath, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
    inverse |= {f"a{name}": getattr(mpmath, f"a{name}") for name in ("sin", "cos", "tan")}
    return (
        named
        | inverse
        | {
            "ln": mpmath.log,
            "lg": mpmath.log10,
            "log": lambda x, base=10: mpmath.log(x) / mpmath.log(base),
            "abs": abs,
            "factorial": mpmath.factorial,
            "binomial": mpmath.binomial,
            "max": max,
            "min": min,
            "root": _real_root,
        }
    )


def _real_root(value: Any, degree: Any) -> Any:
    import mpmath

    if mpmath.im(value) == 0 and value < 0 and degree == 3:
        return -mpmath.root(-value, 3)
    return mpmath.power(value, 1 / degree)


def _numeric_function(name: str, arguments: list[Any]) -> Any:
    if name in ("factorial", "binomial", "exp") and any(abs(argument) > _MAX_POWER for argument in arguments):
        raise TooLargeError
    function = _functions().get(name)
    if function is None:
        raise UndefinedError
    return function(*arguments)
