"""Listens to TRL's loss while it scores completions, for their statistics; the loss does not notice."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgpo.engines.trl import heads
from dgpo.engines.trl.likeliest import LikeliestObserver
from dgpo.engines.trl.rollout import trained_mask
from dgpo.engines.trl.step_log import SAMPLING_LOG_RATIO, PickedRows

_PLACES = 1 / 8
"""Share of the tokens, those of largest score, whose likeliest tokens are taken: all of them would cost as much as the
statistics."""


class Listener:
    """Takes the statistics of some completions out of the call in which TRL's loss scores them.

    Args:
        inputs: TRL's inputs of the loss.
        rows: The completions.
        reference: Hidden states of their tokens under the reference, and its head.
        kappa: Exponent of the gate, for the places whose likeliest tokens are taken.

    Attributes:
        picked: The completions; None until they have been scored.
        error: What went wrong.
    """

    def __init__(
        self, inputs: Mapping[str, Any], rows: Sequence[int], reference: heads.ReferenceHead | None, kappa: float
    ) -> None:
        self.picked: PickedRows | None = None
        self.error: Exception | None = None
        self._inputs, self._rows, self._reference, self._kappa = inputs, rows, reference, kappa

    def __call__(self, call: heads.KernelCall, logps: Tensor) -> None:
        """Take them from the first call with a gradient that scores these completions."""
        if self.picked is None and self.error is None and logps.requires_grad:
            try:
                with torch.no_grad():
                    self._take(call, logps.detach())
            except Exception as error:  # nothing may reach the loss from here
                self.error = error

    def _take(self, call: heads.KernelCall, logps: Tensor) -> None:
        inputs = self._inputs
        mask = inputs["completion_mask"].bool()
        index = torch.tensor(self._rows, device=mask.device)
        places = self._places(len(call.targets), mask)
        if places is None:
            return
        scored = mask[index]
        flat = places[index][scored]
        call = call.selected(flat)
        if not torch.equal(call.targets, inputs["completion_ids"][index][scored]):
            return
        stats = call.stats(self._reference)
        per_token = heads.per_completion(stats, scored)
        sampling_logps = inputs.get("sampling_per_token_logps", inputs.get("old_per_token_logps"))
        ratio = torch.zeros_like(per_token["logps"])  # TRL leaves them out where the policy is the one that sampled
        if sampling_logps is not None:
            ratio[scored] = logps[flat].float() - sampling_logps[index][scored]
        observer = LikeliestObserver(scored, range(len(self._rows)), self._kappa, share=_PLACES)
        observer(heads.HeadView(call, self._reference, stats))
        picked = PickedRows.of(self._rows, inputs, trained_mask(inputs), {}, [])
        picked.per_token, picked.likeliest = {**per_token, SAMPLING_LOG_RATIO: ratio}, observer.found
        self.picked = picked

    def _places(self, num_tokens: int, mask: Tensor) -> Tensor | None:
        """Return where the kernel has each token of the completions, (B, T); None if it scores something else."""
        if num_tokens == int(mask.sum()):  # the tokens of the completions, and no others
            return mask.flatten().cumsum(0).view(mask.shape) - 1
        width = self._inputs["prompt_ids"].size(1) + mask.size(1) - 1
        if num_tokens != len(mask) * width:  # every position, prompts and padding included
            return None
        rows, columns = (torch.arange(size, device=mask.device) for size in mask.shape)
        places: Tensor = rows[:, None] * width + columns + (width - mask.size(1))
        return places
