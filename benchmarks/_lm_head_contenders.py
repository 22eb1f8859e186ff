"""What `lm_head.py` measures: the same tokens scored and differentiated by us, by TRL, by Liger, by cut-cross-entropy.

Each contender is built from a `Problem` and returns the gradients of the policy's hidden states and weight for one
fixed upstream gradient of the log-probabilities. `UnavailableError` carries the reason why one cannot run here.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from dgpo.lm_head.dispatch import choose_tile_ops
from dgpo.lm_head.reference import reference_stats
from dgpo.lm_head.running_stats import EMPTY_MAX, HALF_LOG2_E, PolicyState, merge_policy
from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tile_ops import ProjectedTile, TileOps
from dgpo.lm_head.tiles_torch import TORCH_TILES, TorchReduction, gather_targets, inner_block
from dgpo.lm_head.tiling import Tiling, choose_tiling, projection_dtype, spans
from dgpo.lm_head.types import Head, LogitTransform
from dgpo.lm_head.workspace import Workspace
from dgpo.tensor_types import Tensor

Grads = tuple[Tensor | None, Tensor | None]
PLAIN = LogitTransform()
CLIP, BETA = 0.2, 0.04


class UnavailableError(Exception):
    """A contender cannot run here; the message says why."""


class Problem(NamedTuple):
    """Tokens to score: policy and reference, each with its own head, and what the loss makes of each log-probability.

    Attributes:
        policy: Hidden states (N, H) and weight (V, H), both trained.
        ref: The same of the reference.
        targets: Token ids, (N,).
        upstream: dL/dlogps, (N,).
        compute_dtype: What the products run in.
    """

    policy: Head
    ref: Head
    targets: Tensor
    upstream: Tensor
    compute_dtype: torch.dtype

    def grads_of(self, logps: Tensor) -> Grads:
        """Run the backward pass."""
        return torch.autograd.grad(logps, self.policy[:2], self.upstream.to(logps.dtype))


def make_problem(N: int, H: int, V: int, dtype: str, device: str) -> Problem:
    """Return random tokens; the reference is near the policy, as it is in training."""
    generator = torch.Generator().manual_seed(0)
    low = getattr(torch, dtype)

    def normal(*shape: int, scale: float) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device)

    hidden, weight = normal(N, H, scale=1.0), normal(V, H, scale=H**-0.5)
    ref_hidden = (hidden + normal(N, H, scale=0.05)).to(low)
    ref_weight = weight.to(low) if device == "cpu" else weight.to(low).clone()
    policy = Head(hidden.to(low).requires_grad_(), weight.to(low).clone().requires_grad_(), None)
    targets = torch.randint(0, V, (N,), generator=generator).to(device)
    upstream = torch.randn(N, generator=generator).to(device)
    compute_dtype = projection_dtype(low, torch.device(device))
    return Problem(policy, Head(ref_hidden, ref_weight, None), targets, upstream, compute_dtype)


class LogpReduction(TorchReduction):
    """What GRPO needs of its reference: log-sum-exp and the target, no entropy, nothing of a pair."""

    def accumulate(self, rows: slice, policy: ProjectedTile, ref: ProjectedTile | None) -> None:
        """Reduce one tile of some rows."""
        work = self._work
        gather_targets(policy)
        for block in spans(rows.stop - rows.start, work.tiling.block):
            high, norm, _ = self._reduced[:, rows.start + block.start : rows.start + block.stop].unbind()
            x = inner_block(work, "policy.block", policy.values, block.start, policy.bias, self._transform)
            torch.amax(x, 1, out=high).clamp_(min=EMPTY_MAX)
            torch.linalg.vector_norm(x.sub_(high[:, None]).mul_(HALF_LOG2_E).exp2_(), dim=1, out=norm)

    def finalize_tile(self) -> None:
        """Merge a vocabulary tile."""
        high, norm, _ = self._reduced.unbind()
        self._state = merge_policy(self._state, PolicyState(high.clone(), norm.square(), torch.zeros_like(high)))


def tile_ops_of(impl: str, problem: Problem) -> TileOps:
    """Return the tile operations of an implementation that streams."""
    tile_ops = choose_tile_ops(impl, problem.compute_dtype, problem.targets.device)
    assert tile_ops is not None
    return tile_ops


def without_entropy(tile_ops: TileOps) -> TileOps:
    """Return the operations for log-probabilities alone, as GRPO needs of its reference, on the same tiles."""
    if tile_ops is TORCH_TILES:
        return tile_ops._replace(reduction=LogpReduction)
    return tile_ops._replace(reduction=type("TritonLogpReduction", (tile_ops.reduction,), {"has_entropy": False}))


def dgpo(problem: Problem, impl: str = "streamed") -> Grads:
    """Our statistics of both heads and the policy's gradient."""
    tile_ops = tile_ops_of(impl, problem)
    stats = streamed_stats(
        problem.policy, problem.ref, problem.targets, PLAIN, problem.compute_dtype, tile_ops=tile_ops
    )
    return problem.grads_of(stats.logps)


