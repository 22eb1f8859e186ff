"""The last number of the completion, compared with the gold answer as a decimal number."""

import re
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from dgpo.lab.rewards.answers.characters import plain_characters
from dgpo.lab.rewards.answers.vocabulary import SCALE_WORDS, SHORT_UNITS
from dgpo.lab.rewards.completions import Completion, completion_text

# Digits grouped by commas, or plain digits, then decimals; or decimals alone.
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+"
# A number begins neither inside a word ("x2") nor inside a longer number (the 3 of "1.2.3"). A quotient or a power of
# ten is taken in one piece, so that "3/4" does not pass for 4, nor "1e5" for 1.
_NUMBER = re.compile(
    rf"(?<![A-Za-z_0-9])(?<![0-9]\.)(?P<digits>{_UNSIGNED})(?P<more>\s?/\s?(?:{_UNSIGNED})|[eE][-+]?[0-9]+)?"
)
# A minus is a sign unless something it could subtract from stands right before it ("5-3", "f(x)-3").
_MINUS = re.compile(r"(?:^|[^A-Za-z0-9_)\]}])[-−]\$?$")
# What makes more of a number than its digits: fractions and roots in LaTeX, with a number in front of them or none.
# What their braces hold is short, and may hold braces once more.
_GROUP = r"\{(?:[^{}]|\{[^{}]{0,50}\}){0,50}\}"
_LATEX = re.compile(
    rf"(?:[0-9]{{1,20}}(?:\.[0-9]{{1,20}})?\s?)?\\(?:[dtc]?frac\s?(?:{_GROUP}|[0-9])\s?(?:{_GROUP}|[0-9])|sqrt\s?(?:{_GROUP}|[0-9]))"
)
_GLUED = re.compile(r"\\[dtc]?frac\s?[0-9]\s?[0-9]")  # no digit of it stands by itself
_TAIL = 300
_POWER = re.compile(r"\^(?:[0-9]+|\{-?[0-9]+\})")
_PERCENT = re.compile(r"\s?\\?%")
_SCALE = re.compile(rf"\s?(?:\\text\{{\s*)?(?P<word>{SCALE_WORDS})(?![A-Za-z])", re.IGNORECASE)
_DEGREES = re.compile(r"\^\{?\\circ\s?\}?")
# What makes a number one of several in an expression: an operator before it or behind it, a brace that belongs to a
# command, a bracket of a function. The signs of bold type and of a list are no operators.
_OPERATOR_BEFORE = re.compile(
    r"(?:[+/^_]|(?<![*\n])\*|(?<=[A-Za-z0-9)\]}] )-|(?<=[A-Za-z0-9)\]}])-|"
    r"(?:sqrt|cbrt) |\\(?:cdot|times|div|pm|mp|pi|neq?|geq?|leq?|approx)|"
    r"(?:\\(?!boxed|fbox|text|math|bf)[A-Za-z]+|[}^_])\s?\{-?|[A-Za-z]\(-?)\s*\$?$"
)
_OPERATOR_BEHIND = re.compile(
    r"\s?(?:[+/!]|\^(?!\{?\\circ)|\*(?!\*)|-\s?[A-Za-z0-9\\(]|\\(?!text|math|boxed|fbox|[)\]\\%$;,!\s]|right|qquad|quad|end|circ)[A-Za-z{]+)|"
    r"\(|(?P<letters>[A-Za-z]+)"
)
# A text that ends so goes on.
_BROKEN_OFF = re.compile(
    r"(?:[-+*/^=<>,({\[:&\\]|\b(?:and|or|but|the|an?|of|is|are|to|so|then|we|that|with|by|in|for|from|as|if|which|this))\s*$",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[.!?)\]}\"'`*$>|]\s*$")
_MAX_WORDS_BEHIND = 4
_GOLD = re.compile(rf"(?P<sign>[-+−]?)\$?(?P<digits>{_UNSIGNED})")


def parse_number(value: Any) -> Decimal | None:
    """Return a gold answer as an exact decimal number, or `None` if it is not one number and nothing else.

    Args:
        value: A text such as `"42"`, `"-1,234.50"` or `"$5"`; an int, float or Decimal. Fractions, percentages,
            exponents, booleans and texts with words are not numbers here.

    Returns:
        The number, or `None`.

    Example:
        >>> parse_number("-1,234.50")
        Decimal('-1234.50')
        >>> parse_number("3/4") is None
        True
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float, Decimal)):
        number = Decimal(str(value))
        return number if number.is_finite() else None
    match = _GOLD.fullmatch(str(value).strip())
    return _decimal(match["sign"], match["digits"]) if match else None


def is_number(value: Any) -> bool:
    """Return whether `last_number_reward` can score against this gold answer.

    Args:
        value: A gold answer.

    Returns:
        True if `parse_number` reads it.

    Example:
        >>> is_number("1,000"), is_number("forty-two"), is_number(None)
        (True, False, False)
    """
    return parse_number(value) is not None


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text.

    Integers, decimals, thousands separators (`1,234`; in `1,2,3` each is a number of its own) and a leading minus are
    read. A fraction such as `3/4` counts as something that is no number: a text that ends in one has no last number. A
    digit inside a word (`x2`) is not a number.

    Args:
        text: Any text.

    Returns:
        The number, exact, or `None` if there is none or a fraction comes last.

    Example:
        >>> last_number("3 + 4 = 7.")
        Decimal('7')
        >>> last_number("no idea") is None
        True
    """
    # A queue of one: no text of many numbers is held as a list of them.
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    match = matches[0] if matches else None
    if match is None or match["more"]:
        return None
    return _decimal(_signed(text, match.start()), match["digits"])


