"""Padding is left out of the passes over policy and reference (`sort_by_length`).

TRL pads a rollout to its longest prompt and completion, shuffles it and cuts it into micro-batches, which all stay as
wide. Here the completions of one update are sorted by length before they are cut, and what is scored at once is as wide
as its own longest. Both change the order in which float32 numbers are added, and no sum.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dgpo.core import RuleTraits
from dgpo.engines.trl.scores import Scores

logger = logging.getLogger(__name__)

_RELATIVE = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings whose angles between two tokens depend on their distance alone, and not on the padding."""


class SortedByLength:
    """Mixin of `DGPOTrainer`: what `sort_by_length` does."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    aux_loss_enabled: bool
    model: Any
    top_entropy_quantile: float
    _buffered_inputs: Any
    _entropy_bonus_enabled: bool
    _step: int

    def _init_lengths(self, traits: RuleTraits) -> None:
        """Decide what of it this training can have, and say once what it cannot."""
        args = self.args
        self._cuts_padding = args.sort_by_length and has_relative_positions(self.model.config.get_text_config())
        if not self._cuts_padding:
            self._sorts_rows = False
            if args.sort_by_length:
                self._say_length("sort_by_length is off: the positions of this model depend on the padding.")
            return
        updates, rollout = args.gradient_accumulation_steps, args.steps_per_generation
        readers = {
            "loss_type='bnpo'": args.loss_type == "bnpo",
            "the entropy bonus": self._entropy_bonus_enabled,
            f"top_entropy_quantile={args.top_entropy_quantile}": args.top_entropy_quantile < 1.0,
            "the load-balancing loss": self.aux_loss_enabled,
            f"the credit rule {args.credit_rule}": not traits.per_completion,
            f"gradient_accumulation_steps={updates} beside steps_per_generation={rollout}": bool(
                updates % rollout and rollout % updates
            ),
        }
        found = [name for name, reads in readers.items() if reads]
        self._sorts_rows = not found
        if found:
            self._say_length(
                "sort_by_length cuts the padding of each micro-batch and leaves its completions where they are: which"
                f" ones lie together matters to {', '.join(found)}."
            )

    def _say_length(self, message: str) -> None:
        if self.accelerator.is_main_process:
            logger.info(message)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return TRL's next micro-batch; those of a new rollout are cut anew."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self._sorts_rows or not self.model.training or self._buffered_inputs is before:
            return inputs
        # A rollout lies within one update, or is made of whole ones.
        size = min(self.args.gradient_accumulation_steps, len(self._buffered_inputs))
        windows = [self._buffered_inputs[start : start + size] for start in range(0, len(self._buffered_inputs), size)]
        self._buffered_inputs = [batch for window in windows for batch in sorted_by_length(window)]
        return self._buffered_inputs[self._step % len(self._buffered_inputs)]

    def _narrowed(self, ids: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor, int]:
        """Return what is scored at once, as wide as its own longest row."""
        return without_padding(ids, mask, length) if self._cuts_padding else (ids, mask, length)


def sorted_by_length(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the same completions in as many batches of the same sizes, the longest ones first.

    The greatest need of memory comes first, and on all ranks at once.

    Args:
        batches: TRL's micro-batches: tensors or lists with one row a completion, and values of the whole rollout.

    Returns:
        Batches in which every row has moved with its completion.
    """
    sizes = [len(batch["completion_ids"]) for batch in batches]
    lengths = torch.cat([batch["prompt_mask"].sum(-1) + batch["completion_mask"].sum(-1) for batch in batches])
    order = lengths.argsort(descending=True, stable=True)
    parts = order.split(sizes)
    columns = {name: _rows(batches, name, sizes) for name in batches[0]}
    return [
        {name: batches[0][name] if values is None else _taken(values, part) for name, values in columns.items()}
        for part in parts
    ]


def _rows(batches: Sequence[Mapping[str, Any]], name: str, sizes: list[int]) -> Any:
    """Return the values of all completions; None where a batch holds one value of the whole rollout."""
    found = [batch[name] for batch in batches]
    if isinstance(found[0], Tensor) and found[0].dim():
        assert [len(values) for values in found] == sizes, name
        return torch.cat(found)
    return [value for values in found for value in values] if isinstance(found[0], list) else None


def _taken(values: Any, rows: Tensor) -> Any:
    return values[rows.to(values.device)] if isinstance(values, Tensor) else [values[row] for row in rows.tolist()]


def without_padding(ids: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor, int]:
    """Return prompts and completions without the columns in which no row has a token.

    Args:
        ids: (B, L) int64, prompts padded on the left and completions padded on the right.
        mask: (B, L), non-zero where a token is attended to.
        length: Of the completions.

    Returns:
        The same of fewer columns, and the length of the completions, 1 at least.

    Example:
        >>> mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]])
        >>> without_padding(torch.arange(12).view(2, 6), mask, 3)[0]
        tensor([[ 1,  2,  3,  4],
                [ 7,  8,  9, 10]])
    """
    end, used = ids.size(1), mask.bool().any(0)
    prompt, completion = used[: end - length].nonzero(), used[end - length :].nonzero()
    # The model needs a token before the first one that is scored.
    first = int(prompt[0]) if len(prompt) else max(0, end - length - 1)
    short = int(completion[-1]) + 1 if len(completion) else 1
    columns = slice(first, end - length + short)
    return ids[:, columns], mask[:, columns], short


def with_padding(scores: Scores, length: int) -> Scores:
    """Return scores of completions of a length, 0 in the columns that were left out."""

    def wide(values: Tensor) -> Tensor:
        return values if values.size(1) == length else pad(values, (0, length - values.size(1)))

    per_token = {name: wide(values) for name, values in scores.per_token.items()}
    return replace(scores, logps=wide(scores.logps), entropy=wide(scores.entropy), per_token=per_token)


def has_relative_positions(config: Any) -> bool:
    """Return whether a model gives the same whatever the padding on the left and on the right is.

    TRL gives its models no positions: they count from the first column. That is the same for rotary embeddings, and
    another result for learned positions and for angles that depend on the longest row.

    Args:
        config: Of the text model.

    Returns:
        Whether all its rotary embeddings are of that kind; False where there is none.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] or [rope]
    by_position = getattr(config, "attn_temperature_tuning", False) or any("llama_4_scaling_beta" in k for k in kinds)
    return not by_position and all(kind.get("rope_type") in _RELATIVE for kind in kinds)
