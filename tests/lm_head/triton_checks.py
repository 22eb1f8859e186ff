"""What the Triton kernels must do, on a GPU or, with TRITON_INTERPRET=1, on a CPU.

Not collected by itself: the kernels are decorated when they are imported, so that the interpreter needs a process of
its own. `test_lm_head_triton.py` starts it; on a GPU: pytest tests/lm_head/triton_checks.py.
"""

import math
from pathlib import Path

import pytest
import torch
from lm_head_cases import (
    Case,
    case_of_logits,
    gradients,
    make_case,
    relative_error,
    rms_error,
    run_reference,
    run_streamed,
)

from dgpo.lm_head import dispatch, lm_head_stats, tiles_triton
from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tile_ops import TileOps
from dgpo.lm_head.tiles_torch import TORCH_TILES
from dgpo.lm_head.tiles_triton import TRITON_TILES
from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILING = Tiling(rows=8, vocab=100, block=8)
TRANSFORMS = {"plain": LogitTransform(), "capped": LogitTransform(0.3, 7.0, 0.7)}


def on_device(case: Case) -> Case:
    move = lambda head: Head(*(None if x is None else x.to(DEVICE) for x in head))  # noqa: E731
    return Case(move(case.policy), None if case.ref is None else move(case.ref), case.targets.to(DEVICE))


def run(case: Case, transform=None, tiling=TILING, tile_ops: TileOps = TRITON_TILES) -> LMHeadStats:
    dtype = case.policy.hidden.dtype
    return streamed_stats(
        case.policy, case.ref, case.targets, transform or LogitTransform(), dtype, tiling, tile_ops=tile_ops
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_no_worse_than_torch(dtype, transform, bias):
    """Against the truth in float64: what full logits or torch's tiles in the same dtype are off by is the limit.

    Tiles of 16 bits round dL/dx before the bias gradient is summed, full logits after it, so both are looked at.
    """
    case = on_device(make_case(11, 24, 231, bias=bias))
    exact, dense = case.to(torch.float64, grad=True), case.to(dtype, grad=True)
    tiled, ours = case.to(dtype, grad=True), case.to(dtype, grad=True)
    truth, by_torch, by_kernel = run_reference(exact, transform), run_reference(dense, transform), run(ours, transform)
    for name, true in truth._asdict().items():
        limit = 1.5 * rms_error(getattr(by_torch, name), true) + 2e-7
        assert rms_error(getattr(by_kernel, name), true) <= limit, name
    g, e = (x.to(DEVICE) for x in torch.randn(2, 11, generator=torch.Generator().manual_seed(3)))
    for upstream in ((g, e), (g,)):
        grads = zip(
            gradients(exact, run_reference(exact, transform), *upstream),
            gradients(dense, run_reference(dense, transform), *upstream),
            gradients(tiled, run(tiled, transform, tile_ops=TORCH_TILES), *upstream),
            gradients(ours, run(ours, transform), *upstream),
            strict=True,
        )
        for true, of_dense, of_tiles, of_kernel in grads:
            limit = 1.5 * max(rms_error(of_dense, true), rms_error(of_tiles, true))
            assert rms_error(of_kernel, true) <= limit + 1e-7 * true.abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_equal_models_are_exactly_0_apart(dtype, transform):
    policy = on_device(make_case(9, 16, 301, bias=True, spread=6.0)).to(dtype).policy
    targets = torch.arange(9, device=DEVICE)
    for ref in (policy, Head(*(x.clone() for x in policy))):
        stats = run(Case(policy, ref, targets), transform)
        assert not stats.hellinger_sq.any()
        assert torch.equal(stats.ref_logps, stats.logps)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="stands in for a GPU's approximate division")
def test_a_division_that_rounds_is_found_out_before_it_is_used(monkeypatch):
    dispatch.check_tiles(TRITON_TILES, DEVICE)
    monkeypatch.setattr(tiles_triton.tl, "div_rn", lambda x, y: x * (1.0 / y))
    with pytest.raises(RuntimeError, match="is not exactly 0"):
        dispatch.check_tiles(TRITON_TILES, DEVICE)


