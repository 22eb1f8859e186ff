"""Completions without advantage are left out of the passes over policy and reference.

A completion whose group has equal rewards, or of which no token is trained, has gradient 0 in a loss whose every term
is multiplied by its advantage. It keeps its place in TRL's loss, so that all normalizers are what they were.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dgpo.core import RuleTraits
from dgpo.engines.trl.scores import Scores

logger = logging.getLogger(__name__)


def skips_dead_rows(trainer: Any, traits: RuleTraits) -> bool:
    """Return whether completions without advantage are left out, and say once what reads them where they are not.

    Args:
        trainer: A `DGPOTrainer`, constructed.
        traits: Of its rule.

    Returns:
        Whether `skip_zero_advantage` is set and nothing reads them.
    """
    args = trainer.args
    reads = {
        f"beta={args.beta}": args.beta != 0.0,
        "the entropy bonus": trainer._entropy_bonus_enabled,
        f"top_entropy_quantile={args.top_entropy_quantile}": args.top_entropy_quantile < 1.0,
        "the load-balancing loss": trainer.aux_loss_enabled,
        f"the credit rule {args.credit_rule}": not traits.per_completion,
    }
    readers = [name for name, does in reads.items() if does]
    if args.skip_zero_advantage and readers and trainer.accelerator.is_main_process:
        logger.info("Completions with advantage 0 are scored as well: %s read them.", ", ".join(readers))
    return args.skip_zero_advantage and not readers


@dataclass(frozen=True)
class LiveRows:
    """The completions of a batch that are scored.

    Attributes:
        count: B, completions of the batch.
        rows: (b,) int64, the indices of those that are scored; `None` where none may be left out.
        counted: Whether their credit counts in the metrics.
    """

    count: int
    rows: Tensor | None = None
    counted: bool = True

    @classmethod
    def of(cls, inputs: Mapping[str, Any], *, skip: bool) -> "LiveRows":
        """Return the completions with an advantage and a token; all of them where none is to be skipped.

        Where there is none it is the shortest one: every process calls its models equally often, and every parameter
        has a gradient, of 0, as it would have otherwise.
        """
        lengths = inputs["completion_mask"].sum(-1)
        if not skip:
            return cls(len(lengths))
        rows = ((inputs["advantages"] != 0) & (lengths > 0)).nonzero()[:, 0]
        if len(rows):
            return cls(len(lengths), rows)
        return cls(len(lengths), (lengths + inputs["prompt_mask"].sum(-1)).argmin()[None], counted=False)

    @property
    def all(self) -> bool:
        """Whether no completion is left out."""
        return self.rows is None or len(self.rows) == self.count

    def select(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of these completions; the very same where none is left out."""
        if self.all and self.counted:
            return inputs
        part = {name: value[self.rows] if self._is_column(value) else value for name, value in inputs.items()}
        if not self.counted:
            part["tool_mask"] = torch.zeros_like(part["completion_mask"])  # TRL's mask of tokens that are not trained
        return part

    def spread(self, values: Tensor) -> Tensor:
        """Return (B, T) values of all completions, 0 where a completion was left out."""
        return values if self.all else self._placed(values, values.new_zeros(self.count, *values.shape[1:]))

    def spread_scores(
        self, scores: Scores, inputs: Mapping[str, Any], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> Scores:
        """Return scores of all completions, such that TRL's loss and metrics are those of the live ones.

        The others have the log-probabilities of the policy that sampled, that is ratio 1 where TRL compares the two,
        and the mean entropy of the live ones on all ranks, which TRL's mean over all tokens then is too.
        """
        if self.rows is None:
            return scores
        mask, old_logps = inputs["completion_mask"], inputs.get("old_per_token_logps")
        trained = mask[self.rows]
        own = torch.stack([(scores.entropy.detach() * trained).sum(), trained.sum().to(scores.entropy.dtype)])
        live, other = sum_over_ranks(torch.stack([own * self.counted, own * (not self.counted)]))
        if self.all:
            return scores
        logps = torch.zeros(mask.shape, device=mask.device) if old_logps is None else old_logps
        total, count = live if live[1] > 0 else other  # nothing lives on any rank: of what was scored all the same
        entropy = (total / count.clamp(min=1)).expand(mask.shape)
        if self.counted:
            entropy = self._placed(scores.entropy, entropy)
        return replace(scores, logps=self._placed(scores.logps, logps), entropy=entropy)

    def _placed(self, values: Tensor, fill: Tensor) -> Tensor:
        assert self.rows is not None
        return fill.to(values.dtype).index_copy(0, self.rows, values)

    def _is_column(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.count
