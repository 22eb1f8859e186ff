"""Finds the checkpoint a run can continue from, and refuses one that belongs to another recipe."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import Checkpoints, find_checkpoints, saved_layout
from dgpo.errors import RecipeError, TrainingError
from dgpo.lab.runs.files import ENVIRONMENT, RECIPE

# What may differ between the first start and a resumed one: it changes how long a run is, and what it reports.
MAY_CHANGE = frozenset(
    {
        *(
            "output_dir",
            "run_name",
            "project",
            "report_to",
            "disable_tqdm",
            "ddp_timeout",
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

COPY = f"If that is damage: delete {RECIPE} there, and the copy of it in {ENVIRONMENT} takes its place."


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
            f"Start anew with `dgpo train {shlex.quote(str(directory / RECIPE))} --output_dir NEW_DIR`; a smaller "
            "save_steps loses less, and with a save_total_limit above 1 an older one takes the place of a damaged one."
        )
    return checkpoints


def refuse_other_recipe(
    stored: Mapping[str, Any], current: Mapping[str, Any], directory: Path, *, own: bool = False
) -> None:
    """Refuse to continue a run with another recipe than it began with.

    Args:
        stored: The value of every field, as the run began.
        current: The value of every field now.
        directory: The run directory.
        own: Whether the recipe is the one in the directory, without overrides.

    Raises:
        RecipeError: If fields differ that are not in `MAY_CHANGE`; it lists each with both values.
    """
    differing = [
        f"  - {name}: {_shown(stored[name])} in the checkpoint's recipe, {_shown(value)} now"
        for name, value in current.items()
        if name not in MAY_CHANGE and stored[name] != value
    ]
    if not differing:
        return
    folder = shlex.quote(str(directory))
    remedy = f"Resume with `dgpo train --resume {folder}` alone, or start a new run with another --output_dir."
    if own:
        remedy = (
            f"{RECIPE} there was changed or damaged since the run began, or the copy of it in {ENVIRONMENT} was. "
            "Delete the one that is wrong, and the other one takes its place."
        )
    listed = "\n".join(differing)
    raise RecipeError(f"The checkpoints in {directory} belong to another recipe:\n{listed}\n{remedy}")


def refuse_other_processes(checkpoint: Path, num_processes: int) -> None:
    """Refuse to continue with another number of processes: the rollouts of a checkpoint are cut over them.

    Args:
        checkpoint: The checkpoint's folder.
        num_processes: How many processes there are now.

    Raises:
        RecipeError: If the checkpoint was written by another number; the message holds a command that fits.
    """
    before = saved_layout(checkpoint).get("num_processes")
    if not isinstance(before, int) or before == num_processes:
        return
    command = f"dgpo train --resume {shlex.quote(str(checkpoint.parent))}"
    if before > 1:
        command = f"torchrun --nproc-per-node {before} -m dgpo.lab.cli.main {command[5:]}"
    raise RecipeError(
        f"{checkpoint} was written by {before} process{'es' if before > 1 else ''}, and there "
        f"{'are' if num_processes > 1 else 'is'} {num_processes} now. Resume with as many: `{command}`."
    )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
