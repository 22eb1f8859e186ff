"""How exact every implementation of the head statistics is, against float64: medians over tokens of relative errors.

    python benchmarks/lm_head_errors.py --save benchmarks/results/lm_head_errors.json

Two tables. In the first, both heads' logits are exact in float32, so that every error is the statistics' own: d at
several distances, entropy, log-probability, and the gradients of weight and hidden states (relative norm of a token's
error). Beside the implementations stand two forms that cancel, `1 - sum sqrt(p q)` and `-expm1(log sum sqrt(p q))`, in
the same dtype. In the second, bfloat16 hidden states and weights are multiplied in bfloat16: rounded logits set a floor
for d that no form goes below. Triton's kernels run on a GPU, or (float32 only) under the interpreter with
TRITON_INTERPRET=1.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import save
from torch import Tensor

from dgpo.lm_head.dispatch import choose_tile_ops
from dgpo.lm_head.reference import reference_stats
from dgpo.lm_head.running_stats import finalize
from dgpo.lm_head.streamed import Plan, streamed_stats
from dgpo.lm_head.tiles_torch import TORCH_TILES
from dgpo.lm_head.tiling import choose_tiling
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform
from dgpo.lm_head.vocab_parallel import merge_shards, reduce_shard, shard_grads

DISTANCES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
LOW_DISTANCES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1)
PLAIN = LogitTransform()
Contender = Callable[[Head, Head, Tensor, Tensor], tuple[LMHeadStats, tuple[Tensor, ...]]]


def with_gradients(compute: Callable[[Head, Head, Tensor], LMHeadStats]) -> Contender:
    """Return a contender whose gradients of hidden and weight come from autograd."""

    def run(policy: Head, ref: Head, targets: Tensor, upstream: Tensor) -> tuple[LMHeadStats, tuple[Tensor, ...]]:
        leaves = Head(policy.hidden.clone().requires_grad_(), policy.weight.clone().requires_grad_(), None)
        stats = compute(leaves, ref, targets)
        loss = (stats.logps * upstream[0]).sum() + (stats.entropy * upstream[1]).sum()
        return stats, torch.autograd.grad(loss, leaves[:2])

    return run


def full_logits(policy: Head, ref: Head, targets: Tensor) -> LMHeadStats:
    return reference_stats(policy, ref, targets, PLAIN, policy.hidden.dtype)


def tiles_by(tile_ops: Any) -> Callable[[Head, Head, Tensor], LMHeadStats]:
    return lambda policy, ref, targets: streamed_stats(
        policy, ref, targets, PLAIN, policy.hidden.dtype, tile_ops=tile_ops
    )


def three_shards(policy: Head, ref: Head, targets: Tensor, upstream: Tensor) -> tuple[LMHeadStats, tuple[Tensor, ...]]:
    """What `lm_head_stats` computes with `vocab_parallel` on three ranks, without the ranks."""
    vocab_size, (num_rows, hidden_size) = policy.weight.shape[0], policy.hidden.shape
    ends = (vocab_size // 5, vocab_size // 2, vocab_size)
    shards = [slice(*edge) for edge in zip((0, *ends[:-1]), ends, strict=True)]
    tiling = choose_tiling(num_rows, vocab_size // 5, hidden_size, policy.hidden.dtype, targets.device)
    plan = Plan(PLAIN, policy.hidden.dtype, tiling, TORCH_TILES)

    def cut(head: Head, shard: slice) -> Head:
        return Head(head.hidden, head.weight[shard], None)

    parts = [reduce_shard(cut(policy, s), cut(ref, s), targets - s.start, plan) for s in shards]
    whole = merge_shards(parts, ends, targets)
    stats = finalize(*whole, vocab_size)
    rows = (stats.logps, stats.entropy, whole.target_logits, whole.state.mz, whole.state.sz.log())
    grads = [
        shard_grads(cut(policy, s), (targets - s.start, *rows), tuple(upstream), (True, True, False), plan)
        for s in shards
    ]
    return stats, (sum(g.hidden for g in grads), torch.cat([g.weight for g in grads]))


def naive(form: str) -> Contender:
    """Return full logits with a form of d that cancels."""

    def run(policy: Head, ref: Head, targets: Tensor, upstream: Tensor) -> tuple[LMHeadStats, tuple[Tensor, ...]]:
        stats, grads = with_gradients(full_logits)(policy, ref, targets, upstream)
        log_p, log_q = ((head.hidden @ head.weight.T).float().log_softmax(-1) for head in (policy, ref))
        if form == "1 - sum":
            d = 1 - (log_p.exp() * log_q.exp()).sqrt().sum(-1)
        else:
            d = -torch.expm1((0.5 * (log_p + log_q)).logsumexp(-1))
        return stats._replace(hellinger_sq=d), grads

    return run


def contenders(device: torch.device) -> dict[str, Contender]:
    """Return what is compared, by name."""
    by_name = {
        "full logits": with_gradients(full_logits),
        "streamed": with_gradients(tiles_by(TORCH_TILES)),
        "3 shards merged": three_shards,
        "1 - sum sqrt(pq)": naive("1 - sum"),
        "-expm1(log BC)": naive("expm1"),
    }
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        by_name["triton"] = with_gradients(tiles_by(choose_tile_ops("triton", torch.float32, device)))
    return by_name


def at_distance(distance: float, num_rows: int, vocab_size: int, dtype: torch.dtype) -> tuple[Head, Head]:
    """Return two heads, float64 but exact in `dtype`, whose tokens are about `distance` apart.

    float32: hidden states are unit vectors, and the logits are the weights. bfloat16: 256 hidden units, one head.
    """
    make = torch.Generator().manual_seed(0)
    if dtype == torch.float32:
        hidden = torch.eye(num_rows, dtype=torch.float64)
        weight = torch.randn(vocab_size, num_rows, generator=make) * 3
        weight[:50] += 6.0  # some fifty tokens are likely, the rest is a long tail
    else:
        hidden = torch.randn(num_rows, 256, generator=make)
        weight = torch.randn(vocab_size, 256, generator=make) * (3 / 16)
    policy = Head(hidden.to(dtype).double(), weight.to(dtype).double(), None)
    moved = policy.weight if dtype == torch.float32 else policy.hidden
    noise = torch.randn(moved.shape, generator=make).double()
    step = torch.full((num_rows,), (8 * distance) ** 0.5, dtype=torch.float64)
    for _ in range(5):
        if dtype == torch.float32:
            ref = policy._replace(weight=(moved + step * noise).to(dtype).double())
        else:
            ref = policy._replace(hidden=(moved + step[:, None] * noise).to(dtype).double())
        apart = full_logits(policy, ref, torch.zeros(num_rows, dtype=torch.int64)).hellinger_sq
        step *= (distance / apart.clamp(min=1e-2 * distance)).sqrt().clamp(0.2, 5)
    return policy, ref


def errors_at(distance: float, num_rows: int, vocab_size: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Return, by contender, median relative errors of every result."""
    policy, ref = at_distance(distance, num_rows, vocab_size, dtype)
    make = torch.Generator().manual_seed(1)
    targets = torch.randint(0, vocab_size, (num_rows,), generator=make)
    upstream = torch.randn(2, num_rows, generator=make)
    truth, true_grads = with_gradients(full_logits)(policy, ref, targets, upstream.double())

    def to(head: Head) -> Head:
        return Head(head.hidden.to(device, dtype), head.weight.to(device, dtype), None)

    table = {}
    for name, contender in contenders(device).items():
        if name == "triton" and device.type == "cpu" and dtype != torch.float32:
            continue  # the interpreter's bfloat16 is not a GPU's
        stats, (of_hidden, of_weight) = contender(to(policy), to(ref), targets.to(device), upstream.to(device))
        table[name] = {
            "d": median_error(stats.hellinger_sq, truth.hellinger_sq),
            "entropy": median_error(stats.entropy, truth.entropy),
            "logps": median_error(stats.logps, truth.logps),
            "d hidden": median_error(of_hidden, true_grads[0], dim=1),
            # A column of the weight's gradient belongs to one token where hidden states are unit vectors.
            "d weight": median_error(of_weight, true_grads[1], dim=0),
        }
    return table


