"""The group advantage: TRL's numbers, exact zeros, and completions that could not be scored."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.core import group_advantages

NAN = float("nan")


def test_by_hand():
    # mean 0.5, unbiased std of (1, 0, 1, 0) = sqrt(4 * .25 / 3) = 0.57735
    a = group_advantages(torch.tensor([1.0, 0.0, 1.0, 0.0]), 4, eps=0.0)
    assert a.tolist() == pytest.approx([0.5 / 0.57735, -0.5 / 0.57735] * 2, rel=1e-5)


def test_groups_do_not_see_each_other():
    one, other = torch.rand(4), 100 * torch.rand(4)
    both = group_advantages(torch.cat([one, other]), 4)
    assert torch.equal(both[:4], group_advantages(one, 4))
    assert torch.equal(both[4:], group_advantages(other, 4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 9))
def test_equal_rewards_give_exact_zeros(scale, reward, size):
    # 0.1 summed seven times over and divided by seven is not 0.1; the advantage must be 0 all the same
    assert group_advantages(torch.full((size,), reward), size, scale=scale).tolist() == [0.0] * size


def test_unscorable_completions_take_no_part():
    a = group_advantages(torch.tensor([1.0, NAN, 0.0, NAN]), 4)
    assert a[[1, 3]].tolist() == [0.0, 0.0]
    assert torch.equal(a[[0, 2]], group_advantages(torch.tensor([1.0, 0.0]), 2))


@pytest.mark.parametrize("rewards", [[NAN, NAN, NAN], [NAN, 0.7, NAN]])
def test_a_group_with_nothing_to_compare_gives_zeros(rewards):
    for scale in ("group", "batch", "none"):
        assert group_advantages(torch.tensor(rewards), 3, scale=scale).tolist() == [0.0] * 3


def test_batch_scale_divides_by_the_deviation_of_all_rewards():
    rewards = torch.tensor([1.0, 3.0, 10.0, 20.0])
    centred = torch.tensor([-1.0, 1.0, -5.0, 5.0])
    expected = centred / (rewards.std() + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, 2, scale="batch"), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_trl_computes_the_same(scale):
    """The formula of TRL's trainer, written out (GRPOTrainer._generate_and_score_completions)."""
    rewards = torch.rand(24)
    groups = rewards.view(-1, 6)
    std = {"group": groups.std(1).repeat_interleave(6) + 1e-4, "batch": rewards.std() + 1e-4, "none": 1.0}[scale]
    expected = (rewards - groups.mean(1).repeat_interleave(6)) / std
    torch.testing.assert_close(group_advantages(rewards, 6, scale=scale), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_without_eps_nothing_over_nothing_is_nothing(scale):
    rewards = torch.tensor([0.1, 0.1, 0.1, 7.0, NAN, NAN])
    assert group_advantages(rewards, 3, scale=scale, eps=0.0).tolist() == [0.0] * 6
    mixed = group_advantages(torch.tensor([1.0, 1.0, 1.0, 0.0]), 2, scale=scale, eps=0)
    assert mixed.isfinite().all()
    assert mixed[:2].tolist() == [0.0, 0.0]
    assert mixed[2] > 0 > mixed[3]


@pytest.mark.parametrize(
    ("rewards", "size", "options", "message"),
    [
        (torch.rand(2, 2), 2, {}, r"got shape \(2, 2\)\. Pass rewards\.flatten\(\)"),
        (torch.rand(4), 1, {}, "num_generations is 1"),
        (torch.rand(5), 2, {}, "5 rewards do not form groups of 2.*number of completions per prompt"),
        (torch.rand(4), 2, {"scale": "std"}, "scale must be 'group', 'batch' or 'none', got 'std'"),
        (torch.rand(4), 2, {"eps": -1.0}, r"eps must be .* at least 0, got -1\.0.*1e-4"),
        (torch.rand(4), 2, {"eps": NAN}, "eps must be .*, got nan"),
        (torch.tensor([1.0, NAN, 0.0, -math.inf]), 2, {}, r"rewards\[3\] is -inf.*Clip rewards"),
    ],
)
def test_bad_input_is_named_with_the_remedy(rewards, size, options, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, size, **options)


def test_an_accelerator_is_not_waited_for():
    """Infinite rewards are looked for on the CPU alone; meta tensors have no values to look at."""
    assert group_advantages(torch.zeros(4, device="meta"), 2).shape == (4,)


@pytest.mark.parametrize("scale", ["group", "batch"])
@pytest.mark.parametrize("size", [1e30, 1.0, 1e-30])
def test_advantages_do_not_depend_on_the_unit_of_the_reward(scale, size):
    rewards = torch.tensor([1.0, 0.25, 0.0, 3.0])
    expected = group_advantages(rewards.double(), 4, scale=scale, eps=0.0)
    a = group_advantages(rewards * size, 4, scale=scale, eps=0.0)
    torch.testing.assert_close(a.double(), expected, rtol=1e-6, atol=0)


def test_a_tiny_group_beside_a_huge_one():
    rewards = torch.tensor([1e-30, 0.0, 1e30, 0.0])
    assert group_advantages(rewards, 2, eps=0.0).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)] * 2, rel=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_no_completion_has_no_advantage(scale):
    assert group_advantages(torch.empty(0), 4, scale=scale).shape == (0,)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), st.sampled_from(["group", "batch", "none"]))
def test_scaling_by_a_power_of_two_changes_no_bit(values, scale):
    rewards = torch.tensor(values)
    centred = rewards - rewards.sum() / 4
    plain = centred / ((centred.square().sum() / 3).sqrt() + 1e-4) if scale != "none" else centred
    if rewards.max() > rewards.min() and centred.abs().max() > 1e-10:
        assert torch.equal(group_advantages(rewards, 4, scale=scale), plain)


@pytest.mark.parametrize("scale", ["group", "batch"])
@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_rewards_at_the_ends_of_float64_are_in_range(size, scale):
    rewards = torch.tensor([size, 0.0, 0.0, -size], dtype=torch.float64)
    ones = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    assert torch.allclose(
        group_advantages(rewards, 2, scale=scale, eps=0), group_advantages(ones, 2, scale=scale, eps=0)
    )
