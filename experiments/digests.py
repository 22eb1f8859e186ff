"""Digests of the code that computes a cell: where the code changes, the older result belongs to another cell.

Comments, docstrings and layout do not count, and of a rule only what the rule itself uses does: one more line in a
table of rules leaves the cells of all others as they are.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_CORE_MODULES = (
    *("checks", "advantages", "credit", "divergences", "policy_loss"),
    *("assign", "token_stats", "weights"),
)
CORE = tuple(f"src/dgpo/core/{name}.py" for name in _CORE_MODULES)
"""What every experiment computes its credit and its loss with, besides the rules themselves."""


@functools.cache
def digest_of_files(names: tuple[str, ...], root: Path = ROOT) -> str:
    """Return a digest of what files of the repository do.

    Args:
        names: Paths of Python files.
        root: What they are relative to.

    Returns:
        Twelve letters.

    Raises:
        FileNotFoundError: If one does not exist: a file that was renamed must not drop out of the digest unseen.
    """
    return digest([(name, _without_comments((root / name).read_text("utf-8"))) for name in names])


def digest(value: Any) -> str:
    """Return a digest of a value in which functions stand for their code and for the values that they hold.

    Args:
        value: Numbers, texts, containers, dataclasses, functions.

    Returns:
        Twelve letters, the same in every process of the same Python.

    Example:
        >>> def scaled(factor):
        ...     return lambda x: factor * x
        >>> digest(scaled(2)) == digest(scaled(2)), digest(scaled(2)) == digest(scaled(3))
        (True, False)
    """
    return hashlib.sha256(repr(_plain(value, set())).encode()).hexdigest()[:12]


def _without_comments(source: str) -> str:
    """The source as Python reads it: no comments, no docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _plain(value: Any, seen: set[int]) -> Any:
    """Plain values that are equal where the value would behave alike."""
    if isinstance(value, functools.partial):
        return "partial", _plain(value.func, seen), _plain(value.args, seen), _plain(value.keywords, seen)
    if isinstance(value, types.MethodType):
        return "method", _plain(value.__func__, seen), _plain(value.__self__, seen)
    if isinstance(value, types.FunctionType):
        return _plain_function(inspect.unwrap(value), seen)
    if isinstance(value, Mapping):
        return [(_plain(key, seen), _plain(item, seen)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item, seen) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [(part.name, _plain(getattr(value, part.name), seen)) for part in dataclasses.fields(value)]
        return type(value).__qualname__, named
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value)
    # A module, a class, a tensor: by name, since how it looks may hold an address.
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__


def _plain_function(function: Any, seen: set[int]) -> Any:
    """Its code, the values it has closed over, and the functions of its own module that it calls."""
    if id(function) in seen or not isinstance(function, types.FunctionType):
        return getattr(function, "__qualname__", type(function).__qualname__)
    seen = seen | {id(function)}
    inner = [_plain(item, seen) for item in inspect.getclosurevars(function).nonlocals.items()]
    named = sorted(_names(function.__code__) & function.__globals__.keys())
    used = []
    for name in named:
        other = function.__globals__[name]
        plain = other is None or isinstance(other, int | float | str | bytes | tuple)
        own = isinstance(other, types.FunctionType) and other.__module__ == function.__module__
        if plain or own:
            used.append((name, _plain(other, seen)))
    defaults = _plain([function.__defaults__ or (), function.__kwdefaults__ or {}], seen)
    operations, names, constants = _plain_code(function.__code__)
    if function.__doc__ is not None:
        constants[0] = repr(None)  # where the docstring stands, and None without one
    return operations, names, constants, inner, used, defaults


def _names(code: types.CodeType) -> set[str]:
    nested = [_names(item) for item in code.co_consts if isinstance(item, types.CodeType)]
    return set(code.co_names).union(*nested)


def _plain_code(code: types.CodeType) -> Any:
    constants = [_plain_constant(item) for item in code.co_consts]
    return code.co_code.hex(), code.co_names, constants


def _plain_constant(item: Any) -> Any:
    if isinstance(item, types.CodeType):
        return _plain_code(item)
    # A set of texts is in another order in every process.
    return sorted(map(repr, item)) if isinstance(item, frozenset) else repr(item)


def files_in(folder: str, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the paths of modules in a folder of the repository.

    Args:
        folder: Relative to the repository.
        names: Of modules; all of the folder by default.

    Returns:
        Paths of files, relative to the repository.
    """
    if names is None:
        names = sorted(path.stem for path in (ROOT / folder).glob("*.py"))
    return tuple(f"{folder}/{name}.py" for name in names)
