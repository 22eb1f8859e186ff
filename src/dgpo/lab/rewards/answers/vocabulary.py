"""Words beside a number: units that say nothing, words that change it, and those that join it to something else."""

import re
from fractions import Fraction

_PART_NAMES = """
half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
sixteenth
"""
_CHANGING_WORDS = """
and or nor not no if plus minus times over mod modulo less more fewer greater than least most remainder choose
factorial squared cubed percent score about between to from until through except without neither either both
half sqrt root log ln exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh gcd lcm max min det lim
sum prod int inf infinity nan alpha beta gamma delta epsilon zeta eta theta iota kappa lambda rho sigma tau
phi chi psi omega abcd abc bcd mnp pqr rst uvw xyz mathrm pi zero one two three four five six seven eight nine
ten once twice thrice double triple only when where for all any every some such that wrong incorrect never
cannot impossible false undefined unknown negative positive infinite infinitely many up down square cube power
per off
"""
_UNIT_SIGNS = """
m s g h l L N J W V A K C F t kg km cm mm nm pm ml mL dm ft in lb oz mi Hz Pa eV ms hr hrs min sec mol rad deg
mph kmh kWh kW MW GHz MHz kHz kPa MPa atm cal kcal yd gal pt
"""

_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
}
_PARTS = {
    name: index
    for index, name in enumerate(
        _PART_NAMES.split(),
        start=2,
    )
} | {"halve": 2, "fourth": 4, "twentieth": 20, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}

SCALE_WORDS = rf"(?:{'|'.join(_SCALES)}|{'|'.join(_PARTS)})s?|halves"
# The end of a number, a command or a bracket, with what may stand between it and a word.
_NUMBER = r"(?P<number>(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+))"
_SCALED = re.compile(rf"(?<![A-Za-z0-9.\\_^]){_NUMBER}\s*(?P<word>{SCALE_WORDS})(?![A-Za-z])", re.IGNORECASE)
_AND_PART = re.compile(
    rf"(?<![A-Za-z0-9.\\_^]){_NUMBER}\s*and\s+(?:an?|one)[\s-]+(?P<word>{'|'.join(_PARTS)})(?![A-Za-z])", re.IGNORECASE
)
_PERCENT = re.compile(r"\s*(?:\\?%|\bper\s?cent(?:age)?(?:\s+points?)?\b|\bpct\b)", re.IGNORECASE)

# Words that are no unit: they change the number, deny it, or join it to something else.
_NO_UNITS = frozenset(_CHANGING_WORDS.split()) - {"per", "square"}

SHORT_UNITS = frozenset(_UNIT_SIGNS.split())
_UNIT = r"[A-Za-z]+(?:\s?\^\s?\{?-?[1-4]\}?)?"
_SHORT_UNIT = re.compile(rf"\s*(?P<unit>{_UNIT}(?:\s?(?:/|\\cdot|\*|\s)\s?{_UNIT})*)\.?")
_UNIT_WORDS = re.compile(
    r"[\s-]*(?P<words>[A-Za-z]{2,}(?:'s)?(?:[ \-/,]+(?:\([A-Za-z ]+\)|[A-Za-z']+))*)(?:\s?\^\s?\{?[1-4]\}?)?[.!]?"
)


def spell_out_scales(text: str) -> str:
    """Return the text with scale words multiplied out: `9 million`, `7 twelfths`, `2 and a half`, `60 percent`.

    Args:
        text: A text without the commands of typesetting around words.

    Returns:
        The text; `(9*1000000)`, `(7/12)`, `(2+1/2)`, `60%`.

    Example:
        >>> spell_out_scales("9 million"), spell_out_scales("2 and a half")
        ('(9*1000000)', '(2+1/2)')
    """
    text = _PERCENT.sub("%", text)
    text = _AND_PART.sub(lambda match: f"({match['number']}+1/{_part(match['word'])})", text)
    for _ in range(3):  # two hundred thousand
        text, count = _SCALED.subn(_multiplied, text)
        if not count:
            break
        text = re.sub(rf"\(([0-9,.]+)\*([0-9]+)\)\s*(?P<word>{'|'.join(_SCALES)})s?(?![A-Za-z])", _again, text)
    return text


def _part(word: str) -> int:
    return _PARTS[word.lower().removesuffix("s") if word.lower() != "halves" else "half"]


def _multiplied(match: re.Match[str]) -> str:
    word = match["word"].lower()
    scale = _SCALES.get(word.removesuffix("s"))
    return f"({match['number']}*{scale})" if scale else f"({match['number']}/{_part(word)})"


def _again(match: re.Match[str]) -> str:
    return f"({match[1]}*{int(match[2]) * _SCALES[match['word'].lower()]})"


def is_unit(text: str) -> bool:
    """Return whether what stands behind a number is a unit: plain words, or short signs such as `m/s` and `cm^2`.

    Args:
        text: The text behind the number, without commands.

    Returns:
        True if it says nothing about the number.

    Example:
        >>> is_unit(" cups of flour."), is_unit(" m/s"), is_unit(" million"), is_unit(" or more")
        (True, True, False, False)
    """
    short = _SHORT_UNIT.fullmatch(text)
    if short and all(part in SHORT_UNITS for part in re.findall("[A-Za-z]+", short["unit"])):
        return True
    words = _UNIT_WORDS.fullmatch(text)
    return words is not None and are_plain_words(words["words"])


def are_plain_words(text: str) -> bool:
    """Return whether no word of a text denies, compares, counts or joins.

    Args:
        text: Any text.

    Returns:
        True if the words may be passed over.
    """
    return not any(word in _NO_UNITS or re.fullmatch(SCALE_WORDS, word) for word in re.findall("[a-z]+", text.lower()))


def small_fraction(numerator: str, denominator: str) -> Fraction | None:
    """Return the fraction of a mixed number, or `None` if the text is something else: `2 3/4`, not `2 7/4`.

    Args:
        numerator: Digits.
        denominator: Digits.

    Returns:
        The fraction, below 1.
    """
    upper, lower = int(numerator), int(denominator)
    return Fraction(upper, lower) if 0 < upper < lower else None
