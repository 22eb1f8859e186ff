"""The parser that all commands share: argparse, with errors that the command line prints like any other."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from dgpo.errors import ConfigError
from dgpo.names import did_you_mean

OK, BAD_INPUT = 0, 2
"""What a command returns: the exit code of one that has done its work, and of one that was not understood."""


class CommandParser(argparse.ArgumentParser):
    """Raises `ConfigError` instead of leaving the process; `--top_p` is the same as `--top-p`.

    Args:
        command: The word after `dgpo`.
        usage: What follows `dgpo <command>` in the first line of the help.
        description: What the command does.
        epilog: Text after the options.
    """

    def __init__(self, command: str, usage: str, description: str, epilog: str = "") -> None:
        super().__init__(
            f"dgpo {command}",
            usage=f"dgpo {command} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the options of a command line.

        Args:
            words: What follows the command.

        Returns:
            The options by name.

        Raises:
            ConfigError: For an option that does not exist, or a value that is missing or of the wrong kind.
        """
        try:
            options, unknown = self.parse_known_intermixed_args([_with_hyphens(word) for word in words])
        except argparse.ArgumentError as error:
            option = (error.argument_name or "").partition("/")[0]
            if error.message == "expected one argument":
                self.error(f"{option} needs {self._value_of(option)}")
            self.error(str(error))
        if unknown:
            self._refuse(unknown[0])
        return options

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` that names the help."""
        raise ConfigError(f"{message}; see `{self.prog} --help`.")

    def _value_of(self, option: str) -> str:
        action: Any = self._option_string_actions[option]
        return f"a {str(action.metavar or 'value').lower()}"

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            positionals = [str(action.metavar).lower() for action in self._actions if not action.option_strings]
            self.error(f"{self.prog} takes one {' and one '.join(positionals)}; {word!r} is one too many")
        name = word.partition("=")[0]
        options = [option for option in self._option_string_actions if option not in ("-h", "--help")]
        hint = did_you_mean(name, options) or f" Its options are: {', '.join(options)}."
        raise ConfigError(f"{self.prog} has no option {name!r}.{hint} See `{self.prog} --help`.")


def wants_help(words: Sequence[str]) -> bool:
    """Return whether a command's help is asked for; a command without any words is."""
    return not words or "-h" in words or "--help" in words


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions as they are, and is as wide as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=118)


def _with_hyphens(word: str) -> str:
    """`--top-p` for `--top_p`; the value after an equals sign stays as it is."""
    name, equals, value = word.partition("=")
    return re.sub(r"(?<=\w)_", "-", name) + equals + value if word.startswith("--") else word


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as `1,8,32`, for `type=` of an argument."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,8,32") from None


def names(text: str) -> list[str]:
    """Return the names of a list such as `math,think_format` or `[math]`, for `type=` of an argument."""
    return [part.strip() for part in text.strip("[] ").split(",") if part.strip()]


def mapping(text: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds, for `type=` of an argument."""
    from dgpo.lab import yaml12

    value = yaml12.parse_value(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as '{{num_forks: 4}}'")
    return value


def split_options(words: Sequence[str], prefix: str) -> tuple[list[str], dict[str, Any]]:
    """Return a command line without its dotted options, and their values, read as YAML.

    Args:
        words: What follows the command.
        prefix: What dotted options begin with.

    Returns:
        The other words, and values by the name after the prefix.

    Raises:
        ConfigError: For one without a value.

    Example:
        >>> split_options(["model", "--options.cap", "3", "--options.sign=positive"], "--options.")
        (['model'], {'cap': 3, 'sign': 'positive'})
    """
    from dgpo.lab import yaml12

    others: list[str] = []
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, equals, text = (word := rest.pop(0)).partition("=")
        if not name.startswith(prefix):
            others.append(word)
            continue
        if not equals and not rest:
            raise ConfigError(f"{name} needs a value, such as {name} 3.")
        values[name.removeprefix(prefix)] = yaml12.parse_value(text if equals else rest.pop(0))
    return others, values
