"""Which part of a completion is its answer: `\\boxed{}`, the line `Answer:`, a tag, `####`, or the last number."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from dgpo.lab.rewards.numbers import last_number_text

AnswerFormat = Literal["auto", "boxed", "answer", "hashes", "tag", "last_number", "dapo", "math_verify"]
"""How the answer is found; `FORMATS` says what each name means."""

# No answer of mathematics is longer, and a verifier must not be handed a megabyte.
MAX_ANSWER_CHARS = 4000
# verl's pattern, and what lies between may be bold: white space after the colon may go on to another line, where the
# answer is then the rest of that one. An "Answer:" with nothing behind it is none. Nothing is tried twice (`*+`), so
# the time stays proportional to the length.
_ANSWER_LINE = re.compile(r"answer[*_\s]*+[:：][*_\s]*+(?=[^\s])", re.IGNORECASE)
# "The answer is": a marker, unless it says of an answer how good it is or where it stands.
_ANSWER_IS = re.compile(
    r"\banswer\s{1,3}(?:is|=)[*_ \t]*+:?[*_\s]*+"
    r"(?!(?:that|correct|right|wrong|incorrect|clear|obvious|as|given|shown|found|therefore|thus|below|above|not)\b)(?=[^\s])",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[.]?\s*I hope", re.IGNORECASE)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_FENCE = re.compile(r"```[A-Za-z]*\n?(?P<inside>[^`]{1,4000})```")
_DISPLAY = re.compile(r"(?P<dollars>\$\$)(?P<a>[^$]{1,4000})\$\$|\\\[(?P<b>(?:[^\\]|\\[^\]]){1,4000})\\\]")
_END_MARK = re.compile(r"</?(?:answer|s|think)>|<\|[^|<>]{1,40}\|>|<end_of_turn>|<eos>")


class Search(NamedTuple):
    """What a format looks at.

    Attributes:
        order: The kinds of answer that are tried, the first one found counts; of `latest`, the one that ends last.
        tail: How many of the last characters of the completion are read; `None` for all.
        latest: Kinds of which the last one in the text counts, tried before `order`.
    """

    order: tuple[str, ...]
    tail: int | None = None
    latest: tuple[str, ...] = ()


FORMATS: dict[str, Search] = {
    "auto": Search(("number_at_end",), latest=("boxed", "answer", "answer_is", "hashes", "tag")),
    "boxed": Search(("boxed",)),
    "answer": Search(("answer",)),
    "hashes": Search(("hashes",)),
    "tag": Search(("tag",)),
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


def extract_answer(text: str, answer_format: AnswerFormat = "auto", *, complete: bool = True) -> str | None:
    """Return the answer of a completion, or `None` if it has none in this format.

    The last answer of a kind counts, and the search takes time proportional to the length of the text.

    Args:
        text: The completion.
        answer_format: `boxed`: what the last `\\boxed{}` holds; `answer`: what follows the last `Answer:`, to the end
            of its line; `hashes`: the rest of the line after the last `####`; `tag`: what the last `<answer>` holds;
            `last_number`; `auto`: whichever of these, or of "the answer is", comes last after the thoughts, and where
            there is none the last number, unless the text breaks off; `dapo`: `answer`, then `boxed`, in the last 300
            characters.
        complete: Whether the completion ended by itself; of one that was cut off, `auto` takes no last number.

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
    if search.latest:
        after = after_thoughts(text)
        if after is None:
            return None
        text = after
        places = [
            (found, place) for kind in search.latest for place, found in [_PLACED[kind](text)] if _bare(found or "")
        ]
        if places:
            return _short(_bare(max(places, key=lambda item: item[1])[0] or ""))
        if not complete:
            return None
    for kind in search.order:
        found = _FINDERS[kind](text)
        if found is not None and (answer := _bare(found)):
            return _short(answer)
    return None


def after_thoughts(text: str) -> str | None:
    """Return what follows the thoughts of a completion.

    Args:
        text: The completion.

    Returns:
        The text after the last `</think>`, or all of it where there are no thoughts; `None` if they were cut off.

    Example:
        >>> after_thoughts("<think>so 3</think> Answer: 5"), after_thoughts("<think>so 3") is None
        (' Answer: 5', True)
    """
    closing = text.rfind("</think>")
    if text.rfind("<think>") > closing:
        return None
    return text if closing < 0 else text[closing + len("</think>") :]


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
    return _boxed_at(text)[1]


