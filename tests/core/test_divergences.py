"""Distances and entropies from full logits: by hand, by property, and at the edges of floating point."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.core import per_token_entropy, per_token_hellinger_sq, per_token_kl

logits_of_five = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5).map(torch.tensor)


def test_hellinger_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.9])
    expected = 1 - math.sqrt(0.05) - math.sqrt(0.45)  # 1 - sum sqrt(p q)
    assert per_token_hellinger_sq(p.log(), q.log()).item() == pytest.approx(expected, rel=1e-6)


@given(logits_of_five, logits_of_five)
def test_hellinger_is_a_bounded_symmetric_distance(z, y):
    d = per_token_hellinger_sq(z, y)
    assert 0 <= d <= 1
    assert d == per_token_hellinger_sq(y, z)
    assert per_token_hellinger_sq(z, z) == 0


@given(logits_of_five, logits_of_five)
def test_hellinger_is_bounded_by_kl(z, y):
    # H^2 <= 1 - exp(-KL / 2) (Bhattacharyya and Jensen)
    z, y = z.double(), y.double()
    assert per_token_hellinger_sq(z, y) <= 1 - (-per_token_kl(z, y) / 2).exp() + 1e-12


@given(logits_of_five)
def test_entropy_is_within_its_bounds(z):
    assert 0 <= per_token_entropy(z) <= math.log(5) + 1e-6


def test_small_distances_survive_float32():
    z = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    y = z + 3e-4 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    truth = per_token_hellinger_sq(z.double(), y.double())
    assert truth.median() < 2e-8
    assert ((per_token_hellinger_sq(z, y) - truth).abs() / truth).max() < 1e-2
    naive = 1 - (z.softmax(-1) * y.softmax(-1)).sqrt().sum(-1)
    assert ((naive - truth).abs() / truth).median() > 0.5  # what the other form would give


def test_disjoint_supports_are_at_distance_one():
    z, y = torch.full((2, 6), -torch.inf), torch.full((2, 6), -torch.inf)
    z[:, :2], y[:, 2:] = 0.0, 3.0
    assert per_token_hellinger_sq(z, y).tolist() == [1.0, 1.0]
    assert per_token_kl(z, y).tolist() == [math.inf, math.inf]
    assert per_token_entropy(z).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("shift", [5.0, 1e4])
def test_a_constant_shift_changes_nothing(shift):
    z = torch.randn(3, 50, dtype=torch.float64)
    assert per_token_hellinger_sq(z, z + shift).max() < 1e-20
    assert per_token_kl(z, z + shift).max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_gives_float32(dtype):
    z = torch.randn(2, 3, 7).to(dtype)
    for values in (per_token_hellinger_sq(z, z), per_token_kl(z, z), per_token_entropy(z)):
        assert values.dtype == torch.float32
        assert values.shape == (2, 3)


def test_float64_stays_float64():
    z = torch.randn(2, 7, dtype=torch.float64)
    assert per_token_hellinger_sq(z, z).dtype == per_token_entropy(z).dtype == torch.float64


def test_gradients_match_finite_differences():
    z, y = (torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for function in (per_token_hellinger_sq, per_token_kl):
        assert torch.autograd.gradcheck(function, (z, y))
    assert torch.autograd.gradcheck(per_token_entropy, (z,))


def test_closed_tokens_leave_values_and_gradients_as_if_they_were_not_there():
    """-inf rules a token out (a padding row, a grammar): it must not turn the gradients of the others to nan."""
    z, y = (torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    closed = torch.full((2, 1), -math.inf, dtype=torch.float64)
    for function in (per_token_hellinger_sq, per_token_kl, lambda a, _: per_token_entropy(a)):
        wide = [torch.cat([x.detach(), closed], 1).requires_grad_() for x in (z, y)]
        value, truth = function(*wide), function(z, y)
        torch.testing.assert_close(value, truth)
        grads = torch.autograd.grad(value.sum(), wide, allow_unused=True)
        expected = torch.autograd.grad(truth.sum(), (z, y), allow_unused=True)
        for mine, true in zip(grads, expected, strict=True):
            if true is not None:
                torch.testing.assert_close(mine, torch.nn.functional.pad(true, (0, 1)))


def test_a_token_closed_to_the_policy_alone_adds_nothing_to_kl():
    z, y = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True), torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    kl = per_token_kl(z, y)
    assert kl.item() == pytest.approx(math.log(1.5))  # log(1/2) - log(1/3)
    of_z, of_y = torch.autograd.grad(kl, (z, y))
    assert of_z.tolist() == pytest.approx([0.0, 0.0, 0.0])
    assert of_y.tolist() == pytest.approx([1 / 3 - 1 / 2, 1 / 3 - 1 / 2, 1 / 3])  # q - p


@pytest.mark.parametrize("function", [per_token_hellinger_sq, per_token_kl])
@pytest.mark.parametrize("ref_shape", [(2, 6), (1, 5), (5,)], ids=str)
def test_another_vocabulary_or_number_of_tokens_is_refused(function, ref_shape, unchecked_shapes):
    message = rf"\(2, 5\) but ref_logits has {re.escape(str(ref_shape))}.*the same tokenizer"
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(2, 5), torch.zeros(ref_shape))
