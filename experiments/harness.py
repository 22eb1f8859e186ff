"""Runs the cells of an experiment, one per (variant, rule, seed): cached, resumable, parallel, with a progress bar.

A finished cell is a JSON file the moment it is finished, written by the process that computed it. A killed run goes on
where it was; a cell that fails is reported at the end and takes no other cell with it.
"""

import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.provenance import command_record, made_record, range_of, write_json
from experiments.workers import run_jobs

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "runs" / "experiments"


@dataclass(frozen=True, order=True)
class Cell:
    """One training or measurement; what it is called in files and tables.

    Attributes:
        variant: Of the task.
        rule: Name of the arm that is compared: a credit rule and whatever else it stands for.
        seed: Equal seeds of two rules share data and initial weights, so that differences can be paired.
    """

    variant: str
    rule: str
    seed: int


Settings = Mapping[str, Any]
"""Everything that decides a cell's result, digests of the code included, as JSON would hold it: names its file."""
Run = Callable[[Sequence[Cell], Sequence[Settings]], Sequence[Mapping[str, Any]]]
"""Computes a batch of cells; one result, as JSON would hold it, per cell. A function of a module: it is pickled."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        results: Per cell, those of earlier runs included.
        failures: Per cell that could not be computed: why.
        cpu_seconds: That all the results took, whenever they were computed.
        record: Machine, versions, date, command and times, for the committed results.
        made: Per cell, when, on what and with which versions it was computed.
        settings: Per cell, what decided its result.
    """

    results: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    made: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)
    settings: dict[Cell, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class _Planned:
    """A cell, what decides its result, and the file that the result is written to."""

    cell: Cell
    settings: Settings
    path: Path


def run_cells(
    experiment: str,
    cells: Iterable[Cell],
    run: Run,
    settings: Callable[[Cell], Settings],
    *,
    batch: Callable[[Cell], Hashable] | None = None,
    workers: int = 2,
    cache: Path | None = None,
    fresh: bool = False,
    compute: bool = True,
    quiet: bool = False,
) -> Outcome:
    """Return the results of all cells, computing those that no earlier run has left behind.

    Args:
        experiment: Names the folder of the cache.
        cells: What to compute.
        run: Computes a batch of cells, in a process of its own with one torch thread.
        settings: Everything that decides the result of a cell; another setting is another file.
        batch: Cells of equal key are computed by one call, in the order given; each by a call of its own without it.
        workers: Processes at a time; 0 computes in this one.
        cache: Folder of finished cells; `runs/experiments` of the repository by default.
        fresh: Compute everything again.
        compute: Compute what is missing; otherwise only what is there is read, as after a run that was stopped.
        quiet: No progress bar.

    Returns:
        Results, failures and the record of the run.
    """
    folder = (cache or CACHE) / experiment
    outcome, started = Outcome(record=command_record()), time.time()
    missing: dict[Hashable, list[_Planned]] = {}
    for cell in dict.fromkeys(cells):
        options = settings(cell)
        path = _path(folder, cell, options)
        if fresh or not _load(path, cell, outcome):
            missing.setdefault(cell if batch is None else batch(cell), []).append(_Planned(cell, options, path))
    absent = sum(map(len, missing.values()))
    jobs = list(missing.values()) if compute else []
    num_planned = sum(map(len, jobs))
    with _bar(experiment, num_planned, quiet) as bar:

        def done(job: Sequence[_Planned], error: str | None) -> None:
            bar.advance(bar.task_ids[0], len(job))
            for one in job:
                # An error is a failure whatever lies in the file: it may be what an earlier run has left there.
                if error or not _load(one.path, one.cell, outcome):
                    outcome.failures[one.cell] = error or "left no result"
                    bar.console.print(f"[red]{one.cell} failed:[/] {outcome.failures[one.cell]}", highlight=False)

        run_jobs(functools.partial(_compute, run), jobs, done, workers=workers)
    outcome.record |= {
        "wall_seconds": round(time.time() - started, 1),
        "cpu_seconds": round(outcome.cpu_seconds, 1),
        "cells": len(outcome.results),
        "cells_computed_by_this_command": num_planned - len(outcome.failures),
        "cells_missing": 0 if compute else absent,
        "failed": {"/".join(map(str, (c.variant, c.rule, c.seed))): why for c, why in outcome.failures.items()},
        "made": range_of(outcome.made.values()),
    }
    return outcome


def _compute(run: Run, job: Sequence[_Planned]) -> None:
    """Compute a batch of cells and write each result to its file."""
    wall, cpu = time.perf_counter(), time.process_time()
    results = run([one.cell for one in job], [one.settings for one in job])
    share = 1 / len(job)
    for one, result in zip(job, results, strict=True):
        finished = {
            "cell": [one.cell.variant, one.cell.rule, one.cell.seed],
            "settings": one.settings,
            "seconds": (time.perf_counter() - wall) * share,
            "cpu_seconds": (time.process_time() - cpu) * share,
            "made": made_record(),
            "result": result,
        }
        write_json(one.path, finished)


def _path(folder: Path, cell: Cell, settings: Settings) -> Path:
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    rule = "".join(letter if letter.isalnum() or letter in "-_.=," else "_" for letter in cell.rule)
    return folder / cell.variant / f"{rule}-seed{cell.seed}-{key}.json"


def _load(path: Path, cell: Cell, outcome: Outcome) -> bool:
    try:
        finished = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    outcome.results[cell] = finished["result"]
    outcome.made[cell] = finished["made"]
    outcome.settings[cell] = finished["settings"]
    outcome.cpu_seconds += finished["cpu_seconds"]
    return True


def _bar(title: str, total: int, quiet: bool) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=quiet,
    )
    bar.add_task(title, total=total)
    return bar