def _boxed_at(text: str) -> tuple[int, str | None]:
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    opening = text.find("{", start) if start >= 0 else -1
    if opening < 0:
        # `\boxed 7` is LaTeX too: one token is boxed.
        bare = re.match(r"\\(?:boxed|fbox)\s+([^\s$]+)", text[start:]) if start >= 0 else None
        return start, bare[1] if bare else None
    if between := text[start:opening].removeprefix("\\boxed").removeprefix("\\fbox").strip():
        return start, between.split()[0]
    depth = 0
    for match in _BRACES.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return start, text[opening + 1 : match.start()]
    return start, None


def _answer_line(text: str) -> tuple[int, str | None]:
    start = end = -1
    for match in _ANSWER_LINE.finditer(text):
        if not text.startswith(("</answer>", "<|"), match.end()):
            start, end = match.start(), match.end()
    return (start, _line(text, end)) if start >= 0 else (-1, None)


def _answer_is(text: str) -> tuple[int, str | None]:
    start = end = -1
    for match in _ANSWER_IS.finditer(text):
        if text[max(0, match.start() - 12) : match.start()].rstrip().lower()[-4:] != "hope":
            start, end = match.start(), match.end()
    if start < 0:
        return -1, None
    found = _line(text, end)
    if "$" not in found and "\\(" not in found:
        found = found[: stop.start()] if (stop := _SENTENCE_END.search(found)) else found
    return start, found


def _line(text: str, start: int) -> str:
    """The answer that begins here: a display, a fence, a box, or the rest of the line."""
    for pattern in (_FENCE, _DISPLAY):
        if match := pattern.match(text, start):
            return last_boxed(match[0]) or next(part for part in match.groups()[::-1] if part)
    found = text[start : start + 2 * MAX_ANSWER_CHARS].partition("\n")[0]
    if text[max(0, start - 1) : start] == "\n" and found.startswith(("- ", "* ", "• ")):
        found = found[2:]  # an item of a list
    mark = _END_MARK.search(found, 1)
    found = _END_MARK.sub("", found[: mark.start()] if mark else found)
    return last_boxed(found) or found


def _after_hashes(text: str) -> tuple[int, str | None]:
    place = text.rfind("####")
    found = text[place + 4 :].lstrip()[: 2 * MAX_ANSWER_CHARS].partition("\n")[0]
    return (place, _line(found, 0)) if place >= 0 else (-1, None)


def _tagged(text: str) -> tuple[int, str | None]:
    closing = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, closing) if closing >= 0 else -1
    if opening < 0:
        return -1, None
    found = text[opening + len("<answer>") : closing]
    return opening, last_boxed(found) or _answer_line(found)[1] or found


def _number_at_end(text: str) -> str | None:
    """The last number, unless the text breaks off behind it, or in a box."""
    place, boxed = _boxed_at(text)
    return None if place >= 0 and boxed is None else last_number_text(text, ended=True)


_PLACED: dict[str, Callable[[str], tuple[int, str | None]]] = {
    "boxed": _boxed_at,
    "answer": _answer_line,
    "answer_is": _answer_is,
    "hashes": _after_hashes,
    "tag": _tagged,
}
_FINDERS: dict[str, Callable[[str], str | None]] = {
    **{kind: lambda text, find=find: find(text)[1] for kind, find in _PLACED.items()},  # type: ignore[misc]
    "last_number": last_number_text,
    "number_at_end": _number_at_end,
}


def _short(answer: str) -> str | None:
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


def _bare(answer: str) -> str:
    """The answer without the marks of typesetting around it, and without a full stop at its end."""
    previous = None
    while answer != previous:
        previous = answer
        answer = answer.strip()
        answer = (answer if answer.endswith("...") else answer.removesuffix(".")).strip("*")
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`")):
            inside = answer[len(opening) : -len(closing)]
            if answer.startswith(opening) and answer.endswith(closing) and len(answer) > 1 and opening not in inside:
                answer = inside
    return answer
