"""Reads a recipe: one flat YAML file, every field of which the command line can override."""

import copy
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dgpo.errors import RecipeError
from dgpo.lab.train.schema import Field, describe, fit, unknown_key


class _RecipeLoader(yaml.SafeLoader):
    """YAML with the scalars of YAML 1.2: `1e-4` is a number, `no` and `2024-01-01` are text."""

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
    _RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
# YAML 1.1 would read 010 as octal and 1:30 as sixty-based; a recipe means what it says.
_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_RecipeLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class _RecipeDumper(yaml.SafeDumper):
    """Quotes what either version of YAML would mistake for something else: `'no'`, `'1e-4'`."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])
        + _RecipeLoader.yaml_implicit_resolvers.get(first, [])
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_RecipeLoader.yaml_implicit_resolvers}
    }


@dataclass
class Recipe:
    """What a run is asked to do: the values that were set, each checked against its field.

    Attributes:
        values: Field name to value; only what recipe and command line set.
        schema: Every field there is.
        path: The file it was read from.
        places: Where each value was set: `"recipes/x.yaml:12"` or `"command line"`.
        problems: Keys and values that were refused, each with its place.
    """

    values: dict[str, Any]
    schema: dict[str, Field]
    path: Path | None = None
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        return self.schema[name].default

    def of_group(self, *groups: str) -> dict[str, Any]:
        """Return the values that were set among the fields of the given classes."""
        return {name: value for name, value in self.values.items() if self.schema[name].group in groups}

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, in the order of the schema."""
        return {name: self[name] for name in self.schema if self[name] != self.schema[name].default}

    def everything(self) -> dict[str, Any]:
        """Return the value of every field, set or default."""
        return {name: self[name] for name in self.schema}

    def place(self, name: str) -> str:
        """Return where a value was set, for messages."""
        return self.places.get(name, "default")


def load_recipe(path: Path, overrides: list[str], schema: dict[str, Field]) -> Recipe:
    """Return the recipe of a file with the overrides of the command line applied, and nothing wrong with it.

    Args:
        path: A YAML file.
        overrides: `["--learning_rate", "1e-4", "--task_args.num_forks=6"]`.
        schema: The fields that may be set.

    Returns:
        The recipe; its values fit their fields.

    Raises:
        RecipeError: One message that lists every problem found, each with its place.
    """
    recipe = parse_recipe(path, overrides, schema)
    raise_problems(recipe.problems)
    return recipe


def parse_recipe(path: Path, overrides: list[str], schema: dict[str, Field]) -> Recipe:
    """Return the recipe of a file with overrides, and what is wrong with it in `problems`.

    Args:
        path: A YAML file.
        overrides: `["--learning_rate", "1e-4", "--task_args.num_forks=6"]`.
        schema: The fields that may be set.

    Returns:
        The recipe, without the values that do not fit their fields.

    Raises:
        RecipeError: If the file cannot be read as YAML at all.
    """
    recipe = Recipe(values={}, schema=schema, path=path)
    problems = recipe.problems
    for key, value, line in read_yaml(path, problems):
        place = f"{path}:{line}"
        if key not in schema:
            problems.append(f"{place}: {unknown_key(key, schema)}")
            continue
        try:
            recipe.values[key] = fit(value, schema[key])
            recipe.places[key] = place
        except ValueError as error:
            problems.append(f"{place}: {error}")
    _apply(overrides, recipe, problems)
    return recipe


def raise_problems(problems: list[str]) -> None:
    """Raise one `RecipeError` that lists all problems, if there are any."""
    if len(problems) == 1:
        raise RecipeError(problems[0])
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise RecipeError(f"{len(problems)} things to put right:\n{listed}")


def read_yaml(path: Path, problems: list[str]) -> list[tuple[str, Any, int]]:
    """Return the top-level keys of a YAML file with value and line; duplicates are added to `problems`."""
    node = _compose(path)
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path} must hold `key: value` lines, and holds {_kind(node)}.")
    entries: list[tuple[str, Any, int]] = []
    loader = _RecipeLoader("")
    _find_duplicates(node, path, problems)
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            continue
        seen.add(key)
        try:
            entries.append((key, loader.construct_object(value_node, deep=True), line))
        except (yaml.YAMLError, ValueError) as error:
            problems.append(f"{path}:{line}: {key}: {_yaml_problem(error)}")
    return entries


