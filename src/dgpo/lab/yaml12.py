"""YAML 1.2 scalars for PyYAML, which reads YAML 1.1: `1e-4` is a number, `no` and `2024-01-01` are text.

What is read is bounded, however it is written: aliases count as often as they stand for something.
"""

import re
from typing import Any, NoReturn

import yaml

from dgpo.lab.foreign_text import visible_lines

MOST_VALUES, DEEPEST = 10_000, 50
"""Bounds of what a text may hold: values, those behind an alias counted each time, and levels of lists and mappings."""

_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_RAISED = (ValueError, KeyError, IndexError, AttributeError, TypeError)  # by PyYAML, for `!!bool abc` and its like


class Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 has them, JSON's kinds of values alone, and no more of them than the bounds above."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _KINDS
    }

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}  # of finished nodes, with all that is in them

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node; raise where it makes the text too large or too deep, or holds itself."""
        event = self.peek_event()
        before, is_alias = self._values, isinstance(event, yaml.AliasEvent)
        self._depth += 1
        self._values += 1
        if self._depth > DEEPEST:
            _refuse(f"lists and mappings are nested more than {DEEPEST} deep", event)
        node: Any = super().compose_node(parent, index)
        if is_alias and node not in self._sizes:
            _refuse(f"*{event.anchor} holds itself", event)
        self._values += self._sizes[node] if is_alias else 0
        if self._values > MOST_VALUES:
            _refuse(f"it holds more than {MOST_VALUES:,} values", event)
        self._depth -= 1
        self._sizes[node] = self._values - before
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; whatever its tag does to it, the error is one of YAML."""
        try:
            return super().construct_object(node, deep=deep)
        except _RAISED as error:
            kind = str(node.tag).rpartition(":")[2]
            shown = f"{node.value[:40]!r} is no {kind}" if isinstance(node.value, str) else f"this is no {kind}"
            reason = str(error).partition(":")[0].partition(";")[0]
            raise yaml.constructor.ConstructorError(None, None, f"{shown} ({reason})", node.start_mark) from error


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    return float(text.replace(".", "") if text[-1].isalpha() else text)  # `.inf` and `.nan` are Python's without a dot


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
# YAML 1.1 would read 010 as octal and 1:30 as sixty-based.
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would mistake for something else: `'no'`, `'1e-4'`."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + Loader.yaml_implicit_resolvers.get(first, [])
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *Loader.yaml_implicit_resolvers}
    }


def load(text: str) -> Any:
    """Return what a YAML text holds.

    Args:
        text: YAML.

    Returns:
        Plain values.

    Raises:
        yaml.YAMLError: If it is not valid YAML.

    Example:
        >>> load("{correctness: 5e-1, name: no}")
        {'correctness': 0.5, 'name': 'no'}
    """
    return yaml.load(text, Loader=Loader)


def parse_value(text: str) -> Any:
    """Return one value of a command line, read as YAML.

    Args:
        text: What stands after `--key`.

    Returns:
        Its value; the text itself if it is not YAML.

    Example:
        >>> parse_value("[q_proj, v_proj]"), parse_value("1e-4"), parse_value("false")
        (['q_proj', 'v_proj'], 0.0001, False)
    """
    try:
        return load(text)
    except yaml.YAMLError:
        return text


def dump_values(values: dict[str, Any]) -> str:
    """Return values as YAML that YAML 1.1 and YAML 1.2 read back to the same values.

    Args:
        values: Name to value.

    Returns:
        One line a name, nested ones indented.

    Example:
        >>> print(dump_values({"learning_rate": 1e-4, "eval_strategy": "no"}), end="")
        learning_rate: 0.0001
        eval_strategy: 'no'
    """

    def dumped(allow_unicode: bool) -> str:
        options: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 100}
        return str(yaml.dump(values, Dumper=_Dumper, allow_unicode=allow_unicode, **options))

    text = dumped(True)
    # Marks that cannot be seen, and lone surrogates, which no file takes, are escaped: "\u202E".
    return text if visible_lines(text) == text else dumped(False)


def top_level_entries(text: str) -> tuple[list[tuple[str, Any, int]], list[tuple[int, str]]]:
    """Return the keys of a mapping with value and line, and what is wrong with single ones.

    Args:
        text: YAML.

    Returns:
        `(key, value, line)` of each key, the first one where a key is repeated; `(line, problem)` of repeated keys, at
        any depth, and of values that cannot be read.

    Raises:
        ValueError: If it holds something else than a mapping.
        yaml.YAMLError: If it is not valid YAML.

    Example:
        >>> top_level_entries("a: 1\\nb: 2\\na: 3")
        ([('a', 1, 1), ('b', 2, 2)], [(3, "'a' is set a second time (first in line 1); keep one")])
    """
    node = yaml.compose(text, Loader=Loader)
    if node is None:
        return [], []
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ValueError(f"must hold `key: value` lines, and holds {kind}")
    problems = _repeated_keys(node)
    entries: dict[str, tuple[str, Any, int]] = {}
    loader = Loader("")
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append((line, "a key must be a name"))
            continue
        key = str(key_node.value)
        if key in entries:
            continue
        try:
            entries[key] = (key, loader.construct_object(value_node, deep=True), line)
        except yaml.YAMLError as error:
            problems.append((line, f"{key}: {describe_error(error)}"))
    return list(entries.values()), problems


def describe_error(error: Exception) -> str:
    """Return what is wrong with a YAML text, without the excerpt that PyYAML adds."""
    return str(getattr(error, "problem", None) or error)


def _repeated_keys(node: yaml.Node, seen: set[int] | None = None) -> list[tuple[int, str]]:
    seen = set() if seen is None else seen  # a node that aliases stand for is looked at once
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return []
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [problem for item in node.value for problem in _repeated_keys(item, seen)]
    problems: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value)[:100], key_node.start_mark.line + 1
        if isinstance(key_node, yaml.ScalarNode) and key in first:
            problems.append((line, f"'{key}' is set a second time (first in line {first[key]}); keep one"))
        first.setdefault(key, line)
        problems += _repeated_keys(value_node, seen)
    return problems
