"""TRL's classes of configuration as their source declares them: the fields, without the methods.

Loading TRL takes many seconds, of which a dry run needs nothing but the fields. Here the installed source is parsed,
and the declarations of its classes are executed alone. A test compares the result with the classes themselves; a
training always uses those.
"""

import ast
import dataclasses
import enum
import importlib.util
import logging
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_SOURCES = (
    ("transformers", "utils/logging.py", ("log_levels",)),
    ("transformers", "utils/generic.py", ("ExplicitEnum",)),
    ("transformers", "debug_utils.py", ("DebugOption",)),
    ("transformers", "trainer_utils.py", ("IntervalStrategy", "SaveStrategy", "HubStrategy", "SchedulerType")),
    ("transformers", "training_args.py", ("trainer_log_levels", "OptimizerNames", "TrainingArguments")),
    ("trl", "trainer/base_config.py", ("_BaseConfig",)),
    ("trl", "trainer/grpo_config.py", ("GRPOConfig",)),
    ("trl", "trainer/model_config.py", ("ModelConfig",)),
)
"""Package, file and names, in an order in which each finds those that it is made of."""


@dataclass(frozen=True)
class DeclaredClasses:
    """TRL's classes without their methods.

    Attributes:
        model: `trl.ModelConfig`.
        trainer: `trl.GRPOConfig`, with all that it inherits.
        read_at_construction: Fields that a constructor looks at: it may refuse or change them. All others it takes as
            they are.
    """

    model: type
    trainer: type
    read_at_construction: frozenset[str]


@cache
def declared_classes() -> DeclaredClasses | None:
    """Return the fields of the installed TRL and transformers.

    Returns:
        The classes; None where the source is not there, or declares its fields in another way than was expected.
    """
    namespace: dict[str, Any] = {
        **{"__name__": __name__, "dataclass": dataclass, "field": dataclasses.field, "Enum": enum.Enum},
        **{"Any": Any, "Literal": typing.Literal, "logging": logging, "ParallelismConfig": Any},
    }
    read: set[str] = set()
    try:
        for package, file, names in _SOURCES:
            tree = ast.parse(_source(package, file))
            for statement in tree.body:
                if _name_of(statement) in names:
                    read |= set(_read_by_constructor(statement))
                    _execute(statement, namespace)
        missing = [name for _, _, names in _SOURCES for name in names if name not in namespace]
        if missing:
            return None
    except Exception:  # another layout of their source; the classes themselves say what is true
        return None
    trainer = namespace["GRPOConfig"]
    return DeclaredClasses(namespace["ModelConfig"], trainer, frozenset(read))


def _source(package: str, file: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8")


def _name_of(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _execute(statement: ast.stmt, namespace: dict[str, Any]) -> None:
    """Execute an assignment, or a class without its methods."""
    if isinstance(statement, ast.ClassDef):
        statement.body = list(_declarations(statement.body)) or [ast.Pass()]
    elif _name_of(statement) == "trainer_log_levels":  # made of a copy that another module keeps
        namespace["trainer_log_levels"] = dict(**namespace["log_levels"], passive=-1)
        return
    module = ast.fix_missing_locations(ast.Module([statement], []))
    exec(compile(module, f"<{_name_of(statement)}>", "exec"), namespace)


def _declarations(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Fields, and constants that their defaults name; a condition on torch's version holds for every torch we take."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _declarations(statement.body)
        elif isinstance(statement, ast.AnnAssign) or (
            isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        ):
            yield statement


def _read_by_constructor(statement: ast.stmt) -> Iterator[str]:
    """Names of attributes that `__post_init__` or a method or property of the class looks at, by `self.name`."""
    if not isinstance(statement, ast.ClassDef):
        return
    methods = {item.name: item for item in statement.body if isinstance(item, ast.FunctionDef)}
    todo, done = ["__post_init__"], set()
    while todo:
        name = todo.pop()
        if name in done or name not in methods:
            continue
        done.add(name)
        for node in ast.walk(methods[name]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                todo.append(node.attr)
                yield node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                yield node.value  # getattr(self, "name")
    for item in statement.body:  # what transformers parses as JSON
        if _name_of(item) == "_VALID_DICT_FIELDS":
            yield from (node.value for node in ast.walk(item) if isinstance(node, ast.Constant))


def classes_without_methods(*bases: type) -> type:
    """Return a dataclass of the fields of several, in their order.

    Args:
        *bases: Dataclasses; of the same field the first one's holds.

    Returns:
        A class.
    """
    return dataclass(types.new_class("Declared", bases))
