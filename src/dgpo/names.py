"""Functions by name: the nearest valid one for a message, the one of an import path, and lazy public names."""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dgpo.errors import ConfigError

_LONGEST = 200  # characters of a name; the search takes their square


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the valid name nearest to `name`, or nothing if none is near.

    Args:
        name: What was written.
        valid: What could have been.

    Returns:
        A sentence with a space in front, or `""`.

    Example:
        >>> did_you_mean("chian_sum", ["chain_sum", "products"])
        " Did you mean 'chain_sum'?"
        >>> did_you_mean("zzz", ["chain_sum"])
        ''
    """
    if len(name) > _LONGEST:
        return ""
    by_lower = {option.casefold(): option for option in valid}
    near = difflib.get_close_matches(name.casefold(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def import_function(path: str) -> Any:
    """Return the function that an import path names.

    Args:
        path: `"my_package.rules:capped"`, or `"my_rules.py:capped"` for a file, relative to the working directory.

    Returns:
        The function. A file is executed once a process, under a module name of its own.

    Raises:
        ConfigError: If there is no such module, file or function, or the module raises while it is imported.

    Example:
        >>> import_function("math:sqrt")(4.0)
        2.0
    """
    module_name, _, name = path.rpartition(":")
    if not module_name or not name:
        raise ConfigError(f"{path!r} is no import path; write 'module:function' or 'file.py:function'.")
    is_file = module_name.endswith(".py")
    try:
        module = _module_of_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        if not is_file and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{path!r}: there is no module {error.name!r}. Install its package, put its folder on PYTHONPATH, or"
                " name the file: 'my_rules.py:function'."
            ) from error
        raise ConfigError(f"{path!r} cannot be imported: {error}.") from error
    except Exception as error:
        raise ConfigError(f"{path!r} cannot be imported: {type(error).__name__}: {error}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{module_name} has no function {name!r}.{did_you_mean(name, functions)}")
    return function


def _module_of_file(file: Path) -> ModuleType:
    path = file.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"There is no file {file}. Paths are relative to the working directory.")
    # Under a name of its own: two files of the same name must not meet, nor a file and an installed module.
    name = f"_dgpo_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def lazy_names(package: str, home: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`: it imports the module of a public name when the name is first used.

    Args:
        package: The package's `__name__`.
        home: The public names by the module that defines them.

    Returns:
        A function of the name.

    Example:
        >>> lazy_names("dgpo", {"dgpo.versions": ["__version__"]})("__version__")
        '0.1.0'
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
