"""The head hook: while DGPO scores a batch, TRL's fused LM head calls this kernel in place of its own.

TRL patches `model.forward` so that `model(..., labels=..., fused_lm_head=True)` runs the backbone and hands hidden
states, head weight, bias, targets, temperature, softcapping and logit scale to one kernel,
`ChunkedLogProbFunction.apply`. All that surrounds the call (PEFT, FSDP2 gathering, fp32 heads, device maps,
mixture-of-experts losses) stays TRL's; only that kernel is answered here, in one of two ways:

- reference pass: return the reference's hidden states and head, compute nothing;
- policy pass: log-probabilities and entropy; given what the reference pass returned, one pass over both heads computes
  Hellinger distances and the reference's log-probabilities as well.

Both go through `dgpo.lm_head`, so that old and new log-probabilities are rounded alike: scoring the two with
different kernels puts bf16 ratios off by 0.02.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import trl.trainer.utils as trl_utils
from torch import Tensor

from dgpo.engines.trl.compat import ASKS_WHERE
from dgpo.lm_head import LMHeadStats, lm_head_stats, top_tokens


@dataclass(frozen=True)
class ReferenceHead:
    """What a pass over both heads needs of the reference: hidden states of the scored tokens, and the head."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class KernelCall:
    """One call of TRL's head kernel: its arguments, in TRL's order; rows of hidden states and targets are tokens."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    temperature: float
    chunk_size: int
    softcap: float | None = None
    logit_scale: float = 1.0
    outputs: tuple[str, ...] = ()

    def selected(self, rows: Tensor) -> "KernelCall":
        """The same call for some of its tokens, (n,) int64, without a gradient."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach()[rows], weight=weight, bias=bias, targets=self.targets[rows])

    def stats(self, reference: ReferenceHead | None = None) -> LMHeadStats:
        """Per-token statistics of these hidden states, against the reference if one is given."""
        return lm_head_stats(
            self.hidden,
            self.weight,
            self.targets,
            bias=self.bias,
            ref_hidden=None if reference is None else reference.hidden,
            ref_weight=None if reference is None else reference.weight,
            ref_bias=None if reference is None else reference.bias,
            temperature=self.temperature,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )

    def top_tokens(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens of some rows, with their probabilities."""
        return top_tokens(
            self.hidden.detach()[rows],
            self.weight,
            k,
            bias=self.bias,
            temperature=self.temperature,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )


class HeadView:
    """What an observer of a policy pass may look at while the heads' weights are there; rows are tokens, flat."""

    def __init__(self, call: KernelCall, reference: ReferenceHead | None, stats: LMHeadStats) -> None:
        self.stats = stats
        self._calls = {"policy": call}
        if reference is not None:
            self._calls["reference"] = replace(call, **vars(reference))

    def top_tokens(self, rows: Tensor, k: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return probabilities and ids, both (n, k), of `"policy"` and, if scored, `"reference"` for (n,) rows."""
        return {who: call.top_tokens(rows, k) for who, call in self._calls.items()}


# (log-probabilities, entropy, log_sum_sq_probs, mean_logits, is_top1), as TRL's kernel returns them
_KernelResult = tuple[Tensor, Tensor | None, None, None, None]


@contextmanager
def listening(hear: Callable[[KernelCall, Tensor], None]) -> Iterator[None]:
    """Let TRL's own head kernel compute as ever inside of this block, and pass on each of its calls.

    Args:
        hear: Called after each call of the kernel, with its arguments and the log-probabilities that it gave. It must
            not raise.
    """
    kernel = trl_utils._ChunkedLogProbFunction

    def apply(*args: Any) -> Any:
        result = kernel.apply(*args)
        hear(KernelCall(*args), result[0])
        return result

    trl_utils._ChunkedLogProbFunction = SimpleNamespace(apply=apply)
    try:
        yield
    finally:
        trl_utils._ChunkedLogProbFunction = kernel


@contextmanager
def _answering(answer: Callable[[KernelCall], _KernelResult]) -> Iterator[None]:
    """Let `answer` serve TRL's head kernel inside of this block.

    The name is looked up in TRL's module on each call; replacing it there for the duration of one forward pass needs no
    copy of TRL's forward. It is not safe to score with two trainers in two threads of one process at the same time.

    A class in its place would be a reference cycle, which keeps what `answer` holds (hidden states, the copy of a
    sharded head) until Python's collector finds it some steps later.
    """
    kernel = SimpleNamespace(apply=lambda *args: answer(KernelCall(*args)))
    replaced: dict[str, Any] = {"_ChunkedLogProbFunction": kernel}
    if hasattr(trl_utils, ASKS_WHERE):
        replaced[ASKS_WHERE] = _score_valid_positions_only
    originals = {name: getattr(trl_utils, name) for name in replaced}
    for name, value in replaced.items():
        setattr(trl_utils, name, value)
    try:
        yield
    finally:
        for name, value in originals.items():
            setattr(trl_utils, name, value)


def _score_valid_positions_only(device: torch.device) -> bool:
    """Answer TRL's question whether to leave out prompt and padding positions: on a CPU as well as on a GPU."""
    return True


@contextmanager
def reference_pass(*, copy_head: bool) -> Iterator[list[ReferenceHead]]:
    """Serve TRL's head with zeros, and yield a list that receives what a pass over both heads needs.

    Args:
        copy_head: Copy the head's weight, for wrappers that free it when the forward returns (FSDP).

    Yields:
        list[ReferenceHead]: One for each call of the model's head inside of the block.
    """
    seen: list[ReferenceHead] = []

    def answer(call: KernelCall) -> _KernelResult:
        weight, bias = call.weight, call.bias
        if copy_head:
            weight, bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
        # Where both models share the head (LoRA), the very tensor is passed on: it is then read once for both.
        seen.append(ReferenceHead(call.hidden.detach(), weight, bias))
        return call.hidden.new_zeros(len(call.targets), dtype=torch.float32), None, None, None, None

    with _answering(answer):
        yield seen


@contextmanager
def policy_pass(
    reference: ReferenceHead | None = None, observe: Callable[[HeadView], None] | None = None
) -> Iterator[list[LMHeadStats]]:
    """Serve TRL's head with the policy's statistics, and yield a list that receives them.

    Args:
        reference: What the reference pass returned; both heads are then scored at once. A call without a token before
            that of its tokens, as for prompts, is not compared.
        observe: Called with the heads while the weights of a sharded model are gathered.

    Yields:
        list[LMHeadStats]: One for each call of the model's head inside of the block.
    """
    seen: list[LMHeadStats] = []

    def answer(call: KernelCall) -> _KernelResult:
        is_before = reference is not None and len(call.targets) == 0 < len(reference.hidden)
        stats = call.stats(None if is_before else reference)
        seen.append(stats)
        if observe is not None:
            observe(HeadView(call, reference, stats))
        return stats.logps, stats.entropy, None, None, None

    with _answering(answer):
        yield seen


def per_completion(stats: LMHeadStats, scored: Tensor) -> dict[str, Tensor]:
    """Return the statistics of a pass as (B, T), without gradient, 0 where nothing was scored.

    Args:
        stats: Of the scored tokens, flat, in the order of `scored`.
        scored: (B, T) bool, True where a completion token was scored.

    Returns:
        The statistics by their name in `TokenStats`, float32; those of a reference only where one was scored.
    """
    values = {name: getattr(stats, name) for name in ("logps", "entropy", "hellinger_sq", "ref_logps")}
    flat = {name: value for name, value in values.items() if value is not None}
    zeros = torch.zeros(scored.shape, dtype=torch.float32, device=scored.device)
    return {name: zeros.masked_scatter(scored, values.detach()) for name, values in flat.items()}
