import math

import pytest
import torch

from dgpo.core import TokenStats, assign_credit, hindsight_advantages
from dgpo.rules import resolve

MASK = torch.tensor([[True, True, True, False], [True, True, False, False], [True] * 4, [True, False, False, False]])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5])
GROUP = torch.tensor([7, 3, 7, 3])
LOG_RATIO = torch.tensor(
    [[0.7, -3.0, 0.0, math.nan], [0.0, 0.0, 5.0, 5.0], [0.2, -0.2, 1.0, 4.0], [0.4, 9.0, 9.0, 9.0]]
)
DISTANCE = torch.tensor([[0.1, 0.5, 0.0, math.inf], [0.0, 0.0, 0.3, 0.3], [0.1, 0.1, 0.2, 0.3], [0.5, 0.9, 0.9, 0.9]])


def given(rows=slice(None), **options):
    inputs = (x[rows] for x in (ADVANTAGES, LOG_RATIO, DISTANCE, MASK))
    return hindsight_advantages(*inputs, group=GROUP[rows], **options)


def test_it_is_the_mixture_that_the_docstring_says():
    result = given(mix=0.3, clip=2.0)
    term = LOG_RATIO.double().clamp(-2, 2) * DISTANCE.double()
    # The second completion has no hint on its mask: its group's scale is that of the fourth alone.
    together = torch.cat([term[0, :3], term[2]])
    scale = together.square().mean().sqrt()
    for row in (0, 2):
        expected = 0.7 * ADVANTAGES[row] + 0.3 * term[row] / scale
        torch.testing.assert_close(result[row][MASK[row]].double(), expected[MASK[row]])
    assert result[1].tolist() == [-1.0, -1.0, 0.0, 0.0]
    torch.testing.assert_close(result[3, 0], torch.tensor(0.7 * -0.5 + 0.3))
    assert (result[~MASK] == 0).all()


def test_groups_and_padding_do_not_meet():
    whole = given()
    for group in (3, 7):
        rows = (group == GROUP).nonzero()[:, 0]
        torch.testing.assert_close(given(rows), whole[rows])
        torch.testing.assert_close(given(rows.flip(0)), whole[rows.flip(0)])


def test_without_a_hint_or_a_share_it_is_grpo():
    plain = ADVANTAGES[:, None] * MASK
    zeros = torch.zeros_like(LOG_RATIO)
    assert hindsight_advantages(ADVANTAGES, zeros, zeros, MASK, group=GROUP).equal(plain)
    assert given(mix=0.0).equal(plain)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"mix is 1\.5; it is the share"):
        given(mix=1.5)
    with pytest.raises(ValueError, match="clip must be a finite number above 0"):
        given(clip=0.0)


def test_the_rule_is_the_function():
    rule = resolve("hindsight", mix=0.4)
    values = torch.zeros(MASK.shape)
    stats = TokenStats(MASK, ADVANTAGES, values, values, values, vocab_size=4, group=GROUP)
    stats = stats._replace(hindsight_log_ratio=LOG_RATIO, hindsight_hellinger_sq=DISTANCE)
    assert assign_credit(stats, rule).token_advantages.equal(given(mix=0.4))
    with pytest.raises(ValueError, match=r"TokenStats\.group is None"):
        assign_credit(stats._replace(group=None), rule)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0])
def test_the_term_has_the_same_size_however_small_the_hints_effect_is(size):
    ratio, mask = torch.tensor([[0.5, -0.25], [1.0, 0.0]]) * size, torch.ones(2, 2, dtype=torch.bool)
    given = torch.zeros(2), ratio, torch.ones(2, 2), mask
    rms = (torch.tensor([0.25, 0.0625, 1.0, 0.0]).mean()).sqrt()
    mixed = hindsight_advantages(*given, group=torch.tensor([3, 3]), mix=1.0)
    assert torch.allclose(mixed, ratio / size / rms)
