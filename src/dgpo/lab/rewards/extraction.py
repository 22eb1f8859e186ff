"""Which part of a completion is its answer: `\\boxed{}`, the line `Answer:`, GSM8K's `####`, or the last number."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from dgpo.lab.rewards.numbers import last_number_text

AnswerFormat = Literal["auto", "boxed", "answer", "hashes", "last_number", "dapo", "math_verify"]
"""How the answer is found; `FORMATS` says what each name means."""

# No answer of mathematics is longer, and a verifier must not be handed a megabyte.
MAX_ANSWER_CHARS = 4000
# verl's pattern, and what lies between may be bold: white space after the colon may go on to another line, where the
# answer is then the rest of that one. An "Answer:" with nothing behind it is none. Nothing is tried twice (`*+`), so
# the time stays proportional to the length.
_ANSWER_LINE = re.compile(r"answer[*_\s]*+:[*_\s]*+(?=[^\s])", re.IGNORECASE)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


class Search(NamedTuple):
    """What a format looks at.

    Attributes:
        order: The kinds of answer that are tried, the first one found counts.
        tail: How many of the last characters of the completion are read; `None` for all.
    """

    order: tuple[str, ...]
    tail: int | None = None


FORMATS: dict[str, Search] = {
    "auto": Search(("boxed", "answer", "hashes", "last_number")),
    "boxed": Search(("boxed",)),
    "answer": Search(("answer",)),
    "hashes": Search(("hashes",)),
    "last_number": Search(("last_number",)),
    # verl's scorer of DAPO-Math-17k: the end of the completion alone, where the answer was asked for.
    "dapo": Search(("answer", "boxed"), tail=300),
}
"""The formats that are searched here; `math_verify` leaves the search to that library."""


def answer_formats() -> tuple[str, ...]:
    """Return the names of the formats.

    Returns:
        The names, `auto` first.

    Example:
        >>> answer_formats()[:3]
        ('auto', 'boxed', 'answer')
    """
    return get_args(AnswerFormat)


def extract_answer(text: str, answer_format: AnswerFormat = "auto") -> str | None:
    """Return the answer of a completion, or `None` if it has none in this format.

    The last answer of a kind counts, and the search takes time proportional to the length of the text.

    Args:
        text: The completion.
        answer_format: `boxed`: what the last `\\boxed{}` holds; `answer`: the rest of the last line `Answer:`;
            `hashes`: the rest of the line after the last `####`; `last_number`; `auto`: these in this order; `dapo`:
            `answer`, then `boxed`, in the last 300 characters.

    Returns:
        The answer without surrounding white space, `$`, `*` and full stop; `None` also if it is longer than any answer.

    Raises:
        KeyError: For `math_verify`, which searches by itself.

    Example:
        >>> extract_answer("So $x = \\\\boxed{\\\\frac{1}{2}}$.")
        '\\\\frac{1}{2}'
        >>> extract_answer("Thus 3.\\nAnswer: $34$.", "answer")
        '34'
        >>> extract_answer("I give up.") is None
        True
    """
    search = FORMATS[answer_format]
    if search.tail is not None:
        text = text[-search.tail :]
    for kind in search.order:
        found = _FINDERS[kind](text)
        if found is not None and (answer := _bare(found)):
            return answer if len(answer) <= MAX_ANSWER_CHARS else None
    return None


def last_boxed(text: str) -> str | None:
    """Return what the last `\\boxed{}` or `\\fbox{}` holds, braces balanced.

    Args:
        text: Any text.

    Returns:
        The content; the rest of the text is not searched where the last box is not closed: `None`.

    Example:
        >>> last_boxed("\\\\boxed{1} or \\\\boxed{\\\\{2\\\\}}")
        '\\\\{2\\\\}'
        >>> last_boxed("\\\\boxed{1} or \\\\boxed{2") is None
        True
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    opening = text.find("{", start) if start >= 0 else -1
    if opening < 0:
        # `\boxed 7` is LaTeX too: one token is boxed.
        bare = re.match(r"\\(?:boxed|fbox)\s+([^\s$]+)", text[start:]) if start >= 0 else None
        return bare[1] if bare else None
    if between := text[start:opening].removeprefix("\\boxed").removeprefix("\\fbox").strip():
        return between.split()[0]
    depth = 0
    for match in _BRACES.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return text[opening + 1 : match.start()]
    return None


def _last_answer_line(text: str) -> str | None:
    start = -1
    for match in _ANSWER_LINE.finditer(text):
        start = match.end()
    if start < 0:
        return None
    found = text[start:].partition("\n")[0]
    return last_boxed(found) or found


def _after_hashes(text: str) -> str | None:
    _, marker, rest = text.rpartition("####")
    return rest.strip().partition("\n")[0] if marker else None


_FINDERS: dict[str, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "answer": _last_answer_line,
    "hashes": _after_hashes,
    "last_number": last_number_text,
}


def _bare(answer: str) -> str:
    """The answer without the marks of typesetting around it, and without a full stop at its end."""
    previous = None
    while answer != previous:
        previous = answer
        answer = answer.strip().removesuffix(".").strip("*")
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`")):
            inside = answer[len(opening) : -len(closing)]
            if answer.startswith(opening) and answer.endswith(closing) and len(answer) > 1 and opening not in inside:
                answer = inside
    return answer
