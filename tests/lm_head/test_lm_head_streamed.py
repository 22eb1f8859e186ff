"""Streamed against float64 and against plain torch in the same dtype: values, gradients, shapes, frozen parts."""

import pytest
import torch
from lm_head_cases import (
    SMALL,
    Case,
    gradients,
    make_case,
    relative_error,
    rms_error,
    run_reference,
    run_streamed,
)
from torch.utils._python_dispatch import TorchDispatchMode

from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tiling import Tiling, choose_tiling
from dgpo.lm_head.types import Head, LogitTransform

# N, H, V: no dimension divides a tile; one row, one hidden unit, one and two tokens; smaller than any tile.
SHAPES = [(41, 401, 1271), (1, 16, 777), (33, 1, 250), (5, 8, 1), (7, 8, 2), (16, 32, 100), (3, 4, 5)]
TRANSFORMS = {
    "plain": LogitTransform(),
    "temperature": LogitTransform(temperature=0.7),
    "scale": LogitTransform(logit_scale=0.25, temperature=1.3),
    "softcap": LogitTransform(softcap=3.0),
    "all": LogitTransform(logit_scale=0.5, softcap=5.0, temperature=0.6),
}


def upstream(n: int, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=make).double() * 3, torch.randn(n, generator=make).double()


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32_is_within_its_bounds_of_float64(shape, bias, transform):
    case = make_case(*shape, bias=bias)
    truth = run_reference(case, transform)
    ours = run_streamed(case.to(torch.float32), transform)
    assert all(x.dtype == torch.float32 and x.shape == (shape[0],) for x in ours)
    for name in ("logps", "entropy", "ref_logps"):
        assert (getattr(ours, name).double() - getattr(truth, name)).abs().max() <= 1e-5, name
    assert (ours.hellinger_sq.double() - truth.hellinger_sq).abs().max() <= 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("asked", ["logps", "entropy", "both"])
@pytest.mark.parametrize("shape", [(41, 401, 1271), (1, 16, 777), (33, 1, 250), (7, 8, 2)], ids=str)
def test_fp32_gradients_are_within_1e_5_of_float64(shape, asked, transform):
    exact, rounded = make_case(*shape, bias=True).to(torch.float64, grad=True), None
    rounded = exact.to(torch.float32, grad=True)
    g, e = upstream(shape[0])
    g, e = (None if asked == "entropy" else g), (None if asked == "logps" else e)
    truth = gradients(exact, run_reference(exact, transform), g, e)
    ours = gradients(rounded, run_streamed(rounded, transform), g, e)
    for name, mine, true in zip(("hidden", "weight", "bias"), ours, truth, strict=True):
        assert mine.dtype == torch.float32
        assert relative_error(mine, true) <= 1e-5, name


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "alone"])
def test_float64_tiles_agree_with_float64_truth(pair, transform):
    case = make_case(13, 6, 333, bias=True).to(torch.float64, grad=True)
    case = case if pair else case.alone()
    g, e = upstream(13)
    truth, ours = run_reference(case, transform), run_streamed(case, transform)
    assert (ours.hellinger_sq is None) == (not pair)
    for mine, true in zip(ours, truth, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-11)
    for mine, true in zip(gradients(case, ours, g, e), gradients(case, truth, g, e), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(softcap):
    case = make_case(4, 3, 11, bias=True).to(torch.float64, grad=True)

    def run(*policy):
        stats = streamed_stats(
            Head(*policy), case.ref, case.targets, LogitTransform(1.5, softcap, 0.8), torch.float64, Tiling(3, 4, 2)
        )
        return stats.logps, stats.entropy

    assert torch.autograd.gradcheck(run, tuple(case.policy))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("shape", [(41, 401, 1271), (512, 64, 3000)], ids=str)
@pytest.mark.parametrize("asked", ["logps", "both"])
@pytest.mark.parametrize("small", [True, False], ids=["small tiles", "device tiles"])
def test_low_precision_is_no_worse_than_plain_torch(shape, dtype, asked, small):
    tiling = Tiling(shape[0] // 3, shape[2] // 7, 20) if small else None
    exact = make_case(*shape).to(dtype).to(torch.float64, grad=True)
    low, plain = exact.to(dtype, grad=True), exact.to(dtype, grad=True)
    g, e = upstream(shape[0])
    e = None if asked == "logps" else e
    truth, torch_out, ours = run_reference(exact), run_reference(plain), run_streamed(low, tiling=tiling)
    for name in ("logps", "entropy", "hellinger_sq", "ref_logps"):
        true = getattr(truth, name).detach()
        error, bar = (rms_error(getattr(x, name).detach(), true) for x in (ours, torch_out))
        assert error <= 1.01 * bar, name
    grads = zip(
        gradients(low, ours, g, e), gradients(plain, torch_out, g, e), gradients(exact, truth, g, e), strict=True
    )
    for mine, theirs, true in grads:
        assert mine.dtype == dtype
        assert rms_error(mine, true) <= 1.01 * rms_error(theirs, true)


def test_a_sharp_bf16_target_keeps_its_small_gradient():
    """1 - p of a target with p close to 1 must not be the difference of two rounded numbers."""
    # Two tokens, z = (9, 0): 1 - p = 1/(1 + e^9) = 1.234e-4. In bf16, p rounds to 1 and 1 - p to 0.
    hidden = torch.tensor([[1.0]], dtype=torch.bfloat16, requires_grad=True)
    head = Head(hidden, torch.tensor([[9.0], [0.0]], dtype=torch.bfloat16), None)
    stats = streamed_stats(head, None, torch.tensor([0]), LogitTransform(), torch.bfloat16)
    (grad,) = torch.autograd.grad(stats.logps.sum(), hidden)
    assert grad.item() == pytest.approx(9 * 1.234e-4, rel=2**-8)  # dlogp/dh = (1 - p) * (9 - 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_tile_size_does_not_matter(dtype):
    case = make_case(41, 64, 1271, bias=True).to(dtype, grad=True)
    g, e = upstream(41)
    whole = run_streamed(case, tiling=Tiling(41, 1271, 41))
    whole_grads = gradients(case, whole, g, e)
    for tiling in (Tiling(1, 1271, 1), Tiling(41, 37, 8), Tiling(7, 600, 3), SMALL):
        parts = run_streamed(case, tiling=tiling)
        for mine, other in zip(parts, whole, strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-6)
        # Gradients in bf16 are rounded tile by tile; half a unit of rounding a tile is what plain torch has as well.
        bound = 1e-5 if dtype == torch.float32 else 2**-7
        for mine, other in zip(gradients(case, parts, g, e), whole_grads, strict=True):
            assert relative_error(mine, other.double()) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "alone"])
