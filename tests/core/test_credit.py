"""The redistribution: by hand, by property, and with rubbish behind the mask."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.core import entropy_gate, gated_scores, redistribute, redistribution_weights

NAN, INF = float("nan"), float("inf")
RUBBISH = [NAN, INF, -INF, 1e30]


def masks(rows: int, length: int) -> st.SearchStrategy[torch.Tensor]:
    return st.lists(st.booleans(), min_size=rows * length, max_size=rows * length).map(
        lambda bits: torch.tensor(bits).view(rows, length)
    )


scores_3x7 = st.lists(st.floats(0, 1, width=32), min_size=21, max_size=21).map(lambda x: torch.tensor(x).view(3, 7))
taus = st.floats(0.01, 100)


def test_scores_by_hand():
    entropy = torch.tensor([[math.log(8), math.log(8) / 4]])
    d = torch.tensor([[0.5, 0.5]])
    assert gated_scores(d, entropy, vocab_size=8, kappa=0.5).tolist() == [[0.5, pytest.approx(0.25)]]  # 0.25 ** 0.5
    assert gated_scores(d, entropy, vocab_size=8, kappa=0).tolist() == [[0.5, 0.5]]


def test_entropy_outside_of_its_range_is_clamped():
    assert entropy_gate(torch.tensor([-1e-6, math.log(4) + 1e-6]), vocab_size=4).tolist() == [0.0, 1.0]


def test_weights_by_hand():
    # exp(s / tau) = 1, 2, 4 and the masked slot is not read: w = 3 / 7 * (1, 2, 4)
    scores = torch.tensor([[0.0, 0.1 * math.log(2), 0.1 * math.log(4), NAN]])
    mask = torch.tensor([[True, True, True, False]])
    weights = redistribution_weights(scores, mask, tau=0.1)
    assert weights.tolist() == [[pytest.approx(3 / 7), pytest.approx(6 / 7), pytest.approx(12 / 7), 0.0]]


@given(scores_3x7, masks(3, 7), taus)
def test_weights_have_mean_one_over_the_mask_and_are_zero_off_it(scores, mask, tau):
    weights = redistribution_weights(scores, mask, tau=tau)
    assert weights.dtype == torch.float32
    assert torch.isfinite(weights).all()
    assert (weights[~mask] == 0).all()
    torch.testing.assert_close(weights.sum(-1), mask.sum(-1).float(), rtol=1e-5, atol=0)


@given(scores_3x7, masks(3, 7), taus, st.sampled_from(RUBBISH))
def test_rubbish_behind_the_mask_changes_nothing(scores, mask, tau, rubbish):
    clean = redistribution_weights(scores, mask, tau=tau)
    dirty = redistribution_weights(scores.masked_fill(~mask, rubbish), mask, tau=tau)
    assert torch.equal(clean, dirty)


@given(scores_3x7, taus)
def test_removed_equals_masked(scores, tau):
    mask = torch.tensor([[True, False, True, True, False, True, True]]).expand(3, 7)
    masked = redistribution_weights(scores, mask, tau=tau)[mask].view(3, 5)
    removed = redistribution_weights(scores[mask].view(3, 5), torch.ones(3, 5, dtype=torch.bool), tau=tau)
    # The sum over 7 slots of which 2 are 0 and the sum over 5 are grouped differently: a rounding apart at most.
    torch.testing.assert_close(masked, removed, rtol=3e-7, atol=0)


@given(st.floats(0, 1, width=32), st.integers(1, 400), taus)
def test_equal_scores_give_weights_of_exactly_one(score, length, tau):
    scores = torch.full((1, length), score)
    weights = redistribution_weights(scores, torch.ones(1, length, dtype=torch.bool), tau=tau)
    assert torch.equal(weights, torch.ones(1, length))


@given(scores_3x7, taus)
def test_a_larger_score_never_weighs_less(scores, tau):
    weights = redistribution_weights(scores, torch.ones(3, 7, dtype=torch.bool), tau=tau)
    order = scores.argsort(-1)
    assert (weights.gather(-1, order).diff(dim=-1) >= 0).all()


def test_float64_follows_the_formula_to_its_precision():
    scores = torch.rand(4, 50, dtype=torch.float64)
    weights = redistribution_weights(scores, torch.ones(4, 50, dtype=torch.bool), tau=0.3)
    torch.testing.assert_close(weights, 50 * (scores / 0.3).softmax(-1), rtol=1e-14, atol=0)


def test_a_tiny_tau_gives_everything_to_the_best_token():
    weights = redistribution_weights(torch.tensor([[0.1, 0.3, 0.2]]), torch.ones(1, 3, dtype=torch.bool), tau=1e-6)
    assert weights.tolist() == [[0.0, 3.0, 0.0]]


def test_no_gradient_flows_through_the_weights():
    d = torch.rand(1, 3, requires_grad=True)
    scores = gated_scores(d, d, vocab_size=4)
    weights = redistribution_weights(scores + d, torch.ones(1, 3, dtype=torch.bool))
    advantages = redistribute(torch.ones(1, requires_grad=True), weights)
    assert not scores.requires_grad
    assert not weights.requires_grad
    assert not advantages.requires_grad


def test_advantages_are_zero_where_the_weight_is():
    weights = torch.tensor([[0.5, 1.5, 0.0]])
    assert redistribute(torch.tensor([2.0]), weights).tolist() == [[1.0, 3.0, 0.0]]
    assert redistribute(torch.tensor([[2.0, -2.0, INF]]), weights).tolist() == [[1.0, -3.0, 0.0]]
    assert redistribute(torch.tensor([NAN]), torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0)], ids=str)
def test_nothing_to_redistribute(shape):
    weights = redistribution_weights(torch.zeros(shape).bfloat16(), torch.zeros(shape, dtype=torch.bool))
    assert weights.shape == shape
    assert weights.dtype == torch.float32
    assert redistribute(torch.ones(shape[0]), weights).shape == shape


MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), torch.tensor(0.5)], ids=repr)
def test_a_number_of_any_library_is_a_number(half, unchecked_shapes):
    scores = torch.rand(2, 3)
    assert torch.equal(redistribution_weights(scores, MASK, tau=half), redistribution_weights(scores, MASK, tau=0.5))
    assert torch.equal(entropy_gate(scores, vocab_size=4, kappa=half), entropy_gate(scores, vocab_size=4, kappa=0.5))


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), "0.5", None, 1j, torch.ones(2), 10**400, [0.5]],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_number_is_refused_by_name(value, unchecked_shapes):
    with pytest.raises(ValueError, match="tau must be a finite number above 0, got"):
        redistribution_weights(torch.rand(2, 3), MASK, tau=value)
    with pytest.raises(ValueError, match="kappa must be a finite number of at least 0, got"):
        entropy_gate(torch.rand(2, 3), vocab_size=4, kappa=value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: redistribution_weights(torch.rand(2, 3), MASK, tau=0), r"tau must be .* above 0, got 0"),
        (lambda: redistribution_weights(torch.rand(2, 3), MASK, tau=-1.0), r"got -1\.0"),
        (lambda: redistribution_weights(torch.rand(2, 3), MASK, tau=NAN), r"got nan"),
        (lambda: redistribution_weights(torch.rand(2, 3), MASK, tau=INF), r"got inf"),
        (lambda: redistribution_weights(torch.rand(2, 3), MASK[:, :1]), r"\(2, 1\) but scores has \(2, 3\)"),
        (lambda: redistribution_weights(torch.rand(2, 3), MASK.long()), r"torch\.int64.*completion_mask\.bool\(\)"),
        (lambda: gated_scores(torch.rand(2, 3), torch.rand(2, 3), vocab_size=9, kappa=-0.1), r"kappa .* -0\.1"),
        (lambda: gated_scores(torch.rand(2, 3), torch.rand(2, 3), vocab_size=1), "vocab_size is 1"),
        (lambda: gated_scores(torch.rand(2, 3), torch.rand(2, 4), vocab_size=9), r"\(2, 3\) but entropy has \(2, 4\)"),
        (lambda: redistribute(torch.rand(3), torch.rand(2, 3)), r"advantages has shape \(3,\)"),
        (lambda: redistribute(torch.rand(2, 1), torch.rand(2, 3)), r"advantages has shape \(2, 1\)"),
        (lambda: redistribute(torch.rand(3), torch.rand(3)), r"weights must have .* \(B, T\), got shape \(3,\)\. Pass"),
        (lambda: redistribute(torch.rand(3), torch.tensor(1.0)), r"weights must have .* got shape \(\)\. Pass"),
        (lambda: redistribution_weights(torch.rand(3), MASK[0]), r"scores must have .* got shape \(3,\).* x\[None\]"),
        (lambda: entropy_gate(torch.rand(3), vocab_size=0), r"vocab_size is 0.*rows of the LM head"),
    ],
)
def test_bad_input_is_named_with_the_remedy(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((math.nan, 0.0), (math.nan, math.nan)),
        ((math.inf, 0.0), (2.0, 0.0)),
        ((math.inf, math.inf), (1.0, 1.0)),
        ((-math.inf, 0.0), (0.0, 2.0)),
        ((-math.inf, -math.inf), (1.0, 1.0)),
        ((math.inf, -math.inf), (2.0, 0.0)),
    ],
)
def test_scores_that_are_not_finite_stay_on_the_mask_of_their_completion(scores, expected, dtype):
    rows = torch.tensor([[*scores, math.nan], [0.0, 0.0, math.inf]], dtype=dtype)
    mask = torch.tensor([[True, True, False]] * 2)
    weights = redistribution_weights(rows, mask)
    assert torch.equal(weights[1], torch.tensor([1.0, 1.0, 0.0], dtype=weights.dtype))
    assert torch.allclose(weights[0], torch.tensor([*expected, 0.0], dtype=weights.dtype), equal_nan=True)


@pytest.mark.parametrize(
    ("tau", "expected"), [(5e-324, (0.0, 2.0)), (1e-50, (0.0, 2.0)), (1e300, (1.0, 1.0)), (3.5e38, (1.0, 1.0))]
)
def test_tau_beyond_the_dtype_is_its_limit(tau, expected):
    scores, mask = torch.tensor([[0.1, 0.2, 0.0]]), torch.tensor([[True, True, False]])
    assert redistribution_weights(scores, mask, tau=tau).tolist() == [[*expected, 0.0]]
    assert redistribution_weights(torch.zeros(1, 3), mask, tau=tau).tolist() == [[1.0, 1.0, 0.0]]
