"""Reads what a run left behind: its curves, its configuration, its last figures and its credit log."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import CHECKPOINTS, TRAINER_STATE
from dgpo.credit_log.reader import FOLDER, read_intact_steps, step_files
from dgpo.credit_log.record import LoggedStep
from dgpo.errors import DataError
from dgpo.lab import yaml12
from dgpo.lab.runs.files import AFTER, BEFORE, ENVIRONMENT, METRICS, RECIPE, SUMMARY
from dgpo.lab.runs.intact import as_finite, if_intact, intact_lines, intact_mapping, is_step


@dataclass
class Run:
    """One run as the page shows it.

    Attributes:
        name: What the page calls it.
        curves: Points (step, value) of each logged metric, in order.
        config: Settings by name, as flat values.
        figures: Last figures by name: accuracy before and after, reward, seconds.
        steps: The credit log.
        notes: What is missing or was left out, in sentences.
    """

    name: str
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    steps: list[LoggedStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(path: Path) -> Run:
    """Return a run from the directory of `dgpo train`, or from the `output_dir` of a trainer.

    Args:
        path: The directory.

    Returns:
        The run; what is not there is empty, and a note says so.

    Raises:
        DataError: If there is no such directory, or neither metrics nor a credit log in it.

    Example:
        >>> read_run(Path("/nowhere/run"))
        Traceback (most recent call last):
        dgpo.errors.DataError: /nowhere/run: there is no such directory. Give the directory of a run, ...
    """
    remedy = "Give the directory of a run, such as runs/quickstart-20260508-120000."
    if not path.is_dir():
        raise DataError(f"{path}: there is no such directory. {remedy}")
    steps, problems = read_intact_steps(path)
    run = Run(path.resolve().name, steps=steps)
    lines = _lines(path, problems)
    if not lines and not run.steps:
        raise DataError(f"{path} holds neither {METRICS} nor {FOLDER}/ nor a checkpoint with metrics. {remedy}")
    run.curves = curves_of(lines)
    recipe, settings = _recipe(path / RECIPE, problems), _settings(run.steps)
    # The rule's options hold the recipe's tau and kappa.
    recipe = {name: value for name, value in recipe.items() if name not in settings.get("credit_options", {})}
    environment, summary = (intact_mapping(path / name, problems) for name in (ENVIRONMENT, SUMMARY))
    versions = if_intact(_versions, environment, ENVIRONMENT, problems)
    run.config = _flat({**(recipe or _of_trainer(run.steps)), **settings, **versions})
    run.figures = if_intact(_figures, summary, SUMMARY, problems)
    if not run.steps:
        run.notes.append(
            "This run has no credit log. Set credit_log_steps (20, say) in the recipe or in DGPOConfig to get one;"
            " for TRL's GRPOTrainer, call dgpo.watch(trainer)."
        )
    if not lines:
        run.notes.append(f"There are no curves: {METRICS} is missing, and no checkpoint holds metrics.")
    if isinstance(summary.get("no_signal"), str):
        run.notes.insert(0, summary["no_signal"])
    run.notes += problems
    return run


def run_files(path: Path) -> dict[str, tuple[int, int]]:
    """Return what `read_run` would read, so that one can tell whether there is something new.

    Args:
        path: The directory of a run.

    Returns:
        Size and time of the last change (ns) of each file, by its path; empty for a run that has logged nothing yet.
    """
    files = [path / name for name in (METRICS, f"{FOLDER}/{METRICS}", RECIPE, ENVIRONMENT, SUMMARY)]
    files += path.glob(f"{CHECKPOINTS}/{TRAINER_STATE}")
    files += step_files(path / FOLDER).values()
    states: dict[str, tuple[int, int]] = {}
    for file in files:
        with contextlib.suppress(OSError):  # not there, or deleted meanwhile
            state = file.stat()
            states[str(file)] = (state.st_size, state.st_mtime_ns)
    holds_something = {METRICS, TRAINER_STATE}
    logged = any(Path(name).name in holds_something or Path(name).parent.name == FOLDER for name in states)
    return states if logged else {}


def curves_of(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each metric that was logged while training, and of held-out ones, by name.

    Args:
        lines: Objects with `step` and metrics; other values than finite numbers are left out.

    Returns:
        A later point of the same step takes the place of an earlier one.

    Example:
        >>> curves_of([{"step": 1, "phase": "train", "reward": 0.5}, {"step": 2, "phase": "train", "reward": None}])
        {'reward': [(1, 0.5)]}
    """
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            number = as_finite(value)
            if number is not None and name not in ("step", "phase", "wall_seconds", "epoch"):
                curves.setdefault(name, {})[line["step"]] = number
    return {name: sorted(points.items()) for name, points in curves.items()}


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The metrics that `dgpo train` or `dgpo.watch` wrote, or else those of the newest checkpoint."""
    for file in (path / METRICS, path / FOLDER / METRICS):
        if file.is_file():
            return intact_lines(file, notes)
    states = {state.stat().st_mtime: state for state in path.glob(f"{CHECKPOINTS}/{TRAINER_STATE}")}
    history = intact_mapping(states[max(states)], notes).get("log_history") if states else []
    lines = history if isinstance(history, list) else []
    return [line for line in lines if isinstance(line, dict) and is_step(line.get("step"))]


def _recipe(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml

    try:
        recipe = yaml12.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        recipe = None
    if isinstance(recipe, dict):
        return recipe
    notes.append(f"{path.name} is damaged and left out.")
    return {}


def _settings(steps: list[LoggedStep]) -> dict[str, Any]:
    """The settings in the header of the last logged step, under the names that they have in a recipe."""
    header = steps[-1].header if steps else {}
    names = {"rule": "credit_rule", "options": "credit_options", "source": "credit_source"}
    names |= {name: name for name in ("credit_policy", "temperature", "vocab_size", "engine")}
    return {ours: header[name] for name, ours in names.items() if name in header}


def _of_trainer(steps: list[LoggedStep]) -> dict[str, Any]:
    """The settings of the trainer in the last header, of a run without a recipe."""
    trainer = steps[-1].header.get("trainer") if steps else None
    return trainer if isinstance(trainer, dict) else {}


def _versions(environment: dict[str, Any]) -> dict[str, Any]:
    versions = {f"{name} (version)": value for name, value in (environment.get("versions") or {}).items()}
    names = ("device", "platform", "num_processes", "num_threads", "started")
    return versions | {name: environment[name] for name in names if name in environment}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    """The figures of `summary.json` as text."""
    figures: dict[str, str] = {}
    held_out = summary.get("held_out_accuracy") or {}
    for phase in (BEFORE, AFTER):
        accuracy = held_out.get(phase)
        if accuracy:
            interval = f" ({accuracy['low']:.3f} to {accuracy['high']:.3f})" if "low" in accuracy else ""
            figures[f"held-out accuracy {phase}"] = f"{accuracy['mean']:.3f}{interval}"
    for name, label in (("reward_first_10_logs", "reward, first 10 logs"), ("reward_last_10_logs", "last 10 logs")):
        if summary.get(name) is not None:
            figures[label] = f"{summary[name]:.3f}"
    if summary.get("steps") is not None:
        figures["steps"] = str(summary["steps"])
    if summary.get("train_seconds"):
        figures["training time"] = f"{summary['train_seconds']:.0f} s"
    if summary.get("status") not in (None, "complete"):
        figures["status"] = str(summary["status"])
    return figures
