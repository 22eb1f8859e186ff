"""Typeset characters as the ASCII and LaTeX that the parser reads: signs, fractions, exponents, foreign digits."""

import re
import unicodedata

_GREEK_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega
Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""

_GREEK = {
    char: f"\\{name} "
    for name, char in zip(
        _GREEK_NAMES.split(),
        "αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ",
        strict=True,
    )
}
_SIGNS = str.maketrans(
    {
        **_GREEK,
        **dict.fromkeys("−–—‐‑‒﹣－⁃", "-"),
        **dict.fromkeys("·⋅∙•‧", "\\cdot "),
        **dict.fromkeys("°˚º", "^\\circ "),
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("。．", "."),
        **dict.fromkeys("’‘′", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("≈≃≅", "\\approx "),
        **dict.fromkeys("∅⌀", "\\emptyset "),
        "×": "\\times ",
        "✕": "\\times ",
        "÷": "\\div ",
        "±": "\\pm ",
        "∓": "\\mp ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "≡": "\\equiv ",
        "∞": "\\infty ",
        "√": " sqrt ",
        "∛": " cbrt ",
        "∈": "\\in ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∖": "\\setminus ",
        "∀": "\\forall ",
        "∃": "\\exists ",
        "¬": "\\neg ",
        "∣": "|",
        "⌊": "\\lfloor ",
        "⌋": "\\rfloor ",
        "⌈": "\\lceil ",
        "⌉": "\\rceil ",
        "⟨": "(",
        "⟩": ")",
        "…": "\\ldots ",
        "∶": ":",
        "⁄": "/",
        "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}",
        "∫": "\\int ",
        "∑": "\\sum ",
    }
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx", strict=True))
_RAISED = re.compile(f"[{''.join(map(re.escape, _SUPERSCRIPTS))}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")


def plain_characters(text: str) -> str:
    """Return the text with typeset characters written out; an ASCII text is returned as it is.

    Args:
        text: Any text.

    Returns:
        The text: `-` for every minus and dash, `^{2}` for a raised 2, `\\frac{1}{2}` for ½, ASCII digits for those of
        other scripts, no character without width.

    Example:
        >>> plain_characters("–3½ · 10⁻³")
        '-3\\\\frac{1}{2} \\\\cdot  10^{-3}'
    """
    if text.isascii():
        return text
    text = _FRACTION.sub(_fraction, text)
    text = _RAISED.sub(lambda match: f"^{{{''.join(_SUPERSCRIPTS[char] for char in match[0])}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{''.join(_SUBSCRIPTS[char] for char in match[0])}}}", text)
    text = text.translate(_SIGNS)
    return text if text.isascii() else "".join(map(_plain, text))


def _fraction(match: re.Match[str]) -> str:
    numerator, denominator = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return f"\\frac{{{numerator}}}{{{denominator}}}"


def _plain(char: str) -> str:
    if char.isascii():
        return char
    if (digit := unicodedata.decimal(char, None)) is not None:
        return str(digit)
    category = unicodedata.category(char)
    if category == "Cf":  # no width: joiners, marks of direction
        return ""
    if category == "Zs":
        return " "
    if category == "Sc":  # currency
        return "$"
    return unicodedata.normalize("NFKC", char)
