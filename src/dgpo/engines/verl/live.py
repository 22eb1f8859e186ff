"""Completions without advantage are left out of verl's passes over policy and reference.

In a loss whose every term is multiplied by an advantage, a completion whose group has equal rewards has gradient 0, and
so has one of which no token is trained. It keeps its place in the batch, in verl's loss and so in all normalizers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from dgpo.engines.verl.config import DGPOSettings, given

SKIP = "dgpo_skip"
"""Key of the flag in a batch: this update leaves out completions whose token advantages are all 0."""

SCORED = "dgpo_scored"
"""Field of a batch, (B,): whether a completion was scored; absent where all of them were."""

LOSSES = ("vanilla", "gpg", "cispo", "sapo")
"""verl's losses whose every term is multiplied by a token's advantage, and no other token's."""


def readers_in_update(config: Any, settings: DGPOSettings) -> list[str]:
    """Return what of a configuration reads completions without advantage in the update; nothing: they are left out.

    Args:
        config: verl's whole configuration.
        settings: DGPO's.

    Returns:
        The keys with their values.
    """
    actor = config.actor_rollout_ref.actor
    loss_mode = actor.policy_loss.get("loss_mode", "vanilla")
    reads = {
        "algorithm.dgpo.skip_zero_advantage=False": not settings.skip_zero_advantage,
        "actor.use_kl_loss=True": actor.use_kl_loss,
        f"actor.entropy_coeff={actor.entropy_coeff}": actor.entropy_coeff != 0,
        "actor.calculate_entropy=True": actor.calculate_entropy,
        f"actor.policy_loss.loss_mode={loss_mode}": loss_mode not in LOSSES,
    }
    return given(reads)


def readers_in_scoring(config: Any, settings: DGPOSettings) -> list[str]:
    """Return likewise what reads them in the pass of old log-probabilities, which comes before the credit.

    Args:
        config: verl's whole configuration.
        settings: DGPO's.

    Returns:
        The keys with their values.
    """
    reads = {
        "algorithm.use_kl_in_reward=True": config.algorithm.use_kl_in_reward,
        "rollout.calculate_log_probs=True": config.actor_rollout_ref.rollout.calculate_log_probs,
        f"the credit rule {settings.rule.name}": not settings.rule.traits.per_completion,
    }
    return readers_in_update(config, settings) + given(reads)


def rows_to_score(
    live: Sequence[bool], lengths: Sequence[int], is_padding: Sequence[bool], *, ranks: int, multiple: int
) -> list[int]:
    """Return the rows that a pass is made for, and as many others as their number has to be a multiple.

    Args:
        live: Which rows they are, B of them: those with an advantage, or with a hint.
        lengths: Tokens of each sequence.
        is_padding: Which rows verl has added.
        ranks: Data-parallel ranks, each of which gets a contiguous part.
        multiple: What the number of rows has to divide by; B does.

    Returns:
        Row numbers, at least `multiple`, in an order that gives each rank a similar number of tokens; `range(B)` as
        it is where none may be left out.
    """
    order = sorted(range(len(live)), key=lambda row: (not live[row], is_padding[row], lengths[row]))
    count = max(-(-sum(live) // multiple), 1) * multiple
    if count >= len(live):
        return list(range(len(live)))
    chosen = sorted(order[:count])
    workload = calculate_workload(torch.tensor([lengths[row] for row in chosen], dtype=torch.int64))
    parts = get_seqlen_balanced_partitions(workload, k_partitions=ranks, equal_size=True)
    return [chosen[index] for part in parts for index in part]


def leave_out(micro_batch: TensorDict, loss_function: Callable[..., Any]) -> tuple[TensorDict, Callable[..., Any]]:
    """Return the rows of a micro-batch that have an advantage, and the loss of all rows, given the model on those.

    Where there is none it is the shortest row: every rank calls its model equally often, and every parameter has a
    gradient, of 0, as it would have otherwise. The others have the log-probabilities of the policy that sampled,
    without gradient: ratio 1.

    Args:
        micro_batch: verl's, with `advantages` and `old_log_probs`.
        loss_function: verl's, called with `model_output`, `data` and `dp_group`.

    Returns:
        Both, for verl's `forward_step`.
    """
    lengths = micro_batch["input_ids"].offsets().diff()
    rows = [row for row, advantages in enumerate(micro_batch["advantages"].unbind()) if bool(advantages.any())]
    rows = rows or [int(lengths.argmin())]
    if len(rows) == len(lengths):
        return micro_batch, loss_function

    def loss_of_all(model_output: dict[str, Tensor], data: TensorDict, dp_group: Any = None) -> Any:
        computed = dict(zip(rows, model_output["log_probs"].unbind(), strict=True))
        old = micro_batch["old_log_probs"].unbind()
        values = [
            computed[row] if row in computed else _placed(old[row], int(length)) for row, length in enumerate(lengths)
        ]
        log_probs = torch.nested.nested_tensor_from_jagged(torch.cat(values), micro_batch["input_ids"].offsets())
        return loss_function(model_output={"log_probs": log_probs}, data=micro_batch, dp_group=dp_group)

    return tu.index_select_tensor_dict(micro_batch, rows), loss_of_all


def _placed(response: Tensor, length: int) -> Tensor:
    """Return values of a response at their places in a sequence, where each stands one place before its token."""
    return torch.nn.functional.pad(response, (length - 1 - len(response), 1))