def dgpo_full_logits(problem: Problem) -> Grads:
    """DGPO from the whole logits by plain differentiable torch."""
    stats = reference_stats(problem.policy, problem.ref, problem.targets, PLAIN, problem.policy.hidden.dtype)
    return problem.grads_of(stats.logps)


def grpo(problem: Problem, impl: str = "streamed") -> Grads:
    """The same code without a reference: log-probability and entropy."""
    tile_ops = tile_ops_of(impl, problem)
    stats = streamed_stats(problem.policy, None, problem.targets, PLAIN, problem.compute_dtype, tile_ops=tile_ops)
    return problem.grads_of(stats.logps)


def grpo_kl(problem: Problem, impl: str = "streamed") -> Grads:
    """The same code with the reference's log-probability and no statistics of the pair."""
    tile_ops = tile_ops_of(impl, problem)
    ref_ops = without_entropy(tile_ops)
    with torch.no_grad():
        ref = streamed_stats(problem.ref, None, problem.targets, PLAIN, problem.compute_dtype, tile_ops=ref_ops)
    policy = streamed_stats(problem.policy, None, problem.targets, PLAIN, problem.compute_dtype, tile_ops=tile_ops)
    return problem.grads_of(policy.logps + 0.0 * ref.logps)


def trl_grpo_kl(problem: Problem) -> Grads:
    """TRL's log-probabilities and entropy of the policy, then its reference's log-probabilities."""
    try:
        from trl.kernels import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE
    except ImportError as error:
        raise UnavailableError(f"trl: {error}") from error
    score, chunk = ChunkedLogProbFunction.apply, _CHUNKED_LOGPROB_CHUNK_SIZE
    with torch.no_grad():
        ref_logps = score(*problem.ref, problem.targets, 1.0, chunk, None, 1.0, ())[0]
    logps = score(*problem.policy, problem.targets, 1.0, chunk, None, 1.0, ("entropy",))[0]
    return problem.grads_of(logps + 0.0 * ref_logps)


def liger_grpo_kl(problem: Problem) -> Grads:
    """Liger's fused linear GRPO loss with a reference, as TRL calls it, loss included."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
    except ImportError as error:
        raise UnavailableError(f"liger-kernel is not installed ({error})") from error
    hidden, weight, _ = problem.policy
    num_completions = 4
    tokens = problem.targets.view(num_completions, -1)
    # Compiling covers a handful of operations on (B, T) numbers, and needs a compiler: on a GPU as shipped, else eager.
    loss_fn = LigerFusedLinearGRPOLoss(beta=BETA, compiled=hidden.is_cuda, epsilon_low=CLIP, epsilon_high=CLIP)
    loss, *_ = loss_fn(
        hidden.view(*tokens.shape, -1), weight, tokens, torch.ones_like(tokens),
        torch.linspace(-1, 1, num_completions, device=hidden.device),
        ref_input=problem.ref.hidden.view(*tokens.shape, -1), ref_weight=problem.ref.weight,
    )  # fmt: skip
    return torch.autograd.grad(loss, (hidden, weight))


def cce_grpo_kl(problem: Problem) -> Grads:
    """cut-cross-entropy's log-probabilities of both models; no entropy."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise UnavailableError(f"cut-cross-entropy is not installed ({error})") from error
    if not problem.targets.is_cuda:
        raise UnavailableError("cut-cross-entropy needs a GPU")
    if problem.policy.hidden.dtype == torch.float32:
        raise UnavailableError("cut-cross-entropy takes bfloat16 and float16 only")
    with torch.no_grad():
        ref = linear_cross_entropy(*problem.ref[:2], problem.targets, reduction="none", filter_eps=None)
    nll = linear_cross_entropy(*problem.policy[:2], problem.targets, reduction="none", filter_eps=None)
    return problem.grads_of(-(nll + 0.0 * ref))


