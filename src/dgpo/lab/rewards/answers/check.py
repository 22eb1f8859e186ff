"""Whether an answer equals the gold answer, by math-verify."""

import functools
import re
import unicodedata
from typing import Any

_ARITHMETIC = re.compile(r"[-(]*[0-9][-+*/^(). 0-9]*\*\*[-+*/^(). 0-9]*")

# A number and words after it. LaTeX has no words, only products of letters: `18 dollars` would be 18 d o l l a r s.
_COUNTED = re.compile(
    r"(?P<number>\\?\$?\s?[-+]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]+)?\s?\$?)\s+"
    r"(?P<words>(?:[A-Za-z]{3,}|[A-Za-z]{2,}/[A-Za-z]+)(?:[ -/]+[A-Za-z]+)*)\.?"
)
# Words that are no unit: they change the number, or join it to something else.
_NO_UNITS = re.compile(
    r"and|n?or|not|if|plus|minus|times|over|mod|modulo|less|more|than|remainder|choose|factorial|squared|cubed|percent|"
    r"hundreds?|thousands?|millions?|billions?|trillions?|dozens?|score|"
    r"hal(?:f|ves)|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?|"
    r"sqrt|root|log|exp|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|gcd|lcm|max|min|det|lim|sum|prod|int|inf|infinity|nan|"
    r"alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|rho|sigma|tau|phi|chi|psi|omega|"
    r"abcd?|bcd|mnp|pqr|rst|uvw|xyz"
)
_MAX_VALUE_CHARS = 200

CORRECT, WRONG, UNPARSEABLE, CRASH, BAD_GOLD = "correct", "wrong", "unparseable", "crash", "unparseable_gold"


def check_answer(gold: str, answer: str | None, *, raw: bool) -> tuple[str, str | None, str | None]:
    """Return the outcome, the answer as math-verify reads it, and its value.

    Words after a number are a unit and say nothing, unless the answer is right with their letters as factors.

    Args:
        gold: The right answer.
        answer: The model's; `None` if it gave none.
        raw: Whether `answer` is a whole completion, in which math-verify looks for the answer.

    Returns:
        One of the outcomes above; a text or `None`; and a text that most spellings of an equal answer share, or `None`.
    """
    golds = _parsed_gold(gold)
    if not golds:
        return BAD_GOLD, None, None
    if answer is None or not answer.strip():
        return UNPARSEABLE, None, None
    outcome, text, value = _compared(gold, golds, answer, raw)
    if outcome != CORRECT and not raw and (bare := _without_unit(answer)) is not None:
        return _compared(gold, golds, bare, raw)
    return outcome, text, value


def _compared(gold: str, golds: tuple[Any, ...], answer: str, raw: bool) -> tuple[str, str | None, str | None]:
    try:
        parsed = _parse(answer, raw=raw)
    except MemoryError:
        raise
    except Exception:
        parsed = []
    text = next((part for part in parsed if isinstance(part, str)), None)
    if gold.strip() in (text, answer.strip()):
        return CORRECT, text, None  # what is no number, such as 12:00, equals itself all the same
    values = [part for part in parsed if not isinstance(part, str)]
    if not values:
        return UNPARSEABLE, text, None
    from math_verify import verify

    try:
        equal = verify(list(golds), values, timeout_seconds=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:
        equal = False  # what cannot be compared with the gold answer is not equal to it
    return CORRECT if equal else WRONG, text, _canonical(values[0])


def _without_unit(answer: str) -> str | None:
    """A number with its unit as LaTeX text, which math-verify leaves out; `None` if the answer is something else."""
    match = _COUNTED.fullmatch(_plain_characters(answer.strip()))
    if match is None or any(map(_NO_UNITS.fullmatch, re.findall("[a-z]+", match["words"].lower()))):
        return None
    return f"{match['number']} \\text{{ {match['words']}}}"


def _canonical(value: Any) -> str | None:
    """The value as text: fractions reduced, decimals as fractions. Nothing is worked out, which might take for ever."""
    try:
        if value.is_Relational and value.rel_op == "==" and value.lhs.is_Symbol:
            value = value.rhs
        if value.is_Float:
            from sympy import Rational

            value = Rational(str(value))
        text = str(value)
    except Exception:
        return None
    return text if len(text) <= _MAX_VALUE_CHARS else None


@functools.lru_cache(maxsize=4096)
def _parsed_gold(gold: str) -> tuple[Any, ...]:
    try:
        return tuple(part for part in _parse(gold, raw=False) if not isinstance(part, str))
    except MemoryError:
        raise
    except Exception:
        return ()


def _parse(text: str, *, raw: bool) -> list[Any]:
    """What math-verify reads: values of sympy, and the text they came from."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    expression = ExprExtractionConfig()
    targets = (LatexExtractionConfig(boxed_match_priority=0), expression)
    text = _plain_characters(text)
    if not raw and _ARITHMETIC.fullmatch(text):
        # `2**10` is no LaTeX; sums of plain numbers are read as a programmer would.
        return parse(text, (expression,), parsing_timeout=None, raise_on_error=True)
    return parse(text if raw else f"\\boxed{{{text}}}", targets, parsing_timeout=None, raise_on_error=True)


def _plain_characters(text: str) -> str:
    """Digits of any script as ASCII digits, and the minus of typeset mathematics as a hyphen."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(char)) if unicodedata.decimal(char, None) is not None else "-" if char == "−" else char
        for char in text
    )
