"""Runs the cells of an experiment, one per (variant, rule, seed): cached, resumable, parallel, with a progress bar.

A finished cell is a JSON file the moment it is finished, written by the process that computed it. A killed run goes on
where it was; a cell that fails is reported at the end and takes no other cell with it.
"""

import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED as FIRST
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "runs" / "experiments"
_PACKAGES = ("dgpo", "torch", "transformers", "trl", "numpy")


@dataclass(frozen=True, order=True)
class Cell:
    """One training or measurement; what it is called in files and tables.

    Attributes:
        variant: Of the task.
        rule: Of the credit, or whatever is compared.
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
    """

    results: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    made: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    cells: tuple[Cell, ...]
    settings: tuple[Settings, ...]
    paths: tuple[Path, ...]


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
        workers: Processes; 0 computes in this one.
        cache: Where cells are kept; `runs/experiments` of the repository by default.
        fresh: Compute everything again.
        compute: Compute what is missing; otherwise only what is there is read, as after a run that was stopped.
        quiet: No progress bar.

    Returns:
        Results, failures and the record of the run.
    """
    folder = (cache or CACHE) / experiment
    outcome, started = Outcome(record=machine_record()), time.time()
    missing: dict[Hashable, list[tuple[Cell, Settings, Path]]] = {}
    for cell in dict.fromkeys(cells):
        options = settings(cell)
        path = _path(folder, cell, options)
        if fresh or not _load(path, cell, outcome):
            missing.setdefault(cell if batch is None else batch(cell), []).append((cell, options, path))
    absent = sum(map(len, missing.values()))
    jobs = [_Job(*(tuple(column) for column in zip(*rows, strict=True))) for rows in missing.values() if compute]
    with _bar(experiment, sum(len(job.cells) for job in jobs), quiet) as bar:

        def done(job: _Job, error: BaseException | None) -> None:
            bar.advance(bar.task_ids[0], len(job.cells))
            for cell, path in zip(job.cells, job.paths, strict=True):
                # An error is a failure whatever lies in the file: it may be what an earlier run has left there.
                if error or not _load(path, cell, outcome):
                    outcome.failures[cell] = f"{type(error).__name__}: {error}" if error else "left no result"
                    bar.console.print(f"[red]{cell} failed:[/] {outcome.failures[cell]}", highlight=False)

        (_work_here if workers == 0 else _work_in_processes)(run, jobs, done, workers)
    outcome.record |= {
        "wall_seconds": round(time.time() - started, 1),
        "cpu_seconds": round(outcome.cpu_seconds, 1),
        "cells": len(outcome.results),
        "cells_computed_by_this_command": sum(len(job.cells) for job in jobs) - len(outcome.failures),
        "cells_missing": 0 if compute else absent,
        "failed": {"/".join(map(str, (c.variant, c.rule, c.seed))): why for c, why in outcome.failures.items()},
        "made": _range_of(outcome.made.values()),
    }
    return outcome


def _range_of(made: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """From when to when cells were computed, and on what: each machine, Python and version that occurs."""
    known = [one for one in made if one]
    dates = sorted(one["date"] for one in known)
    versions = {(name, version) for one in known for name, version in one["versions"].items()}
    return {
        "first": dates[0] if dates else None,
        "last": dates[-1] if dates else None,
        "machines": sorted({one["machine"] for one in known}),
        "python": sorted({one["python"] for one in known}),
        "versions": {name: sorted(v for n, v in versions if n == name) for name in dict(sorted(versions))},
    }


def _work_here(run: Run, jobs: Sequence[_Job], done: Callable[..., None], workers: int) -> None:
    _one_thread()
    for job in jobs:
        try:
            _run_job(run, job)
        except Exception as error:
            done(job, error)
        else:
            done(job, None)


def _work_in_processes(run: Run, jobs: Sequence[_Job], done: Callable[..., None], workers: int) -> None:
    """A process that dies takes its pool along: what it may have worked on is tried once more, each job by itself."""
    suspects: list[_Job] = []
    waiting = list(jobs)
    while waiting:
        unfinished = _pool(run, waiting, done, workers)
        # Only the first `workers` of what is left can have been running: one of these is the culprit.
        suspects += unfinished[:workers]
        waiting = unfinished[workers:]
    for job in suspects:
        if _pool(run, [job], done, 1):
            done(job, RuntimeError("the process died, perhaps for want of memory"))


def _pool(run: Run, jobs: Sequence[_Job], done: Callable[..., None], workers: int) -> list[_Job]:
    """Work on jobs in order until all are done or the pool breaks; return those not done."""
    context = multiprocessing.get_context("spawn")
    left = list(jobs)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as executor:
        futures: dict[Future[None], _Job] = {}
        try:
            queue = iter(jobs)
            # Few at a time, so that the order of `left` says which could have been running.
            while True:
                while len(futures) < workers and (job := next(queue, None)) is not None:
                    futures[executor.submit(_run_job, run, job)] = job
                if not futures:
                    return []
                for future in wait(futures, return_when=FIRST).done:
                    job, error = futures[future], future.exception()
                    if isinstance(error, BrokenProcessPool):
                        return left
                    del futures[future]
                    left.remove(job)
                    done(job, error)
        except BrokenProcessPool:
            return left
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    """End with the process that started this one: killed by SIGKILL it can tell nobody, and we would wait forever."""
    _one_thread()
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _one_thread() -> None:
    """Cells are spread over processes; threads of their own would only fight for the same cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _run_job(run: Run, job: _Job) -> None:
    """Compute a job's cells and keep each result in its file."""
    wall, cpu = time.perf_counter(), time.process_time()
    results = run(job.cells, job.settings)
    share = 1 / len(job.cells)
    for cell, options, path, result in zip(job.cells, job.settings, job.paths, results, strict=True):
        kept = {
            "cell": [cell.variant, cell.rule, cell.seed],
            "settings": options,
            "seconds": (time.perf_counter() - wall) * share,
            "cpu_seconds": (time.process_time() - cpu) * share,
            "made": made_record(),
            "result": result,
        }
        write_json(path, kept)


def _path(folder: Path, cell: Cell, settings: Settings) -> Path:
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    rule = "".join(letter if letter.isalnum() or letter in "-_.=," else "_" for letter in cell.rule)
    return folder / cell.variant / f"{rule}-seed{cell.seed}-{key}.json"


def _load(path: Path, cell: Cell, outcome: Outcome) -> bool:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    outcome.results[cell] = kept["result"]
    outcome.made[cell] = kept["made"]
    outcome.cpu_seconds += kept["cpu_seconds"]
    return True


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole or not there: renamed into place, floats with five digits, nan as null.

    Args:
        path: The file; its folder is made.
        value: What `json.dumps` takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(_rounded(value), separators=(",", ":")) + "\n")
    partial.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def machine_record() -> dict[str, Any]:
    """Return what a committed figure must name: date, command, machine and versions."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    command = " ".join(["python", program, *map(shlex.quote, sys.argv[1:])])
    made = made_record()
    return {"date": made.pop("date"), "command": command, **made}


def made_record() -> dict[str, Any]:
    """Return when, on what machine and with which versions something is computed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
