"""An answer as tokens: numbers, letters, words, and one name for each operator however it is written."""

import re
from fractions import Fraction
from typing import NamedTuple

from .vocabulary import small_fraction


class UnreadableError(ValueError):
    """The text is no answer that can be read from its first character to its last."""


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: `number`, `word`, `command`, or the operator itself.
        text: What was written.
        value: A number's value.
        digits: Significant digits of a number with a decimal point; `None` for one that is exact.
    """

    kind: str
    text: str
    value: Fraction = Fraction(0)
    digits: int | None = None


_REPEATING = re.compile(
    r"(?P<whole>[0-9]*)\.(?P<start>[0-9]*?)(?:\\(?:overline|bar)\s*(?:\{(?P<bar>[0-9]+)\}|(?P<bar1>[0-9]))|"
    r"\\dot\s*\{?(?P<dot>[0-9])\}?(?:(?P<between>[0-9]*)\\dot\s*\{?(?P<dot2>[0-9])\}?)?|"
    r"\((?P<bracket>[0-9]+)\)(?=\s*$)|(?P<period>[0-9]{1,6}?)(?P=period){2,}(?:\.\.\.|\s*\\l?dots(?![a-z])))"
)
_MIXED = re.compile(r"(?P<whole>[0-9]+)\s+(?P<upper>[0-9]{1,6})\s?/\s?(?P<lower>[0-9]{1,6})(?![0-9.])")
_EXPONENT = r"(?:[eE](?P<exponent>[-+]?[0-9]{1,9})(?![0-9.A-Za-z]))?"
_PLAIN = re.compile(rf"(?P<digits>[0-9]+(?:\.(?!\.)[0-9]*)?|\.[0-9]+){_EXPONENT}")
# Thousands: in brackets a comma always separates.
_GROUPED = re.compile(
    rf"(?P<digits>[0-9]{{1,3}}(?:(?:,[0-9]{{3}})+|(?: [0-9]{{3}})+)(?![0-9])(?:\.[0-9]+)?){_EXPONENT}"
)
_REST = re.compile(
    r"(?P<space>\s+|~)|(?P<command>\\[A-Za-z]+|\\[^A-Za-z])|(?P<word>[A-Za-z]+)|(?P<sign>\*\*|[<>!=]=|\.\.\.|.)",
    re.DOTALL,
)

_SKIPPED_NAMES = """
\\left \\right \\big \\Big \\bigg \\Bigg \\bigl \\bigr \\Bigl \\Bigr \\displaystyle \\textstyle \\, \\; \\! \\: \\quad
\\qquad \\limits \\$ $ \\middle \\null
"""
_SKIPPED = frozenset([*_SKIPPED_NAMES.split(), "\\ ", "\\\n"])
_OPERATORS = {
    **dict.fromkeys(("\\cdot", "\\times", "\\ast", "*", "times", "x*"), "*"),
    **dict.fromkeys(("\\div", "/", "over"), "/"),
    **dict.fromkeys(("**", "^"), "^"),
    **dict.fromkeys(("\\le", "\\leq", "\\leqslant", "<="), "<="),
    **dict.fromkeys(("\\ge", "\\geq", "\\geqslant", ">="), ">="),
    **dict.fromkeys(("\\lt", "<"), "<"),
    **dict.fromkeys(("\\gt", ">"), ">"),
    **dict.fromkeys(("\\ne", "\\neq", "!="), "!="),
    **dict.fromkeys(("=", "==", "equals"), "="),
    **dict.fromkeys(("\\approx", "\\sim", "\\simeq", "\\doteq"), "approx"),
    **dict.fromkeys(("\\pm",), "pm"),
    **dict.fromkeys(("\\mp",), "mp"),
    **dict.fromkeys(("plus", "+"), "+"),
    **dict.fromkeys(("minus", "-"), "-"),
    **dict.fromkeys(("\\lor", "\\vee", "\\land", "\\wedge", "and", "or", "And", "Or"), "and"),
    **dict.fromkeys(("\\ldots", "\\dots", "\\cdots", "\\dotsc", "..."), "dots"),
    **dict.fromkeys(("\\langle", "("), "("),
    **dict.fromkeys(("\\rangle", ")"), ")"),
    **dict.fromkeys(("\\lbrack", "["), "["),
    **dict.fromkeys(("\\rbrack", "]"), "]"),
    **dict.fromkeys(("\\lbrace", "\\{"), "\\{"),
    **dict.fromkeys(("\\rbrace", "\\}"), "\\}"),
    **dict.fromkeys(("\\lvert", "\\rvert", "\\vert", "|"), "|"),
    **dict.fromkeys(("\\colon", ":"), ":"),
    **dict.fromkeys(("\\%", "%"), "%"),
    **dict.fromkeys(("if", "for", "where", "when"), "if"),
}
_BRACKETS = {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text.

    Args:
        text: A cleaned answer.

    Returns:
        The tokens, with one of kind `end` at the end.

    Example:
        >>> [token.kind for token in tokenize("2\\\\cdot x")]
        ['number', '*', 'word', 'end']
    """
    tokens: list[Token] = []
    position = depth = 0
    while position < len(text):
        number = _number(text, position, depth) if text[position] in "0123456789." else None
        if number is not None:
            token, position = number
            tokens.append(token)
            continue
        match = _REST.match(text, position)
        assert match is not None
        position = match.end()
        raw = match[0]
        if match["space"] or raw in _SKIPPED:
            continue
        kind = _OPERATORS.get(raw) or (raw if match["sign"] else "command" if match["command"] else "word")
        depth += _BRACKETS.get(kind, 0)
        tokens.append(Token(kind, raw))
    tokens.append(Token("end", ""))
    return tokens


def _number(text: str, position: int, depth: int) -> tuple[Token, int] | None:
    if match := _REPEATING.match(text, position):
        return Token("number", match[0], _repeating(match)), match.end()
    if match := _MIXED.match(text, position):
        part = small_fraction(match["upper"], match["lower"])
        if part is not None:
            return Token("number", match[0], int(match["whole"]) + part), match.end()
    match = (_GROUPED.match(text, position) if depth == 0 else None) or _PLAIN.match(text, position)
    if match is None:
        return None
    digits = match["digits"].replace(",", "").replace(" ", "")
    exponent = int(match["exponent"] or 0)
    if len(digits) > 4000 or abs(exponent) > 5000:
        raise UnreadableError(f"a number of more digits than any answer: {text[:50]!r}")
    significant = None
    if "." in digits or match["exponent"]:
        significant = max(1, len(digits.replace(".", "").lstrip("0")))
    return Token("number", digits, Fraction(digits) * Fraction(10) ** exponent, significant), match.end()


def _repeating(match: re.Match[str]) -> Fraction:
    start = match["start"]
    if match["dot2"] is not None:
        period = match["dot"] + match["between"] + match["dot2"]
    else:
        period = match["bar"] or match["bar1"] or match["dot"] or match["bracket"] or match["period"]
    head = Fraction(int((match["whole"] or "0") + start), 10 ** len(start))
    return head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(start))
