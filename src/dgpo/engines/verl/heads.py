"""A hook on the LM head of a model in verl's engine: `dgpo.lm_head` computes there in place of the matrix product.

verl calls `module(**inputs)` and reads `.logits`. Inside of `HeadHook.replace` the head returns per-token statistics in
place of logits: (1, N, 2) or (1, N, 4) instead of (1, N, V). They leave through the model as its logits would, so that
what a wrapper does with a module's inputs and outputs (FSDP gathers the head before it runs and again before its
backward pass) is done as ever, in the forward-only pass and in the update alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgpo.errors import TrainingError
from dgpo.lm_head import lm_head_stats

POLICY_COLUMNS = ("log_probs", "entropy")
"""What the policy alone gives, under verl's names, in the order of the columns."""

CREDIT_COLUMNS = (*POLICY_COLUMNS, "hellinger_sq", "ref_log_probs")
"""What policy and reference together give."""

HeadFunction = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""Takes hidden states (B, L, H), weight (V, H) and bias (V,) or None; weight is None where the head is bypassed."""


@dataclass
class ReferenceHead:
    """The reference in one pass over a batch: its hidden states, one micro-batch after another, and its head.

    Attributes:
        has_weight: Whether the reference is a model of its own; otherwise its head is the policy's.
        hidden: (B, L, H), of the micro-batch.
        weight: (V, H), a copy: after its forward pass a sharded model frees what it has gathered.
        bias: (V,) or None.
    """

    has_weight: bool
    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def needs_weight(self) -> bool:
        """Whether the head has still to be copied."""
        return self.has_weight and self.weight is None

    def capture(self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Take the hidden states, and the head if it is needed; return one zero in place of logits."""
        self.hidden = hidden.detach()
        if self.needs_weight:
            assert weight is not None, "a head that is bypassed cannot be copied"
            self.weight = weight.detach().clone()
            self.bias = None if bias is None else bias.detach().clone()
        return hidden.new_zeros(1, 1, 1)


@dataclass
class ScoreTokens:
    """Computes the statistics of a micro-batch's tokens.

    Attributes:
        targets: (N,) int64, the token that follows each position.
        temperature: Of the sampling.
        positions: (B, L) bool, the positions that are not padding, N in all; None where there is no padding.
        reference: The reference at the same positions, for d and its log-probabilities.
        ref_positions: (B', L') bool, N in all, where the reference was run on other sequences; None: `positions`.
        stats: What was returned, (1, N, columns).
    """

    targets: Tensor
    temperature: float
    positions: Tensor | None = None
    reference: ReferenceHead | None = None
    ref_positions: Tensor | None = None
    stats: Tensor | None = None

    def __call__(self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the statistics, (1, N, columns) float32; log-probabilities and entropy carry gradient."""
        assert weight is not None
        reference: dict[str, Any] = {}
        if self.reference is not None:
            assert self.reference.hidden is not None
            reference = {
                "ref_hidden": self._flat(self.reference.hidden, self.ref_positions),
                "ref_weight": self.reference.weight,
                "ref_bias": self.reference.bias,
            }
        stats = lm_head_stats(
            self._flat(hidden), weight, self.targets, bias=bias, temperature=self.temperature, **reference
        )
        self.stats = torch.stack([values for values in stats if values is not None], dim=-1)[None]
        return self.stats

    def _flat(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        positions = self.positions if positions is None else positions
        return hidden.flatten(0, 1) if positions is None else hidden[positions]

    def columns(self, logits: Tensor) -> Tensor:
        """Return the statistics, (N, columns), from what the model returned as its logits.

        Args:
            logits: The model's output.

        Returns:
            The same values, with their gradient.

        Raises:
            TrainingError: If the model has changed them after its head.
        """
        stats = self.stats
        if stats is None or logits.shape != stats.shape or logits.data_ptr() != stats.data_ptr():
            raise TrainingError(
                "The model changes its logits after the LM head (softcapping, a logit scale, a cast), or computes them"
                " without it; DGPO reads per-token statistics there instead and cannot follow. Models whose logits are"
                " the head's output, such as Qwen2, Qwen3, Llama and Mistral, work."
            )
        return logits[0]


class _WithoutWeight(nn.Module):
    """Takes the place of the head and has no parameters, so that no wrapper gathers any for it."""

    def __init__(self, function: HeadFunction) -> None:
        super().__init__()
        self._function = function

    def forward(self, hidden: Tensor) -> Tensor:
        return self._function(hidden, None, None)


class HeadHook:
    """Lets a function compute what a model's LM head returns.

    Args:
        module: A transformers model, not yet wrapped.

    Attributes:
        vocab_size: V.
        has_run: Whether the head has been called since the model was built.

    Raises:
        TrainingError: If it has no linear output head.
    """

    def __init__(self, module: nn.Module) -> None:
        head = module.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(head, nn.Linear):
            raise TrainingError(
                f"{type(module).__name__} has no linear LM head (get_output_embeddings() gives"
                f" {type(head).__name__}); DGPO needs one."
            )
        # By parent and name: wrappers replace the child, and keep the parent.
        self._parent, self._name = next(
            (parent, name) for parent in module.modules() for name, child in parent._modules.items() if child is head
        )
        self.vocab_size, self.has_run = head.out_features, False
        self._function: HeadFunction | None = None
        project = head.forward

        def forward(hidden: Tensor) -> Tensor:
            self.has_run = True
            return project(hidden) if self._function is None else self._function(hidden, head.weight, head.bias)

        head.forward = forward  # type: ignore[method-assign, assignment]

    @contextmanager
    def replace(self, function: HeadFunction) -> Iterator[None]:
        """Let a function compute the head's output inside of the block."""
        self._function = function
        try:
            yield
        finally:
            self._function = None

    @contextmanager
    def bypass(self, function: HeadFunction) -> Iterator[None]:
        """Let a function stand in for the head inside of the block, so that no wrapper gathers the head's weight."""
        head = self._parent._modules[self._name]
        self._parent._modules[self._name] = _WithoutWeight(function)
        try:
            yield
        finally:
            self._parent._modules[self._name] = head
