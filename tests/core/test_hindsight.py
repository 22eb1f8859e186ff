import math

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st

from dgpo.core import TokenStats, assign_credit, hindsight_advantages
from dgpo.core.hindsight import hint_metrics, hint_pairs, hint_totals
from dgpo.rules import resolve

MASK = torch.tensor([[True, True, True, False], [True, True, False, False], [True] * 4, [True, False, False, False]])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5])
LOG_RATIO = torch.tensor(
    [[0.7, -3.0, 0.0, math.nan], [0.0, 0.0, 5.0, 5.0], [0.2, -0.2, 1.0, 4.0], [0.4, 9.0, 9.0, 9.0]]
)
DISTANCE = torch.tensor([[0.1, 0.5, 0.0, math.inf], [0.0, 0.0, 0.3, 0.3], [0.1, 0.1, 0.2, 0.3], [0.5, 0.9, 0.9, 0.9]])


FLOOR = 0.02


def given(rows=slice(None), **options):
    return hindsight_advantages(*(x[rows] for x in (ADVANTAGES, LOG_RATIO, DISTANCE, MASK)), **options)


def oracle(row, mix, clip, floor):
    """One completion in float64, token by token, from the docstring's formula."""
    kept = MASK[row]
    term = LOG_RATIO[row][kept].double().clamp(-clip, clip) * DISTANCE[row][kept].double()
    size = math.sqrt(sum(float(one) ** 2 for one in term) / len(term))
    share = mix * min(1.0, size / floor)
    return [(1 - share) * float(ADVANTAGES[row]) + (share * float(one) / size if size else 0.0) for one in term]


@pytest.mark.parametrize("floor", [FLOOR, 0.1, 0.3, 10.0])
def test_it_is_the_mixture_that_the_docstring_says(floor):
    result = given(mix=0.3, clip=2.0, floor=floor)
    for row in range(len(MASK)):
        assert result[row][MASK[row]].tolist() == pytest.approx(oracle(row, 0.3, 2.0, floor), rel=1e-6)
    assert result[1].tolist() == [-1.0, -1.0, 0.0, 0.0]  # no hint on its mask
    assert (result[~MASK] == 0).all()


def test_completions_and_padding_do_not_meet():
    whole = given()
    for row in range(len(MASK)):
        assert given([row]).equal(whole[[row]])


def test_without_a_hint_or_a_share_it_is_grpo():
    plain = ADVANTAGES[:, None] * MASK
    zeros = torch.zeros_like(LOG_RATIO)
    assert hindsight_advantages(ADVANTAGES, zeros, zeros, MASK).equal(plain)
    assert given(mix=0.0).equal(plain)


def test_a_hint_that_says_next_to_nothing_changes_next_to_nothing():
    plain = ADVANTAGES[:, None] * MASK
    faint = hindsight_advantages(ADVANTAGES, LOG_RATIO * 1e-6, DISTANCE * 1e-6, MASK, mix=1.0)
    torch.testing.assert_close(faint, plain, atol=1e-9, rtol=1e-9)
    # Continuous at the floor, and of one size above it.
    size = float((LOG_RATIO[2].clamp(-2, 2) * DISTANCE[2]).square().mean().sqrt())
    below, above = (given([2], mix=1.0, floor=size * factor) for factor in (1 + 1e-4, 1 - 1e-4))
    torch.testing.assert_close(below, above, atol=1e-3, rtol=0)
    assert float(given([2], mix=1.0).square().mean().sqrt()) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_stay_finite(dtype):
    tiny = torch.finfo(dtype).tiny
    inputs = (ADVANTAGES.to(dtype), LOG_RATIO.to(dtype), (DISTANCE * tiny).to(dtype), MASK)
    assert hindsight_advantages(*inputs).isfinite().all()


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"mix is 1\.5; it is the share"):
        given(mix=1.5)
    with pytest.raises(ValueError, match="clip must be a finite number above 0"):
        given(clip=0.0)
    with pytest.raises(ValueError, match="floor must be a finite number above 0"):
        given(floor=0.0)
    with pytest.raises(ValueError, match=r"min_agreement is 1\.5; it is a share of pairs"):
        given(min_agreement=1.5)


