"""An answer as a tree: numbers, expressions, relations, lists, intervals. The whole text is read, or none of it.

A tree is a tuple whose first member names what it is:
`num value digits`, `sym name`, `const name`, `add parts`, `mul parts`, `div a b`, `pow a b`, `fn name args`,
`call name args`, `pct a`, `seq open close items`, `mat rows`, `set name`, `union parts`, `setop name a b`,
`setof item conditions`, `rel op lhs rhs`, `all relations`, `named name value`, `chain parts`, `cond a conditions`,
`base digits base`, `ratio parts`, `text words`.
"""

from fractions import Fraction

from .terms import TermParser, Tree, product, unreadable
from .tokens import UnreadableError, tokenize

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "approx")
_MAX_DEPTH = 100


def parse(text: str) -> Tree:
    """Return the tree of a text; `±` gives the list of both values.

    Args:
        text: A cleaned answer.

    Returns:
        The tree.

    Raises:
        UnreadableError: If any part of the text cannot be read.

    Example:
        >>> parse("2x")
        ('mul', [('num', Fraction(2, 1), None), ('sym', 'x')])
    """
    tokens = tokenize(text)
    if not any(token.kind in ("pm", "mp") for token in tokens):
        return Parser(tokens, 1).whole()
    upper, lower = (Parser(tokens, sign).whole() for sign in (1, -1))
    if upper[0] == "seq" and upper[1] == ",":  # x = 0, (3 ± √17)/4
        items = [item for pair in zip(upper[3], lower[3], strict=True) for item in pair]
        return ("seq", ",", ",", [item for index, item in enumerate(items) if item not in items[:index]])
    return ("seq", ",", ",", [upper, lower])