def _compose(path: Path) -> yaml.Node | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.{_siblings(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}.") from error
    try:
        return yaml.compose(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: this is not valid YAML: {_yaml_problem(error)}") from error


def _siblings(path: Path) -> str:
    folders = [folder for folder in (path.parent, Path("recipes")) if folder.is_dir()]
    found = sorted({str(file) for folder in folders for file in folder.glob("*.yaml")})
    near = get_close_matches(str(path), found, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]}?"
    return f" There are: {', '.join(found[:8])}." if found else ""


def _find_duplicates(node: yaml.Node, path: Path, problems: list[str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in first:
            problems.append(f"{path}:{line}: '{key}' is set a second time (first in line {first[key]}); keep one")
        first.setdefault(key, line)
        _find_duplicates(value_node, path, problems)


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _yaml_problem(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error)


def parse_value(text: str) -> Any:
    """Return one command-line value, read as YAML.

    Args:
        text: What stands after `--key`.

    Returns:
        Its value; the text itself if it is not YAML.

    Example:
        >>> parse_value("[q_proj, v_proj]"), parse_value("1e-4"), parse_value("false")
        (['q_proj', 'v_proj'], 0.0001, False)
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError:
        return text


def _apply(overrides: list[str], recipe: Recipe, problems: list[str]) -> None:
    """Set the fields named on the command line; the last one wins, as everywhere on a command line."""
    position = 0
    while position < len(overrides):
        word = overrides[position]
        position += 1
        if not word.startswith("--") or word == "--":
            problems.append(f"command line: unexpected '{word}'; write `--key value`, and lists as `--key '[a, b]'`")
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            has_value = position < len(overrides) and not overrides[position].startswith("--")
            text = overrides[position] if has_value else ""
            position += has_value
            equals = "=" if has_value else ""
        head, dot, tail = key.partition(".")
        name = head.replace("-", "_")
        if name not in recipe.schema:
            problems.append(f"command line: {unknown_key(name, recipe.schema)}")
            continue
        try:
            recipe.values[name] = _override(
                recipe, recipe.schema[name], tail if dot else None, text if equals else None
            )
            recipe.places[name] = "command line"
        except ValueError as error:
            problems.append(f"command line: {error}")


def _override(recipe: Recipe, item: Field, tail: str | None, text: str | None) -> Any:
    if text is None:
        # A switch without a value turns a boolean on, as transformers' own parser has it.
        if tail is None and "true or false" in describe(item.hint):
            return True
        raise ValueError(f"--{item.name} needs a value")
    value = parse_value(text)
    if tail is not None:
        return _set_inside(recipe[item.name], item, tail, value)
    try:
        return fit(value, item)
    except ValueError:
        # `--run_name 7`: a shell has no quotes left to say that a number is meant as text.
        return fit(text, item)


def _set_inside(mapping: Any, item: Field, tail: str, value: Any) -> dict[str, Any]:
    if "a mapping" not in describe(item.hint):
        raise ValueError(f"--{item.name}.{tail}: {item.name} is {describe(item.hint)}, it has no parts")
    result = copy.deepcopy(mapping) if isinstance(mapping, dict) else {}
    inner = result
    *parents, last = tail.split(".")
    for parent in parents:
        inner[parent] = inner[parent] if isinstance(inner.get(parent), dict) else {}
        inner = inner[parent]
    inner[last] = value
    return result


def dump_values(values: dict[str, Any]) -> str:
    """Return values as YAML that `load_recipe` reads back to the same values.

    Args:
        values: Field name to value.

    Returns:
        One line a field, nested ones indented.

    Example:
        >>> print(dump_values({"learning_rate": 1e-4, "eval_strategy": "no"}), end="")
        learning_rate: 0.0001
        eval_strategy: 'no'
    """
    text: str = yaml.dump(
        values, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return text
