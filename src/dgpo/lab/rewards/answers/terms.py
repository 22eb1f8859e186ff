"""The smallest parts of an answer: letters and words, functions, and the commands of LaTeX with their arguments."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .tokens import Token, UnreadableError

_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan asin acos atan sinh cosh tanh ln log lg exp gcd lcm max min
"""
_GREEK_NAMES = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi
varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell
"""

Tree = tuple[Any, ...]

_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_GREEK = frozenset(_GREEK_NAMES.split())
_CONSTANTS = {"pi": "pi", "Pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "e": "e", "i": "i"}
_MATRICES = ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix")
_MAX_LETTERS = 4


class TermParser:
    """What `parser.Parser` builds on: the tokens, and everything below a factor.

    Args:
        tokens: The tokens of a text, with one of kind `end` at the end.
        sign: The sign that `±` stands for.
    """

    def __init__(self, tokens: list[Token], sign: int) -> None:
        self._tokens, self._sign = tokens, sign
        self._position = self._depth = 0
        self._bars: list[bool] = [False]  # whether a bar ends what is being read
        self._conditions: list[Tree] = []  # of what is being read

    @property
    def _kind(self) -> str:
        return self._tokens[self._position].kind

    def _next(self) -> Token:
        token = self._tokens[self._position]
        self._position += 1
        return token

    def _take(self, *kinds: str) -> bool:
        if self._kind in kinds:
            self._position += 1
            return True
        return False

    def _expect(self, *kinds: str) -> str:
        token = self._tokens[self._position]
        if token.kind not in kinds:
            raise UnreadableError(f"{token.text!r} where {' or '.join(kinds)} was expected")
        self._position += 1
        return token.kind

    # The parts above; see `parser.Parser`.

    def _sum(self) -> Tree:
        raise NotImplementedError

    def _signed(self) -> Tree:
        raise NotImplementedError

    def _postfix(self) -> Tree:
        raise NotImplementedError

    def _exponent(self) -> Tree:
        raise NotImplementedError

    def _primary(self, *, short: bool = False) -> Tree:
        raise NotImplementedError

    def _enclosed(self, closing: str) -> Tree:
        raise NotImplementedError

    def _starts_factor(self) -> bool:
        raise NotImplementedError

    def _argument(self) -> Tree:
        """What a command or a caret applies to: a group in braces, or one token."""
        if self._take("{"):
            node = self._sum()
            self._expect("}")
            return node
        return self._primary(short=True)

    def _digit(self) -> Tree:
        """An argument of `\\frac`, where 12 is two of them."""
        token = self._tokens[self._position]
        if token.kind == "number" and token.digits is None and len(token.text) > 1 and token.text.isdecimal():
            self._tokens = list(self._tokens)
            self._tokens[self._position] = Token("number", token.text[1:], Fraction(token.text[1:]))
            return ("num", Fraction(token.text[0]), None)
        return self._argument()

    # Names

    def _word(self, word: str, short: bool) -> Tree:
        name = word if word in _CONSTANTS or word in _FUNCTIONS else word.lower()
        if len(word) > 1 and (name in _CONSTANTS or name in _FUNCTIONS or word in _GREEK or name in ("sqrt", "cbrt")):
            return self._command(f"\\{name if word not in _GREEK else word}", plain=True)
        if word.startswith("pi") and len(word) == 3:
            return product(("const", "pi"), self._letter(word[2]))
        if word[:-1] in _FUNCTIONS:  # cosx
            return ("fn", word[:-1], [self._letter(word[-1])])
        if len(word) > _MAX_LETTERS:
            raise UnreadableError(f"the word {word!r}")
        if short and len(word) > 1:  # x^ab is x^a b
            self._position -= 1
            self._tokens = list(self._tokens)
            self._tokens[self._position] = Token("word", word[1:])
            return self._symbol(word[0])
        node = self._letter(word[0]) if len(word) == 1 else self._symbol(word[0])
        for index, letter in enumerate(word[1:], start=2):
            node = product(node, self._letter(letter) if index == len(word) else self._symbol(letter))
        return node

    def _symbol(self, letter: str) -> Tree:
        return ("const", letter) if letter in ("e", "i") else ("sym", letter)

    def _letter(self, letter: str) -> Tree:
        """The last letter of a word, with its index and primes; a function with what it is applied to."""
        name, marked = letter, False
        while self._kind in ("_", "'"):
            marked = True
            if self._next().kind == "'":
                name += "'"
            else:
                name += f"_{self._index()}"
        if not marked and letter in ("e", "i"):
            return ("const", letter)
        if (letter in ("f", "g", "h") or letter.isupper()) and self._kind == "(":  # I(0) is no product
            argument = self._primary()
            return ("call", name, argument[3] if argument[0] == "seq" else [argument])
        return ("sym", name)

    def _index(self) -> str:
        if not self._take("{"):
            return self._next().text
        texts = []
        while self._kind not in ("}", "end"):
            texts.append(self._next().text)
        self._expect("}")
        return "".join(texts)

    def _command(self, command: str, *, plain: bool = False) -> Tree:
        name = command[1:]
        if name in _CONSTANTS and len(name) > 1:
            return ("const", _CONSTANTS[name])
        if name in _GREEK:
            return self._letter(name)
        if name in _FUNCTIONS:
            return self._function(name)
        if handler := _HANDLERS.get(name):
            return handler(self, plain)
        raise UnreadableError(f"the command {command}")

    def _function(self, name: str) -> Tree:
        power = base = None
        while self._kind in ("^", "_"):
            if self._next().kind == "^":
                power = self._exponent()
            else:
                base = self._digit() if name == "log" and self._kind == "number" else self._argument()
        if self._kind == "(":
            argument = self._primary()
            arguments = argument[3] if argument[0] == "seq" else [argument]
        else:
            arguments = [self._function_argument()]
        if base is not None:
            arguments = [*arguments, base]
        if power == ("mul", [("num", Fraction(-1), None), ("num", Fraction(1), None)]):
            return ("fn", f"arc{name}", arguments)
        node: Tree = ("fn", name, arguments)
        return node if power is None else ("pow", node, power)

    def _function_argument(self) -> Tree:
        """Without brackets: `\\sin 2x`, up to the next sign, function or bracket."""
        node = self._signed()
        while self._starts_factor() and self._tokens[self._position].text.lstrip("\\") not in _FUNCTIONS:
            node = product(node, self._postfix())
        return node

    # Commands with arguments

    def _root(self, plain: bool) -> Tree:
        degree: Tree | None = None
        if self._kind == "[":
            self._next()
            degree = self._sum()
            self._expect("]")
        node = self._primary() if plain or self._kind == "(" else self._argument()
        return ("fn", "root", [node, degree or ("num", Fraction(2), None)])

    def _fraction(self, plain: bool) -> Tree:
        upper = self._digit()
        return ("div", upper, self._digit())

    def _binomial(self, plain: bool) -> Tree:
        upper = self._digit()
        return ("fn", "binomial", [upper, self._digit()])

    def _accented(self, plain: bool) -> Tree:
        """A letter with a sign above it, or a segment: another name."""
        accent = self._tokens[self._position - 1].text
        return self._letter(f"{accent}{self._index()}")

    def _matrix(self, plain: bool) -> Tree:
        environment = self._environment()
        if environment not in _MATRICES:
            raise UnreadableError(f"the environment {environment}")
        if environment == "array" and self._kind == "{":
            self._index()
        rows: list[list[Tree]] = [[]]
        while self._tokens[self._position].text != "\\end":
            rows[-1].append(self._sum())
            if self._tokens[self._position].text == "\\\\":
                self._next()
                if self._tokens[self._position].text != "\\end":
                    rows.append([])
            elif self._tokens[self._position].text != "\\end":
                self._expect("&")
        self._next()
        self._environment()
        return ("mat", rows)

    def _environment(self) -> str:
        return self._index() if self._kind == "{" else unreadable("no name of an environment")


def unreadable(reason: str) -> Any:
    """Raise `UnreadableError`, where an expression is wanted."""
    raise UnreadableError(reason)


def product(left: Tree, right: Tree) -> Tree:
    """Return the product of two trees, flat."""
    return ("mul", [*(left[1] if left[0] == "mul" else [left]), *(right[1] if right[0] == "mul" else [right])])


def _constant(node: Tree) -> Callable[[TermParser, bool], Tree]:
    return lambda parser, plain: node


_HANDLERS: dict[str, Callable[[TermParser, bool], Tree]] = {
    "frac": TermParser._fraction,
    "binom": TermParser._binomial,
    "sqrt": TermParser._root,
    "cbrt": lambda parser, plain: ("fn", "root", [parser._primary(), ("num", Fraction(3), None)]),
    "begin": TermParser._matrix,
    "lfloor": lambda parser, plain: ("fn", "floor", [parser._enclosed("\\rfloor")]),
    "lceil": lambda parser, plain: ("fn", "ceil", [parser._enclosed("\\rceil")]),
    "emptyset": _constant(("seq", "{", "}", [])),
    "varnothing": _constant(("seq", "{", "}", [])),
    "mathbb": lambda parser, plain: ("set", parser._index()),
    "R": _constant(("set", "R")),
    "hbar": _constant(("sym", "hbar")),
    **dict.fromkeys(("dot", "ddot", "hat", "widehat", "vec", "bar", "tilde", "overline"), TermParser._accented),
}
