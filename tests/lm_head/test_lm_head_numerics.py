"""What fp32 must survive: distances of 1e-7, disjoint supports, masked tokens, huge and shifted logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_head_cases import Case, case_of_logits, gradients, make_case, relative_error, run_reference, run_streamed

from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.types import Head, LogitTransform

TILING = Tiling(rows=64, vocab=777, block=16)


def peaked(n: int, v: int, kind: str, seed: int = 0) -> torch.Tensor:
    """fp32 logits like those of language models: nearly certain, undecided, flat."""
    make = torch.Generator().manual_seed(seed)
    z = torch.randn(n, v, generator=make) * {"peaked": 2.0, "mid": 3.0, "flat": 0.5}[kind]
    if kind == "peaked":
        z[torch.arange(n), torch.randint(0, v, (n,), generator=make)] += 16.0
    if kind == "mid":
        z[:, :50] += 6.0
    return z


@pytest.mark.parametrize("kind", ["peaked", "mid", "flat"])
def test_hellinger_keeps_its_digits_from_1e_7_to_1(kind):
    """Both heads' logits are exact in fp32, so that all error is the statistics' own."""
    n, v = 48, 5000
    z = peaked(n, v, kind)
    # The distance of a step sigma grows like sigma^2 / 8 at first; the peaked rows have little mass to move.
    sigma = torch.logspace(-3.3, 1.3, n)[:, None]
    y = z + sigma * torch.randn(n, v, generator=torch.Generator().manual_seed(1))
    case = case_of_logits(z, y)
    truth = run_reference(case).hellinger_sq
    ours = run_streamed(case.to(torch.float32), tiling=TILING).hellinger_sq.double()
    measured = truth >= 1e-7
    assert truth[measured].min() < 1e-6
    assert truth.max() > 0.1
    assert ((ours - truth).abs() <= 1e-6).all()
    assert ((ours - truth).abs()[measured] <= 1e-3 * truth[measured]).all()
    assert (ours >= 0).all()


def test_hellinger_across_a_real_vocabulary():
    z = peaked(6, 151_936, "mid")
    y = z + torch.tensor([0.0, 1e-3, 3e-3, 1e-2, 0.1, 1.0])[:, None] * torch.randn(6, 151_936)
    case = case_of_logits(z, y)
    truth, ours = run_reference(case), run_streamed(case.to(torch.float32), tiling=None)
    assert ours.hellinger_sq[0] == 0.0
    torch.testing.assert_close(ours.hellinger_sq.double(), truth.hellinger_sq, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours.entropy.double(), truth.entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logps.double(), truth.logps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.3, 7.0, 0.7)], ids=["plain", "capped"])
@pytest.mark.parametrize("tiling", [TILING, None], ids=["small tiles", "device tiles"])
def test_equal_models_are_exactly_0_apart(dtype, transform, tiling):
    case = make_case(77, 96, 3001, bias=True, spread=6.0)
    policy = case.to(dtype).policy
    copied = Head(*(x.clone() for x in policy))
    # Memory that starts elsewhere and rows that lie apart must make no difference to a matmul.
    wide = torch.zeros(77, 3, 96, dtype=dtype)
    wide[:, 1] = policy.hidden
    moved = torch.cat([torch.zeros(1, dtype=dtype), policy.weight.flatten()])[1:].view_as(policy.weight)
    for ref in (policy, copied, Head(wide[:, 1], moved, copied.bias)):
        stats = run_streamed(Case(policy, ref, case.targets), transform, tiling)
        assert torch.equal(stats.hellinger_sq, torch.zeros(77))
        assert torch.equal(stats.ref_logps, stats.logps)


def test_autocast_does_not_move_equal_models_apart():
    from dgpo.lm_head import lm_head_stats

    case = make_case(50, 64, 1500).to(torch.float32)
    hidden, weight, _ = case.policy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stats = lm_head_stats(hidden, weight, case.targets, ref_hidden=hidden.clone(), ref_weight=weight.clone())
    assert torch.equal(stats.hellinger_sq, torch.zeros(50))


def test_a_constant_shift_is_no_distance():
    z = peaked(8, 2000, "mid").mul(64).round().div(64)  # z + 4 is exact in fp32
    stats = run_streamed(case_of_logits(z, z + 4.0).to(torch.float32), tiling=TILING)
    assert torch.equal(stats.hellinger_sq, torch.zeros(8))


def test_disjoint_supports_are_1_apart():
    inf = math.inf
    z, y = torch.full((1, 400), -inf), torch.full((1, 400), -inf)
    z[0, :100], y[0, 100:350] = 0.0, 3.0
    for tiling in (Tiling(1, 400, 1), Tiling(1, 100, 1), Tiling(1, 77, 1)):  # in one tile, in tiles of its own, across
        stats = run_streamed(case_of_logits(z, y).to(torch.float32), tiling=tiling)
        assert stats.hellinger_sq.item() == pytest.approx(1.0, abs=1e-6)
        assert stats.hellinger_sq.item() <= 1.0
        assert stats.entropy.item() == pytest.approx(math.log(100), abs=1e-5)  # uniform over 100 tokens
        assert stats.ref_logps.item() == -inf  # target 0 is masked to the reference
    spikes = torch.zeros(1, 400), torch.zeros(1, 400)
    spikes[0][0, 7], spikes[1][0, 390] = 200.0, 200.0
    assert run_streamed(case_of_logits(*spikes).to(torch.float32)).hellinger_sq.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "masked", [slice(0, 777), slice(0, 900), slice(1500, 2331), slice(0, 2300), slice(5, 6)], ids=str
)
@pytest.mark.parametrize("which", ["policy", "ref", "both"])
@pytest.mark.parametrize("low", [-math.inf, torch.finfo(torch.float32).min], ids=["-inf", "lowest float"])
def test_masked_tokens(masked, which, low):
    """Whole tiles of probability 0 through the bias, before, between and behind the others."""
    case = make_case(19, 12, 2331, bias=True)
    policy, ref = case.policy, case.ref
    if which != "ref":
        policy.bias[masked] = low
    if which != "policy":
        ref.bias[masked] = low
    exact = Case(policy, ref, torch.full((19,), 2320)).to(torch.float64, grad=True)
    rounded = exact.to(torch.float32, grad=True)
    truth, ours = run_reference(exact), run_streamed(rounded, tiling=TILING)
    for mine, true in zip((x.detach() for x in ours), (x.detach() for x in truth), strict=True):
        if math.isinf(true[0]) or true[0] < -1e30:  # a masked target: log 0
            assert (mine < -1e30).all()
        else:
            torch.testing.assert_close(mine.double(), true, rtol=0, atol=1e-5)
    g, e = torch.randn(19), torch.randn(19)
    if not (masked.stop > 2320 and which != "ref"):
        for mine, true in zip(gradients(rounded, ours, g, e), gradients(exact, truth, g, e), strict=True):
            assert mine.isfinite().all()
            assert relative_error(mine, true) <= 1e-5


def test_everything_closed_is_nan_not_a_number():
    z = torch.full((1, 30), -math.inf)
    z[0] = -math.inf
    stats = run_streamed(case_of_logits(z, torch.zeros(1, 30)).to(torch.float32))
    assert stats.logps.isnan().all()
    assert stats.entropy.isnan().all()


def test_nan_in_one_row_stays_there():
    case = make_case(6, 8, 300).to(torch.float32)
    clean = run_streamed(case)
    case.policy.hidden[2] = torch.nan
    stats = run_streamed(case)
    rest = torch.tensor([0, 1, 3, 4, 5])
    for name in ("logps", "entropy", "hellinger_sq"):
        assert getattr(stats, name)[2].isnan()
        assert torch.equal(getattr(stats, name)[rest], getattr(clean, name)[rest])
    assert torch.equal(stats.ref_logps, clean.ref_logps)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_offsets_of_1e4(offset):
    # Multiples of 1/512 are exact in fp32 up to 2^14: the offset rounds nothing, and must change nothing.
    z = peaked(16, 2000, "mid").mul(512).round().div(512)
    y = (z + 0.1 * torch.randn(z.shape)).mul(512).round().div(512)
    targets = torch.arange(16) * 100
    exact = case_of_logits(z + offset, y + offset, targets).to(torch.float64, grad=True)
    rounded = exact.to(torch.float32, grad=True)
    truth, ours = run_reference(exact), run_streamed(rounded, tiling=TILING)
    for name in ("logps", "entropy", "ref_logps"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(truth, name), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.hellinger_sq.double(), truth.hellinger_sq, rtol=1e-3, atol=1e-6)
    g, e = torch.randn(16), torch.randn(16)
    mine, true = gradients(rounded, ours, g, e), gradients(exact, truth, g, e)
    assert relative_error(mine[1], true[1]) <= 1e-5  # a hidden gradient of logits 1e4 is a sum that cancels in fp32


def test_logits_as_large_as_1e4():
    """One token wins by thousands of nats, in policy and reference not always the same one."""
    z = (peaked(16, 2000, "mid") * 1e3).round()
    y = (z + 0.5 * torch.randn(z.shape)).mul(8).round().div(8)
    assert z.abs().max() > 1e4
    case = case_of_logits(z, y, z.argmax(1))
    truth, ours = run_reference(case), run_streamed(case.to(torch.float32), tiling=TILING)
    for name in ("logps", "entropy", "hellinger_sq"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(truth, name), rtol=0, atol=1e-5)


floats = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1e4, -1e4, 88.0, -200.0])


@st.composite
def logit_rows(draw):
    v = draw(st.integers(1, 12))
    row = st.lists(floats, min_size=v, max_size=v)
    return torch.tensor([draw(row)]), torch.tensor([draw(row)]), draw(st.integers(1, 5)), draw(st.integers(0, v - 1))


@given(logit_rows())
def test_bounds_and_symmetry_hold_for_any_logits(rows):
    z, y, tile, target = rows
    there = run_streamed(case_of_logits(z, y, torch.tensor([target])).to(torch.float32), tiling=Tiling(1, tile, 1))
    back = run_streamed(case_of_logits(y, z, torch.tensor([target])).to(torch.float32), tiling=Tiling(1, tile, 1))
    truth = run_reference(case_of_logits(z, y, torch.tensor([target])))
    d = there.hellinger_sq.item()
    assert 0.0 <= d <= 1.0
    assert d == pytest.approx(truth.hellinger_sq.item(), abs=1e-6)
    assert d == pytest.approx(back.hellinger_sq.item(), abs=1e-6)
    assert 0.0 <= there.entropy.item() <= math.log(z.shape[1]) + 1e-7
    assert there.entropy.item() == pytest.approx(truth.entropy.item(), abs=1e-5)
    assert there.logps.item() == pytest.approx(truth.logps.item(), rel=1e-6, abs=1e-5)
    assert back.logps.item() == there.ref_logps.item()
    same = run_streamed(case_of_logits(z, z, torch.tensor([target])).to(torch.float32), tiling=Tiling(1, tile, 1))
    assert same.hellinger_sq.item() == 0.0
