"""The reference's hidden states, kept from one iteration over a rollout to the next."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dgpo.engines.trl.heads import ReferenceHead, reference_pass
from dgpo.engines.trl.scores import reference_policy


class ReferenceStates:
    """What the reference pass gave for the micro-batches of a rollout.

    With several iterations over a rollout (`num_iterations`) the same completions are scored again, by a policy that
    has been updated and a reference that has not: its states are the same to the last bit, and it need not run again.
    Kept are those of the micro-batches that fit within `reference_cache_mib`. Nothing is kept where the reference may
    change in between: if it moves (`sync_ref_model`), or if its pass draws random numbers (the dropout of a base model
    whose adapter is switched off), which a later pass would draw as well.

    Args:
        trainer: A `DGPOTrainer`, constructed.
    """

    def __init__(self, trainer: Any) -> None:
        args = trainer.args
        is_repeated = trainer.num_iterations > 1 and not args.sync_ref_model
        self._limit = int(args.reference_cache_mib * 2**20) if is_repeated else 0
        self._trainer = trainer
        self._kept: list[tuple[Tensor, ReferenceHead]] = []
        self._bytes = 0

    def begin_rollout(self) -> None:
        """Forget the rollout before; an evaluation in between leaves it."""
        if self._trainer.model.training:
            self._kept, self._bytes = [], 0

    def get(
        self, batch: Tensor | None, score: Callable[..., Any], ids: Tensor, mask: Tensor, length: int
    ) -> ReferenceHead:
        """Return what the reference gives for some rows, from an earlier iteration if it was kept.

        Args:
            batch: The tensor of their completions in TRL's buffer, by whose identity they are known again; None for
                what is scored once.
            score: TRL's method that calls a model.
            ids: (B, L) int64, prompts and completions.
            mask: (B, L), non-zero where a token is attended to.
            length: Of the completions.

        Returns:
            Hidden states, one row for each completion token that `mask` holds, and head.
        """
        if batch is None or not self._limit or not self._trainer.model.training:
            return reference_head(self._trainer, score, ids, mask, length)
        for known, head in self._kept:
            if known is batch:
                return head
        before = self._random_states()
        head = reference_head(self._trainer, score, ids, mask, length)
        is_drawn = any(not torch.equal(a, b) for a, b in zip(before, self._random_states(), strict=True))
        if self._trainer.is_fsdp_enabled and self._kept:  # the pass has copied the head: once is enough
            head = replace(head, weight=self._kept[0][1].weight, bias=self._kept[0][1].bias)
        size = self._size(head)
        # A pass of a model that is sharded or wrapped is a collective: all ranks repeat it, or none does.
        if not self._trainer._on_any_rank(is_drawn or self._bytes + size > self._limit):
            self._kept.append((batch, head))
            self._bytes += size
        return head

    def _size(self, head: ReferenceHead) -> int:
        """Return how many bytes it takes to keep this one as well."""
        own = [head.hidden]
        if self._trainer.is_fsdp_enabled and not self._kept:
            own += [tensor for tensor in (head.weight, head.bias) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in own)

    def _random_states(self) -> list[Tensor]:
        device = self._trainer.accelerator.device
        on_device = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
        return [torch.get_rng_state(), *on_device]


def reference_head(trainer: Any, score: Callable[..., Any], ids: Tensor, mask: Tensor, length: int) -> ReferenceHead:
    """Run the reference of a trainer over some rows, with the arguments of `ReferenceStates.get`."""
    with reference_policy(trainer) as model, reference_pass(copy_head=trainer.is_fsdp_enabled) as passed:
        score(model, ids, mask, length)
    return passed[0]
