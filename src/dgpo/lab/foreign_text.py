"""Text that somebody else wrote, such as completions and names of files and problems, made safe for a terminal.

Everything that the workbench prints goes through `say`, or is a `rich.text.Text` of `visible` text.
"""

import sys
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Characters that are not seen though their category does not say so: fillers, joiners of marks, variation selectors.
_UNSEEN = [
    *((0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164), (0xFE00, 0xFE0E)),
    *((0xFFA0, 0xFFA0), (0xE0100, 0xE01EF)),
]
_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
_JOINER, _EMOJI = "\u200d", ("So", "Sk")


def visible(text: str) -> str:
    """Return a text in which every character can be seen and none commands the terminal.

    Control characters and whatever cannot be seen, moves others or is no character at all get a sign: line breaks and
    tabs an arrow, other control characters a picture, the rest their number. Joiners inside of an emoji stay.

    Args:
        text: Any text, lone surrogates included.

    Returns:
        One line.

    Example:
        >>> visible("so\\n\\x1b[31m \\u202egnp.exe")
        'so↵␛[31m U+202Egnp.exe'
    """
    if text.isascii() and text.isprintable():
        return text
    padded = ["", *text.replace("\ufe0f", ""), ""]  # it makes an emoji of a sign, and is as wide as nothing
    triples = zip(pairwise(padded), padded[2:], strict=False)
    return "".join(_sign(before, char, after) for (before, char), after in triples)


def visible_lines(text: str) -> str:
    """Return a text of several lines, each made visible.

    Args:
        text: Any text.

    Returns:
        As many lines.

    Example:
        >>> visible_lines("one\\n\\x1b[2Jtwo")
        'one\\n␛[2Jtwo'
    """
    return "\n".join(map(visible, text.split("\n")))


def say(text: str, to: "Console | TextIO | None" = None) -> None:
    """Print lines in which nothing commands the terminal or is taken for markup: names, keys, paths, messages.

    Args:
        text: Any text; line breaks stay line breaks.
        to: A console of rich, or a stream; standard output by default.

    Example:
        >>> say("runs/a[/b]\\x1b[2J")
        runs/a[/b]␛[2J
    """
    shown = visible_lines(text)
    if "rich.console" in sys.modules:
        from rich.console import Console
        from rich.text import Text

        if isinstance(to, Console):
            to.print(Text(shown))  # neither markup nor :names: of emoji
            return
    stream: Any = to or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _sign(before: str, char: str, after: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    code, category = ord(char), unicodedata.category(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if char == _JOINER and before and after and {unicodedata.category(x) for x in (before, after)} <= set(_EMOJI):
        return char
    is_unseen = category in ("Cc", "Cf", "Cs", "Zl", "Zp") or (category == "Zs" and char != " ")
    if is_unseen or any(low <= code <= high for low, high in _UNSEEN):
        return f"U+{code:04X}"
    return char
