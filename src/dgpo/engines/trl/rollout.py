"""What a rollout carries for the credit beside TRL's own columns; TRL shuffles and splits them with the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from dgpo.credit_log.answers import gold_answer, texts_as_tensor

GROUP, REWARD = "dgpo_group", "dgpo_reward"
"""Keys of the prompt's number of each completion, (B,) int64, and of its weighted sum of rewards, (B,)."""

TOKEN_ADVANTAGES = "dgpo_token_advantages"
"""Key of the token advantages, (B, T), where the rollout fixes them."""

REWARDS, ANSWER, HINT, CONTROL = "dgpo_rewards", "dgpo_answer", "dgpo_hint", "dgpo_hint_control"
"""Keys of what the credit log holds of a prompt and its completions: each function's reward, (B, functions), and gold
answers, hints and what these are compared with, (B, L) uint8 each; a completion without a hint has an empty one."""

AGREEMENT = "dgpo_hint_agreement"
"""Key of how often the rewards of a completion's prompt agree with its hint, (B,)."""

REF_LOGPS = "ref_per_token_logps"
"""TRL's key of the reference's log-probabilities."""


def local_rewards(trainer: Any, count: int) -> torch.Tensor:
    """Return the rewards of this process's completions, (count, functions), nan where a function gave none.

    TRL leaves them out of its outputs. It logs those of all processes, in the order of the processes; older ones stand
    before them in evaluations.
    """
    accelerator = trainer.accelerator
    first = accelerator.process_index * count
    everywhere = count * accelerator.num_processes
    columns = []
    for values in trainer._logs["rewards"].values():
        newest = list(values)[-everywhere:]
        unknown = everywhere - len(newest)  # TRL's log is no longer than a rollout of training
        columns.append(([torch.nan] * unknown + newest)[first : first + count])
    return torch.tensor(columns, dtype=torch.float32).T.reshape(count, -1)


def groups_of(trainer: Any, count: int) -> torch.Tensor:
    """Return which prompt of the whole rollout each of this process's completions belongs to, (count,) int64."""
    size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    first = trainer.accelerator.process_index * count
    return torch.arange(first, first + count).div(size, rounding_mode="floor")


def log_columns(trainer: Any, rows: Sequence[Mapping[str, Any]], answer: str | None) -> dict[str, torch.Tensor]:
    """Return what the credit log holds of a rollout, by key.

    Args:
        trainer: The trainer, after it has made the rollout.
        rows: The data set's row of each of this process's completions, before TRL shuffles them.
        answer: The column with the gold answer; see `gold_answer`.

    Returns:
        Tensors with one row a completion.
    """
    answers = texts_as_tensor([gold_answer(row, answer) for row in rows])
    return {REWARDS: local_rewards(trainer, len(rows)), ANSWER: answers}


def add_rollout_columns(trainer: Any, outputs: dict[str, Any]) -> None:
    """Add group and reward of each completion, before TRL shuffles them."""
    device, count = outputs["completion_ids"].device, len(outputs["completion_ids"])
    outputs[GROUP] = groups_of(trainer, count).to(device)
    values = local_rewards(trainer, count)
    weighted = (values * trainer.reward_weights.cpu()).nansum(-1)
    weighted[values.isnan().all(-1)] = torch.nan
    outputs[REWARD] = weighted.to(device)


def trained_mask(outputs: Mapping[str, Any]) -> torch.Tensor:
    """Return which tokens of a rollout the policy has sampled, (B, T) bool: a tool's answers are not among them."""
    mask: torch.Tensor = outputs["completion_mask"].bool()
    return mask & outputs["tool_mask"].bool() if "tool_mask" in outputs else mask


def holds_whole_groups(args: Any, what: Literal["micro-batch", "rollout"]) -> bool:
    """Return whether every part of a rollout that is given credit at once holds whole groups.

    Args:
        args: A `DGPOConfig`.
        what: `"micro-batch"`: what one loss is computed of. `"rollout"`: what one process samples at once.

    Returns:
        Whether no group is split.
    """
    rows = args.per_device_train_batch_size * args.steps_per_generation
    whole_rollout = args.world_size == 1 or rows % args.num_generations == 0
    # TRL shuffles a rollout before it cuts it into micro-batches.
    return whole_rollout and (what == "rollout" or args.steps_per_generation == 1)
