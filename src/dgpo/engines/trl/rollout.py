"""What a rollout carries for the credit beside TRL's own columns; TRL shuffles and splits them with the rest."""

from typing import Any, Literal

import torch

GROUP, REWARD = "dgpo_group", "dgpo_reward"
"""Keys of the prompt's number of each completion, (B,) int64, and of its weighted sum of rewards, (B,)."""

TOKEN_ADVANTAGES = "dgpo_token_advantages"
"""Key of the token advantages, (B, T), where the rollout fixes them."""

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


def add_rollout_columns(trainer: Any, outputs: dict[str, Any]) -> None:
    """Add group and reward of each completion, before TRL shuffles them."""
    device, count = outputs["completion_ids"].device, len(outputs["completion_ids"])
    size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    first = trainer.accelerator.process_index * count
    outputs[GROUP] = torch.arange(first, first + count, device=device) // size
    values = local_rewards(trainer, count)
    weighted = (values * trainer.reward_weights.cpu()).nansum(-1)
    weighted[values.isnan().all(-1)] = torch.nan
    outputs[REWARD] = weighted.to(device)


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