def gemm_floor(problem: Problem) -> Grads:
    """The matrix products alone, tile for tile: both heads forward, the policy again, its two gradients."""
    with torch.no_grad():
        (hidden, weight, _), ref = problem.policy, problem.ref
        (N, H), V = hidden.shape, weight.shape[0]
        tiling = choose_tiling(N, V, H, problem.compute_dtype, hidden.device)
        work = Workspace(tiling, problem.compute_dtype, hidden.device)
        hidden, ref_hidden = (x.to(problem.compute_dtype) for x in (hidden, ref.hidden))
        hidden_t = hidden.t().contiguous()
        for vocab in spans(weight.shape[0], tiling.vocab):
            weight_rows = work.weight_rows("weight", weight, vocab.start, vocab.stop)
            ref_rows = work.weight_rows("ref_weight", ref.weight, vocab.start, vocab.stop)
            for rows in spans(hidden.shape[0], tiling.rows):
                work.project("policy", hidden[rows], weight_rows)
                work.project("ref", ref_hidden[rows], ref_rows)
        for vocab in spans(weight.shape[0], tiling.vocab):
            weight_rows = work.weight_rows("weight", weight, vocab.start, vocab.stop)
            for rows in spans(hidden.shape[0], tiling.rows):
                tile = work.project("tile", hidden[rows], weight_rows)
                _gradient_products(work, tile, weight_rows, hidden[rows], hidden_t[:, rows])
        return None, None


def _gradient_products(work: Workspace, tile: Tensor, weight: Tensor, hidden: Tensor, hidden_t: Tensor) -> None:
    if work.fp32_output:
        dlogits = work.buffer("dlogits", (tile.shape[0], tile.shape[1]), work.compute_dtype)
        hidden_grad = work.buffer("hidden_grad", (hidden.shape[0], hidden.shape[1]), work.stat_dtype)
        weight_grad = work.buffer("weight_grad", (weight.shape[0], weight.shape[1]), work.stat_dtype)
        torch.addmm(hidden_grad, dlogits, weight, out_dtype=work.stat_dtype, out=hidden_grad)
        torch.mm(dlogits.t(), hidden, out_dtype=work.stat_dtype, out=weight_grad)
        return
    work.product("hidden_grad", tile, weight)
    # As workspace.WeightGrad multiplies in each dtype, the faster way.
    work.product("weight_grad", *((hidden_t, tile) if work.is_low else (tile.t(), hidden)))


def contenders(device: str) -> dict[str, Callable[[Problem], Grads]]:
    """Return the contenders by name, ours first; those of `OURS` come from the same code."""
    by_name: dict[str, Callable[[Problem], Grads]] = {}
    for impl in ("triton", "streamed") if device == "cuda" else ("streamed",):
        suffix = "" if device == "cpu" or impl == "triton" else " (torch tiles)"
        for name, run in (("DGPO", dgpo), ("GRPO + KL", grpo_kl), ("GRPO", grpo)):
            by_name[f"{name}{suffix}"] = lambda problem, run=run, impl=impl: run(problem, impl)
    return by_name | {
        "DGPO, full logits": dgpo_full_logits,
        "TRL GRPO + KL": trl_grpo_kl,
        "Liger GRPO + KL": liger_grpo_kl,
        "cut-cross-entropy, GRPO + KL": cce_grpo_kl,
        "matrix products alone": gemm_floor,
    }


__all__ = ["Problem", "Tiling", "UnavailableError", "contenders", "make_problem"]