class Parser(TermParser):
    """Relations, sums, products and brackets; one method for each level of precedence."""

    def whole(self) -> Tree:
        """Return the tree of all tokens; raise `UnreadableError` if one is left."""
        items = self._items((",", ";", "and"))
        self._expect("end")
        return items[0] if len(items) == 1 else ("seq", ",", ",", items)

    def _items(self, separators: tuple[str, ...]) -> list[Tree]:
        items = [self._item()]
        while self._take(*separators):
            self._take("and")  # 1, 2, and 3
            items.append(self._item())
        return items

    # Relations

    def _item(self) -> Tree:
        outer, self._conditions = self._conditions, []
        node = self._relation()
        if self._take("if"):
            self._conditions.extend(self._items((",", "and")))
        if self._conditions:
            node = ("cond", node, self._conditions)
        self._conditions = outer
        return node

    def _relation(self) -> Tree:
        if self._kind in _RELATIONS:
            op = self._next().kind
            value = self._set()
            return value if op in ("=", "approx") else ("rel", op, None, value)
        parts, ops = [self._set()], []
        while self._kind in _RELATIONS or self._tokens[self._position].text in ("\\in", "in"):
            ops.append(self._next().kind)
            parts.append(self._set())
        if self._kind == ":" and not self._bars[-1]:
            while self._take(":"):
                parts.append(self._set())
            return ("ratio", parts) if not ops else unreadable("a ratio in a relation")
        return _related(parts, ops)

    def _set(self) -> Tree:
        node = self._sum()
        while self._tokens[self._position].text in ("\\cup", "\\cap", "\\setminus", "\\backslash"):
            name, right = self._next().text, self._sum()
            if name == "\\cup":
                left = node[1] if node[0] == "union" else [node]
                node = ("union", [*left, right])
            else:
                node = ("setop", name, node, right)
        return node

    # Arithmetic

    def _sum(self) -> Tree:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError("brackets deeper than in any answer")
        parts = [self._product()]
        while self._kind in ("+", "-", "pm", "mp"):
            minus = self._is_minus(self._next().kind)
            term = self._product()
            parts.append(_negative(term) if minus else term)
        self._depth -= 1
        return parts[0] if len(parts) == 1 else ("add", parts)

    def _is_minus(self, kind: str) -> bool:
        return kind == "-" or (kind == "pm" and self._sign < 0) or (kind == "mp" and self._sign > 0)

    def _product(self) -> Tree:
        node = self._signed()
        while True:
            if self._take("*"):
                node = product(node, self._signed())
            elif self._take("/"):
                node = ("div", node, self._signed())
            elif self._kind in ("(", "[") or self._starts_factor():
                integer = node[0] == "num" and node[2] is None and node[1].denominator == 1
                is_fraction = self._tokens[self._position].text == "\\frac"
                right = self._postfix()
                if right[0] == "seq":
                    raise UnreadableError("a list as a factor")
                if right[0] in ("rel", "all"):
                    self._conditions.append(right)  # = 1 (x > 0)
                elif integer and is_fraction and right[0] == "div" and right[1][0] == right[2][0] == "num":
                    node = ("add", [node, right])  # 3\frac{1}{2}
                else:
                    node = product(node, right)
            else:
                return node

    def _starts_factor(self) -> bool:
        token = self._tokens[self._position]
        if token.kind == "word":
            return token.text not in ("in", "mod")
        if token.kind == "command":
            return token.text not in ("\\in", "\\cup", "\\cap", "\\setminus", "\\backslash", "\\mid", "\\end", "\\\\")
        return token.kind == "{" or (token.kind == "|" and not self._bars[-1])

    def _signed(self) -> Tree:
        if self._kind in ("+", "-", "pm", "mp"):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise UnreadableError("more signs than in any answer")
            minus = self._is_minus(self._next().kind)
            node = self._signed()
            self._depth -= 1
            return _negative(node) if minus else node
        return self._postfix()

    def _postfix(self) -> Tree:
        node = self._primary()
        while True:
            if self._kind == "^":
                self._next()
                if self._is_degree():
                    continue
                node = ("pow", node, self._exponent())
            elif self._kind == "_" and node[0] == "num":
                self._next()
                digits, base = self._tokens[self._position - 2].text, self._argument()
                if base[0] != "num":
                    raise UnreadableError("an index of a number that is no base")
                node = ("base", digits, int(base[1]))
            elif self._take("!"):
                node = ("fn", "factorial", [node])
            elif self._kind == "%":
                self._next()
                node = ("pct", node)
            else:
                return node

    def _is_degree(self) -> bool:
        """Pass over the sign of degrees behind a caret; true if it was there."""
        texts = [token.text for token in self._tokens[self._position : self._position + 3]]
        length = 1 if texts[0] == "\\circ" else 3 if texts == ["{", "\\circ", "}"] else 0
        self._position += length
        return length > 0

    def _exponent(self) -> Tree:
        if self._kind in ("-", "+"):
            return self._signed()
        node = self._argument() if self._kind != "(" else self._primary()
        while self._take("!"):
            node = ("fn", "factorial", [node])
        return ("pow", node, self._exponent()) if self._take("^") else node  # 2^3^4 is 2^(3^4)

    def _primary(self, *, short: bool = False) -> Tree:
        token = self._next()
        match token.kind:
            case "number":
                return ("num", token.value, token.digits)
            case "(" | "[" | "\\{" | "{":
                return self._bracket(token.kind)
            case "|":
                return ("fn", "abs", [self._enclosed("|")])
            case "word":
                return self._word(token.text, short)
            case "command":
                return self._command(token.text)
        raise UnreadableError(f"{token.text!r} where a value was expected")

    def _enclosed(self, closing: str) -> Tree:
        self._bars.append(True)
        node = self._sum()
        self._bars.pop()
        if closing.startswith("\\"):
            if self._next().text != closing:
                raise UnreadableError(f"no {closing}")
        else:
            self._expect(closing)
        return node

    def _bracket(self, opening: str) -> Tree:
        braces = opening == "\\{" or opening == "{"
        closings = {"\\{": ("\\}",), "{": ("}",)}.get(opening, (")", "]"))
        if braces and self._take(*closings):
            return ("seq", "{", "}", [])
        self._bars.append(braces)
        items = self._items((",", ";", "and"))
        if braces and (self._kind in ("|", ":") or self._tokens[self._position].text == "\\mid"):
            self._next()
            conditions = self._items((",", "and"))
            self._expect(*closings)
            self._bars.pop()
            return ("setof", items[0], conditions)
        self._bars.pop()
        closing = self._expect(*closings)
        if opening == "\\{" or (opening == "{" and len(items) > 1):
            return ("seq", "{", "}", items)
        return items[0] if len(items) == 1 else ("seq", opening, closing, items)


def _negative(node: Tree) -> Tree:
    return ("mul", [("num", Fraction(-1), None), node])


def _related(parts: list[Tree], ops: list[str]) -> Tree:
    if "approx" in ops and (ops[0] != "approx" or len(ops) > 1 or parts[0][0] not in ("sym", "call")):
        index = ops.index("approx")
        parts, ops = parts[: index + 1], ops[:index]  # what is exact stands in front
    if not ops:
        return parts[0]
    equalities = all(op in ("=", "approx") for op in ops)
    if (equalities or ops == ["command"] or ops == ["word"]) and _is_name(parts[0]):
        value = parts[1] if len(parts) == 2 else ("chain", parts[1:])
        return ("named", parts[0], value)
    if "command" in ops or "word" in ops:
        raise UnreadableError("an element of a set that is no name")
    if equalities and len(parts) > 2:
        return ("chain", parts)
    relations = [("rel", op, left, right) for op, left, right in zip(ops, parts, parts[1:], strict=False)]
    return relations[0] if len(relations) == 1 else ("all", relations)


def _is_name(node: Tree) -> bool:
    if node[0] == "seq":
        return node[1:3] == ("(", ")") and all(item[0] == "sym" for item in node[3])
    return node[0] in ("sym", "call")
