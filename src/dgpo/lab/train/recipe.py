"""Reads a recipe: one flat YAML file, every field of which the command line can override."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dgpo.errors import RecipeError
from dgpo.lab import yaml12
from dgpo.lab.recipe_files import installed_recipes, read_recipe_text
from dgpo.lab.train.schema import Field, unknown_key
from dgpo.lab.train.values import describe
from dgpo.names import did_you_mean

_MOST_LISTED = 30  # problems that a message names


@dataclass
class Recipe:
    """The configuration of a run: the values that were set, each checked against its field.

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

    @property
    def name(self) -> str:
        """The name of the file, which default run directories begin with."""
        return self.path.stem if self.path else "run"

    def of_group(self, *groups: str) -> dict[str, Any]:
        """Return the values that were set among the fields of the given classes."""
        return {name: value for name, value in self.values.items() if self.schema[name].group in groups}

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, in the order of the schema."""
        return {name: self[name] for name in self.schema if self[name] != self.schema[name].default}

    def to_store(self) -> dict[str, Any]:
        """Return what makes this run again: every value that differs from its default, and the seed in any case."""
        values = self.changed() | {"seed": self["seed"]}
        values.pop("output_dir", None)
        return values

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
        RecipeError: One message that lists every problem, each with its place.
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
    entries, faults = _read(path)
    problems += [f"{path}:{line}: {fault}" for line, fault in faults]
    for key, value, line in entries:
        place = f"{path}:{line}"
        if key not in schema:
            # The nearest name is looked for where it will be printed.
            unknown = unknown_key(key, schema) if len(problems) < _MOST_LISTED else "unknown key"
            problems.append(f"{place}: {unknown}")
            continue
        try:
            recipe.values[key] = schema[key].fit(value)
            recipe.places[key] = place
        except ValueError as error:
            problems.append(f"{place}: {error}")
    _apply(overrides, recipe, problems)
    return recipe


def recipe_of_values(values: dict[str, Any], overrides: list[str], schema: dict[str, Field], path: Path) -> Recipe:
    """Return the recipe of values that a file held, with overrides.

    Args:
        values: By name.
        overrides: `["--learning_rate", "1e-4"]`.
        schema: The fields that may be set.
        path: The file, which is not read.

    Returns:
        The recipe.

    Raises:
        ValueError: If a value does not fit its field.
        KeyError: If there is no such field.
    """
    recipe = Recipe({name: schema[name].fit(value) for name, value in values.items()}, schema, path)
    _apply(overrides, recipe, recipe.problems)
    return recipe


def raise_problems(problems: list[str]) -> None:
    """Raise one `RecipeError` that lists all problems, if there are any."""
    if len(problems) == 1:
        raise RecipeError(problems[0])
    if problems:
        more = [f"{len(problems) - _MOST_LISTED} more"] if len(problems) > _MOST_LISTED else []
        listed = "\n".join(f"  - {problem}" for problem in [*problems[:_MOST_LISTED], *more])
        raise RecipeError(f"{len(problems)} things to put right:\n{listed}")


def _read(path: Path) -> tuple[list[tuple[str, Any, int]], list[tuple[int, str]]]:
    """Return the entries of a recipe with their lines, and the problems of single ones."""
    try:
        text = read_recipe_text(path)
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.{_siblings(path)}") from None
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    try:
        return yaml12.top_level_entries(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{place}: this is not valid YAML: {yaml12.describe_error(error)}") from error
    except ValueError as error:
        raise RecipeError(f"{path} {error}.") from None


def _siblings(path: Path) -> str:
    folders = [folder for folder in (path.parent, Path("recipes")) if folder.is_dir()]
    recipes = sorted(
        {str(file) for folder in folders for file in folder.glob("[!.]*.yaml")} | installed_recipes().keys()
    )
    return did_you_mean(str(path), recipes) or (f" There are: {', '.join(recipes[:8])}." if recipes else "")


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
    value = yaml12.parse_value(text)
    if tail is not None:
        return _set_inside(recipe[item.name], item, tail, value)
    try:
        return item.fit(value)
    except ValueError:
        # `--run_name 7`: the shell has removed quotes that would make it text.
        return item.fit(text)


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
