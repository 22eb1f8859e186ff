"""math-verify: whole completions, and expressions that the parser here does not read (integrals, sums, limits)."""

import functools
import re
from typing import Any

from .characters import plain_characters
from .outcomes import BAD_GOLD, CORRECT, UNPARSEABLE, WRONG

_ARITHMETIC = re.compile(r"[-(]*[0-9][-+*/^(). 0-9]*\*\*[-+*/^(). 0-9]*")
_MARK = "\\zeta_{771}"


def check_completion(gold: str, completion: str | None) -> tuple[str, str | None, str | None]:
    """Return what comes of a completion in which math-verify looks for the answer.

    Args:
        gold: The right answer.
        completion: The whole completion; `None` if there is none.

    Returns:
        The outcome, the answer as math-verify reads it, and its value as text.
    """
    golds = _parsed_gold(gold)
    if not golds:
        return BAD_GOLD, None, None
    if completion is None or not completion.strip():
        return UNPARSEABLE, None, None
    return _compared(gold, golds, completion, _attempt(completion, raw=True))


def check_expression(gold: str, answer: str | None) -> tuple[str, str | None, str | None]:
    """Return what comes of an answer that math-verify reads and compares.

    Args:
        gold: The right answer.
        answer: The answer alone; `None` if there is none.

    Returns:
        The outcome, the answer, and its value as text.
    """
    golds = _parsed_gold(gold)
    if not golds:
        return BAD_GOLD, None, None
    if answer is None or not answer.strip():
        return UNPARSEABLE, None, None
    return _compared(gold, golds, answer, _attempt(answer, raw=False))


def is_readable(text: str, commands: re.Pattern[str]) -> bool:
    """Return whether math-verify reads an expression with one of the commands to its end.

    Args:
        text: A gold answer.
        commands: What it must hold to be tried at all.

    Returns:
        True if what is added at its end is in what was read.
    """
    if commands.search(text) is None:
        return False
    marked = _attempt(f"{text.strip().strip('$').rstrip('.')} + {_MARK}", raw=False)
    return any(not isinstance(part, str) and "771" in str(getattr(part, "free_symbols", "")) for part in marked)


def _compared(gold: str, golds: tuple[Any, ...], answer: str, parsed: list[Any]) -> tuple[str, str | None, str | None]:
    from math_verify import verify

    text = next((part for part in parsed if isinstance(part, str)), None)
    if gold.strip() in (text, answer.strip()):
        return CORRECT, text, None
    values = [part for part in parsed if not isinstance(part, str)]
    if not values:
        return UNPARSEABLE, text, None
    try:
        equal = verify(list(golds), values, timeout_seconds=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:
        equal = False  # what cannot be compared with the gold answer is not equal to it
    return CORRECT if equal else WRONG, text, _canonical(values[0])


def _canonical(value: Any) -> str | None:
    """The value as text. Nothing is worked out, which might take for ever."""
    try:
        text = str(value.rhs if value.is_Relational and value.rel_op == "==" and value.lhs.is_Symbol else value)
    except Exception:
        return None
    return text if len(text) <= 200 else None


@functools.lru_cache(maxsize=4096)
def _parsed_gold(gold: str) -> tuple[Any, ...]:
    return tuple(part for part in _attempt(gold, raw=False) if not isinstance(part, str))


def _attempt(text: str, *, raw: bool) -> list[Any]:
    """What math-verify reads: values of sympy, and the text they came from; nothing where it fails."""
    try:
        return _parse(text, raw=raw)
    except MemoryError:
        raise
    except Exception:
        return []


def _parse(text: str, *, raw: bool) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    expression = ExprExtractionConfig()
    targets = (LatexExtractionConfig(boxed_match_priority=0), expression)
    text = plain_characters(text)
    if not raw and _ARITHMETIC.fullmatch(text):
        # `2**10` is no LaTeX; sums of plain numbers are read as a programmer would.
        return parse(text, (expression,), parsing_timeout=None, raise_on_error=True)  # type: ignore[no-any-return]
    boxed = text if raw else f"\\boxed{{{text}}}"
    return parse(boxed, targets, parsing_timeout=None, raise_on_error=True)  # type: ignore[no-any-return]
