"""The reference runs while rewards are computed (`overlap_reference`).

Rewards that wait for others (a judge behind an address, a sandbox, verifiers on other cores) leave the device idle
between sampling and the loss. What the reference says of a rollout needs no reward, so that it is scored meanwhile, in
a second thread, and its hidden states are held until the losses ask for them.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dgpo.engines.trl import padding_free
from dgpo.engines.trl.heads import ReferenceHead
from dgpo.engines.trl.lengths import has_relative_positions
from dgpo.engines.trl.reference_states import ReferenceStates, reference_head

logger = logging.getLogger(__name__)

ROW = "dgpo_row"
"""Key of a completion's place in the rollout of its process and its length, (B, 2) int64."""


class OverlappedReference:
    """Mixin of `DGPOTrainer`: where the reference's hidden states come from, and what `overlap_reference` does."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    model: Any
    ref_model: Any
    _buffered_inputs: Any
    _compares: bool
    _tokenizer: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def _init_reference_states(self) -> None:
        """Decide where the reference's states are kept, and say once why it cannot run beside the rewards."""
        self._reference_states = ReferenceStates(self)
        self._sampled: tuple[Sequence[list[int]], Sequence[list[int]]] = ((), ())
        self._ahead: _Ahead | None = None
        reasons = {
            "credit_policy='old', whose pass comes before the rewards": self.args.credit_policy == "old",
            "a rule that compares nothing with a reference": not self._compares,
            "FSDP or DeepSpeed, whose passes are collectives, as the rewards are": self.is_fsdp_enabled
            or self.is_deepspeed_enabled,
            "sync_ref_model, which moves the reference": self.args.sync_ref_model,
            "dropout in the reference, which draws random numbers": self.ref_model is None and _has_dropout(self.model),
            "a model whose positions depend on the padding": not has_relative_positions(
                self.model.config.get_text_config()
            ),
        }
        found = [reason for reason, holds in reasons.items() if holds]
        self._overlaps = self.args.overlap_reference and not found
        if self.args.overlap_reference and found and self.accelerator.is_main_process:
            logger.info("overlap_reference is off beside %s.", "; ".join(found))

    def _generate(self, prompts: list[Any]) -> Any:
        found = super()._generate(prompts)
        self._sampled = found[:2]  # ids of prompts and completions
        return found

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's rewards; in a training the reference runs beside them."""
        if not self._overlaps or not self.model.training:
            return super()._calculate_rewards(*args, **kwargs)
        with ThreadPoolExecutor(1, "reference") as thread:
            ahead = thread.submit(self._score_ahead, *self._sampled)
            rewards = super()._calculate_rewards(*args, **kwargs)
        self._ahead = ahead.result()
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        outputs: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._overlaps and self.model.training:
            lengths = [len(ids) for ids in self._sampled[1]]
            rows = torch.tensor([range(len(lengths)), lengths]).T
            outputs[ROW] = rows.to(outputs["completion_ids"].device)
        return outputs

    def _score_ahead(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> "_Ahead":
        score = padding_free.packing(self, super()._get_per_token_logps_and_entropies)
        size, pad_id = self.args.per_device_train_batch_size, self._tokenizer.pad_token_id
        return _Ahead.of(self, score, prompts, completions, size, pad_id)

    def _reference_of(self, inputs: dict[str, Any] | None, kept_as: Tensor | None, *call: Any) -> ReferenceHead:
        """Return hidden states and head of the reference for some rows: `call` as in `reference_head`."""
        if inputs is None or ROW not in inputs:
            return self._reference_states.get(kept_as, *call)
        if self._ahead is None:  # a resumed training goes on within a rollout
            self._ahead = self._score_ahead(*_sampled_ids(self._buffered_inputs))
        _, _, mask, length = call
        return self._ahead.head_of(inputs[ROW][:, 0], mask[:, -length:].sum(-1))


class _Ahead:
    """What the reference says of all completions of a rollout."""

    def __init__(self, hidden: list[Tensor], head: ReferenceHead) -> None:
        self._hidden, self._head = hidden, head  # of each completion, (its tokens, H)

    @classmethod
    def of(
        cls,
        trainer: Any,
        score: Callable[..., Any],
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        size: int,
        pad_id: int,
    ) -> "_Ahead":
        """Score them, `size` at a time, those of a length together."""
        hidden: list[Tensor] = [torch.empty(0)] * len(completions)
        order = sorted(range(len(completions)), key=lambda row: len(prompts[row]) + len(completions[row]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            parts = (
                _padded([ids[row] for row in rows], pad_id, side)
                for ids, side in ((prompts, "left"), (completions, "right"))
            )
            (prompt_ids, prompt_mask), (completion_ids, completion_mask) = parts
            ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
            device = trainer.accelerator.device
            head = reference_head(trainer, score, ids.to(device), mask.to(device), completion_ids.size(1))
            for row, states in zip(rows, head.hidden.split([len(completions[row]) for row in rows]), strict=True):
                hidden[row] = states
        return cls(hidden, head)

    def head_of(self, rows: Tensor, counts: Tensor) -> ReferenceHead:
        """Return what a reference pass over some rows would, of the first tokens of each."""
        chosen = zip(rows.tolist(), counts.tolist(), strict=True)
        hidden = torch.cat([self._hidden[row][:count] for row, count in chosen])
        return ReferenceHead(hidden, self._head.weight, self._head.bias)


def _padded(rows: list[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True, padding_side=side)
    return ids, mask


def _sampled_ids(batches: Sequence[dict[str, Any]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids of prompts and completions of a rollout from TRL's micro-batches, in the order of sampling."""
    found = {}
    for batch in batches:
        masks = batch["prompt_mask"].bool()
        for (row, length), prompt, mask, ids in zip(
            batch[ROW].tolist(), batch["prompt_ids"], masks, batch["completion_ids"], strict=True
        ):
            found[row] = (prompt[mask].tolist(), ids[:length].tolist())
    prompts, completions = zip(*(found[row] for row in sorted(found)), strict=True)
    return list(prompts), list(completions)


def _has_dropout(model: Any) -> bool:
    """Return whether a model draws random numbers in training when its adapter is switched off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    of_adapters = {id(inner) for layer in adapters for inner in layer.modules() if inner is not layer.get_base_layer()}
    layers = (m for m in model.modules() if isinstance(m, nn.Dropout) and id(m) not in of_adapters)
    return any(layer.p > 0 for layer in layers) or any(
        value and name.endswith(("dropout", "pdrop"))
        for name, value in model.config.get_text_config().to_dict().items()
        if isinstance(value, float)
    )
