"""Whether two trees are equal: exact values exactly, decimals by the digits that are given, lists by their brackets."""

from fractions import Fraction

from .evaluate import TooLargeError, symbols
from .terms import Tree
from .values import constant_ratio, values_equal

_MAX_ITEMS = 200
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_STRUCTURES = ("seq", "mat", "union", "setop", "setof", "rel", "all", "cond", "base", "ratio", "text", "named", "set")


def equal(gold: Tree, answer: Tree) -> bool:
    """Return whether an answer equals the gold answer; the gold answer says whether order and brackets count.

    Args:
        gold: The gold answer's tree.
        answer: The answer's.

    Returns:
        True if they are equal.

    Raises:
        TooLargeError: If a value has too many digits to be worked out here.
    """
    if gold == answer:
        return True
    gold, answer = _alone(gold), _alone(answer)
    if gold[0] == "seq" and gold[1] in (",", "{"):
        gold = _unnamed_list(gold)
    if "named" in (gold[0], answer[0]):
        return _named_equal(gold, answer)
    if gold[0] == "seq" and answer[0] == "seq":
        return _lists_equal(gold, answer)
    if gold[0] in _STRUCTURES or answer[0] in _STRUCTURES:
        return _structures_equal(gold, answer)
    return values_equal(gold, answer)


def _alone(node: Tree) -> Tree:
    """What a set of one member holds."""
    return node[3][0] if node[0] == "seq" and node[1] in ("{", ",") and len(node[3]) == 1 else node


def _unnamed_list(gold: Tree) -> Tree:
    """`x = 1, 2` names its values once."""
    items = gold[3]
    if items and items[0][0] == "named" and not any(item[0] == "named" for item in items[1:]):
        items = [items[0][2], *items[1:]]
    return ("seq", gold[1], gold[2], items)


def _named_equal(gold: Tree, answer: Tree) -> bool:
    if gold[0] == answer[0] == "named":
        # y = 2x and f(x) = 2x are one function; x = 5 and y = 5 are two statements.
        renamed = symbols(gold[2]) and "call" in (gold[1][0], answer[1][0])
        if (gold[1] == answer[1] or renamed) and equal(gold[2], answer[2]):
            return True
        return _relations_equal(("rel", "=", *gold[1:]), ("rel", "=", *answer[1:]))
    if "rel" in (gold[0], answer[0]):
        sides = [("rel", "=", node[1], node[2]) if node[0] == "named" else node for node in (gold, answer)]
        return _relations_equal(sides[0], sides[1])
    return equal(gold[2], answer) if gold[0] == "named" else equal(gold, answer[2])


def _lists_equal(gold: Tree, answer: Tree) -> bool:
    (_, gold_open, gold_close, golds), (_, answer_open, answer_close, answers) = gold, answer
    if max(len(golds), len(answers)) > _MAX_ITEMS:
        raise TooLargeError
    names = [item[1] for item in golds if item[0] == "named"]
    if len(names) == len(golds) and len(set(map(str, names))) == len(names):
        return _assignments_equal(golds, answer)
    same = (gold_open, gold_close) == (answer_open, answer_close)
    if gold_open == "," or gold_open == "{":
        if answer_open in (",", "{"):
            if gold_open == "{" or answer_open == "{":
                golds, answers = _distinct(golds), _distinct(answers)
            return _same_members(golds, answers)
        return gold_open == "," and answer_open + answer_close in ("()", "[]") and _same_order(golds, answers)
    return (same or (answer_open == "," and gold_open + gold_close in ("()", "[]"))) and _same_order(golds, answers)


def _assignments_equal(golds: list[Tree], answer: Tree) -> bool:
    """`x = 1, y = 2`: by name where the answer has names, else in this order."""
    answers = answer[3]
    if answers and all(item[0] == "named" for item in answers):
        return _same_members(golds, answers)
    return answer[1] != "{" and _same_order([item[2] for item in golds], answers)


def _same_order(golds: list[Tree], answers: list[Tree]) -> bool:
    return len(golds) == len(answers) and all(map(equal, golds, answers))


def _same_members(golds: list[Tree], answers: list[Tree]) -> bool:
    if len(golds) != len(answers):
        return False
    rest = list(answers)
    for gold in golds:
        index = next((index for index, item in enumerate(rest) if equal(gold, item)), None)
        if index is None:
            return False
        del rest[index]
    return True


def _distinct(items: list[Tree]) -> list[Tree]:
    kept: list[Tree] = []
    for item in items:
        if not any(equal(other, item) for other in kept):
            kept.append(item)
    return kept


def _structures_equal(gold: Tree, answer: Tree) -> bool:
    if gold[0] == "base" or answer[0] == "base":
        return _bases_equal(gold, answer)
    if gold[0] != answer[0]:
        return False
    match gold:
        case ("union", parts):
            return _same_members(parts, answer[1])
        case ("ratio", parts):
            return _same_order(parts, answer[1])
        case ("all", relations):
            return _same_members(relations, answer[1])
        case ("setop", name, left, right):
            return bool(name == answer[1]) and equal(left, answer[2]) and equal(right, answer[3])
        case ("mat", rows):
            return [len(row) for row in rows] == [len(row) for row in answer[1]] and all(
                _same_order(row, other) for row, other in zip(rows, answer[1], strict=True)
            )
        case ("cond" | "setof", node, conditions):
            return equal(node, answer[1]) and _same_members(conditions, answer[2])
        case ("rel", *_):
            return _relations_equal(gold, answer)
    return False  # words and names of sets were compared as they are


def _bases_equal(gold: Tree, answer: Tree) -> bool:
    """A base is asked for: the value in another one may stand in the question. The digits alone will do."""
    if gold[0] == answer[0]:
        return bool(gold[1:] == answer[1:])
    return bool(gold[0] == "base" and answer[0] == "num" and answer[2] is None and str(answer[1]) == gold[1])


def _relations_equal(gold: Tree, answer: Tree) -> bool:
    """Equal up to a factor: `x^2/9 + y^2/5 = 1` and `5x^2 + 9y^2 = 45`."""
    if gold[0] != "rel" or answer[0] != "rel":
        return False
    if gold[2] is None or answer[2] is None:
        return gold[1:3] == answer[1:3] and equal(gold[3], answer[3])
    sides = [gold[2], gold[3], answer[2], answer[3]]
    if any(side[0] == "chain" or side[0] in _STRUCTURES for side in sides):
        return bool(gold[1] == answer[1]) and equal(gold[2], answer[2]) and equal(gold[3], answer[3])
    ratio = constant_ratio(_difference(gold), _difference(answer))
    if ratio is None:
        return False
    op = answer[1] if ratio > 0 else _FLIPPED[answer[1]]
    return bool(gold[1] == op)


def _difference(relation: Tree) -> Tree:
    return ("add", [relation[2], ("mul", [("num", Fraction(-1), None), relation[3]])])