def test_the_rule_is_the_function():
    rule = resolve("hindsight", mix=0.4)
    values = torch.zeros(MASK.shape)
    stats = TokenStats(MASK, ADVANTAGES, values, values, values, vocab_size=4)
    stats = stats._replace(hindsight_log_ratio=LOG_RATIO, hindsight_hellinger_sq=DISTANCE)
    assert assign_credit(stats, rule).token_advantages.equal(given(mix=0.4))
    assert not rule.traits.whole_groups
    agreement = torch.tensor([0.4, 0.5, torch.nan, 0.0])
    told = stats._replace(hint_agreement=agreement)
    assert assign_credit(told, rule).token_advantages.equal(given(mix=0.4, agreement=agreement))
    assert assign_credit(told, resolve("hindsight", mix=0.4, min_agreement=0)).token_advantages.equal(given(mix=0.4))


def test_a_hint_that_the_rewards_contradict_is_left_out_and_the_others_stay():
    plain, whole = ADVANTAGES[:, None] * MASK, given()
    result = given(agreement=torch.tensor([0.4, 0.5, torch.nan, 0.0]))
    assert result[[0, 3]].equal(plain[[0, 3]])
    assert result[[1, 2]].equal(whole[[1, 2]])
    assert not whole[[0, 3]].equal(plain[[0, 3]])


FEW = st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.nan])


@for_all(st.lists(st.tuples(FEW, FEW, st.integers(-1, 3)), max_size=10))
def test_agreement_counts_the_pairs_of_a_prompt_one_by_one(rows):
    totals, rewards, group = (torch.tensor([row[column] for row in rows]) for column in range(3))
    found = hint_pairs(totals, rewards, group.long())
    for one, (total, _, prompt) in enumerate(rows):
        mine = [row for row in rows if row[2] == prompt and not math.isnan(row[0])]
        pairs = [(a, b) for a in mine for b in mine if a[1] > b[1]]
        agreed = sum((a[0] > b[0]) + 0.5 * (a[0] == b[0]) for a, b in pairs)
        if pairs:
            assert found.agreement[one].item() == pytest.approx(agreed / len(pairs))
        else:
            assert found.agreement[one].isnan()
        better = [] if math.isnan(total) else [b for b in mine if rows[one][1] > b[1]]
        assert found.pairs[one].item() == len(better)
        assert found.wins[one].item() == sum((total > b[0]) + 0.5 * (total == b[0]) for b in better)


def test_rubbish_off_the_mask_is_no_hint():
    assert hint_totals(LOG_RATIO, DISTANCE, MASK)[[0, 2, 3]].tolist() == pytest.approx([-2.3, 5.0, 0.4])
    assert hint_totals(LOG_RATIO, DISTANCE, MASK)[1].isnan()


def test_metrics_of_hints():
    """A group of three with hints and one without; the better ones have the larger sums in one pair of two."""
    log_ratio = torch.tensor([[1.0, 1.0], [3.0, -9.0], [-1.0, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]).bool()
    distance, rewards = log_ratio.abs() / 10, torch.tensor([1.0, 0.0, 0.0, 0.0])

    def means(*group):
        compared = hint_pairs(hint_totals(log_ratio, distance, mask), rewards, torch.tensor(group))
        sums = hint_metrics(log_ratio, distance, mask, compared).items()
        return {name.rpartition("/")[2]: (total / count).item() for name, (total, count) in sums}

    size = (0.1 + 0.9 + 0.1 / 2**0.5) / 3  # of the first three: root mean squares of i |i| / 10
    expected = {"share": 0.75, "hellinger_sq": 0.12, "log_ratio": 1.2, "size": size, "auroc": 0.5, "contradicted": 0.0}
    assert means(0, 0, 0, 0) == pytest.approx(expected)
    # The first two by themselves contradict their hint; the third has nobody to be compared with.
    assert means(0, 0, 1, 0) == pytest.approx(expected | {"auroc": 0.0, "contradicted": 1.0})
