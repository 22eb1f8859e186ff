import math

import pytest
import torch

from dgpo.core import gated_scores, redistribution_weights
from dgpo.core import weights as rules
from dgpo.core.hindsight import hindsight_advantages

MASK = torch.tensor([[True, True, True, False], [True, True, False, False], [True] * 4])
SCORES = torch.tensor([[0.0, 0.2, 0.5, math.nan], [0.1, 0.3, math.inf, -math.inf], [0.4, 0.0, 0.1, 0.9]])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5])
WEIGHTS = redistribution_weights(SCORES, MASK, tau=0.2)

MEAN_ONE = {
    "floored": lambda: rules.floored_weights(WEIGHTS, MASK, floor=0.3),
    "capped": lambda: rules.capped_weights(WEIGHTS, MASK, cap=1.5),
    "positive": lambda: rules.one_sided_weights(WEIGHTS, MASK, ADVANTAGES, positive=True),
    "negative": lambda: rules.one_sided_weights(WEIGHTS, MASK, ADVANTAGES, positive=False),
    "share": lambda: rules.effective_share_weights(SCORES, MASK, effective_share=0.7),
}


@pytest.mark.parametrize("rule", MEAN_ONE.values(), ids=MEAN_ONE.keys())
def test_weights_have_mean_one_on_the_mask_and_are_zero_off_it(rule):
    weights = rule()
    assert torch.allclose(weights.sum(1) / MASK.sum(1), torch.ones(3))
    assert (weights[~MASK] == 0).all()
    assert (weights >= 0).all()


def test_a_floor_keeps_every_token_and_one_is_even():
    assert rules.floored_weights(WEIGHTS, MASK, floor=0.3)[MASK].min() >= 0.3
    assert torch.equal(rules.floored_weights(WEIGHTS, MASK, floor=1.0), MASK.float())
    assert torch.allclose(rules.floored_weights(WEIGHTS, MASK, floor=0.0), WEIGHTS)
    with pytest.raises(ValueError, match="from 0 to 1"):
        rules.floored_weights(WEIGHTS, MASK, floor=1.1)


def test_a_cap_holds_where_it_binds_and_changes_nothing_elsewhere():
    capped = rules.capped_weights(WEIGHTS, MASK, cap=1.5)
    assert WEIGHTS.max() > 1.5
    assert capped.max() == pytest.approx(1.5, abs=1e-5)
    assert torch.allclose(rules.capped_weights(WEIGHTS, MASK, cap=10.0), WEIGHTS)
    # The order of the tokens stays.
    assert torch.equal(capped[2].argsort(stable=True)[:3], WEIGHTS[2].argsort(stable=True)[:3])
    with pytest.raises(ValueError, match="above 1"):
        rules.capped_weights(WEIGHTS, MASK, cap=1.0)


def test_one_sided_weights_leave_the_other_side_even():
    weights = rules.one_sided_weights(WEIGHTS, MASK, ADVANTAGES, positive=False)
    assert torch.equal(weights[1], WEIGHTS[1])
    assert torch.equal(weights[[0, 2]], MASK[[0, 2]].float())


@pytest.mark.parametrize("target", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_tau_is_solved_for_the_effective_share_whatever_the_scale_of_the_scores(target, scale):
    torch.manual_seed(0)
    scores, mask = torch.rand(16, 50) * scale, torch.rand(16, 50) < 0.8
    weights = rules.effective_share_weights(scores, mask, effective_share=target)
    share = weights.sum(1).square() / weights.square().sum(1) / mask.sum(1)
    assert share.mean().item() == pytest.approx(target, abs=0.01)


def test_equal_scores_give_weights_of_one_whatever_share_is_asked_for():
    weights = rules.effective_share_weights(
        torch.full((2, 3), 0.3), torch.ones(2, 3, dtype=torch.bool), effective_share=0.5
    )
    assert torch.equal(weights, torch.ones(2, 3))
    with pytest.raises(ValueError, match="share of tokens"):
        rules.effective_share_weights(SCORES, MASK, effective_share=0.0)


def test_the_top_fraction_is_of_the_whole_batch():
    entropy = torch.tensor([[0.9, 0.8, 0.1, math.nan], [0.2, 0.3, math.inf, math.inf], [0.7, 0.0, 0.1, 0.2]])
    weights = rules.top_entropy_weights(entropy, MASK, fraction=1 / 3)  # 3 of 9 tokens
    assert weights.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="above 0"):
        rules.top_entropy_weights(entropy, MASK, fraction=0.0)


def test_group_shares_are_taken_over_one_sign_at_one_position():
    entropy = torch.tensor([[1.0, 1.0], [3.0, math.nan], [2.0, 1.0], [4.0, 1.0]])
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    weights = rules.group_entropy_weights(entropy, mask, advantages, group=torch.zeros(4, dtype=torch.long), bonus=1.0)
    # Position 0: 2 * (1, 3) / 4 among the good; 1/2 and 1/4 of 3/4, times 2, among the bad. Position 1: one, then two.
    assert torch.allclose(weights, torch.tensor([[0.5, 1.0], [1.5, 0.0], [4 / 3, 1.0], [2 / 3, 1.0]]))
    even = rules.group_entropy_weights(entropy, mask, advantages, group=torch.zeros(4, dtype=torch.long), bonus=0.0)
    assert torch.equal(even, mask.float())