def last_number_text(text: str, *, ended: bool = False) -> str | None:
    """Return the last number in a text as it is to be read as mathematics: with its fraction, percent sign or power.

    Args:
        text: Any text.
        ended: Whether there is no last number where the text breaks off behind it.

    Returns:
        `3/4`, `50%`, `\\frac{3}{4}`, `2\\sqrt{3}`, `10^3`, `2 million` or the digits; `None` if there is no number, or
        the last one is part of an expression.

    Example:
        >>> last_number_text("it is 3/4."), last_number_text("about 50 %"), last_number_text("so $x^2$")
        ('3/4', '50%', None)
        >>> last_number_text("so $2\\\\pi$") is None
        True
    """
    text = plain_characters(text)
    place = _last_place(text)
    if place is None:
        return None
    start, end, number = place
    sign = _signed(text, start)
    before = text[max(0, start - 30) : start]
    if sign:
        before = before.rstrip("$ ").removesuffix("-")
    behind = _OPERATOR_BEHIND.match(text, end)
    unit = behind is not None and (behind["letters"] or "") and _is_word(behind["letters"])
    if _OPERATOR_BEFORE.search(before):
        return None
    if behind is not None and not unit:
        return None
    if scale := _SCALE.match(text, end):
        end, number = scale.end(), f"{number} {scale['word']}"
    return None if ended and not _has_ended(text[end:]) else sign + number


def _is_word(letters: str) -> bool:
    return (
        letters in SHORT_UNITS - {"m", "s", "g", "h", "l", "L", "N", "J", "W", "V", "A", "K", "C", "F", "t"}
        or len(letters) > 3
    )


def _has_ended(rest: str) -> bool:
    rest = rest.strip()
    if _ENDED.search(rest):
        return True
    return _BROKEN_OFF.search(rest) is None and len(rest.split()) <= _MAX_WORDS_BEHIND


def _last_place(text: str) -> tuple[int, int, str] | None:
    """Start, end and text of the last number, without its sign."""
    numbers, glued = (deque(pattern.finditer(text), maxlen=1) for pattern in (_NUMBER, _GLUED))
    if glued and (not numbers or glued[0].start() > numbers[0].start()):
        return glued[0].start(), glued[0].end(), glued[0][0]
    if not numbers or len(numbers[0][0]) > _TAIL:
        return None
    match = numbers[0]
    # Near the number alone: a fraction is short, and a search among all braces of a long text is not.
    start = max(0, match.start() - _TAIL)
    latex = deque(_LATEX.finditer(text, start, match.end() + _TAIL), maxlen=1)
    if latex and latex[0].end() > match.start():
        return latex[0].start(), latex[0].end(), latex[0][0]
    base = re.search(r"(?<![A-Za-z_0-9])(?<![0-9]\.)([0-9]+)\^\{?-?$", text[start : match.start()])
    if base is not None:
        power = _POWER.match(text, start + base.end(1))
        return None if power is None else (start + base.start(1), power.end(), base[1] + power[0])
    if re.search(r"[\^_]\{?-?$", text[start : match.start()]) or (match["more"] or "")[:1] in ("e", "E"):
        return None
    digits = match["digits"].replace(",", "") + re.sub(r"[\s,]", "", match["more"] or "")
    percent = _PERCENT.match(text, match.end())
    degrees = _DEGREES.match(text, match.end())
    end = percent.end() if percent else degrees.end() if degrees else match.end()
    return match.start(), end, digits + ("%" if percent else "")


def last_number_reward(completions: Sequence[Completion], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return 1 for each completion whose last number equals the gold answer, 0 for the others.

    The numbers are compared as exact decimals: `7`, `7.0` and `007` are equal, `0.3333` and `0.333` are not.

    Args:
        completions: Texts, or lists of chat messages, as TRL hands them over.
        answer: One gold answer per completion; what `parse_number` reads.
        **columns: The other columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion, or `None` where the gold answer is not a number.

    Raises:
        ValueError: If there is not one gold answer per completion.

    Example:
        >>> last_number_reward(["3 + 4 = 7", "it is 8", "7"], ["7", "7", "seven"])
        [1.0, 0.0, None]
    """
    return [
        None if (gold := parse_number(raw)) is None else float(last_number(completion_text(completion)) == gold)
        for completion, raw in zip(completions, answer, strict=True)
    ]


def _signed(text: str, start: int) -> str:
    """A hyphen if what starts here is negative."""
    return "-" if _MINUS.search(text[max(0, start - 3) : start]) else ""


def _decimal(sign: str, digits: str) -> Decimal:
    number = Decimal(digits.replace(",", ""))
    return number.copy_negate() if sign in ("-", "−") else number
