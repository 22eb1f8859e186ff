"""`dgpo completion SHELL`: prints a script that completes commands, options and files; made by shtab."""

import argparse
from importlib.util import find_spec
from typing import Any

from dgpo.lab.cli.parser import CommandParser
from dgpo.lab.recipe_files import installed_recipes

SHELLS = ("bash", "zsh", "tcsh")
_TAKES_FILES = ("EVAL", "FILE", "FOLDER", "MODEL", "RECIPE", "REF", "RUN")


def completion_script(parsers: dict[str, CommandParser], shell: str) -> str:
    """Return the script that a shell reads at its start.

    Args:
        parsers: The parsers of the commands, by name; `train` is added here.
        shell: One of `SHELLS`.

    Returns:
        Its source. It holds every option, so that nothing of Python is started at a press of the tab key.
    """
    import shtab

    whole = argparse.ArgumentParser("dgpo", description="Distribution-Guided Policy Optimization.")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, parser in {"train": _train_parser(), **parsers}.items():
        commands.add_parser(name, parents=[parser], add_help=False, help=name)
        for action in parser._actions:
            if str(action.metavar).partition("|")[0] in _TAKES_FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(whole, shell))


def _train_parser() -> argparse.ArgumentParser:
    """The command line of `dgpo train`, which parses its words by itself, with the fields of a recipe."""
    parser = argparse.ArgumentParser("dgpo train")
    recipe: Any = parser.add_argument("recipe", metavar="RECIPE")
    recipe.help = f"a YAML file, or one of {', '.join(installed_recipes())}"
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    parser.add_argument("--resume", metavar="RUN", help="continue a run")
    parser.add_argument("--help-all", action="store_true", help="list every field")
    if find_spec("trl") is not None:
        from dgpo.lab.train.schema import declared_schema

        for field in declared_schema().values():
            summary = " ".join(field.help.split()).partition(". ")[0].replace("%", "")
            parser.add_argument(f"--{field.name}", choices=field.choices or None, help=summary)
    return parser
