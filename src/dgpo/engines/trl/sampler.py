"""A notice, given once, when vLLM samples from the reference's weights in place of the policy's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NOTICEABLE = 0.05
"""Nats a token between sampler and policy. Engines in bfloat16 differ by 1e-3 to 1e-2."""

_LARGEST = 1.0
"""What one token can add, in nats: a mean must not hang on a few of them."""


class SamplerMonitor:
    """Compares the log-probabilities of what sampled with those of policy and reference.

    Pushed weights that do not arrive leave a sampler with the first ones, which are the reference's. How far it is from
    the policy says little by itself, as two engines differ, in bfloat16 ten thousand times as much as in float32, and
    more in large models late in a run. Those differences are no nearer to the reference. So the notice is due where the
    sampler is less than half as far from the reference as it is from the policy.

    Example:
        >>> policy, reference, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.2]]), torch.ones(1, 2) > 0
        >>> monitor = SamplerMonitor()
        >>> monitor.add(policy + 0.1, policy, reference, mask)    # an engine of its own precision
        >>> monitor.notice() is None
        True
        >>> monitor.add(reference, policy, reference, mask)
        >>> print(monitor.notice()[:97])
        vLLM samples from the reference's weights: a token's log-probability is 0.35 nats from the policy
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)  # to the policy, to the reference, tokens
        self._notified = False

    @classmethod
    def of(cls, args: Any) -> "SamplerMonitor | None":
        """Return the monitor of a run.

        Args:
            args: Its `DGPOConfig`.

        Returns:
            None where vLLM does not sample, or its log-probabilities are of a part of the vocabulary (`top_p` and the
            like), which neither model's are.
        """
        whole = args.top_p == 1.0 and not args.top_k and not args.min_p and args.repetition_penalty == 1.0
        return cls() if args.use_vllm and whole and not args.generation_kwargs else None

    def add(self, sampled: Tensor | None, policy: Tensor, reference: Tensor | None, mask: Tensor) -> None:
        """Count the tokens of a batch.

        Args:
            sampled: (B, T), nats, what vLLM says of its tokens, nan where it says nothing; None: nothing is counted.
            policy: (B, T), of the policy at the time of sampling.
            reference: (B, T); None: nothing is counted.
            mask: (B, T) bool.
        """
        if sampled is None or reference is None:
            return
        mask = mask & ~sampled.isnan()
        for place, other in enumerate((policy, reference)):
            self._sums[place] += (sampled - other)[mask].abs().clamp(max=_LARGEST).sum().item()
        self._sums[2] += mask.sum().item()

    def notice(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> str | None:
        """Return the notice if it is due, and count anew.

        Args:
            reduce: Sums a float32 tensor over all processes.

        Returns:
            The notice, at most once in the life of the monitor; None otherwise.
        """
        to_policy, to_reference, tokens = reduce(self._sums.float()).tolist()
        self._sums.zero_()
        if self._notified or not tokens or to_policy < _NOTICEABLE * tokens or to_reference > to_policy / 2:
            return None
        self._notified = True
        return (
            f"vLLM samples from the reference's weights: a token's log-probability is {to_policy / tokens:.2g} nats"
            f" from the policy's, and {to_reference / tokens:.2g} from the reference's. So pushed weights do not"
            " arrive, or their change is rounded away. Stop the run: it learns from completions of another model. Look"
            " for layers of vLLM that pack or quantize their weights when a model is loaded, and for a dtype that is"
            " too coarse for the updates (docs/how-to/vllm.md)."
        )