def test_no_rows_stay_connected_to_the_graph(dtype, pair):
    case = make_case(0, 8, 301, bias=True).to(dtype, grad=True)
    stats = run_streamed(case if pair else case.alone(), tiling=None)
    assert stats.logps.shape == stats.entropy.shape == (0,)
    assert stats.logps.requires_grad
    for grad, x in zip(gradients(case, stats, torch.ones(0), torch.ones(0)), case.policy, strict=True):
        assert grad.shape == x.shape
        assert grad.dtype == dtype
        assert not grad.any()


def test_only_what_needs_a_gradient_gets_one():
    shape = (12, 8, 350)
    everything = make_case(*shape, bias=True).to(torch.float32, grad=True)
    full = gradients(everything, run_streamed(everything), *upstream(12))
    for needed in range(3):
        case = make_case(*shape, bias=True).to(torch.float32)
        case.policy[needed].requires_grad_()
        stats = run_streamed(case)
        loss = sum((out * u.float()).sum() for out, u in zip(stats, upstream(12), strict=False))
        loss.backward()
        assert torch.equal(case.policy[needed].grad, full[needed])
        assert all(x.grad is None for i, x in enumerate(case.policy) if i != needed)
        assert all(x.grad is None for x in case.ref)


def test_nothing_of_the_reference_carries_gradient():
    case = make_case(6, 8, 120, bias=True)
    case = Case(*(Head(*(x.float().requires_grad_() for x in head)) for head in case[:2]), case.targets)
    stats = run_streamed(case)
    assert stats.logps.requires_grad
    assert stats.entropy.requires_grad
    assert not stats.hellinger_sq.requires_grad
    assert not stats.ref_logps.requires_grad
    (stats.logps.sum() + stats.entropy.sum()).backward()
    assert all(x.grad is None for x in case.ref)


def test_no_graph_is_kept_without_grad():
    case = make_case(6, 8, 120).to(torch.float32, grad=True)
    with torch.no_grad():
        assert not run_streamed(case).logps.requires_grad