def test_a_policy_alone():
    case = on_device(make_case(9, 12, 130, bias=True)).alone()
    ours = run(case.to(torch.float32))
    truth = run_reference(case)
    assert ours.hellinger_sq is None
    assert ours.ref_logps is None
    torch.testing.assert_close(ours.logps.double(), truth.logps, rtol=0, atol=5e-6)
    torch.testing.assert_close(ours.entropy.double(), truth.entropy, rtol=0, atol=5e-6)


def test_the_baseline_of_the_benchmark_takes_no_entropy_of_its_reference(monkeypatch):
    """GRPO + KL needs log-probabilities alone there; computing more would make the baseline dearer than it need be."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import _lm_head_contenders as heads

    problem = heads.make_problem(9, 16, 130, "float32", DEVICE.type)
    args = (problem.ref, None, problem.targets, LogitTransform(), torch.float32, TILING)
    whole, alone = (
        streamed_stats(*args, tile_ops=work) for work in (TRITON_TILES, heads.without_entropy(TRITON_TILES))
    )
    assert torch.equal(alone.logps, whole.logps)
    dispatch.choose_tile_ops("triton", torch.float32, DEVICE)  # the first call also tries the kernels
    accumulated = []
    accumulate = tiles_triton.TritonReduction.accumulate
    monkeypatch.setattr(
        tiles_triton.TritonReduction,
        "accumulate",
        lambda self, *a: accumulated.append(self.has_entropy) or accumulate(self, *a),
    )
    grads = heads.grpo_kl(problem, "triton")
    assert set(accumulated[: len(accumulated) // 2]) == {False}
    assert set(accumulated[len(accumulated) // 2 :]) == {True}
    for mine, truth in zip(grads, heads.dgpo_full_logits(problem), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["hidden", "weight"])
def test_one_gradient_alone(needs):
    case = on_device(make_case(9, 12, 130))
    grads = []
    for dtype, compute in ((torch.float64, run_reference), (torch.float32, run)):
        policy = case.to(dtype).policy
        for tensor, need in zip(policy[:2], needs, strict=True):
            tensor.requires_grad_(need)
        compute(Case(policy, None, case.targets)).logps.sum().backward()
        grads.append(policy[needs.index(True)].grad)
    assert relative_error(grads[1], grads[0]) <= 1e-6


@pytest.mark.parametrize("masked", [slice(0, 100), slice(0, 130), slice(50, 210), slice(5, 6)], ids=str)
@pytest.mark.parametrize("which", ["policy", "ref", "both"])
def test_masked_tokens(masked, which):
    """Whole tiles of probability 0 through the bias, before, between and behind the others."""
    case = on_device(make_case(5, 12, 231, bias=True))
    if which != "ref":
        case.policy.bias[masked] = -math.inf
    if which != "policy":
        case.ref.bias[masked] = -math.inf
    exact = Case(case.policy, case.ref, torch.full((5,), 220, device=DEVICE)).to(torch.float64, grad=True)
    rounded = exact.to(torch.float32, grad=True)
    truth, ours = run_reference(exact), run(rounded)
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=0, atol=1e-5)
    g = torch.ones(5, device=DEVICE)
    for mine, true in zip(gradients(rounded, ours, g, g), gradients(exact, truth, g, g), strict=True):
        assert mine.isfinite().all()
        assert relative_error(mine, true) <= 1e-5


def test_disjoint_supports_are_1_apart():
    z, y = torch.full((1, 400), -math.inf), torch.full((1, 400), -math.inf)
    z[0, :100], y[0, 100:350] = 0.0, 3.0
    stats = run(on_device(case_of_logits(z, y)).to(torch.float32))
    assert stats.hellinger_sq.item() == pytest.approx(1.0, abs=1e-6)
    assert stats.entropy.item() == pytest.approx(math.log(100), abs=1e-5)  # uniform over 100 tokens
    assert stats.ref_logps.item() == -math.inf  # target 0 is masked to the reference


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_offsets_of_1e4(offset):
    # Multiples of 1/512 are exact in fp32 up to 2^14: the offset rounds nothing, and must change nothing.
    make = torch.Generator().manual_seed(0)
    z = torch.randn(4, 300, generator=make).mul(1536).round().div(512)
    y = (z + 0.1 * torch.randn(z.shape, generator=make)).mul(512).round().div(512)
    exact = on_device(case_of_logits(z + offset, y + offset, torch.arange(4) * 70)).to(torch.float64, grad=True)
    rounded = exact.to(torch.float32, grad=True)
    truth, ours = run_reference(exact), run(rounded)
    for name in ("logps", "entropy", "ref_logps"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(truth, name), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.hellinger_sq.double(), truth.hellinger_sq, rtol=1e-3, atol=1e-7)
    g = torch.ones(4, device=DEVICE)
    assert relative_error(gradients(rounded, ours, g, g)[1], gradients(exact, truth, g, g)[1]) <= 1e-5


def test_nan_in_one_row_stays_there():
    case = on_device(make_case(5, 8, 130)).to(torch.float32)
    clean = run(case)
    case.policy.hidden[2] = torch.nan
    stats = run(case)
    rest = torch.tensor([0, 1, 3, 4], device=DEVICE)
    for name in ("logps", "entropy", "hellinger_sq"):
        assert getattr(stats, name)[2].isnan()
        assert torch.equal(getattr(stats, name)[rest], getattr(clean, name)[rest])


def test_a_target_outside_the_vocabulary_is_nan():
    case = on_device(make_case(3, 8, 130)).to(torch.float32)
    stats = run(case._replace(targets=torch.tensor([0, 130, -1], device=DEVICE)))
    assert stats.logps.isnan().tolist() == [False, True, True]


def test_tiles_change_nothing_but_rounding():
    case = on_device(make_case(7, 8, 333)).to(torch.float32)
    one = run(case, tiling=Tiling(7, 333, 7))
    for tiling in (
        (Tiling(7, 1, 7), Tiling(3, 64, 3), Tiling(1, 200, 1)) if DEVICE.type == "cuda" else (Tiling(4, 150, 4),)
    ):
        for a, b in zip(one, run(case, tiling=tiling), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_interface_chooses_it_when_asked():
    case = on_device(make_case(3, 8, 40)).to(torch.float32)
    hidden, weight, _ = case.policy
    ours = lm_head_stats(hidden, weight, case.targets, ref_hidden=case.ref.hidden, impl="triton")
    streamed = run_streamed(Case(case.policy, Head(case.ref.hidden, weight, None), case.targets))
    for a, b in zip(ours, streamed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="computes in float32"):
        lm_head_stats(hidden.double(), weight.double(), case.targets, impl="triton")


def test_a_first_call_in_inference_mode_is_like_any_other():
    """Whether the kernels run is found out once, and by a backward pass, which inference mode has none of."""
    case = on_device(make_case(3, 8, 40)).to(torch.float32)
    hidden, weight, _ = case.policy
    dispatch.load_triton_tiles.cache_clear()
    with torch.inference_mode():
        first = lm_head_stats(hidden, weight, case.targets, impl="triton")
    assert torch.equal(first.logps, lm_head_stats(hidden, weight, case.targets, impl="triton").logps)


def test_no_rows():
    case = on_device(make_case(0, 8, 40)).to(torch.float32, grad=True)
    stats = run(case)
    assert stats.logps.shape == (0,)
    stats.logps.sum().backward()
    assert not case.policy.weight.grad.any()


def test_vectors_whose_entries_are_no_neighbours():
    """Targets and bias that are columns of something, and gradients expanded from a scalar, as sum() leaves them."""
    case = on_device(make_case(9, 12, 231, bias=True))
    columns = torch.full((9, 3), 10**6, device=DEVICE)
    columns[:, 1] = case.targets
    grads = []
    for dtype, compute in ((torch.float64, run_reference), (torch.float32, run)):
        wide = torch.full((231, 2), 1e4, dtype=dtype, device=DEVICE)
        wide[:, 0] = case.policy.bias
        hidden, weight = (x.to(dtype, copy=True).requires_grad_() for x in case.policy[:2])
        head = Head(hidden, weight, wide[:, 0])
        stats = compute(Case(head, head, columns[:, 1]))
        (stats.logps.sum() + stats.entropy.sum()).backward()
        grads.append((stats.logps.detach(), stats.entropy.detach(), hidden.grad, weight.grad))
    for true, ours in zip(*grads, strict=True):
        assert relative_error(ours, true) <= 2e-6
