"""YAML 1.2 scalars for PyYAML, which reads YAML 1.1: `1e-4` is a number, `no` and `2024-01-01` are text."""

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 has them."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012


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
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return text


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
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in entries:
            continue
        try:
            entries[key] = (key, loader.construct_object(value_node, deep=True), line)
        except (yaml.YAMLError, ValueError) as error:
            problems.append((line, f"{key}: {describe_error(error)}"))
    return list(entries.values()), problems


def describe_error(error: Exception) -> str:
    """Return what is wrong with a YAML text, without the excerpt that PyYAML adds."""
    return str(getattr(error, "problem", None) or error)


def _repeated_keys(node: yaml.Node) -> list[tuple[int, str]]:
    if not isinstance(node, yaml.MappingNode):
        return []
    problems: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in first:
            problems.append((line, f"'{key}' is set a second time (first in line {first[key]}); keep one"))
        first.setdefault(key, line)
        problems += _repeated_keys(value_node)
    return problems
