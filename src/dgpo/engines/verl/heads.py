"""The seam: the LM head of a model in verl's engine, answered by `dgpo.lm_head` instead of by a matrix product.

verl calls `module(**inputs)` and reads `.logits`. While a task is set, the head's `forward` returns per-token
statistics in place of logits: (1, N, 2) or (1, N, 4) instead of (1, N, V). They leave through the model as its logits
would, so that what a wrapper does with a module's inputs and outputs (FSDP gathers the head before it runs and again
before its backward pass) is done as ever, in the forward-only pass and in the update alike.
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

HeadTask = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Answers one call of the head from hidden states (B, L, H), weight (V, H) and bias (V,) or None."""


@dataclass
class ReferenceHead:
    """Hidden states of the reference for one micro-batch, and its head; no weight: the policy's own."""

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass
class KeepHidden:
    """Keeps the hidden states, computes nothing; with `copies_head` also a copy of the head.

    The copy outlives the forward pass, after which a sharded model frees what it has gathered.
    """

    copies_head: bool = False
    hidden: Tensor | None = None
    head: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Keep what is asked for, and return one zero for the model to go on with."""
        self.hidden = hidden.detach()
        if self.copies_head:
            assert weight is not None
            self.head = (weight.detach().clone(), None if bias is None else bias.detach().clone())
        return hidden.new_zeros(1, 1, 1)


@dataclass
class ScoreTokens:
    """Computes the statistics of a micro-batch's tokens.

    Attributes:
        targets: (N,) int64, the token that follows each position.
        temperature: Of the sampling.
        positions: (B, L) bool, the positions that are not padding, N in all; None where there is no padding.
        reference: The reference for the same positions, for d and its log-probabilities.
        answer: What was returned, for `columns`.
    """

    targets: Tensor
    temperature: float
    positions: Tensor | None = None
    reference: ReferenceHead | None = None
    answer: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return POLICY_COLUMNS if self.reference is None else CREDIT_COLUMNS

    def _rows(self, hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1) if self.positions is None else hidden[self.positions]

    def __call__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the statistics, (1, N, columns) float32; log-probabilities and entropy carry gradient."""
        reference: dict[str, Any] = {}
        if self.reference is not None:
            reference = {
                "ref_hidden": self._rows(self.reference.hidden),
                "ref_weight": self.reference.weight,
                "ref_bias": self.reference.bias,
            }
        stats = lm_head_stats(
            self._rows(hidden), weight, self.targets, bias=bias, temperature=self.temperature, **reference
        )
        found = [values for values in stats if values is not None]
        self.answer = torch.stack(found, dim=-1)[None]
        return self.answer

    def columns(self, logits: Tensor) -> Tensor:
        """Return the statistics, (N, columns), from what the model returned as its logits.

        Args:
            logits: The model's output.

        Returns:
            The same values, with their gradient.

        Raises:
            TrainingError: If the model has done anything to them after its head.
        """
        answer = self.answer
        if answer is None or logits.shape != answer.shape or logits.data_ptr() != answer.data_ptr():
            raise TrainingError(
                "The model changes its logits after the LM head (softcapping, a logit scale, a cast), or computes them"
                " without it; DGPO reads per-token statistics there instead and cannot follow. Models whose logits are"
                " the head's output, such as Qwen2, Qwen3, Llama and Mistral, work."
            )
        return logits[0]


class _Keeper(nn.Module):
    """Stands where the head stands, without its weights: nothing is gathered for it."""

    def __init__(self, task: KeepHidden) -> None:
        super().__init__()
        self._task = task

    def forward(self, hidden: Tensor) -> Tensor:
        return self._task(hidden, None, None)


class HeadSeam:
    """The place of a model's LM head.

    Args:
        module: A transformers model, not yet wrapped.

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
        self.vocab_size = head.out_features
        self._task: HeadTask | None = None
        project = head.forward

        def forward(hidden: Tensor) -> Tensor:
            return project(hidden) if self._task is None else self._task(hidden, head.weight, head.bias)

        head.forward = forward  # type: ignore[method-assign, assignment]

    def answer_with(self, task: HeadTask | None) -> None:
        """Let a task answer the head from now on; None: the head itself."""
        self._task = task

    @contextmanager
    def answering(self, task: HeadTask) -> Iterator[None]:
        """Let a task answer the head inside of the block."""
        self._task = task
        try:
            yield
        finally:
            self._task = None

    @contextmanager
    def stepped_over(self, task: KeepHidden) -> Iterator[None]:
        """Let a task answer in the head's place, so that no wrapper gathers the head's weight."""
        head = self._parent._modules[self._name]
        self._parent._modules[self._name] = _Keeper(task)
        try:
            yield
        finally:
            self._parent._modules[self._name] = head