def test_future_kl_is_one_on_policy_and_looks_only_ahead():
    logps = torch.tensor([[-1.0, -2.0, -3.0, math.nan]])
    mask = torch.tensor([[True, True, True, False]])
    assert torch.equal(rules.future_kl_weights(logps, logps, mask), mask.float())
    old = logps - torch.tensor([[0.0, 0.05, 0.0, 0.0]])
    weights = rules.future_kl_weights(logps, old, mask, gamma=0.5)
    assert torch.allclose(weights, torch.tensor([[0.025, 0.05, 0.0, -math.inf]]).exp())
    assert rules.future_kl_weights(logps, old - 5, mask).max() == pytest.approx(1.2)
    with pytest.raises(ValueError, match="low"):
        rules.future_kl_weights(logps, old, mask, low=0.0)


def test_no_tokens_are_no_error():
    none = torch.zeros(2, 0)
    for weights in (
        rules.future_kl_weights(none, none, none.bool()),
        rules.top_entropy_weights(none, none.bool()),
        rules.effective_share_weights(none, none.bool(), effective_share=0.5),
        rules.capped_weights(none, none.bool(), cap=2.0),
    ):
        assert weights.shape == (2, 0)


def test_nothing_carries_a_gradient():
    scores = torch.rand(3, 4, requires_grad=True)
    found = [
        rules.effective_share_weights(scores, MASK, effective_share=0.5),
        rules.floored_weights(scores, MASK, floor=0.5),
        rules.top_entropy_weights(scores, MASK),
        rules.future_kl_weights(scores, scores.detach(), MASK),
        redistribution_weights(gated_scores(scores, scores, vocab_size=8), MASK),
    ]
    assert not any(weights.requires_grad for weights in found)


def test_statistics_that_are_not_finite_are_not_taken_for_numbers():
    scores, mask = torch.tensor([[math.nan, 0.2, 0.9]]), torch.ones(1, 3, dtype=torch.bool)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="nan or inf"):
            rules.effective_share_weights(scores.nan_to_num(nan=value), mask, effective_share=0.5)
    top = rules.top_entropy_weights(scores, mask, fraction=0.5)
    assert torch.equal(top.isnan(), torch.tensor([[True, False, False]]))
    huge = rules.effective_share_weights(torch.tensor([[3e38, -3e38, 2.0]]), mask, effective_share=0.5)
    assert torch.allclose(huge.sum(), torch.tensor(3.0))


def test_groups_of_any_sizes_share_at_each_position():
    entropy, mask = torch.tensor([[1.0], [3.0], [5.0], [8.0]]), torch.ones(4, 1, dtype=torch.bool)
    weights = rules.group_entropy_weights(entropy, mask, torch.ones(4), group=torch.tensor([7, -2, 7, 7]), bonus=1.0)
    assert torch.allclose(weights.flatten(), torch.tensor([3 / 14, 1.0, 15 / 14, 24 / 14]))
    half = rules.group_entropy_weights(
        (entropy * 8000).half(), mask, torch.ones(4), group=torch.tensor([7, -2, 7, 7]), bonus=1.0
    )
    assert torch.allclose(half, weights, atol=1e-3)  # a sum beyond 65,504


@pytest.mark.parametrize(
    "group", [torch.tensor([0]), torch.tensor([0, 0, 1]), torch.tensor([0.0, 1.0]), torch.zeros(2, 1, dtype=torch.long)]
)
def test_groups_that_are_not_one_number_a_completion_are_refused(group, unchecked_shapes):
    entropy, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="group has"):
        rules.group_entropy_weights(entropy, mask, torch.ones(2), group=group)


@pytest.mark.parametrize("advantages", [torch.ones(1), torch.ones(3), torch.ones(2, 1), torch.ones(2, 3)])
def test_advantages_that_are_not_one_number_a_completion_are_refused(advantages, unchecked_shapes):
    values, mask, group = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1])
    for call in (
        lambda: rules.one_sided_weights(values, mask, advantages, positive=True),
        lambda: rules.group_entropy_weights(values, mask, advantages, group=group),
        lambda: hindsight_advantages(advantages, values, values / 3, mask),
    ):
        with pytest.raises(ValueError, match="advantages has shape"):
            call()


@pytest.mark.parametrize(
    "options", [{"gamma": math.nan}, {"gamma": -1}, {"gamma": 2}, {"high": math.inf}, {"low": 2.0, "high": 1.0}]
)
def test_options_of_future_kl_are_checked(options):
    with pytest.raises(ValueError, match=r"gamma|high"):
        rules.future_kl_weights(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), **options)