def test_reference_of_another_hidden_size():
    case = make_case(9, 16, 333, ref_h=5)
    truth, ours = run_reference(case), run_streamed(case.to(torch.float32))
    torch.testing.assert_close(ours.hellinger_sq.double(), truth.hellinger_sq, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.ref_logps.double(), truth.ref_logps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_strides_do_not_matter(dtype):
    """Non-contiguous inputs and upstream gradients, and upstream gradients of stride 0."""
    case = make_case(20, 12, 333, bias=True).to(dtype, grad=True)
    contiguous = run_streamed(case)
    grads = gradients(case, contiguous, torch.full((20,), 2.5), None)

    def strided(x):
        wide = torch.stack([x.detach(), torch.full_like(x, torch.nan)], dim=-1)  # every second element
        return (wide[..., 0] if x.dim() == 1 else x.detach().t().contiguous().t()).requires_grad_()

    other = Case(Head(*map(strided, case.policy)), Head(*map(strided, case.ref)), strided_ids(case.targets))
    assert not other.policy.weight.is_contiguous()
    stats = run_streamed(other)
    for mine, theirs in zip(stats, contiguous, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    stats.logps.backward(torch.tensor(2.5).expand(20))  # stride 0
    for x, theirs in zip(other.policy, grads, strict=True):
        torch.testing.assert_close(x.grad, theirs, rtol=0, atol=0)
    stats = run_streamed(other)
    every_other = torch.tensor([[2.5, torch.nan]]).expand(20, 2).contiguous()[:, 0]
    for grad, theirs in zip(gradients(other, stats, every_other, None), grads, strict=True):
        torch.testing.assert_close(grad, theirs, rtol=0, atol=0)


def strided_ids(targets):
    return torch.stack([targets, -torch.ones_like(targets)], dim=1)[:, 0]


def test_upstream_zero_rows_contribute_nothing():
    """A masked token has upstream gradient 0: removing it changes no gradient of the weight."""
    case = make_case(10, 8, 150).to(torch.float32, grad=True)
    g = torch.randn(10)
    g[4:] = 0.0
    masked = gradients(case, run_streamed(case), g, None)
    few = Case(Head(case.policy.hidden[:4], *case.policy[1:]), None, case.targets[:4])
    removed = gradients(few, run_streamed(few), g[:4], None)
    torch.testing.assert_close(masked[1], removed[1], rtol=1e-6, atol=1e-7)
    assert not masked[0][4:].any()


def test_the_weight_may_be_kept_in_another_dtype():
    """A bf16 projection of an fp32 master weight is that of the rounded weight; its gradient is fp32."""
    case = make_case(20, 12, 333)
    mixed = Head(case.policy.hidden.bfloat16(), (case.policy.weight * 1.001).float().requires_grad_(), None)
    rounded = Head(mixed.hidden, mixed.weight.detach().bfloat16().requires_grad_(), None)
    outs = [streamed_stats(x, None, case.targets, LogitTransform(), torch.bfloat16, SMALL) for x in (mixed, rounded)]
    assert torch.equal(outs[0].logps, outs[1].logps)
    grads = [torch.autograd.grad(out.logps.sum(), x.weight)[0] for out, x in zip(outs, (mixed, rounded), strict=True)]
    assert grads[0].dtype == torch.float32
    assert torch.equal(grads[0].bfloat16(), grads[1])


def test_hidden_gets_its_gradient_through_the_weight_that_was_multiplied():
    """A weight kept in fp32 is projected in bf16; the targets' entries, added in fp32, must use the same rows."""
    case = make_case(9, 16, 250)
    hidden, weight = case.policy.hidden.bfloat16(), (case.policy.weight * 1.001).float()
    grads = []
    for stored in (weight, weight.bfloat16()):
        head = Head(hidden.detach().requires_grad_(), stored, None)
        out = streamed_stats(head, None, case.targets, LogitTransform(), torch.bfloat16, SMALL)
        grads.append(torch.autograd.grad(out.logps.sum(), head.hidden)[0])
    assert torch.equal(*grads)


def test_a_masked_target_has_an_entropy_gradient():
    """log p = -inf at the target must not make nan of 0 * -inf; the gradient is that of any other token of p = 0."""
    exact = make_case(5, 4, 20, bias=True).to(torch.float64, grad=True)
    with torch.no_grad():
        exact.policy.bias[3] = -torch.inf
    exact = exact._replace(targets=torch.full((5,), 3))
    rounded = exact.to(torch.float32, grad=True)
    _, e = upstream(5)
    truth = gradients(exact, run_reference(exact), None, e)
    for mine, true in zip(gradients(rounded, run_streamed(rounded), None, e), truth, strict=True):
        assert relative_error(mine, true) <= 1e-5


def test_an_entropy_that_is_only_looked_at_costs_nothing():
    class CountOps(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for asked in (1, 2):
        stats = run_streamed(make_case(20, 8, 300).to(torch.float32, grad=True))
        with CountOps() as ops:
            sum(x.sum() for x in stats[:asked]).backward()
        counts.append(ops.count)
    num_blocks = 3 * 5  # vocabulary tiles of 100; row tiles of 16 + 4 in blocks of 5
    assert counts[1] - counts[0] >= 3 * num_blocks  # the entropy's gradient: clamp, multiply, add and once more


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "hidden"), [(0, 8), (1, 576), (1024, 896), (2048, 576), (4096, 576), (50000, 5120)])
def test_tiles_on_the_cpu_take_little_memory(rows, hidden, dtype):
    tiling = choose_tiling(rows, 152064, hidden, dtype, torch.device("cpu"))
    assert 1 <= tiling.rows <= max(rows, 1)
    assert 512 <= tiling.vocab <= 4096
    assert tiling.rows * tiling.vocab * dtype.itemsize <= 8 * 2**20
    assert choose_tiling(rows, 7, hidden, dtype, torch.device("cpu")).vocab == 7
    if dtype == torch.bfloat16:  # one row tile, where a second would have to be made up for by further products
        assert tiling.rows == min(max(rows, 1), 8192)
