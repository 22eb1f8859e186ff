"""Whether an answer equals the gold answer."""

import re
from typing import Any

from .compare import equal
from .evaluate import TooLargeError, UndefinedError, exact, symbols
from .outcomes import BAD_GOLD, CORRECT, UNPARSEABLE, WRONG
from .parser import Tree
from .reading import clean, readings

_MAX_VALUE_CHARS = 200
_CHOICE = re.compile(r"\(?\s*(?P<letter>[A-Z])\s*\)?|\(\s*(?P<small>[a-z])\s*\)")
_CHOSEN = re.compile(
    r"(?:(?:option|choice|answer)\s+)?[(\[]?\s*(?P<letter>[A-Za-z])\s*"
    r"(?:[)\]][.:]?|[.:])?(?P<rest>\s+(?![-+=<>*/^,;|&])\S.*)?",
    re.IGNORECASE | re.DOTALL,
)
_SECOND_CHOICE = re.compile(r"\b(?:or|and|not)\b|\([A-Za-z]\)|\b[A-Z][).:]", re.IGNORECASE)
# What math-verify's parser reads and the one here does not.
_FOREIGN = re.compile(r"\\(?:int|iint|oint|sum|prod|lim|partial|overline\{[^0-9])(?![a-z])")


def check_answer(gold: str, answer: str | None, *, raw: bool) -> tuple[str, str | None, str | None]:
    """Return the outcome, the answer as it was read, and its value.

    Args:
        gold: The right answer.
        answer: The model's; `None` if it gave none.
        raw: Whether `answer` is a whole completion, in which math-verify looks for the answer.

    Returns:
        One of the outcomes above; a text or `None`; and a text that most spellings of an equal answer share, or `None`.
    """
    from . import library

    if raw:
        return library.check_completion(gold, answer)
    golds = readings(gold)
    if not golds:
        if not library.is_readable(gold, _FOREIGN):
            return BAD_GOLD, None, None
        return library.check_expression(gold, answer)
    if answer is None or not answer.strip():
        return UNPARSEABLE, None, None
    answers = readings(answer)
    if gold.strip() == answer.strip() or _is_choice(gold, answer):
        return CORRECT, answer, None
    if not answers:
        if _FOREIGN.search(answer):
            return library.check_expression(gold, answer)
        return UNPARSEABLE, answer, None
    try:
        correct = _any_equal(golds, answers)
    except RecursionError:
        return UNPARSEABLE, answer, None
    except TooLargeError:
        return library.check_expression(gold, answer)  # within the limits of this process
    return (
        CORRECT if correct else WRONG,
        answer,
        canonical(answers[-1 if len(answers) > 1 and symbols(answers[0]) else 0]),
    )


def _any_equal(golds: tuple[Tree, ...], answers: tuple[Tree, ...]) -> bool:
    if len(symbols(golds[0])) == 1:
        golds = golds[:1]  # 5m is five times m; 5 cm is a length
    return any(
        # Letters after a number are a unit only where the gold answer has none.
        (index == 0 or not symbols(gold)) and _is_equal(gold, answer)
        for gold in golds
        for index, answer in enumerate(answers)
    )


def _is_equal(gold: Tree, answer: Tree) -> bool:
    try:
        return equal(gold, answer)
    except UndefinedError:
        return False


def _is_choice(gold: str, answer: str) -> bool:
    """Whether the gold answer is a letter to choose, such as `B` or `(b)`, and the answer chooses it."""
    wanted = _CHOICE.fullmatch(clean(gold))
    chosen = _CHOSEN.fullmatch(clean(answer))
    if wanted is None or chosen is None:
        return False
    marked = re.match(r"\W*\(?[A-Za-z]\s*[).:\]]", clean(answer))
    rest = chosen["rest"] or ""
    if rest and (not marked or _SECOND_CHOICE.search(rest)):
        return False
    return (wanted["letter"] or wanted["small"]).lower() == chosen["letter"].lower()


def canonical(tree: Tree) -> str | None:
    """Return the value as text: fractions reduced, decimals as fractions, sets sorted.

    Args:
        tree: A tree.

    Returns:
        The text; `None` if it is too long or has no value.
    """
    try:
        text = _canonical(tree)
    except (TooLargeError, UndefinedError):
        return None
    return text if len(text) <= _MAX_VALUE_CHARS else None


def _canonical(node: Any) -> str:
    if isinstance(node, list):
        return ", ".join(map(_canonical, node))
    if not isinstance(node, tuple):
        return str(node)
    if node[0] == "named":
        return _canonical(node[2])
    if node[0] == "seq":
        items = sorted(map(_canonical, node[3])) if node[1] in ("{", ",") else list(map(_canonical, node[3]))
        return f"{'{' if node[1] == ',' else node[1]}{', '.join(items)}{'}' if node[2] == ',' else node[2]}"
    value = exact(node)
    if value is not None:
        return str(value)
    if node[0] in ("sym", "const", "text"):
        return str(node[1])
    if node[0] in ("add", "mul"):
        return f"({(' + ' if node[0] == 'add' else '*').join(sorted(map(_canonical, node[1])))})"
    return f"{node[0]}({', '.join(map(_canonical, node[1:]))})"
