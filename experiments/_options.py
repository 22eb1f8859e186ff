"""The options that all experiments have, and where their results may go."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from experiments._harness import Cell, Outcome


def argument_parser(description: str, *, seeds: str) -> argparse.ArgumentParser:
    """Return the options that every experiment has; an experiment may add its own.

    Args:
        description: Of the experiment, for `--help`.
        seeds: Those of the full run, as `--seeds` takes them.

    Returns:
        A parser of `--reduced`, `--seeds`, `--workers`, `--cache`, `--out`, `--fresh`, `--no-compute` and `--quiet`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--reduced", action="store_true", help="a small part of it, to see that everything runs")
    parser.add_argument("--seeds", type=parse_seeds, default=None, help=f"such as 5, 0-9 or 0,3,4; {seeds} by default")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 computes in this one")
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder of finished cells; runs/experiments by default"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for results and figures; the committed ones by default"
    )
    parser.add_argument("--fresh", action="store_true", help="compute again what the cache holds")
    parser.add_argument("--no-compute", action="store_true", help="results and figures from finished cells alone")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def folder_of_results(
    options: argparse.Namespace, plan: Iterable[Cell], outcome: Outcome, committed: Path
) -> Path | None:
    """Return where results are to be written; the committed ones give way to those of the whole plan alone.

    Args:
        options: Of `argument_parser`; `out` takes whatever was computed.
        plan: All cells of the full experiment.
        outcome: Of `run_cells`.
        committed: Folder of the committed results.

    Returns:
        A folder; `None` if nothing is to be written, and the standard error says why.
    """
    if options.out is not None:
        return Path(options.out)
    missing = set(plan) - outcome.results.keys()
    if not missing and not options.reduced:
        return committed
    lacking = f"{len(missing)} cells of the full experiment are not among these" if missing else "this is a part of it"
    print(f"The committed results stay as they are: {lacking}. --out FOLDER writes what there is.", file=sys.stderr)
    return None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that a text names: `3` is 0, 1, 2; `2-4` is 2, 3, 4; `1,5` is 1, 5.

    Args:
        text: The text.

    Returns:
        The seeds.

    Raises:
        argparse.ArgumentTypeError: If it names none.

    Example:
        >>> parse_seeds("3"), parse_seeds("2-4"), parse_seeds("1,5")
        ((0, 1, 2), (2, 3, 4), (1, 5))
    """
    try:
        if "," in text:
            seeds = tuple(int(part) for part in text.split(",") if part)
        elif "-" in text:
            first, last = map(int, text.split("-"))
            seeds = tuple(range(first, last + 1))
        else:
            seeds = tuple(range(int(text)))
    except ValueError:
        seeds = ()
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} names no seeds; use a number (5), a range (0-9) or a list (0,3).")
    return seeds
