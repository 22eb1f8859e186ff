"""Statistics of the redistribution: by hand, exact under any split, and honest about inert weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.core import CreditTotals, credit_stats, redistribution_weights

NAN = float("nan")


def random_batch(rows=6, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    d = torch.rand(rows, length, generator=generator) ** 8
    gate = torch.rand(rows, length, generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.7
    mask[0] = False
    weights = redistribution_weights(d * gate, mask, tau=0.05)
    return {"weights": weights, "scores": d * gate, "completion_mask": mask, "hellinger_sq": d, "entropy_gate": gate}


def test_by_hand():
    weights = torch.tensor([[0.5, 1.5, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    scores = torch.tensor([[0.1, 0.3, NAN], [0.2, 0.2, 0.2], [NAN, NAN, NAN]])
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    stats = credit_stats(weights, scores, mask)
    assert (stats.num_tokens, stats.num_completions) == (5, 2)
    assert stats.effective_share == pytest.approx((4 / 2.5 / 2 + 1) / 2)  # 0.8 and 1
    assert stats.weight_std == pytest.approx(math.sqrt((0.25 + 0.25) / 5))
    assert (stats.weight_min, stats.weight_max) == (0.5, 1.5)
    assert stats.score_mean == pytest.approx(1.0 / 5)
    assert stats.score_max == pytest.approx(0.3)
    assert not stats.inert
    assert "0.5000 to 1.5000" in str(stats)


@pytest.mark.parametrize(("top", "inert"), [(1.0, True), (1.0099, True), (1.011, False)])
def test_inert_means_within_a_hundredth_of_one(top, inert):
    weights = torch.tensor([[2 - top, top]])
    assert credit_stats(weights, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)).inert is inert


def test_a_completion_that_no_credit_reaches_counts_as_none_of_its_tokens():
    weights = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])  # as a rule like 80/20 may leave them
    stats = credit_stats(weights, torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool))
    assert stats.effective_share == pytest.approx((0 + 1 + 0.5) / 3)
    assert "effective share 0.500" in str(stats)


def test_nothing_trained():
    stats = credit_stats(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert stats.num_tokens == 0
    assert stats.effective_share == 1.0
    assert stats.inert


@given(st.integers(0, 30), st.integers(1, 5))
def test_any_split_adds_up_to_the_whole(seed, cut):
    batch = random_batch(seed=seed)
    whole = CreditTotals.of(**batch)
    parts = [CreditTotals.of(**{k: v[part] for k, v in batch.items()}) for part in (slice(cut), slice(cut, None))]
    joined = parts[0] + parts[1]
    assert joined.metrics() == pytest.approx(whole.metrics(), rel=1e-12)
    assert joined.stats().num_tokens == whole.stats().num_tokens


def test_padding_is_not_read():
    batch = random_batch()
    padded = {k: torch.cat([v, v], 1) for k, v in batch.items()}
    padded["completion_mask"][:, 9:] = False
    for name in ("weights", "scores", "hellinger_sq", "entropy_gate"):
        padded[name][:, 9:] = NAN
    assert CreditTotals.of(**padded).metrics() == pytest.approx(CreditTotals.of(**batch).metrics(), rel=1e-12)


def test_the_quantile_is_within_its_bin():
    batch = random_batch(rows=60, length=60)
    d = batch["hellinger_sq"][batch["completion_mask"]].double()
    totals = CreditTotals.of(**batch)
    for q in (0.1, 0.5, 0.9, 0.99):
        exact = d.sort().values[math.ceil(q * len(d)) - 1].item()
        assert exact <= totals.hellinger_quantile(q) * (1 + 1e-9)
        assert totals.hellinger_quantile(q) <= exact * 1.0201
    assert totals.metrics()["dgpo/hellinger_sq/max"] == d.max().item()


def test_distances_of_zero_have_a_quantile_of_zero():
    ones = torch.ones(1, 4)
    totals = CreditTotals.of(ones, 0 * ones, ones.bool(), hellinger_sq=0 * ones, entropy_gate=ones)
    assert totals.metrics()["dgpo/hellinger_sq/p99"] == 0
    assert totals.metrics()["dgpo/effective_share"] == 1


def test_reduction_sums_and_maximises_over_ranks():
    ranks = [CreditTotals.of(**random_batch(seed=seed)) for seed in range(3)]
    everything = ranks[0] + ranks[1] + ranks[2]

    def reduce_sum(_):
        return torch.stack([torch.cat([r.sums, r.histogram]) for r in ranks]).sum(0)

    def reduce_max(_):
        return torch.stack([r.maxima for r in ranks]).amax(0)

    assert ranks[0].reduced(reduce_sum, reduce_max).metrics() == pytest.approx(everything.metrics(), rel=1e-12)


def test_a_mask_of_another_shape_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match=r"completion_mask has shape \(2, 1\) but weights has \(2, 3\)"):
        credit_stats(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 1, dtype=torch.bool))
