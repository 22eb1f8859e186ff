"""No tensor of (N, V), and few of anything else, forward or backward."""

import pytest
import torch
from lm_head_cases import Case, make_case, run_reference, run_streamed
from torch.utils._python_dispatch import TorchDispatchMode

from dgpo.lm_head.types import Head, LogitTransform
from largest_storage import Largest

N, V = 2048, 8192
TILE = 2048 * 1024


def watch(run, case: Case, transform: LogitTransform) -> Largest:
    with Largest() as largest:
        stats = run(case, transform)
        forward = largest.numel
        (stats.logps.sum() + stats.entropy.sum()).backward()
    assert largest.numel >= forward
    return largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(softcap=20.0)], ids=["plain", "softcap"])
def test_no_operation_returns_n_times_v_entries(dtype, transform):
    case = make_case(N, 4, V, bias=True).to(dtype, grad=True)
    largest = watch(lambda c, t: run_streamed(c, t, tiling=None), case, transform)
    assert largest.numel <= TILE
    assert not {(N, V), (V, N)} & largest.shapes
    assert TILE < N * V


def test_the_watch_sees_full_logits():
    """What the test above would say of the reference implementation."""
    case = make_case(256, 4, 3000).to(torch.float32, grad=True)
    largest = watch(run_reference, case, LogitTransform())
    assert largest.numel >= 256 * 3000
    assert (256, 3000) in largest.shapes


def peak_bytes(run) -> int:
    """Peak of torch's own CPU allocations while `run` runs, above what was there before."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = run()
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    del kept
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("num_rows", [2048, 2900])
def test_peak_memory_is_the_gradients_and_40_mib(dtype, num_rows):
    hidden_size, vocab_size = 64, 16384
    case = make_case(num_rows, hidden_size, vocab_size).to(dtype, grad=True)

    def run():
        stats = run_streamed(case, tiling=None)
        return stats, torch.autograd.grad(stats.logps.sum(), case.policy[:2])

    grads = sum(x.numel() * x.element_size() for x in case.policy[:2])
    peak = peak_bytes(run)
    assert grads < peak <= grads + 40 * 2**20
    # The logits of one head alone would be three times that at least.
    assert num_rows * vocab_size * case.policy.hidden.element_size() > 1.5 * 40 * 2**20


@pytest.mark.parametrize("frozen", [0, 1], ids=["hidden", "weight"])
def test_a_frozen_tensor_costs_no_memory(frozen):
    """A frozen head (LoRA) has no gradient of the size of the head, nor frozen hidden states theirs."""
    shape = [(40_000, 32), (100, 32)] if frozen == 0 else [(100, 64), (60_000, 64)]
    hidden, weight = (torch.randn(s) for s in shape)
    trained = weight if frozen == 0 else hidden
    trained.requires_grad_()
    targets = torch.zeros(shape[0][0], dtype=torch.int64)
    case = Case(Head(hidden, weight, None), None, targets)
    stats = run_streamed(case, tiling=None)
    with Largest() as largest:
        stats.logps.sum().backward()
    assert trained.grad is not None
    assert not any(s == shape[frozen] for s in largest.shapes - {tuple(trained.shape)})


@pytest.mark.parametrize(("needs", "products"), [((True, True), 3), ((True, False), 2), ((False, True), 2)], ids=str)
def test_only_the_matmuls_that_are_needed_run(needs, products):
    class CountMatmuls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "_linear_pointwise")
            return func(*args, **(kwargs or {}))

    policy = make_case(20, 8, 90).to(torch.float32).policy
    for tensor, need in zip(policy[:2], needs, strict=True):
        tensor.requires_grad_(need)
    stats = run_streamed(Case(policy, None, torch.zeros(20, dtype=torch.int64)), tiling=None)
    with CountMatmuls() as matmuls:
        stats.logps.sum().backward()
    assert matmuls.count == products
