"""One rank of test_lm_head_vocab_parallel.py: `run_cases` runs every case, in a process for each rank.

Each rank compares what it got with the float64 oracle on the whole head, and writes the errors.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

import jaxtyping
import torch
import torch.distributed as dist
from lm_head_cases import Case, gradients, make_case, run_reference

from dgpo.core import redistribution_weights
from dgpo.lm_head import VocabParallel, lm_head_stats
from dgpo.lm_head.types import Head, LogitTransform

V = 301
SPLITS = {
    2: {"uneven": (0, 90, V), "empty": (0, 0, V)},
    3: {"uneven": (0, 90, 91, V), "empty": (0, 120, 120, V)},
}
PLAIN, CAPPED = LogitTransform(), LogitTransform(0.3, 7.0, 0.7)
HEAD_CASES = {
    # name: (bias, transform, aliased, masked tokens, upstream gradient of entropy)
    "plain": (False, PLAIN, False, None, False),
    "everything": (True, CAPPED, False, None, True),
    "shared head": (True, PLAIN, True, None, True),
    "a masked shard": (True, PLAIN, False, slice(0, 90), True),
    "policy alone": (True, LogitTransform(1.0, None, 0.7), None, None, True),
}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def shard(head: Head, rows: slice) -> Head:
    return Head(head.hidden, head.weight[rows], None if head.bias is None else head.bias[rows])


def sharded(case: Case, transform: LogitTransform, rows: slice, aliased: bool | None, reduce_hidden_grad: bool = True):
    """The statistics of this rank, and the leaves whose gradients are wanted."""
    local = shard(case.policy, rows)
    leaves = Head(*(None if x is None else x.detach().clone().requires_grad_() for x in local))
    ref = {}
    if case.ref is not None:
        ref = {"ref_hidden": case.ref.hidden}
        if not aliased:
            ref_local = shard(case.ref, rows)
            ref |= {"ref_weight": ref_local.weight, "ref_bias": ref_local.bias}
    scale, softcap, temperature = transform
    stats = lm_head_stats(
        leaves.hidden, leaves.weight, case.targets, bias=leaves.bias, temperature=temperature, logit_scale=scale,
        softcap=softcap, vocab_parallel=VocabParallel(dist.group.WORLD, reduce_hidden_grad), **ref,
    )  # fmt: skip
    return Case(leaves, case.ref, case.targets), stats


def built(name: str) -> tuple[Case, LogitTransform, bool | None, tuple]:
    bias, transform, aliased, masked, with_entropy = HEAD_CASES[name]
    case = make_case(23, 24, V, bias=bias, seed=5)
    # Targets at both edges of every shard, on every rank.
    case.targets[:8] = torch.tensor([0, 89, 90, 91, 119, 120, V - 1, 200])
    if aliased:
        case = case._replace(ref=Head(case.ref.hidden, case.policy.weight, case.policy.bias))
    if aliased is None:
        case = case.alone()
    if masked is not None:
        case.policy.bias[masked] = -torch.inf
        case.targets[:] = torch.randint(100, V, (23,), generator=torch.Generator().manual_seed(1))
    make = torch.Generator().manual_seed(3)
    upstream = torch.randn(2, 23, generator=make)
    return case, transform, aliased, (upstream[0], upstream[1] if with_entropy else None)


def error(value: torch.Tensor, truth: torch.Tensor) -> float:
    if not torch.equal(value.isfinite(), truth.isfinite()):
        return float("inf")
    keep = truth.isfinite()
    if not keep.any():
        return 0.0
    scale = truth[keep].abs().max().clamp(min=1e-300)
    return ((value.double() - truth)[keep].abs().max() / scale).item()


def head_case(name: str, split: str, dtype: torch.dtype, rank: int, world_size: int) -> dict[str, list[float]]:
    """Errors of ours and of full logits in the same dtype, each against float64."""
    exact, transform, aliased, upstream = built(name)
    exact = exact.to(torch.float64, grad=True)
    bounds = SPLITS[world_size][split]
    rows = slice(bounds[rank], bounds[rank + 1])
    case, stats = sharded(exact.to(dtype), transform, rows, aliased)
    dense = exact.to(dtype, grad=True)
    truth, by_torch = run_reference(exact, transform), run_reference(dense, transform)
    errors = {}
    for key, true in truth._asdict().items():
        if true is not None:
            errors[key] = [error(x.detach(), true.detach()) for x in (getattr(stats, key), getattr(by_torch, key))]
    ours = gradients(case, stats, *upstream)
    true, theirs = gradients(exact, truth, *upstream), gradients(dense, by_torch, *upstream)
    for i, key in enumerate(("d hidden", "d weight", "d bias")[: len(ours)]):
        part = slice(None) if i == 0 else rows
        assert ours[i].dtype == dtype
        if ours[i].numel():
            errors[key] = [error(ours[i], true[i][part]), error(theirs[i][part], true[i][part])]
    # The last bit too is the same on every rank.
    numbers = torch.cat([x.detach().double() for x in stats if x is not None] + [ours[0].double().flatten()])
    everywhere = [torch.empty_like(numbers) for _ in range(world_size)]
    dist.all_gather(everywhere, numbers)
    errors["ranks differ"] = [float(any(not torch.equal(everywhere[0], x) for x in everywhere)), 0.0]
    return errors


def head_extras(rank: int, world_size: int) -> dict[str, object]:
    """Equal models, no tokens, unreduced gradients, and what is refused on every rank."""
    results: dict[str, object] = {}
    bounds = SPLITS[world_size]["uneven"]
    rows = slice(bounds[rank], bounds[rank + 1])
    case = make_case(9, 16, V, bias=True, spread=6.0).to(torch.float32)
    same = Case(case.policy, Head(*(x.clone() for x in case.policy)), case.targets)
    stats = sharded(same, CAPPED, rows, False)[1]
    results["equal models"] = [stats.hellinger_sq.abs().max().item(), torch.equal(stats.logps, stats.ref_logps)]
    none = make_case(0, 16, V).to(torch.float32)
    leaves, stats = sharded(none, PLAIN, rows, False)
    stats.logps.sum().backward()
    results["no tokens"] = [list(stats.logps.shape), leaves.policy.weight.grad.abs().sum().item()]
    grads = []
    for reduce_hidden_grad in (True, False):
        leaves, stats = sharded(case, PLAIN, rows, False, reduce_hidden_grad=reduce_hidden_grad)
        stats.logps.sum().backward()
        grads.append(leaves.policy.hidden.grad)
    dist.all_reduce(grads[1])
    results["unreduced"] = (grads[0] - grads[1]).abs().max().item()

    def refusal(**changes) -> str:
        hidden, weight, _ = shard(case.policy, rows)
        arguments = {"hidden": hidden, "weight": weight, "targets": case.targets} | changes.pop("all", {})
        if rank == 1:
            arguments |= changes
        try:
            lm_head_stats(**arguments, vocab_parallel=VocabParallel(dist.group.WORLD))
        except Exception as refused:
            return f"{type(refused).__name__}: {refused}"
        return "not refused"

    results["refused"] = {
        "tokens": refusal(hidden=case.policy.hidden[:4], targets=case.targets[:4]),
        "targets": refusal(targets=case.targets.flip(0)),
        "temperature": refusal(temperature=0.7),
        "own": refusal(temperature=0.0),
        "dtype": refusal(targets=case.targets.int()),
        "range": refusal(all={"targets": case.targets + V}),
        "nothing": refusal(all={"weight": case.policy.weight[:0]}),
        "no number": refusal(temperature=None),
        "no hidden": refusal(hidden=None),
        "no weight": refusal(weight=None),
        "no targets": refusal(targets=[0]),
        "reference impl": refusal(all={"impl": "reference"}),
    }
    return results


def redistribution(rank: int, world_size: int) -> dict[str, object]:
    """This rank's weights against those of whole completions, and what is refused."""
    make = torch.Generator().manual_seed(2)
    scores, mask = torch.rand(7, 50, generator=make), torch.rand(7, 50, generator=make) < 0.7
    mask[1], mask[2, 20:], mask[3, :40] = False, False, False
    scores[4], scores[5] = 0.37, 0.37
    scores[5, 10] = 0.9
    scores[~mask] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(200)[: int((~mask).sum())]
    results: dict[str, object] = {}
    bounds = {2: [(0, 20, 50), (0, 0, 50), (0, 50, 50)], 3: [(0, 7, 31, 50), (0, 20, 20, 50)]}[world_size]
    for tau in (0.5, 0.05, 1e-3, 1e-6, 1e9):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            whole = redistribution_weights(scores.to(dtype), mask, tau=tau)
            for split in bounds:
                part = slice(split[rank], split[rank + 1])
                mine = redistribution_weights(
                    scores[:, part].to(dtype), mask[:, part], tau=tau, process_group=dist.group.WORLD
                )
                assert mine.dtype == whole.dtype
                difference = ((mine - whole[:, part]).abs() / whole[:, part].clamp(min=1e-30)).flatten().tolist()
                key = str(dtype)
                results[key] = max([results.get(key, 0.0), *difference])
                equal = torch.equal(mine[4], mask[4, part].to(mine.dtype))
                results["equal scores give 1"] = results.get("equal scores give 1", True) and equal

    def refusal(**changes) -> str:
        try:
            arguments = {"scores": scores, "completion_mask": mask, "tau": 0.5} | changes
            redistribution_weights(**arguments, process_group=dist.group.WORLD)
        except Exception as refused:
            return f"{type(refused).__name__}: {refused}"
        return "not refused"

    last = rank == world_size - 1
    results["refused"] = {
        "rows": refusal(**({"scores": scores[:5], "completion_mask": mask[:5]} if last else {})),
        "tau": refusal(tau=0.1 if last else 0.5),
        "own": refusal(tau=-1.0 if last else 0.5),
        "no number": refusal(tau=None if last else 0.5),
        "no mask": refusal(completion_mask=None if last else mask),
        "no scores": refusal(scores=None if last else scores),
    }
    return results


def run_cases(folder: Path) -> None:
    """Run every case as one of the ranks, and write the errors into a folder."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    jaxtyping.config.update("jaxtyping_disable", True)  # what one rank refuses must reach the others
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    results: dict[str, object] = {"heads": {}}
    for name in HEAD_CASES:
        for split in SPLITS[world_size]:
            for label, dtype in DTYPES.items():
                if name == "everything" or label in ("fp64", "fp32"):
                    errors = head_case(name, split, dtype, rank, world_size)
                    results["heads"][f"{name} | {split} | {label}"] = errors
    results["extras"] = head_extras(rank, world_size)
    results["redistribution"] = redistribution(rank, world_size)
    (folder / f"{world_size}-{rank}.json").write_text(json.dumps(results))
