"""Finds the checkpoint a run can continue from, and refuses one that belongs to another recipe."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo.errors import RecipeError, TrainingError
from dgpo.lab.runs.files import CHECKPOINTS, ENVIRONMENT, RECIPE, TRAINER_STATE, read_json

# What may differ between the first start and a resumed one: it changes how long a run is, and what it reports.
MAY_CHANGE = frozenset(
    {
        *(
            "output_dir",
            "run_name",
            "project",
            "report_to",
            "disable_tqdm",
            "completions_every",
            "credit_log_steps",
            "credit_log_completions",
            "credit_log_answer",
            "eval_before_and_after",
            "eval_task",
            "eval_every",
            "eval_samples",
        ),
        *("max_steps", "num_train_epochs"),
        *("logging_steps", "logging_strategy", "logging_first_step", "log_level", "log_level_replica"),
        *("save_steps", "save_strategy", "save_total_limit"),
        *("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
    }
)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run directory.

    Attributes:
        newest: The newest one that is complete, or `None`.
        step: Its step; 0 without one.
        incomplete: Name and fault of those that are newer and cannot be used.
    """

    newest: Path | None = None
    step: int = 0
    incomplete: dict[str, str] = field(default_factory=dict)


def find_checkpoints(directory: Path) -> Checkpoints:
    """Return the newest complete checkpoint of a run directory, and the broken ones that are skipped.

    Args:
        directory: The run directory, with folders `checkpoint-<step>`.

    Returns:
        `newest` is `None` if no checkpoint is complete.
    """
    steps = {}
    for path in directory.glob(CHECKPOINTS):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            steps[int(match[1])] = path
    incomplete: dict[str, str] = {}
    for step in sorted(steps, reverse=True):
        fault = checkpoint_fault(steps[step], step)
        if fault is None:
            return Checkpoints(steps[step], step, incomplete)
        incomplete[steps[step].name] = fault
    return Checkpoints(incomplete=incomplete)


def checkpoint_fault(path: Path, step: int) -> str | None:
    """Return why a checkpoint cannot be continued from, or `None` if it is complete.

    The trainer writes `trainer_state.json` last, so a run killed while saving leaves a folder without it, or with
    half of it.
    """
    state = read_json(path / TRAINER_STATE)
    if not isinstance(state, dict):
        present = (path / TRAINER_STATE).exists()
        return "trainer_state.json is cut off" if present else "trainer_state.json is missing"
    if state.get("global_step") != step:
        return f"trainer_state.json is of step {state.get('global_step')}"
    sharded = any(path.glob("pytorch_model_fsdp*")) or any(path.glob("global_step*"))
    weights = sorted(path.glob("*.safetensors"))
    if not weights and not sharded:
        return "it holds no weights in safetensors"
    for file in weights:
        if not _whole_safetensors(file):
            return f"{file.name} is cut off"
    if not sharded:
        for name in ("optimizer.pt", "scheduler.pt"):
            if not (path / name).is_file():
                return f"{name} is missing (was save_only_model set?)"
    if not any(path.glob("rng_state*.pth")):
        return "the state of the random number generators is missing"
    return None


def _whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header requires."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return False


def refuse_without_recipe(directory: Path) -> None:
    """Refuse what is not the directory of a run."""
    if not directory.is_dir():
        raise RecipeError(f"There is no run directory {directory} to resume; check the path.")
    if not (directory / RECIPE).is_file():
        raise RecipeError(f"{directory} is not a run directory of `dgpo train`: it has no {RECIPE}.")


def newest_checkpoint(directory: Path) -> Checkpoints:
    """Return the checkpoints of a run directory that can be continued from.

    Args:
        directory: The run directory.

    Returns:
        Its checkpoints, `newest` among them.

    Raises:
        TrainingError: If it has no complete checkpoint; the broken ones are named.
    """
    checkpoints = find_checkpoints(directory)
    if checkpoints.newest is None:
        broken = "".join(f"\n  - {name}: {fault}" for name, fault in checkpoints.incomplete.items())
        raise TrainingError(
            f"{directory} holds no complete checkpoint to resume from{':' + broken if broken else '.'}\n"
            f"Start anew with `dgpo train {directory / RECIPE} --output_dir NEW_DIR`; a smaller save_steps loses less."
        )
    return checkpoints


def refuse_other_recipe(
    stored: Mapping[str, Any], current: Mapping[str, Any], directory: Path, num_processes: int
) -> None:
    """Refuse to continue a run with another recipe than it began with.

    Args:
        stored: The value of every field, as the run began.
        current: The value of every field now.
        directory: The run directory.
        num_processes: How many processes there are now.

    Raises:
        RecipeError: If fields differ that are not in `MAY_CHANGE`; it lists each with both values.
    """
    differing = [
        f"  - {name}: {_shown(stored[name])} in the checkpoint's recipe, {_shown(value)} now"
        for name, value in current.items()
        if name not in MAY_CHANGE and stored[name] != value
    ]
    started: Any = read_json(directory / ENVIRONMENT)
    before = started.get("num_processes") if isinstance(started, dict) else None
    if isinstance(before, int) and before != num_processes:
        differing.append(f"  - number of processes: {before} at the start, {num_processes} now")
    if differing:
        listed = "\n".join(differing)
        raise RecipeError(
            f"The checkpoints in {directory} belong to another recipe:\n{listed}\n"
            f"Resume with `dgpo train --resume {directory}` alone, or start a new run with another --output_dir."
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
