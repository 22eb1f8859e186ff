"""What an answer may mean: its text without the marks of typesetting, as a tree, as a number with a unit, as words."""

import re
from functools import lru_cache

from .characters import plain_characters
from .parser import Tree, parse
from .tokens import UnreadableError
from .vocabulary import are_plain_words, is_unit, spell_out_scales

_MAX_WORD = 40
_MAX_WORDS = 200
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("```", "```"), ("`", "`"), ("**", "**"))
_COMMAND_AROUND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|bm|boldsymbol)\s*\{"
)
_TYPEFACE = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?|bm|boldsymbol|"
    r"emph|underline)\s*\{(?P<content>[^{}]*)\}"
)
_OLD_TYPEFACE = re.compile(r"\{?\\(?:rm|bf|it|cal|mathrm|mathbf)(?![a-z])\s*([A-Za-z]+)\}?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-z])")
_BINOMIALS = re.compile(r"\\[dt]binom(?![a-z])")
_ORDINAL = re.compile(r"\^\s*\{?\s*(?:th|st|nd|rd)\s*\}?|(?<=[0-9])(?:th|st|nd|rd)(?![A-Za-z])")
_SIGNED_CURRENCY = re.compile(r"(?<![A-Za-z0-9])-\s?(?:\\?\$)\s?(?=[0-9.])")
_PRIME = re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![a-z]))")
_SPACES = re.compile(r"\\[,;:]|\\q?quad(?![a-z])")
_THIN_SPACE = re.compile(r"(?<!\\)\\ ")  # in a matrix, two backslashes end a row
_STOPS = re.compile(r"(?:\\\\|\\ |[.,;:!?。]|\s|\\[,;!])+$")

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|and|finally|in conclusion)[,:]?\s+)?"
    r"(?:we (?:get|have|find|conclude)(?: that)?\s+)?"
    r"(?:(?:the|my|our|your)\s+)?(?:(?:final|correct|right|required|desired)\s+)*"
    r"(?:answer|result|value|solution|option|choice|it)\b(?:\s+(?:of|to|for)\s[^=:$0-9]{1,60}?)?\s*"
    r"(?:is|are|equals|would be|will be|:|=)+\s*:?\s*(?P<rest>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_HOPE = re.compile(r"[.,;!]?\s*I hope (?:it|this|that)(?: is|'s) (?:correct|right|helpful)\W*$", re.IGNORECASE)
_REASON = re.compile(r"(?<=[A-Za-z0-9$)}\]%]),?\s+(?:because|since)\s.*$", re.IGNORECASE | re.DOTALL)
_MATHS = re.compile(r"\$\$?(?P<dollars>[^$]+)\$\$?|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]", re.DOTALL)
_VALUE = re.compile(
    r"-?\s?\\?\$?\s?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]+)?(?:\s?\\?%)?|\([0-9*/+.,]+\)"
)
_PLAIN_PROSE = re.compile(r"[A-Za-z][A-Za-z'’\-]*(?:[ ,.\-'()]+[A-Za-z'\-]+)*[.,!]?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' \-,.&]*")
_DATE = re.compile(
    r"[0-9]{1,2}(?::[0-9]{2})?\s*(?:[ap]\.?\s?m\.?)|(?:[a-z]+day,? )?"
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.? [0-9]{1,2}(?:,? [0-9]{4})?",
    re.IGNORECASE,
)
_OPAQUE = ("\\forall", "\\exists", "\\nexists")


def clean(text: str) -> str:
    """Return a text without the marks of typesetting around it and in it; the same for gold answers and answers.

    Args:
        text: An answer.

    Returns:
        The text.

    Example:
        >>> clean("$\\\\dfrac{1}{2}.$"), clean("\\\\text{ (A) }"), clean("12{,}345 \\\\\\\\")
        ('\\\\frac{1}{2}', '(A)', '12,345')
    """
    text = _unwrapped(plain_characters(text))
    text = text.replace("{,}", ",").replace("\\%", "%").replace("^\\%", "%")
    text = _PRIME.sub("'", text)
    text = _SPACES.sub(" ", text).replace("\\!", "")
    text = _SIGNED_CURRENCY.sub("-", text).replace("\\$", " ").replace("$", " ")
    text = _FRACTIONS.sub(r"\\frac", _BINOMIALS.sub(r"\\binom", text))
    for _ in range(3):
        text, count = _TYPEFACE.subn(r" \g<content> ", text)
        if not count:
            break
    text = _OLD_TYPEFACE.sub(r" \1 ", text)
    return _stripped(_ORDINAL.sub("", _THIN_SPACE.sub(" ", text).replace("~", " ").replace("\n", " ")))


def _stripped(text: str) -> str:
    """Without stops at the end; `4!` and `0.333...` keep theirs."""
    text = text.strip()
    match = _STOPS.search(text)
    if match is None or "..." in match[0]:
        return text
    factorial = "!" if match[0].startswith("!") and text[: match.start()][-1:] in tuple("0123456789)nxk") else ""
    return text[: match.start()] + factorial


def _unwrapped(text: str) -> str:
    previous = None
    while text != previous:
        previous, text = text, _stripped(text)
        for opening, closing in _WRAPPERS:
            inside = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and len(text) > 1 and opening not in inside:
                text = inside
        if (match := _COMMAND_AROUND.match(text)) and _closes_at_end(text, match.end() - 1):
            text = text[match.end() : -1]
    return text


def _closes_at_end(text: str, opening: int) -> bool:
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index == len(text) - 1
    return False


@lru_cache(maxsize=4096)
def readings(text: str) -> tuple[Tree, ...]:
    """Return what a text may mean, the likeliest first; nothing if it cannot be read from end to end.

    Args:
        text: An answer, or a gold answer.

    Returns:
        Trees: of the whole text, of a number without its unit, of the one value in a sentence, or its words.

    Example:
        >>> readings("There are 8 ways.")[0]
        ('num', Fraction(8, 1), None)
        >>> readings("\\\\frac{1}{")
        ()
    """
    found: list[Tree] = []
    plain = _HOPE.sub("", plain_characters(text).strip())
    plain = _REASON.sub("", plain) or plain
    for candidate in _without_lead_in(plain) or [plain]:
        cleaned = clean(candidate)
        if not cleaned:
            continue
        if any(command in cleaned for command in _OPAQUE):
            found.append(("text", "".join(cleaned.split())))
            continue
        if _DATE.fullmatch(cleaned):
            found.append(("text", "".join(re.findall("[a-z0-9:]+", cleaned.lower()))))
            continue
        is_word = re.fullmatch("[A-Za-z]{3,}", cleaned) is not None
        tree = _tree(spell_out_scales(cleaned))
        if tree is not None and not (is_word and tree[0] == "mul"):  # letters of a word are no factors
            found.append(tree)
        found += _without_unit(cleaned) + _in_a_sentence(candidate)
        if not found and (words := _words(cleaned)):
            found.append(("text", words))
    return tuple(tree for index, tree in enumerate(found) if tree not in found[:index])


def _tree(text: str) -> Tree | None:
    try:
        return parse(text)
    except (UnreadableError, RecursionError):
        return None


def _without_lead_in(text: str) -> list[str]:
    match = _LEAD_IN.fullmatch(text)
    return [match["rest"]] if match else []


def _without_unit(text: str) -> list[Tree]:
    """A number, or an expression without letters, before words or short units."""
    text = spell_out_scales(text)
    match = re.search(r"(?:[0-9)}%]|\\pi)\s*(?=[A-Za-z\-])", text) or re.search(
        r"[0-9)}%](?=\s*\^?\s*\\?[A-Za-z])", text
    )
    while match:
        number, rest = text[: match.end()], text[match.end() :]
        if is_unit(rest) or (match[0][0] == "%" and _is_of(rest)) or _is_of(rest):
            tree = _tree(number.strip())
            return [tree] if tree is not None else []
        match = re.compile(r"(?:[0-9)}%]|\\pi)\s*(?=[A-Za-z])").search(text, match.end())
    return []


def _is_of(rest: str) -> bool:
    """`of the cake`: what a share is taken of."""
    words = rest.strip().rstrip(".")
    return words.startswith("of ") and _PLAIN_PROSE.fullmatch(words) is not None and are_plain_words(words)


def _in_a_sentence(text: str) -> list[Tree]:
    """The one value among words that neither deny nor compare."""
    formulas = list(_MATHS.finditer(text))
    if len(formulas) == 1:
        inside = next(part for part in formulas[0].groups() if part)
        around = text[: formulas[0].start()], text[formulas[0].end() :]
    elif not formulas:
        spelled = spell_out_scales(text)
        values = list(_VALUE.finditer(spelled))
        if len(values) != 1:
            return []
        inside = values[0][0]
        around = spelled[: values[0].start()], spelled[values[0].end() :]
    else:
        return []
    before, after = around[0].strip(), around[1].strip(" .!")
    if not (before or after) or not all(_is_prose(part) for part in (before.rstrip(":= "), after)):
        return []
    tree = _tree(spell_out_scales(clean(inside)))
    return [] if tree is None else [tree]


def _is_prose(text: str) -> bool:
    text = text.strip()
    if not text:
        return True
    if len(text) == 1 or _PLAIN_PROSE.fullmatch(text) is None:
        return False
    return re.search("[A-Za-z]{2}", text) is not None and are_plain_words(text)


def _words(text: str) -> str | None:
    """Words, as they are compared."""
    if _WORDS.fullmatch(text) is None or len(text) > _MAX_WORDS or len(text.strip()) < 2:
        return None
    if max(map(len, text.split())) > _MAX_WORD:
        return None
    return " ".join(re.findall("[a-z]+", text.lower()))
