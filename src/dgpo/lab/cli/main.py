"""The console script `dgpo`: reads the command line, runs a command, and turns errors into messages and exit codes."""

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo.lab.cli import help as manual

if TYPE_CHECKING:
    from dgpo.lab.train.session import Request

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        argv: The words after `dgpo`; those of this process by default.

    Returns:
        0 for success, 1 for a run that failed, 2 for input that cannot work, 130 after Ctrl-C.

    Example:
        >>> main(["--version"])
        dgpo 0.1.0
        0
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    from dgpo.errors import ConfigError, DataError, DgpoError, UnsupportedVersionError

    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as error:
        return _complain(str(error) or "Interrupted; nothing was trained yet.", INTERRUPTED)
    except (ConfigError, DataError, UnsupportedVersionError) as error:
        return _complain(str(error), BAD_INPUT)
    except DgpoError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python must not try to flush to it once more on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "dgpo":
            raise
        return _complain(f"{error}. `dgpo` needs more than the core for this: pip install 'dgpo[trl]'", FAILED)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(manual.MAIN)
        return OK
    command, *rest = arguments
    if command in ("-V", "--version"):
        from dgpo.versions import __version__

        print(f"dgpo {__version__}")
        return OK
    commands = {
        "train": _train,
        "eval": _eval,
        "compare": _compare,
        "report": _report,
        "inspect": _inspect,
        "prepare": _prepare,
        "tasks": _tasks,
        "verl-data": _verl_data,
    }
    if command not in commands:
        return _complain(manual.unknown_command(command, list(commands)), BAD_INPUT)
    return commands[command](rest)


def _train(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.TRAIN)
        return OK
    if "--help-all" in words:
        from dgpo.lab.quiet import quiet_libraries

        quiet_libraries()
        print(manual.every_field())
        return OK
    from dgpo.lab.train.train import train

    return train(_request(words))


def _request(words: list[str]) -> "Request":
    """Sort the words after `dgpo train` into recipe, switches and overrides."""
    from dgpo.errors import RecipeError
    from dgpo.lab.train.session import Request

    recipe: Path | None = None
    resume, resume_dir, dry_run = False, None, ""
    overrides: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, equals, value = word.partition("=")
        following = words[position] if position < len(words) and not words[position].startswith("--") else None
        if name == "--resume":
            resume = True
            if equals:
                resume_dir = Path(value).expanduser()
            elif following is not None and not _is_recipe(following):
                resume_dir = Path(following).expanduser()
                position += 1
        elif name in ("--dry-run", "--dry_run"):
            if value not in ("", "full"):
                raise RecipeError(f"--dry-run={value} is not known; write --dry-run or --dry-run=full.")
            dry_run = value or "short"
        elif word.startswith("--"):
            overrides.append(word)
            if not equals and following is not None:
                overrides.append(following)
                position += 1
        elif recipe is None:
            recipe = Path(word).expanduser()
        else:
            overrides.append(word)  # refused later, together with everything else
    return Request(recipe, overrides, resume, resume_dir, dry_run, ("train", *words))


def _is_recipe(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _eval(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.EVAL)
        return OK
    from dgpo.lab.cli.eval import evaluate

    return evaluate(words)


def _compare(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.COMPARE)
        return OK
    from dgpo.lab.cli.compare import compare

    return compare(words)


def _report(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.REPORT)
        return OK
    from dgpo.lab.cli.report import report

    return report(words)


def _inspect(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.INSPECT)
        return OK
    from dgpo.lab.cli.inspect import inspect

    return inspect(words)


def _prepare(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        print(manual.PREPARE)
        return OK if words in (["-h"], ["--help"]) else BAD_INPUT
    from dgpo.lab.models import prepare_model

    print(prepare_model(words[0]))
    return OK


def _verl_data(words: list[str]) -> int:
    if not words or "-h" in words or "--help" in words:
        print(manual.VERL_DATA)
        return OK if words else BAD_INPUT
    from dgpo.lab.cli.verl_data import verl_data

    return verl_data(words)


def _tasks(words: list[str]) -> int:
    print(manual.TASKS)
    return OK if not words or words[0] in ("-h", "--help") else BAD_INPUT


def _complain(message: str, code: int) -> int:
    """Print an error for a person; `DGPO_DEBUG=1` adds the traceback."""
    rank = os.environ.get("RANK", "0")
    # Bad input is bad for all processes alike; a failure may concern one of them only.
    if rank == "0" or code == FAILED:
        prefix = "" if rank == "0" else f"[process {rank}] "
        if os.environ.get("DGPO_DEBUG") and sys.exc_info()[0] is not None:
            traceback.print_exc()
        print(f"{prefix}dgpo: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
