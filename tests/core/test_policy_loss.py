"""PPO-clip with token advantages: by hand, against TRL's expression, and with rubbish behind the mask."""

import math

import pytest
import torch

from dgpo.core import aggregate_loss, clipped_policy_loss

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, -1.2),  # above the range with A > 0: clipped
        (1.5, -1.0, 1.5),  # above the range with A < 0: not clipped
        (0.5, 1.0, -0.5),  # below the range with A > 0: not clipped
        (0.5, -1.0, 0.8),  # below the range with A < 0: clipped
        (1.1, 2.0, -2.2),  # inside
    ],
)
def test_by_hand(ratio, advantage, expected):
    loss = clipped_policy_loss(torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_clip_higher():
    loss = clipped_policy_loss(
        torch.tensor([[math.log(1.5)]]), torch.zeros(1, 1), torch.ones(1), epsilon_low=0.2, epsilon_high=0.28
    )
    assert loss.item() == pytest.approx(-1.28)


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 100.0), (torch.float64, 1e3), (torch.bfloat16, INF)])
def test_a_ratio_that_overflows_is_clipped_like_any_other(dtype, far):
    """exp(100) is inf in float32. Above the clip the loss is constant: its gradient is 0, and never 0 * inf."""
    logps = torch.full((3, 1), far, dtype=dtype, requires_grad=True)
    loss = clipped_policy_loss(logps, torch.zeros(3, 1, dtype=dtype), torch.tensor([1.0, 0.0, -1.0], dtype=dtype))
    assert loss.flatten().tolist() == pytest.approx([-1.2, 0.0, INF], rel=1e-2)
    (grad,) = torch.autograd.grad(loss.sum(), logps)
    assert grad[:2].tolist() == [[0.0], [0.0]]
    assert not grad.isnan().any()


def test_values_and_gradients_below_an_overflow_are_those_of_the_plain_formula():
    make = torch.Generator().manual_seed(0)
    logps = (20 * torch.randn(40, 25, generator=make)).requires_grad_()
    old, advantages = torch.zeros(40, 25), torch.randn(40, 25, generator=make).mul(2).round()
    ours = clipped_policy_loss(logps, old, advantages)
    ratio = logps.exp()
    plain = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    assert torch.equal(ours, plain)
    assert torch.equal(*(torch.autograd.grad(x.sum(), logps)[0] for x in (ours, plain)))


@pytest.mark.parametrize("rubbish", [NAN, INF, -INF, 1e30])
def test_rubbish_behind_the_mask_reaches_neither_loss_nor_gradient(rubbish):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = torch.tensor([[-0.5, -1.0, -2.0], [-0.1, -0.7, -0.3]])
    logps = clean.masked_fill(~mask, rubbish).requires_grad_()
    old = (clean - 0.1).masked_fill(~mask, rubbish)  # ratios of 1.1: nothing is clipped, so every gradient counts
    advantages = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]]).masked_fill(~mask, rubbish)
    for reduction in ("token_mean", "sequence_mean", "sum"):
        logps.grad = None
        loss = aggregate_loss(
            clipped_policy_loss(logps, old, advantages, completion_mask=mask), mask, reduction=reduction
        )
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logps.grad).all()
        assert (logps.grad[~mask] == 0).all()
        assert (logps.grad[mask] != 0).all()


def test_removed_equals_masked():
    logps, old, advantages = (torch.randn(1, 5) for _ in range(3))
    mask = torch.tensor([[True, True, False, True, False]])
    masked = aggregate_loss(clipped_policy_loss(logps, old, advantages, completion_mask=mask), mask)
    kept = [x[mask].view(1, 3) for x in (logps, old, advantages)]
    removed = aggregate_loss(clipped_policy_loss(*kept), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(masked, removed, rtol=3e-7, atol=3e-7)


def test_only_the_policy_gets_a_gradient():
    logps, old, advantages = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    clipped_policy_loss(logps, old, advantages).sum().backward()
    assert logps.grad is not None
    assert old.grad is None
    assert advantages.grad is None


def test_a_completion_advantage_is_the_same_for_all_its_tokens():
    logps, old, advantages = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2)
    per_token = clipped_policy_loss(logps, old, advantages[:, None].expand(2, 3))
    assert torch.equal(clipped_policy_loss(logps, old, advantages), per_token)


def test_reductions_by_hand():
    loss = torch.tensor([[1.0, 3.0], [6.0, NAN], [NAN, NAN]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    assert aggregate_loss(loss, mask).item() == pytest.approx(10 / 3)
    assert aggregate_loss(loss, mask, reduction="sequence_mean").item() == pytest.approx((2 + 6 + 0) / 3)
    assert aggregate_loss(loss, mask, reduction="sum", normalizer=3 * 4).item() == pytest.approx(10 / 12)
    assert aggregate_loss(loss, mask, normalizer=torch.tensor(20.0)).item() == pytest.approx(0.5)


def test_an_empty_mask_gives_zero():
    loss = torch.full((2, 2), NAN, requires_grad=True)
    for reduction in ("token_mean", "sequence_mean", "sum"):
        loss.grad = None
        total = aggregate_loss(loss, torch.zeros(2, 2, dtype=torch.bool), reduction=reduction)
        total.backward()
        assert total.item() == 0
        assert (loss.grad == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: clipped_policy_loss(torch.rand(2, 3), torch.rand(2, 1), torch.rand(2)),
            r"old_per_token_logps \(2, 1\)",
        ),
        (
            lambda: clipped_policy_loss(torch.rand(2, 3), torch.rand(2, 3), torch.rand(3)),
            r"advantages has shape \(3,\)",
        ),
        (
            lambda: clipped_policy_loss(torch.rand(2, 3), torch.rand(2, 3), torch.rand(2), epsilon_low=-0.1),
            r"epsilon_low .* -0\.1",
        ),
        (lambda: aggregate_loss(torch.rand(2, 3), torch.ones(2, 1, dtype=torch.bool)), r"\(2, 1\)"),
        (
            lambda: aggregate_loss(torch.rand(1, 1), torch.ones(1, 1, dtype=torch.bool), reduction="mean"),
            "token_mean.*got 'mean'",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sum"])
@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize("normalizer", [0, -1.0, float("nan"), float("inf"), True, [1.0, 2.0]])
def test_a_normalizer_that_is_no_count_is_refused(normalizer, kind, reduction, unchecked_shapes):
    loss, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    given = kind(normalizer) if kind is torch.tensor else normalizer
    with pytest.raises(ValueError, match=r"normalizer (must be a finite number above 0|has shape)"):
        aggregate_loss(loss, mask, reduction=reduction, normalizer=given)


def test_the_value_of_a_normalizer_on_an_accelerator_is_not_waited_for():
    loss, mask = torch.ones(1, 2, device="meta"), torch.ones(1, 2, dtype=torch.bool, device="meta")
    assert aggregate_loss(loss, mask, normalizer=torch.ones((), device="meta")).shape == ()


def test_sums_of_half_precision_losses_do_not_overflow():
    loss, mask = torch.full((1, 100), 1000.0, dtype=torch.float16), torch.ones(1, 100, dtype=torch.bool)
    assert aggregate_loss(loss, mask).item() == 1000.0
    assert aggregate_loss(loss, mask, reduction="sum").item() == 100_000.0
