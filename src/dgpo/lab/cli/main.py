"""The console script `dgpo`: runs a command, and turns errors into messages and exit codes."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from dgpo.errors import ConfigError, DataError, DgpoError, UnsupportedVersionError
from dgpo.lab.cli import help as texts
from dgpo.lab.cli.commands import BAD_INPUT, COMMANDS, OK, prepare
from dgpo.lab.foreign_text import say
from dgpo.names import did_you_mean
from dgpo.secrets import hide_in_text
from dgpo.versions import __version__

FAILED, INTERRUPTED = 1, 130


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
    with _one_interrupt():
        return _answer(sys.argv[1:] if argv is None else list(argv))


def _answer(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as error:
        return _complain(str(error) or "Interrupted.", INTERRUPTED)
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
        return _complain(f"{error}. `dgpo` needs more than the core for this: pip install 'dgpo[lab]'", FAILED)


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Let a Ctrl-C that follows another within a second pass: the command is preparing its message already."""
    last = -math.inf

    def interrupt(*_: object) -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            raise KeyboardInterrupt

    # A command in the background of a shell is deaf to Ctrl-C, and stays so.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # After a Ctrl-C this process ends; one more, while it does, would leave a traceback.
        if last == -math.inf:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if arguments[1:] and arguments[1] in COMMANDS:
            return COMMANDS[arguments[1]](["--help"])
        print(texts.MAIN)
        return OK
    command, *words = arguments
    if command in ("-V", "--version"):
        print(f"dgpo {__version__}")
        return OK
    if command == "prepare":
        return prepare(words)
    if command not in COMMANDS:
        return _complain(unknown_command(command), BAD_INPUT)
    return COMMANDS[command](words)


def unknown_command(command: str) -> str:
    """Return what to say about a command that does not exist.

    Args:
        command: The word that was typed.

    Returns:
        A sentence with the nearest command.

    Example:
        >>> unknown_command("trian")
        "there is no command 'trian'. Did you mean 'dgpo train'?"
    """
    if command.endswith((".yaml", ".yml")):
        return f"there is no command '{command}'. Did you mean `dgpo train {command}`?"
    near = did_you_mean(command, COMMANDS).replace("'", "'dgpo ", 1)
    listed = f" There are: {', '.join(COMMANDS)} (see dgpo --help)."
    return f"there is no command '{command}'.{near or listed}"


def _complain(message: str, code: int) -> int:
    """Print an error for a person; `DGPO_DEBUG=1` adds the traceback."""
    rank = os.environ.get("RANK", "0")
    # Bad input is bad for all processes alike; a failure may concern one of them only.
    if rank == "0" or code == FAILED:
        prefix = "" if rank == "0" else f"[process {rank}] "
        if os.environ.get("DGPO_DEBUG") and sys.exc_info()[0] is not None:
            say(hide_in_text(traceback.format_exc()), sys.stderr)
        say(hide_in_text(f"{prefix}dgpo: {message}"), sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