def median_error(value: Tensor, truth: Tensor, dim: int | None = None) -> float:
    value, truth = value.detach().cpu().double(), truth.detach()
    if dim is None:
        return ((value - truth).abs() / truth.abs()).median().item()
    return ((value - truth).norm(dim=dim) / truth.norm(dim=dim).clamp(min=1e-300)).median().item()


def table_of(distances: tuple[float, ...], *shape: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Return d's errors by distance, and the others' at a distance of about 1e-3, by contender."""
    by_distance = {distance: errors_at(distance, *shape, dtype, device) for distance in distances}
    rest = by_distance[1e-3]
    return {
        name: {
            **{f"d = {distance:g}": by_distance[distance][name]["d"] for distance in distances},
            **{key: value for key, value in rest[name].items() if key != "d"},
        }
        for name in rest
    }


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n{title}\n{'':18}" + "".join(f"{column:>11}" for column in columns))
    for name, row in table.items():
        print(f"{name:18}" + "".join(f"{row[column]:11.1e}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=16, help="tokens a distance")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    device, shape = torch.device(args.device), (args.rows, args.vocab)
    exact = table_of(DISTANCES, *shape, dtype=torch.float32, device=device)
    show(f"float32 logits, V = {args.vocab}: median relative error against float64", exact)
    rounded = table_of(LOW_DISTANCES, *shape, dtype=torch.bfloat16, device=device)
    show("bfloat16 hidden states, weights and products, H = 256", rounded)
    result = {"vocab": args.vocab, "rows": args.rows, "device": str(device), "float32": exact, "bfloat16": rounded}
    triton = "on the GPU" if device.type == "cuda" else "under the interpreter" if "triton" in exact else "not run"
    save(args.save, {**result, "triton": triton}, "torch", "triton")


if __name__ == "__main__":
    main()
