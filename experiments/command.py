"""The command of an experiment: its options, which cells they choose, and where the results may go."""

import argparse
import functools
import json
import shutil
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo.names import did_you_mean
from experiments.added import held, merged
from experiments.harness import CACHE, Cell, Outcome, Settings, run_cells
from experiments.provenance import write_json


@dataclass(frozen=True)
class Experiment:
    """What a command runs and writes.

    Attributes:
        name: Of its package and of its folder in the cache.
        description: For `--help`.
        results: The committed file.
        seeds: Of the full run.
        reduced_seeds: How many of them `--reduced` takes.
        plan: (seeds, reduced) to cells.
        run: Computes a batch of cells.
        settings: (cell, reduced) to everything that decides its result.
        summarize: What is committed.
        draw: Draws the figures of results into a folder, or to `docs/figures`.
        batch: Cells of equal key are computed by one call.
        makes_models: Whether `run` takes a folder `models`, of models that it makes once; `--fresh` empties it.
    """

    name: str
    description: str
    results: Path
    seeds: Sequence[int]
    reduced_seeds: int
    plan: Callable[[Sequence[int], bool], Iterable[Cell]]
    run: Callable[..., Sequence[Mapping[str, Any]]]
    settings: Callable[[Cell, bool], Settings]
    summarize: Callable[[Outcome], Any]
    draw: Callable[[Mapping[str, Any], Path | None], Any]
    batch: Callable[[Cell], Hashable] | None = None
    makes_models: bool = False


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Compute what is missing, then write results and figures; a part chosen by hand only fills the cache.

    Args:
        experiment: What to run.
        arguments: Of the command line by default.

    Returns:
        0, or 1 if a cell failed.
    """
    options = parse_options(experiment, arguments)
    seeds = options.seeds or (experiment.seeds[: experiment.reduced_seeds] if options.reduced else experiment.seeds)
    planned = list(experiment.plan(seeds, options.reduced))
    chosen = _chosen(planned, "variant", options.variants) & _chosen(planned, "rule", options.rules)
    committed, everything = None, []
    if options.add:
        everything = list(experiment.plan(experiment.seeds, False))
        committed = json.loads(experiment.results.read_text())
        chosen -= held(committed, everything)
        if not chosen:
            print("The committed results hold all of these cells: nothing to add.", file=sys.stderr)
    models = (options.cache or CACHE) / experiment.name / "models"
    if options.fresh and not options.no_compute:
        shutil.rmtree(models, ignore_errors=True)
    outcome = run_cells(
        experiment.name,
        [cell for cell in planned if cell in chosen],
        functools.partial(experiment.run, models=models) if experiment.makes_models else experiment.run,
        lambda cell: experiment.settings(cell, options.reduced),
        batch=experiment.batch,
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        compute=not options.no_compute,
        quiet=options.quiet,
    )
    folder = folder_of_results(options, experiment, outcome)
    if folder is not None and outcome.results:
        path = folder / experiment.results.name
        results = experiment.summarize(outcome)
        write_json(path, results if committed is None else merged(committed, results, everything))
        # As read again: figures and page are made of what is committed, rounded floats included.
        experiment.draw(json.loads(path.read_text()), None if path == experiment.results else folder)
    return int(bool(outcome.failures))


def parse_options(experiment: Experiment, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, which are the same for every experiment.

    Args:
        experiment: For its description and seeds.
        arguments: Of the command line by default.

    Returns:
        `reduced`, `seeds`, `variants`, `rules`, `add`, `workers`, `cache`, `out`, `fresh`, `no_compute`, `quiet`.
    """
    parser = argparse.ArgumentParser(description=experiment.description)
    seeds = f"{experiment.seeds[0]}-{experiment.seeds[-1]}"
    add = parser.add_argument
    add("--reduced", action="store_true", help="a small part of it, to see that everything runs")
    add("--seeds", type=parse_seeds, default=None, help=f"such as 5, 0-9 or 0,3,4; {seeds} by default")
    add("--variants", default="", help="only these, by commas")
    add("--rules", default="", help="only these, by commas")
    add(
        "--add",
        action="store_true",
        help="to the committed results, which keep what they hold, whatever code made it: a rule or seeds of your own",
    )
    add("--workers", type=int, default=2, help="processes; 0 computes in this one")
    add("--cache", type=Path, default=None, help="folder of finished cells; runs/experiments by default")
    add("--out", type=Path, default=None, help="folder for results and figures; the committed ones by default")
    add("--fresh", action="store_true", help="compute again what the cache holds")
    add("--no-compute", action="store_true", help="results and figures from finished cells alone")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if options.add and options.reduced:
        parser.error("--add adds to the committed results and --reduced is no part of these; leave one out.")
    return options


def folder_of_results(options: argparse.Namespace, experiment: Experiment, outcome: Outcome) -> Path | None:
    """Return where results are to be written; the committed ones give way to those of the whole plan alone.

    Args:
        options: Of `parse_options`; `out` takes whatever was computed.
        experiment: For its plan and its committed results.
        outcome: Of `run_cells`.

    Returns:
        A folder; `None` if nothing is to be written, and the standard error says why.
    """
    if options.out is not None:
        return Path(options.out)
    if options.add:
        return experiment.results.parent
    missing = set(experiment.plan(experiment.seeds, False)) - outcome.results.keys()
    if not missing and not options.reduced:
        return experiment.results.parent
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


def _chosen(cells: Sequence[Cell], attribute: str, text: str) -> set[Cell]:
    """The cells of the variants or rules that a text names; all without any name."""
    planned = {getattr(cell, attribute) for cell in cells}
    names = _names(text, planned)
    for name in names:
        if name not in planned:
            near = did_you_mean(name, planned)
            sys.exit(f"No {attribute} {name!r} is planned.{near} There are {'; '.join(sorted(planned))}.")
    return {cell for cell in cells if not names or getattr(cell, attribute) in names}


def _names(text: str, planned: Collection[str]) -> list[str]:
    """The names between the commas of a text. A name may have commas of its own: the longest that fits counts."""
    names = []
    while text := text.strip(", "):
        fitting = [name for name in planned if f"{text},".startswith(f"{name},")]
        names.append(max(fitting, key=len) if fitting else text.partition(",")[0].strip())
        text = text[len(names[-1]) :]
    return names
